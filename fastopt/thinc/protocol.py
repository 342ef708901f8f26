"""The optimizer as thinc calls it: each array with its gradient in a call of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from thinc import optimizers as thinc_optimizers

from ..arrays.dtypes import Array
from ..core.optimizer import Optimizer as ArrayOptimizer
from ..options.ranges import Allowed, Group, check

#: The model's number and the parameter's name.
Key: TypeAlias = tuple[int, str]

#: Stands for an average that the next step begins at zero.
ZERO = object()


class Entry:
    """An array of the model, with the optimizer that steps it alone."""

    __slots__ = ("average", "group", "is_shown", "optimizer", "options", "step", "weights")

    def __init__(self, weights: Array, optimizer: ArrayOptimizer, options: Group) -> None:
        self.weights, self.optimizer, self.options = weights, optimizer, options
        self.step, self.group = optimizer.step, optimizer.param_groups[0]
        #: Its average among thinc's; None without one.
        self.average: Any = None
        self.is_shown = False

    def set(self, options: Group) -> None:
        """Write the options that differ from those of the last step. (Writing others would end its plan.)"""
        for name, value in options.items():
            if value != self.options[name]:
                self.group[name] = value
        self.options = options
        self.is_shown = False  # another rule may have made its slots


class Protocol(thinc_optimizers.Optimizer):  # type: ignore[misc]
    """The base of the optimizers that thinc and spaCy call.

    Each array has an optimizer of its own, which steps in the call: thinc reads the returned weights and clears or adds
    to the gradient right after it, so that no call can wait for the others of an update.
    """

    __slots__ = ("_saved", "arrays")

    def __init__(self, learn_rate: Any, **arguments: Any) -> None:
        super().__init__(learn_rate, **arguments)
        self.arrays: dict[Key, Entry] = {}
        #: The states of arrays that have not been seen since this was unpickled.
        self._saved: dict[Key, Mapping[str, Any]] = {}

    def options(self, lr_scale: float) -> Group:
        """Return the options of an array's group in the next step: the same dict while they are the same."""
        raise NotImplementedError

    def optimizer_of(self, weights: Array, options: Group, seed: int = 0) -> ArrayOptimizer:
        """Return a new optimizer of one array, with the seed of its rounding."""
        raise NotImplementedError

    def __call__(self, key: Key, weights: Array, gradient: Array, *, lr_scale: float = 1.0) -> tuple[Array, Array]:
        if len(gradient) < 1:
            return weights, gradient
        options = self.options(lr_scale)
        entry = self.arrays.get(key)
        if entry is None or entry.weights is not weights or entry.average is not self.average_of(key):
            entry = self._entry_of(key, weights, options)
        if options is not entry.options:
            entry.set(options)
        if self.L2 != 0 and not self.L2_is_weight_decay:
            gradient += self.L2 * weights
        self.nr_update[key] += 1
        entry.step(gradient)
        if not entry.is_shown:
            self._show_state(key, entry)
        return weights, gradient

    def keeps_averages(self) -> bool:
        """Return whether each step adds to an average."""
        return self.averages is not None

    def average_of(self, key: Key) -> Any:
        """Return the average that the next step of an array goes on from; None without one."""
        return None if self.averages is None else self.averages.get(key, ZERO)

    def _entry_of(self, key: Key, weights: Array, options: Group) -> Entry:
        """Return the entry of an array that is new, or another one than in the last step of its key.

        Or whose average has been replaced, taken away or asked for since.
        """
        last, average = self.arrays.get(key), self.average_of(key)
        if last is not None and last.average is average and memory_of(last.weights) == memory_of(weights):
            last.weights = weights  # another view of it, as torch's tensors give
            return last
        saved = self._saved.get(key) if last is None else last.optimizer.state_dict()
        # Arrays are numbered, so that the random bits of their rounding differ.
        seed = len(self.arrays) + len(self._saved) if saved is None else saved["options"]["seed"]
        entry = Entry(weights, self.optimizer_of(weights, options, seed), options)
        if saved is not None:
            state = {name: array for name, array in saved["state"]["0"].items() if name != "ema"}
            if average is not None:
                state["ema"] = np.zeros(weights.shape, np.float32) if average is ZERO else average
            entry.optimizer.load_state_dict({**saved, "state": {"0": state}}, options=False)
        entry.average = average
        self.arrays[key] = entry
        self._saved.pop(key, None)
        return entry

    def _show_state(self, key: Key, entry: Entry) -> None:
        """Put the arrays that a step has made where thinc has them."""
        state = entry.optimizer.state["0"]
        if "ema" in state and self.averages is not None:
            entry.average = self.averages[key] = state["ema"]
        for moments, slot in ((self.mom1, "m"), (self.mom2, "v")):
            if slot in state:
                moments[key] = state[slot].ravel("K")
        entry.is_shown = True

    def __getstate__(self) -> dict[str, Any]:
        names = {name for base in type(self).__mro__ for name in getattr(base, "__slots__", ())}
        states = {key: entry.optimizer.state_dict() for key, entry in self.arrays.items()}
        attributes = {name: getattr(self, name) for name in names - {"arrays", "_saved"}}
        return {"arrays": {}, "_saved": {**self._saved, **states}, **attributes}

    def __setstate__(self, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)


def floats(numbers: tuple[Any, ...], ranges: Mapping[str, Allowed]) -> tuple[float, ...]:
    """Return the numbers of a step, which schedules may give as arrays; raise, with the name, if one is no number."""
    try:
        return tuple(map(float, numbers))
    except (TypeError, ValueError):
        for (name, allowed), value in zip(ranges.items(), numbers, strict=True):
            check(name, value, allowed)
        raise


def memory_of(array: Array) -> Any:
    """Return where an array is in memory, and in which form."""
    return getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
