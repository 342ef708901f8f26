"""The other optimizers of fastopt, called by thinc: each as a function that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from thinc.optimizers import FloatOrSeq

from .. import optimizers
from ..arrays.dtypes import Array
from ..core.optimizer import Optimizer as ArrayOptimizer
from ..options.common import OF_WHOLE_STEP
from ..options.ranges import NON_NEGATIVE, Allowed, Group, check
from .protocol import Entry, Key, Protocol, floats
from .update import average_decay

RATE: Mapping[str, Allowed] = {"learn_rate": NON_NEGATIVE}


class Other(Protocol):
    """An optimizer of fastopt, by its class and its options; ``learn_rate`` is the rate.

    Of the attributes of thinc's Optimizer, ``learn_rate`` can be set between updates; the options can't.
    """

    __slots__ = ("kind", "own_options")

    def __init__(self, kind: type[ArrayOptimizer], learn_rate: Any, use_averages: bool, own_options: Group) -> None:
        self.kind, self.own_options = kind, own_options
        super().__init__(learn_rate, L2=0.0, grad_clip=0.0, use_averages=use_averages)
        # The errors come here, and not in training.
        self.optimizer_of(np.zeros((1, 1), np.float32), self.options(1.0)).ready()

    def options(self, lr_scale: float) -> Group:
        (rate,) = floats((self.learn_rate,), RATE)
        return options_of(rate, lr_scale)

    def optimizer_of(self, weights: Array, options: Group, seed: int = 0) -> ArrayOptimizer:
        make: Callable[..., ArrayOptimizer] = self.kind
        average = {"ema_decay": average_decay, "ema_start": "zero"} if self.keeps_averages() else {}
        return make(weights, **self.own_options, **options, **average, zero_grads=True, seed=seed)


@lru_cache
def options_of(learn_rate: float, lr_scale: float) -> Group:
    """Return the options that can change: the same dict for all arrays of an update."""
    return {"lr": check("learn_rate", learn_rate, RATE["learn_rate"]) * lr_scale}


class ScheduleFree(Other):
    """Schedule-Free SGD or AdamW: the averages are the points ``x``, which it keeps by itself."""

    __slots__ = ("_averages",)

    @property
    def averages(self) -> dict[Any, Array] | None:
        """The points ``x``, new arrays; None without averages."""
        if self._averages is None:
            return None
        return {**self._averages, **{key: x_of(entry) for key, entry in self.arrays.items()}}

    @averages.setter
    def averages(self, averages: dict[Any, Array] | None) -> None:
        #: Those of arrays that have not been seen since this was unpickled.
        self._averages = averages

    def keeps_averages(self) -> bool:
        return False

    def average_of(self, key: Key) -> None:
        return None

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "_averages": state["averages"]}


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

#: The optimizers that thinc's calls, each for one array, leave no place for.
NOT_BY_ARRAY: Mapping[str, str] = {
    "Muon": "it steps matrices alone, and models have biases",
    "Prodigy": "it finds one rate from all arrays, and thinc steps each array alone",
}


def of(name: str) -> Callable[..., Other]:
    """Return the function that makes fastopt's optimizer of this name for thinc.

    Its arguments are the options of an array, and confection asks for their names: the options of a whole step are not
    there, since thinc asks for the step of one array at a time.
    """
    kind = getattr(optimizers, name)
    base = ScheduleFree if hasattr(kind, "eval") else Other
    parameters = inspect.signature(kind).parameters
    rate = parameters["lr"].default
    left_out = {*OF_ALL_ARRAYS, *kind.refused, "params", "lr"}
    defaults = {option: each.default for option, each in parameters.items() if option not in left_out}

    def make(learn_rate: Any = rate, *, use_averages: bool = True, **options: Any) -> Other:
        if name in NOT_BY_ARRAY:
            raise TypeError(f"{name}: {NOT_BY_ARRAY[name]}; take another optimizer")
        for option in OF_ALL_ARRAYS.intersection(options):
            raise TypeError(
                f"{name}: {option} is an option of a whole step, and thinc steps each array alone; expected some of "
                f"{', '.join(defaults)}"
            )
        return base(kind, learn_rate, use_averages, options)

    kinds = inspect.Parameter
    first = kinds("learn_rate", kinds.POSITIONAL_OR_KEYWORD, default=rate, annotation=FloatOrSeq)
    named = [kinds(option, kinds.KEYWORD_ONLY, default=default) for option, default in defaults.items()]
    averages = kinds("use_averages", kinds.KEYWORD_ONLY, default=True, annotation=bool)
    make.__signature__ = inspect.Signature([first, *named, averages])  # type: ignore[attr-defined]
    make.__module__, make.__name__, make.__qualname__ = "fastopt.thinc", name, name
    make.__doc__ = f"Return :class:`fastopt.{name}` for thinc; its ``lr`` is ``learn_rate`` here."
    return make
