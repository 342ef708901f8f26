"""The state of each array: slots, averages and masters. New entries join it once a step is certain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from ..arithmetic import dither, halves, quantize, rules
from ..arithmetic.rules import Rule
from ..arrays.dtypes import FLOAT32, FLOAT64, Array
from ..arrays.memory import Extents, described
from ..backends.backend import Backend
from ..backends.table import ArrayExtras
from ..options.common import StepOptions
from ..options.ranges import Group
from . import storage
from .entries import Entries, entries_of
from .groups import CheckedGroup
from .parameters import Parameters
from .progress import Progress
from .results import Misfit, missing, unexpected

#: The dtypes of counts and of the codes of 8-bit slots.
COUNT = np.zeros((), np.int64)
CODE = np.dtype(np.uint8)

#: The entries of a state that serve the options around the rule.
AROUND = ("master", "ema", "accumulated", "accumulated_calls")


class SlotHooks(Protocol):
    """The hooks that the state needs; ``hooks.py`` describes them."""

    exact: ClassVar[frozenset[str]]
    non_negative: ClassVar[frozenset[str]]

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]: ...
    def slot_shape(self, slot: str, param: Array) -> tuple[int, ...]: ...
    def initial_slot(self, group: Group, slot: str) -> float: ...
    def new_slot(self, group: Group, slot: str, param: Array) -> Array: ...


class ArrayMemory(NamedTuple):
    """The arrays that a step of one array works on."""

    #: The parameter, or its master.
    computed: Array
    slots: list[Array]
    extras: ArrayExtras


class Slots:
    """The state of the arrays, by name.

    Parameters
    ----------
    options : StepOptions
        The optimizer's.

    Attributes
    ----------
    entries : dict
        The state: :attr:`fastopt.Optimizer.state`.
    pending : list of (name, slot, array)
        New entries. A step that raises must not add them.
    memory : list of ArrayMemory
        For each array, as :meth:`prepare` found it.
    """

    def __init__(self, options: StepOptions) -> None:
        self.options = options
        self.entries: Entries[Entries[Array]] = Entries("state", "opt.state[name][slot][...]")
        self.pending: list[tuple[str, str, Array]] = []
        self.memory: list[ArrayMemory] = []

    def add(self, parameters: Parameters, progress: Progress, backend: Backend, measured: frozenset[str]) -> None:
        """Show the counts and numbers of each array in its state; they are other arrays than before."""
        for i, (name, param) in enumerate(zip(parameters.names, parameters.arrays, strict=True)):
            entries = self.entries.setdefault(name, entries_of(name))
            entries.set_entry("step", progress.count_of(i, 0))
            if "accumulated_calls" in entries:
                entries.set_entry("accumulated_calls", progress.count_of(i, 1))
            for k, (number, initial) in enumerate(progress.initial_numbers.items()):
                if number not in measured or backend.on_host:
                    entries.set_entry(number, progress.number_of(i, k))
                elif number not in entries:
                    entries.set_entry(number, backend.ops.full((), initial, FLOAT64, param))

    def prepare(
        self,
        parameters: Parameters,
        groups: Sequence[CheckedGroup],
        progress: Progress,
        backend: Backend,
        hooks: SlotHooks,
    ) -> None:
        """Find the memory of every array. New entries stay pending until :meth:`commit`."""
        self.pending, self.memory = [], []
        members = zip(parameters.names, parameters.arrays, parameters.copies, parameters.group_of, strict=True)
        for i, (name, param, copy, k) in enumerate(members):
            self.memory.append(self.memory_of(name, param, copy, groups[k], progress.count_of(i, 1), backend, hooks))

    def memory_of(
        self,
        name: str,
        param: Array,
        copy: Array | None,
        group: CheckedGroup,
        accumulated_calls: Array,
        backend: Backend,
        hooks: SlotHooks,
    ) -> ArrayMemory:
        """Find the memory of one array."""
        ops, options = backend.ops, self.options
        dtype, computed = ops.compute_dtype(param.dtype), param
        has_master = not (options.stochastic_rounding and ops.is_bfloat16(param.dtype))
        if ops.is_half(param.dtype) and has_master:
            computed = self.entry(name, "master", param, FLOAT32, partial(ops.to_compute_dtype, param), backend)
            copy = param
        elif dtype == FLOAT64 and options.state_dtype is not None:
            raise ValueError(
                f"state_dtype={options.state_dtype!r}: {name!r} is float64; expected parameters that are computed "
                "in float32, or leave state_dtype out"
            )
        average = accumulated = None
        if options.averages:
            make = partial(ops.to_compute_dtype, computed)
            average = ops.in_memory_order(self.entry(name, "ema", computed, dtype, make, backend))
        if options.accumulate_steps > 1:
            make = partial(ops.slot_like, computed, 0.0, dtype)
            accumulated = ops.in_memory_order(self.entry(name, "accumulated", computed, dtype, make, backend))
            self.entry(name, "accumulated_calls", COUNT, COUNT.dtype, lambda: accumulated_calls, backend)
        slots, scales = [], []
        for slot in hooks.slot_names(group.rule, computed):
            array, scaled = self.slot(name, slot, computed, group.values, backend, hooks)
            slots.append(array)
            scales.append(scaled)
        target = None if copy is None else ops.in_memory_order(copy)
        return ArrayMemory(computed, slots, ArrayExtras(average, accumulated, target, scales))

    def slot(
        self, name: str, slot: str, computed: Array, group: Group, backend: Backend, hooks: SlotHooks
    ) -> tuple[Array, tuple[quantize.Map, Array] | None]:
        """Return a slot of the state, checked, or a new one where there is none; with its codec and scales if any."""
        ops = backend.ops
        dtype, shape = ops.compute_dtype(computed.dtype), hooks.slot_shape(slot, computed)
        if shape != computed.shape:
            zeros = ops.full(shape, 0.0, dtype, computed)
            return self.entry(name, slot, zeros, dtype, lambda: zeros, backend), None
        state_dtype = None if slot in hooks.exact else self.options.state_dtype
        stored_in = storage.slot_storage(state_dtype, computed.size)
        if stored_in is None:
            return self.entry(
                name, slot, computed, dtype, partial(hooks.new_slot, group, slot, computed), backend
            ), None
        value = hooks.initial_slot(group, slot)
        if stored_in == "bfloat16":
            dtype = halves.bfloat16()
            make = partial(ops.slot_like, computed, value, dtype)
            return self.entry(name, slot, computed, dtype, make, backend), None
        codec = storage.codec_of(slot in hooks.non_negative)
        code, scale = storage.constant(value, codec)
        codes = self.entry(name, slot, computed, CODE, partial(ops.slot_like, computed, code, CODE), backend)
        new = ops.full((-(-computed.size // dither.SCALE_BLOCK),), scale, FLOAT32, computed)
        scales = self.entry(name, storage.scale_name(slot), new, FLOAT32, lambda: new, backend)
        return codes, (codec, ops.in_memory_order(scales))

    def entry(
        self, name: str, slot: str, like: Array, dtype: Any, make: Callable[[], Array], backend: Backend
    ) -> Array:
        """Return an entry of the state, checked, or one that ``make`` made where there is none yet."""
        entries = self.entries[name]
        if slot in entries:
            backend.ops.check_slot(f"state[{name!r}][{slot!r}]", entries[slot], like, dtype)
            return entries[slot]
        values = make()
        self.pending.append((name, slot, values))
        return values

    def commit(self) -> None:
        """Add the new entries to the state, once everything is checked."""
        for name, slot, values in self.pending:
            self.entries[name].set_entry(slot, values)
        self.pending = []

    def written(self, extents: Extents) -> Extents:
        """Return these runs of memory and those of the whole state, which no gradient may overlap."""
        entries = [(name, slot, array) for name, its in self.entries.items() for slot, array in its.items()]
        return extents.with_arrays(
            {f"state[{name!r}][{slot!r}]": array for name, slot, array in [*entries, *self.pending]}
        )

    def entries_of(self, name: str) -> dict[str, Array]:
        """Return the entries of an array's state, the pending ones included."""
        return {**self.entries[name], **{slot: array for owner, slot, array in self.pending if owner == name}}

    def values(self, name: str, slot: str, backend: Backend, non_negative: frozenset[str]) -> Array:
        """Return a slot's values in the compute dtype, however it is stored; a copy where it is converted."""
        entries, ops = self.entries[name], backend.ops
        stored: Array = entries[slot]
        if stored.dtype == ops.compute_dtype(stored.dtype):
            return stored
        its = [entry for entry in (slot, storage.scale_name(slot)) if entry in entries]
        on_host = {entry: ops.on_host(entries[entry], copy=False) for entry in its}
        values: Array = ops.to_device_of(stored, storage.read_slot(on_host, slot, non_negative))
        return values

    def drop_master(self, name: str) -> bool:
        """Forget the master of an array whose parameter was written; return whether there was one."""
        if "master" not in self.entries[name]:
            return False
        self.entries[name].remove_entry("master")
        return True

    def plan(
        self,
        parameters: Parameters,
        groups: Sequence[tuple[Group, Rule]],
        saved: Mapping[str, Any],
        backend: Backend,
        hooks: SlotHooks,
        misfits: list[Misfit],
    ) -> dict[str, dict[str, tuple[Array, Any]]]:
        """Return for each array whose saved state fits where each entry goes.

        ``groups`` has the options and the rule that each group will have.
        """
        found: dict[str, dict[str, tuple[Array, Any]]] = {}
        for name, memory, k in zip(parameters.names, self.memory, parameters.group_of.tolist(), strict=True):
            if name not in saved:
                misfits.append(missing(name))
                continue
            options, rule = groups[k]
            used = hooks.slot_names(rule, memory.computed)
            for slot in {*used, *known_slots().intersection(saved[name])}.difference(self.entries_of(name)):
                self.slot(name, slot, memory.computed, options, backend, hooks)
            entries = self.entries_of(name)
            # A slot that only an earlier rule of the group used (amsgrad was switched off) may be there or not.
            needed = [slot for slot in entries if owner(slot) in used or owner(slot) not in known_slots()]
            if is_fresh(saved[name]):
                needed = ["step"]
            fitting = fitting_entries(name, entries, needed, saved[name], misfits)
            if fitting is not None:
                found[name] = fitting
        misfits += [unexpected(name) for name in saved if name not in self.entries]
        return found

    def load(self, planned: Mapping[str, Mapping[str, tuple[Array, Any]]], backend: Backend) -> None:
        """Write saved entries to where :meth:`plan` said."""
        for name, saved in planned.items():
            entries = self.entries[name]
            for slot in set(entries).difference(saved):
                if owner(slot) in known_slots() or slot in AROUND:
                    if slot == "accumulated_calls":
                        entries[slot][...] = 0  # it is a part of all counts, which go on
                    entries.remove_entry(slot)
            for slot, (array, value) in saved.items():
                backend.ops.write(array, value)
                entries.set_entry(slot, array)


