"""The other optimizers of fastopt, called by thinc: each as a function that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from thinc.optimizers import FloatOrSeq

from .. import optimizers
from ..arrays.dtypes import Array
from ..core.optimizer import Optimizer as ArrayOptimizer
from ..options.common import OF_WHOLE_STEP
from ..options.ranges import NON_NEGATIVE, Group, check
from .protocol import Entry, Protocol
from .update import average_decay


class Other(Protocol):
    """An optimizer of fastopt, by its class and its options; ``learn_rate`` is the rate.

    Of the attributes of thinc's Optimizer, ``learn_rate`` can be set between updates; the options can't.
    """

    __slots__ = ("kind", "own_options")

    def __init__(self, kind: type[ArrayOptimizer], learn_rate: Any, use_averages: bool, own_options: Group) -> None:
        self.kind, self.own_options = kind, own_options
        super().__init__(learn_rate, L2=0.0, grad_clip=0.0, use_averages=use_averages)
        self.optimizer_of(np.zeros((1, 1), np.float32), self.options(1.0))  # the errors come here, and not in training

    def options(self, lr_scale: float) -> Group:
        return options_of(self.learn_rate, lr_scale)

    def optimizer_of(self, weights: Array, options: Group) -> ArrayOptimizer:
        make: Callable[..., ArrayOptimizer] = self.kind
        average = {"ema_decay": average_decay, "ema_start": "zero"} if self.keeps_averages() else {}
        # Arrays are numbered, so that the random bits of their rounding differ.
        return make(weights, **self.own_options, **options, **average, zero_grads=True, seed=len(self.arrays))

    def keeps_averages(self) -> bool:
        """Return whether each step adds to an average."""
        return self.averages is not None


@lru_cache
def options_of(learn_rate: float, lr_scale: float) -> Group:
    """Return the options that can change: the same dict for all arrays of an update."""
    return {"lr": check("learn_rate", learn_rate, NON_NEGATIVE) * lr_scale}


class ScheduleFree(Other):
    """Schedule-Free SGD or AdamW: the averages are the points ``x``, which it keeps by itself."""

    __slots__ = ("_uses_averages",)

    @property
    def averages(self) -> dict[Any, Array] | None:
        """The points ``x``, new arrays; None without averages."""
        return {key: x_of(entry) for key, entry in self.arrays.items()} if self._uses_averages else None

    @averages.setter
    def averages(self, averages: dict[Any, Array] | None) -> None:
        self._uses_averages = averages is not None

    def keeps_averages(self) -> bool:
        return False


def x_of(entry: Entry) -> Array:
    """Return the point ``x`` of an array, which has ``y``."""
    opt: Any = entry.optimizer
    y = entry.weights.copy()
    opt.eval()
    x: Array = entry.weights.copy()
    opt.train()
    entry.weights[...] = y  # to the last bit
    return x


#: Options that thinc's calls leave no place for, since they are of a step of all arrays.
OF_ALL_ARRAYS = OF_WHOLE_STEP - {"state_dtype"}


def of(kind: type[ArrayOptimizer], base: type[Other] = Other) -> Callable[..., Other]:
    """Return the function that makes an optimizer of this class for thinc.

    Its arguments are the options of an array, and confection asks for their names: the options of a whole step are not
    there, since thinc asks for the step of one array at a time.
    """
    parameters = inspect.signature(kind).parameters
    rate = parameters["lr"].default
    left_out = {*OF_ALL_ARRAYS, *kind.refused, "params", "lr"}
    defaults = {name: each.default for name, each in parameters.items() if name not in left_out}

    def make(learn_rate: Any = rate, *, use_averages: bool = True, **options: Any) -> Other:
        for name in OF_ALL_ARRAYS.intersection(options):
            raise TypeError(
                f"{kind.__name__}: {name} is an option of a whole step, and thinc steps each array alone; expected "
                f"some of {', '.join(defaults)}"
            )
        return base(kind, learn_rate, use_averages, options)

    kinds = inspect.Parameter
    first = kinds("learn_rate", kinds.POSITIONAL_OR_KEYWORD, default=rate, annotation=FloatOrSeq)
    named = [kinds(name, kinds.KEYWORD_ONLY, default=default) for name, default in defaults.items()]
    averages = kinds("use_averages", kinds.KEYWORD_ONLY, default=True, annotation=bool)
    make.__signature__ = inspect.Signature([first, *named, averages])  # type: ignore[attr-defined]
    make.__name__ = make.__qualname__ = kind.__name__
    make.__doc__ = f"Return :class:`fastopt.{kind.__name__}` for thinc; its ``lr`` is ``learn_rate`` here."
    return make


ASGD = of(optimizers.ASGD)
FTRL = of(optimizers.FTRL)
LAMB = of(optimizers.LAMB)
LARS = of(optimizers.LARS)
SWATS = of(optimizers.SWATS)
AdEMAMix = of(optimizers.AdEMAMix)
AdaBelief = of(optimizers.AdaBelief)
Adadelta = of(optimizers.Adadelta)
Adafactor = of(optimizers.Adafactor)
Adagrad = of(optimizers.Adagrad)
AdamW = of(optimizers.AdamW)
Adamax = of(optimizers.Adamax)
Adan = of(optimizers.Adan)
DeltaBarDelta = of(optimizers.DeltaBarDelta)
Lion = of(optimizers.Lion)
NAdam = of(optimizers.NAdam)
RMSprop = of(optimizers.RMSprop)
Rprop = of(optimizers.Rprop)
ScheduleFreeAdamW = of(optimizers.ScheduleFreeAdamW, ScheduleFree)
ScheduleFreeSGD = of(optimizers.ScheduleFreeSGD, ScheduleFree)
Signum = of(optimizers.Signum)
SparseAdam = of(optimizers.SparseAdam)
Yogi = of(optimizers.Yogi)
