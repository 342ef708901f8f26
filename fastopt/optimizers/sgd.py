"""Stochastic gradient descent, with momentum in its two conventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

from ..arithmetic import rules
from ..arrays.dtypes import Array
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..core.params_in_state import values_stand_in
from ..options.common import Common, Unpack
from ..options.ranges import ANY_NUMBER, Allowed, Group, Schedulable

#: For errors.
AHEAD = "those ahead; leave lookahead() first"


class SGD(Optimizer):
    r"""Stochastic gradient descent, as ``torch.optim.SGD``.

    Without momentum ``p -= lr * g``. With it (``t`` counts from 1)::

        b = g                                     at t = 1
        b = momentum * b + (1 - dampening) * g    after
        p -= lr * b                               or, with nesterov: p -= lr * (g + momentum * b)

    With ``lr_in_momentum`` the learning rate is inside the buffer, as in the classical form and in TensorFlow 1 and
    Keras: ``b = momentum * b + lr * (1 - dampening) * g; p -= b``, with nesterov ``p -= momentum * b + lr * g``. The
    two conventions differ only when the learning rate changes. A group that gets momentum after its first step starts
    with ``b = 0``: its first buffer is ``(1 - dampening) * g`` (torch: ``g``).

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    momentum : float >= 0 or schedule, default 0.0
        ``schedule.momentum()`` of a cyclical or one-cycle schedule cycles it against the learning rate.
    dampening : float, default 0.0
        The part of the gradient that stays out of the buffer; any finite number.
    weight_decay : float >= 0 or schedule, default 0.0
        L2, or decoupled with ``decoupled=True``.
    nesterov : bool, default False
        Needs momentum above 0 and dampening 0.
    lr_in_momentum : bool, default False
        Whether the learning rate is inside the momentum buffer.
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State: ``b`` (momentum buffer), with the shape and dtype of its parameter, with momentum.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html; Sutskever et al., On the importance of
    initialization and momentum in deep learning (2013).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([0.5, 2.0])
    >>> opt = fastopt.SGD(theta, lr=0.1, momentum=0.9)
    >>> opt.step(np.ones(2)).step
    1
    >>> theta
    array([0.4, 1.9])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {"dampening": ANY_NUMBER}
    row_sparse_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        momentum: Schedulable = 0.0,
        dampening: float = 0.0,
        weight_decay: Schedulable = 0.0,
        nesterov: bool = False,
        *,
        lr_in_momentum: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            lr_in_momentum=lr_in_momentum,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("nesterov=True: expected momentum above 0 and dampening 0, as in torch")
        if group["momentum"] == 0:
            return rules.sgd
        return rules.nesterov if group["nesterov"] else rules.momentum

    @same_from(2)
    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        lr, momentum = group["lr"], group["momentum"]
        if momentum == 0:
            return rules.SGDScalars(lr)
        lr_inside, lr_outside = (lr, 1.0) if group["lr_in_momentum"] else (1.0, lr)
        grad_weight = lr_inside * (1.0 if step == 1 else 1.0 - group["dampening"])
        if group["nesterov"]:
            return rules.NesterovScalars(momentum, grad_weight, lr_inside, lr_outside)
        return rules.MomentumScalars(momentum, grad_weight, lr_outside)

    def lookahead(self) -> AbstractContextManager[None]:
        """Shift the parameters in place to where the momentum alone would take them, and back.

        Nesterov's accelerated gradient takes the gradient at the looked-ahead point ``p - momentum * b`` (``p - lr *
        momentum * b`` where the learning rate is not in the buffer), then makes a momentum step from where it was.
        On leaving, also by an exception, the parameters have the bits that they had.

        Raises
        ------
        ValueError
            For a group with ``nesterov=True``, whose step is already rearranged for gradients at the parameters.
            Inside, for a step and whatever else :meth:`~fastopt.Optimizer.averaged` refuses there.

        Notes
        -----
        Source: Nesterov (1983), as Sutskever et al. (2013) write it.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> theta = np.array([1.0])
        >>> opt = fastopt.SGD(theta, lr=0.1, momentum=0.5, lr_in_momentum=True)
        >>> for _ in range(2):
        ...     with opt.lookahead():
        ...         grad = 2 * theta
        ...     info = opt.step(grad)
        >>> theta.round(3)
        array([0.56])
        """
        return values_stand_in(self.parts, "lookahead()", AHEAD, partial(prepare_lookahead, self))


def prepare_lookahead(opt: SGD) -> tuple[Sequence[Array], Callable[[], None]]:
    """Return the parameters, and a function that shifts them to where the momentum alone would take them."""
    opt.ready()  # checks the options: what was written into a group counts here too
    parts, parameters, groups = opt.parts, opt.parts.parameters, opt.parts.groups.values(opt.step_count)
    backend, ops = parts.backend, parts.backend.ops
    if not backend.on_host:
        raise ValueError("lookahead: it is not done on a GPU yet; use nesterov=True")
    if any(group["nesterov"] for group in opt.param_groups):
        raise ValueError("lookahead: nesterov=True has it built in; use nesterov=False with lookahead()")

    def shift() -> None:
        for name, param, k in zip(parameters.names, parameters.arrays, parameters.group_of, strict=True):
            group = groups[k]
            if group["momentum"] != 0 and "b" in opt.state[name] and name not in parameters.frozen:
                reach = group["momentum"] * (1.0 if group["lr_in_momentum"] else group["lr"])
                b = parts.slots.values(name, "b", backend, opt.non_negative)
                ops.write_rounded(param, ops.to_compute_dtype(param) - b.dtype.type(reach) * b)

    return parameters.arrays, shift