def fitting_entries(
    name: str, entries: Mapping[str, Array], needed: Sequence[str], saved: Mapping[str, Any], misfits: list[Misfit]
) -> dict[str, tuple[Array, Any]] | None:
    """Return where each saved entry of an array's state goes, None where they do not fit."""
    before = len(misfits)
    misfits += [missing(f"{name}.{slot}") for slot in needed if slot not in saved]
    for slot, value in saved.items():
        if slot not in entries:
            misfits.append(unexpected(f"{name}.{slot}"))
            continue
        like = entries[slot]
        if not isinstance(value, (np.ndarray, np.generic)):
            found = described(value)
        elif value.shape != like.shape or value.dtype != like.dtype:
            found = f"of shape {value.shape}, {value.dtype}"
        elif slot in ("step", "accumulated_calls") and int(value) < 0:
            found = str(value)
        else:
            continue
        text = f"{name}.{slot} is {found}; expected shape {like.shape}, {like.dtype}"
        misfits.append(Misfit(f"{name}.{slot}", True, True, text))
    return {slot: (entries[slot], value) for slot, value in saved.items()} if len(misfits) == before else None


def is_fresh(entries: Mapping[str, Any]) -> bool:
    """Return whether an array made no step and has no slots yet; they will be made as in a new optimizer."""
    return set(entries) == {"step"} and np.array_equal(entries["step"], 0)


@cache
def known_slots() -> frozenset[str]:
    """Return the names of the slots of all rules."""
    named = [
        value for value in vars(rules).values() if inspect.isfunction(value) and value.__module__ == rules.__name__
    ]
    return frozenset(slot for rule in named if "h" in inspect.signature(rule).parameters for slot in rules.slots(rule))


def owner(entry: str) -> str:
    """Return the slot that an entry of an array's state belongs to: scales to theirs, all others to themselves."""
    slot = entry.removesuffix(storage.scale_name(""))
    return slot if slot in known_slots() else entry
