"""Delta-bar-delta: gradient descent with a gain per element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..arithmetic import rules
from ..core.hooks import same_from
from ..core.optimizer import Optimizer
from ..options.common import Common, Unpack
from ..options.ranges import BELOW_ONE, NON_NEGATIVE, Allowed, Group, Schedulable


class DeltaBarDelta(Optimizer):
    r"""Delta-bar-delta: gradient descent with a gain per element that grows while the gradient keeps its sign.

    ``gain`` starts at 1 and changes from the second step on::

        gain += beta             where g has the sign of the last g
        gain *= 1 - beta         elsewhere
        gain is clamped to gain_limits
        b = momentum * b + gain * g
        p -= lr * b

    Zero has no sign: where ``g`` or the last ``g`` is 0 the gain falls. With ``against_momentum`` the sign of ``g`` is
    compared with that of ``b``.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-2
    beta : float in [0, 1), default 0.05
    gain_limits : pair of float >= 0, default (0.01, 100)
        The least and the greatest gain.
    momentum : float >= 0, default 0.0
    weight_decay : float >= 0, default 0.0
        L2, or decoupled with ``decoupled=True``.
    against_momentum : bool, default False
        Whether the sign is compared with the momentum buffer's, not the last gradient's. (Without momentum both are
        the same.)
    params, **common : see :class:`fastopt.Optimizer`

    Notes
    -----
    State, each with the shape and dtype of its parameter: ``gain``, ``b`` (momentum buffer); ``last`` (the last
    gradient) with momentum, unless ``against_momentum``. ``state_dtype`` stores only ``b`` in fewer bits.

    Source: Jacobs, Increased Rates of Convergence Through Learning Rate Adaptation (1988); in this form Hinton, Neural
    Networks for Machine Learning, lecture 6d (2012).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.array([1.0, 1.0])
    >>> opt = fastopt.DeltaBarDelta(theta, lr=0.1)
    >>> for grad in ([1.0, 1.0], [1.0, -1.0]):
    ...     info = opt.step(np.array(grad))
    >>> opt.state["0"]["gain"]
    array([1.05, 0.95])
    """

    exact = frozenset({"gain", "last"})
    ranges: ClassVar[Mapping[str, Allowed]] = {"beta": BELOW_ONE, "gain_limits": (NON_NEGATIVE, NON_NEGATIVE)}

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-2,
        beta: float = 0.05,
        gain_limits: tuple[float, float] = (0.01, 100.0),
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        against_momentum: bool = False,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            beta=beta,
            gain_limits=gain_limits,
            momentum=momentum,
            weight_decay=weight_decay,
            against_momentum=against_momentum,
        )
        super().__init__(params, options, **common)

    def rule(self, group: Group) -> rules.Rule:
        if group["against_momentum"] or group["momentum"] == 0:
            return rules.delta_bar_delta
        return rules.delta_bar_delta_last_grad

    def initial_slot(self, group: Group, slot: str) -> float:
        return 1.0 if slot == "gain" else 0.0

    @same_from(2)
    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        beta = 0.0 if step == 1 else group["beta"]
        scalars = (0.0, 1.0, beta, 1.0 - beta, *group["gain_limits"], group["momentum"], group["lr"])
        if self.rule(group) is rules.delta_bar_delta:
            return rules.DeltaBarDeltaScalars(*scalars)
        return rules.DeltaBarDeltaLastGradScalars(*scalars)
