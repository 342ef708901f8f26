"""Adam, AdamW, SparseAdam."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..arithmetic import rules
from ..arithmetic.rules import Rule
from ..core.optimizer import Optimizer
from ..options.ranges import Group, Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..options.common import Common


class Adam(Optimizer):
    r"""Adam, as ``torch.optim.Adam``: the gradient's mean over the root of its mean square, both corrected.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t) + eps_root) + eps)

    amsgrad: the largest ``v`` so far instead of ``v``.

    A :class:`fastopt.RowSparse` gradient updates its rows as :class:`SparseAdam` does.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place.
    lr : float or schedule, default 1e-3
        Learning rate, at least 0.
    betas : pair of float or schedule, default (0.9, 0.999)
        Each from 0 to below 1. ``betas=(schedule.momentum(), 0.999)`` cycles the first against the learning rate.
    eps : float, default 1e-8
        At least 0.
    weight_decay : float or schedule, default 0.0
        At least 0; L2, or with ``decoupled=True`` a shrinking of the parameters by ``1 - lr * weight_decay``.
    amsgrad : bool, default False
        Whether to divide by the largest mean square so far.
    eps_root : float, default 0.0
        Added inside the root, after the correction (as in optax). At least 0.
    eps_hat : bool, default False
        Whether ``eps`` is added to the root of the uncorrected ``v``: the paper's "efficient order", and Keras.
    bias_correction : bool, default True
        False: ``1 - beta**t`` is taken as 1.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m``, ``v``; ``v_max`` if amsgrad.

    Source: Kingma and Ba, arXiv 1412.6980; Reddi et al., On the Convergence of Adam and Beyond (ICLR 2018);
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"W": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    >>> opt = fastopt.Adam(params, lr=0.1)
    >>> info = opt.step({"W": np.full((2, 2), 3.0), "b": None})
    >>> params["W"].round(3)
    array([[0.9, 0.9],
           [0.9, 0.9]], dtype=float32)
    >>> int(opt.state["W"]["step"]), int(opt.state["b"]["step"])
    (1, 0)
    """

    row_sparse_options: ClassVar[Mapping[str, Any]] = {"eps_hat": True}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[Schedulable, Schedulable] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Schedulable = 0.0,
        amsgrad: bool = False,
        *,
        eps_root: float = 0.0,
        eps_hat: bool = False,
        bias_correction: bool = True,
        **common: Unpack[Common],
    ) -> None:
        options = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "eps_root": eps_root,
            "eps_hat": eps_hat,
            "bias_correction": bias_correction,
        }
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> Rule:
        return rules.adam_amsgrad if group["amsgrad"] else rules.adam

    def hyper(self, group: Group, step: int) -> rules.AdamScalars:
        beta1, beta2 = group["betas"]
        correction1 = correction2 = 1.0
        if group["bias_correction"]:
            correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
        # Multiplying the fraction by the root of correction2 leaves v as it is, and saves the rule a division.
        root = math.sqrt(correction2)
        step_size = group["lr"] / correction1 * root
        eps = group["eps"] if group["eps_hat"] else group["eps"] * root
        eps_root = group["eps_root"] * correction2
        return rules.AdamScalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, step_size, eps, eps_root)


class AdamW(Adam):
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``: ``p *= 1 - lr * weight_decay`` before Adam's step.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, eps_root, eps_hat, bias_correction
        As in :class:`Adam`.
    weight_decay : float or schedule, default 1e-2
        At least 0; decoupled unless ``decoupled=False``.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State: that of :class:`Adam`.

    Source: Loshchilov and Hutter, arXiv 1711.05101;
    https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0])
    >>> opt = fastopt.AdamW(theta, lr=0.1, weight_decay=0.5)
    >>> info = opt.step(np.array([0.0]))
    >>> theta
    array([0.95])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[Schedulable, Schedulable] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Schedulable = 1e-2,
        amsgrad: bool = False,
        *,
        eps_root: float = 0.0,
        eps_hat: bool = False,
        bias_correction: bool = True,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            eps_root=eps_root,
            eps_hat=eps_hat,
            bias_correction=bias_correction,
            **common,
        )


class SparseAdam(Adam):
    r"""Adam for tables with :class:`fastopt.RowSparse` gradients, as ``torch.optim.SparseAdam``.

    The rows that the gradient names, and no other, for step ``t`` of the table from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    This is ``Adam(..., eps_hat=True)``; dense gradients are taken too.

    Parameters
    ----------
    params, lr, betas, eps
        As in :class:`Adam`.
    **common
        See :class:`fastopt.Optimizer`.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.

    Notes
    -----
    State: that of :class:`Adam`.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = np.ones((1000, 2))
    >>> opt = fastopt.SparseAdam(table, lr=0.1)
    >>> info = opt.step(fastopt.RowSparse(np.array([7]), np.array([[3.0, -3.0]])))
    >>> table[6:8].round(6)
    array([[1. , 1. ],
           [0.9, 1.1]])
    """

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, lr, betas, eps, eps_hat=True, **common)
