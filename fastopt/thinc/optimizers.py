"""thinc's own optimizers: its names, its numbers, fastopt's step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from thinc.optimizers import FloatOrSeq  # confection asks for the types at run time

from ..arrays.dtypes import Array
from ..options.ranges import BELOW_ONE, NON_NEGATIVE, Allowed, Group, check
from .protocol import Protocol, floats
from .update import GAIN, Update

#: The numbers of a step, by the names of thinc's arguments.
NUMBERS: Mapping[str, Allowed] = {
    "learn_rate": NON_NEGATIVE,
    "L2": NON_NEGATIVE,
    "beta1": BELOW_ONE,
    "beta2": BELOW_ONE,
    "eps": NON_NEGATIVE,
    "grad_clip": NON_NEGATIVE,
}


class Optimizer(Protocol):
    """thinc's ``Optimizer``: its arguments, its attributes and its numbers, stepped by fastopt.

    Use it where thinc's is used: ``@optimizers = "fastopt.Adam.v1"`` in a config of spaCy, or as
    ``nlp.initialize(sgd=...)`` and ``model.finish_update(optimizer)`` take it. Attributes such as ``learn_rate`` may be
    set between updates. Parameters and gradients change in place, and the gradients are cleared, as thinc does it.

    Parameters
    ----------
    learn_rate : float >= 0, list, or generator
        A generator is advanced by ``step_schedules()``, here and below.
    L2 : float >= 0, list, or generator, default 0.0
    beta1, beta2 : float in [0, 1), list, or generator, default 0.9 and 0.999
        With ``beta2`` of 0 the step is plain SGD.
    eps : float >= 0, list, or generator, default 1e-8
        Added to the root of the uncorrected second moment.
    grad_clip : float >= 0, list, or generator, default 1.0
        The greatest norm of an array's gradient; 0: no clipping.
    use_averages : bool, default True
        Whether to keep averages of the parameters, which spaCy evaluates and saves. They begin at zero, with the decay
        ``min(0.9999, (1 + t) / (10 + t))``.
    use_radam : bool, default False
        Whether to rectify the step size.
    L2_is_weight_decay : bool, default True
        Whether ``L2`` is decoupled, ``p -= learn_rate * L2 * p`` after the step, or else a part of the gradient, which
        is added before clipping.

    Raises
    ------
    TypeError, ValueError
        At the first call for an array, for options out of their ranges, and for arrays that can't be updated in place.

    Notes
    -----
    Source: https://thinc.ai/docs/api-optimizers; Kingma and Ba, arXiv 1412.6980; Liu et al., arXiv 1908.03265.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.thinc import Adam
    >>> optimizer = Adam(0.1, L2=0.01)
    >>> weights, gradient = np.ones(2, np.float32), np.float32([0.3, -0.3])
    >>> weights, gradient = optimizer((1, "b"), weights, gradient)
    >>> weights.round(4), gradient
    (array([0.8991, 1.0989], dtype=float32), array([0., 0.], dtype=float32))
    """

    __slots__ = ()

    def options(self, lr_scale: float) -> Group:
        numbers = floats((self.learn_rate, self.L2, self.b1, self.b2, self.eps, self.grad_clip), NUMBERS)
        return options_of(numbers, self.L2_is_weight_decay, self.use_radam, lr_scale)

    def optimizer_of(self, weights: Array, options: Group, seed: int = 0) -> Update:  # which rounds nothing at random
        return Update(weights, **options, use_averages=self.keeps_averages())


@lru_cache
def options_of(numbers: tuple[float, ...], decays: bool, use_radam: bool, lr_scale: float) -> Group:
    """Return the options of an array's group, given thinc's attributes: the same dict for all arrays of an update."""
    for (name, allowed), value in zip(NUMBERS.items(), numbers, strict=True):
        check(name, value, allowed)
    lr, L2, beta1, beta2, eps, grad_clip = numbers
    decay = L2 if decays else 0.0  # else it is in the gradient already
    if use_radam:
        decay *= lr_scale  # thinc's RAdam scales the rate of the decay alone
    else:
        lr *= lr_scale
    return {
        "lr": lr,
        "betas": (beta1, beta2),
        "eps": eps,
        "weight_decay": decay,
        "use_radam": use_radam,
        "clip_norm": grad_clip * GAIN if grad_clip else None,
    }


def Adam(
    learn_rate: FloatOrSeq = 0.001,
    *,
    L2: FloatOrSeq = 0.0,
    beta1: FloatOrSeq = 0.9,
    beta2: FloatOrSeq = 0.999,
    eps: FloatOrSeq = 1e-08,
    grad_clip: FloatOrSeq = 1.0,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Return thinc's ``Adam.v1``; see :class:`Optimizer`. In a config: ``@optimizers = "fastopt.Adam.v1"``."""
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def RAdam(
    learn_rate: FloatOrSeq = 0.001,
    *,
    beta1: FloatOrSeq = 0.9,
    beta2: FloatOrSeq = 0.999,
    eps: FloatOrSeq = 1e-08,
    L2: FloatOrSeq = 0.0,
    L2_is_weight_decay: bool = True,
    grad_clip: FloatOrSeq = 1.0,
    use_averages: bool = True,
) -> Optimizer:
    """Return thinc's ``RAdam.v1``; see :class:`Optimizer`. In a config: ``@optimizers = "fastopt.RAdam.v1"``."""
    return Optimizer(
        learn_rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        L2=L2,
        L2_is_weight_decay=L2_is_weight_decay,
        grad_clip=grad_clip,
        use_averages=use_averages,
        use_radam=True,
    )


def SGD(
    learn_rate: FloatOrSeq,
    *,
    L2: FloatOrSeq = 0.0,
    grad_clip: FloatOrSeq = 1.0,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Return thinc's ``SGD.v1``; see :class:`Optimizer`. In a config: ``@optimizers = "fastopt.SGD.v1"``."""
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=0.0,
        beta2=0.0,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )
