"""Adam and its variants: AdamW (decoupled weight decay) and SparseAdam (row-sparse gradients)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from ..arithmetic import rules
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import Allowed, Choice, Group, Schedulable

#: AdamScalars of a tuple, at less cost than by its name and ``tuple.__new__``.
adam_scalars = partial(tuple.__new__, rules.AdamScalars)


def bias_corrected(lr: float, betas: tuple[float, float], step: int) -> tuple[float, float, float]:
    """Return Adam's step size with both bias corrections in it, and the factors of ``eps`` and ``eps_root``.

    The paper divides ``m`` by ``c1 = 1 - beta1**t`` and ``v`` by ``c2 = 1 - beta2**t``. Expanding the fraction by
    ``sqrt(c2)`` spares the rule these two divisions of every element::

        lr * (m / c1) / (sqrt(v / c2 + eps_root) + eps) = step_size * m / (sqrt(v + eps_root * c2) + eps * sqrt(c2))
    """
    beta1, beta2 = betas
    correction2 = 1.0 - beta2**step
    root = math.sqrt(correction2)
    return lr / (1.0 - beta1**step) * root, root, correction2


def corrected_before_the_maximum(group: Group, step: int) -> rules.AdamAmsgradCorrectedScalars:
    """Return Adam's scalars for ``amsgrad="corrected"``.

    The correction of ``v`` changes from step to step, so that it can't be taken out of the maximum.
    """
    beta1, beta2 = group["betas"]
    correction1 = correction2 = 1.0
    if group["bias_correction"]:
        correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
    eps = group["eps"] / math.sqrt(correction2) if group["eps_hat"] else group["eps"]
    return rules.AdamAmsgradCorrectedScalars(
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / correction2,
        group["lr"] / correction1,
        eps,
        group["eps_root"],
    )


class Adam(Optimizer):
    r"""Adam, as ``torch.optim.Adam``: the first moment over the root of the second, both bias-corrected.

    For step ``t`` from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t) + eps_root) + eps)

    ``amsgrad`` uses the largest ``v`` so far instead of ``v``, or, as optax, the largest ``v / (1 - beta2**t)`` so far
    instead of that. A :class:`fastopt.RowSparse` gradient updates its rows as :class:`SparseAdam` does.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    betas : pair of float in [0, 1) or schedule, default (0.9, 0.999)
        ``betas=(schedule.momentum(), 0.999)`` cycles the first against the learning rate.
    eps : float >= 0, default 1e-8
    weight_decay : float >= 0 or schedule, default 0.0
        L2, or decoupled with ``decoupled=True``.
    amsgrad : bool or "corrected", default False
        Whether to divide by the root of the largest second moment so far; "corrected": of the largest bias-corrected
        one (as in optax).
    eps_root : float >= 0, default 0.0
        Added inside the root, after the correction (as in optax).
    eps_hat : bool, default False
        Whether ``eps`` is added to the root of the uncorrected ``v``: the paper's "efficient order", and Keras.
    bias_correction : bool, default True
        Whether to divide by ``1 - beta**t``.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``m`` (first moment, the running mean of gradients), ``v``
    (second moment, the running mean of their squares); ``v_max`` with ``amsgrad``, ``v_hat_max`` with "corrected".

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

    ranges: ClassVar[Mapping[str, Allowed]] = {"amsgrad": Choice(False, True, "corrected")}
    row_sparse_options: ClassVar[Mapping[str, Any]] = {"eps_hat": True}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        betas: tuple[Schedulable, Schedulable] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Schedulable = 0.0,
        amsgrad: bool | Literal["corrected"] = False,
        *,
        eps_root: float = 0.0,
        eps_hat: bool = False,
        bias_correction: bool = True,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            eps_root=eps_root,
            eps_hat=eps_hat,
            bias_correction=bias_correction,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        if group["amsgrad"] == "corrected":
            return rules.adam_amsgrad_corrected
        return rules.adam_amsgrad if group["amsgrad"] else rules.adam

    def hyper(self, group: Group, step: int) -> rules.AdamScalars | rules.AdamAmsgradCorrectedScalars:
        if group["amsgrad"] and group["amsgrad"] == "corrected":
            return corrected_before_the_maximum(group, step)
        lr, (beta1, beta2), eps, eps_root = group["lr"], group["betas"], group["eps"], group["eps_root"]
        if group["bias_correction"]:
            # As bias_corrected, and below as AdamScalars(...), without their calls: each planned step runs this.
            correction2 = 1.0 - beta2**step
            root = math.sqrt(correction2)
            lr = lr / (1.0 - beta1**step) * root
            eps_root *= correction2
            if not group["eps_hat"]:
                eps *= root
        return adam_scalars((beta1, 1.0 - beta1, beta2, 1.0 - beta2, lr, eps, eps_root))


class AdamW(Adam):
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``: ``p *= 1 - lr * weight_decay`` before Adam's step.

    Parameters
    ----------
    lr, betas, eps, amsgrad, eps_root, eps_hat, bias_correction : as in :class:`Adam`
    weight_decay : float >= 0 or schedule, default 1e-2
        Decoupled, or L2 with ``decoupled=False``.
    params, **common : see :class:`fastopt.Optimizer`

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
        amsgrad: bool | Literal["corrected"] = False,
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

    Only the rows that the gradient names change. For step ``t`` of the table from 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    This is ``Adam(..., eps_hat=True)``, which also accepts dense gradients.

    Parameters
    ----------
    lr, betas, eps : as in :class:`Adam`
    params, **common : see :class:`fastopt.Optimizer`

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
