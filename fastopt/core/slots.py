"""The state of each array: slots, averages and masters. New entries join it once a step is certain."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import chain, compress
from operator import is_not, not_
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arithmetic import dither, halves, quantize, rules
from ..arithmetic.rules import Rule
from ..arrays.dtypes import FLOAT32, Array
from ..arrays.memory import Extents
from ..backends.backend import ArrayOps, Backend
from ..backends.table import ArrayExtras, SlotColumn, SlotColumns
from ..options.common import StepOptions
from ..options.ranges import Group
from . import storage
from .entries import Column, State, StateDict
from .fitting import ACCUMULATED, Pieces, fitting_entries, is_fresh
from .groups import CheckedGroup
from .hook_checks import check_number, check_slot_names, check_slot_shape
from .layout_errors import check_averages
from .parameters import Parameters
from .progress import Progress
from .results import Misfit, missing, unexpected

#: The dtypes of counts and of the codes of 8-bit slots.
COUNT = np.dtype(np.int64)
CODE = np.dtype(np.uint8)

#: How a slot is stored that has a shape of its own: as it is computed, in C order.
OWN_SHAPE = "own shape"

#: The entries of a state that serve the options around the rule.
AROUND = ("master", "ema", *ACCUMULATED)


#: The codec of an 8-bit slot, and its scales.
Scaled: TypeAlias = tuple[quantize.Map, Array]


class GroupHooks(Protocol):
    """The hooks of a group that its state needs; ``hooks.py`` describes them."""

    exact: ClassVar[frozenset[str]]
    non_negative: ClassVar[frozenset[str]]
    copied: ClassVar[frozenset[str]]
    further_rules: ClassVar[Sequence[Rule]]
    numbers: ClassVar[Mapping[str, float]]

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]: ...
    def slot_shape(self, slot: str, param: Array) -> tuple[int, ...]: ...
    def initial_slot(self, group: Group, slot: str) -> float: ...
    def new_slot(self, group: Group, slot: str, param: Array) -> Array: ...


class SlotHooks(Protocol):
    """The hooks that the state needs; ``hooks.py`` describes them."""

    def of_group(self, group: Group) -> GroupHooks: ...


class ArrayMemory(NamedTuple):
    """The arrays that a step of one array works on."""

    #: The parameter, or its master.
    computed: Array
    slots: Sequence[Array]
    extras: ArrayExtras


class Memory(Sequence[ArrayMemory]):
    """The memory of every array, by columns."""

    def __init__(self, computed: Sequence[Array], slots: SlotColumns, extras: dict[int, ArrayExtras]) -> None:
        self.computed, self.slots, self.extras = computed, slots, extras
        self.of_arrays: dict[int, ArrayMemory] = {}

    def __len__(self) -> int:
        return len(self.computed)

    def __getitem__(self, i: Any) -> Any:
        if i not in self.of_arrays:
            self.of_arrays[i] = ArrayMemory(self.computed[i], self.slots[i], self.extras.get(i, ArrayExtras()))
        return self.of_arrays[i]


class Kind(NamedTuple):
    """The common features of arrays that get their memory together."""

    group: int
    compute_dtype: Any
    #: The name of each slot, and how it is stored.
    slots: tuple[tuple[str, str | None], ...]


class Slots:
    """The state of the arrays, by name.

    Parameters
    ----------
    options : StepOptions
        The optimizer's.
    common_new_slot : function
        The ``new_slot`` of optimizers that define none. It fills each slot with ``initial_slot``, so that many can be
        made together.

    Attributes
    ----------
    pending : list of Column
        New entries. A step that raises must not add them.
    memory : sequence of ArrayMemory
        For each array, as :meth:`prepare` found it.
    has_params : bool
        Whether some entries begin as copies of the parameters.
    """

    def __init__(self, options: StepOptions, common_new_slot: Any) -> None:
        self.options, self.common_new_slot = options, common_new_slot
        self.state = State()
        self.pending: list[Column] = []
        self.memory = Memory([], SlotColumns(0, []), {})
        self.has_params = False
        #: The averages before their first step, by array: :attr:`fastopt.Optimizer.ema` hands them out.
        self._early_averages: dict[str, Array] = {}

    @property
    def entries(self) -> StateDict:
        """The state: :attr:`fastopt.Optimizer.state`."""
        return self.state.entries

    def with_pending(self) -> Mapping[str, Mapping[str, Array]]:
        """Return the state as it is once the new entries belong to it."""
        if not self.pending:
            return self.entries
        found = {name: dict(entries) for name, entries in self.entries.items()}
        for slot, names, arrays in self.pending:
            for name, array in zip(names, arrays, strict=True):
                found[name][slot] = array
        return found

    def add(self, parameters: Parameters, progress: Progress, backend: Backend) -> None:
        """Show the counts and numbers of each array in its state; they are other arrays than before."""
        self.state.set_counts(partial(progress.columns, parameters, backend))

    def prepare(
        self,
        parameters: Parameters,
        groups: Sequence[CheckedGroup],
        progress: Progress,
        backend: Backend,
        hooks: SlotHooks,
    ) -> None:
        """Find the memory of every array. New entries stay pending until :meth:`commit`."""
        parameters.check_layouts()
        new = [zip(column.names, column.arrays, strict=True) for column in self.pending if column.slot == "ema"]
        early = dict(chain.from_iterable(new))
        if backend.on_host:
            check_averages(early, parameters.names, parameters.arrays)
        self._early_averages = early
        self.pending = []
        computed, copies = self.computed(parameters, backend)
        has_masters = any(map(is_not, computed, parameters.arrays))
        hooks_of = [hooks.of_group(group.values) for group in groups]
        self.has_params = has_masters or self.options.averages or any(its.copied for its in hooks_of)
        columns: list[SlotColumn] = []
        extras: dict[int, ArrayExtras] = {}
        for kind, places in self.kinds(
            computed, parameters.whole_sizes, parameters.group_of, groups, backend, hooks_of
        ).items():
            names, likes = [parameters.names[i] for i in places], [computed[i] for i in places]
            averages, accumulated = self.around(names, likes, kind.compute_dtype, places, progress, backend)
            scales, group, numbers = [], groups[kind.group].values, np.array(places)
            for k, (slot, stored_in) in enumerate(kind.slots):
                arrays, its_scales = self.slot(names, slot, stored_in, likes, group, backend, hooks_of[kind.group])
                columns.append(SlotColumn(k, numbers, arrays))
                scales.append(its_scales)
            in_order, have_extras = backend.ops.in_memory_order, averages or accumulated or any(scales)
            for j, (i, copy) in enumerate(zip(places, (copies[i] for i in places), strict=True)):
                bounds = parameters.bounds[i]
                if have_extras or copy is not None or bounds is not None:
                    lower, upper = (None, None) if bounds is None else bounds.arrays
                    extras[i] = ArrayExtras(
                        in_order(averages[j]) if averages else None,
                        in_order(accumulated[j]) if accumulated else None,
                        None if copy is None else in_order(copy),
                        None if lower is None else in_order(lower),
                        None if upper is None else in_order(upper),
                        [its[j] if its else None for its in scales],
                    )
        self.memory = Memory(computed, SlotColumns(len(computed), columns), extras)

    def computed(self, parameters: Parameters, backend: Backend) -> tuple[list[Array], list[Array | None]]:
        """Return the parameter of each array, or its master; and the copy that the step writes of it."""
        ops, options = backend.ops, self.options
        computed, copies = list(parameters.arrays), list(parameters.copies)
        have_master = {
            dtype: ops.is_half(dtype) and not (options.stochastic_rounding and ops.is_bfloat16(dtype))
            for dtype in {param.dtype for param in computed}
        }
        if any(have_master.values()):
            places = [i for i, param in enumerate(computed) if have_master[param.dtype]]
            names, given = [parameters.names[i] for i in places], [computed[i] for i in places]
            masters = self.column("master", names, given, FLOAT32, partial(in_compute_dtype, ops), backend)
            for i, param, master in zip(places, given, masters, strict=True):
                computed[i], copies[i] = master, param
        return computed, copies

    def kinds(
        self,
        computed: Sequence[Array],
        sizes: Sequence[int],
        group_of: npt.NDArray[np.int64],
        groups: Sequence[CheckedGroup],
        backend: Backend,
        hooks_of: Sequence[GroupHooks],
    ) -> dict[Kind, list[int]]:
        """Return the numbers of the arrays of each kind, from the sizes of whole arrays and the hooks of each group."""
        places_of: dict[Kind, list[int]] = {}
        #: The same lists: arrays of one group, dtype and shape have one kind, so that the hooks are called once.
        of_likes: dict[Any, list[int]] = {}
        for i, (like, k, size) in enumerate(zip(computed, group_of.tolist(), sizes, strict=True)):
            key = k, like.dtype, like.shape, size
            places = of_likes.get(key)
            if places is None:
                hooks = hooks_of[k]
                names, its_rules = hooks.slot_names(groups[k].rule, like), (groups[k].rule, *hooks.further_rules)
                check_slot_names(names, its_rules, ("step", *AROUND, *hooks.numbers))
                elementwise = max(len(rules.slots(rule)) for rule in its_rules)
                slots = tuple(
                    (slot, self.stored_in(slot, like, size, hooks, n < elementwise)) for n, slot in enumerate(names)
                )
                kind = Kind(k, backend.ops.compute_dtype(like.dtype), slots)
                places = of_likes[key] = places_of.setdefault(kind, [])
            places.append(i)
        return places_of

    def stored_in(self, slot: str, like: Array, size: int, hooks: GroupHooks, is_rules: bool = False) -> str | None:
        """Return how a slot of such an array, or slice of an array of this size, is stored; None: as it is computed."""
        shape = hooks.slot_shape(slot, like)
        check_slot_shape(shape, slot, like, is_rules)
        if shape != like.shape:
            return OWN_SHAPE
        is_exact = slot in hooks.exact or slot in hooks.copied
        return storage.slot_storage(None if is_exact else self.options.state_dtype, size)

    def around(
        self,
        names: Sequence[str],
        computed: Sequence[Array],
        dtype: Any,
        places: Sequence[int],
        progress: Progress,
        backend: Backend,
    ) -> tuple[Sequence[Array] | None, Sequence[Array] | None]:
        """Return the averages and the accumulated gradients of arrays of one compute dtype, if there are any."""
        averages = accumulated = None
        if self.options.averages:
            copied = partial(in_compute_dtype, backend.ops)
            averages = self.column("ema", names, computed, dtype, copied, backend)
        if self.options.accumulate_steps > 1:
            zeros = partial(backend.slots_like, value=0.0, dtype=dtype)
            accumulated = self.column("accumulated", names, computed, dtype, zeros, backend)
            calls = progress.counts_of_arrays(1)
            self.column("accumulated_calls", names, [calls[i] for i in places], COUNT, list, backend)
        return averages, accumulated

    def slot(
        self,
        names: Sequence[str],
        slot: str,
        stored_in: str | None,
        likes: Sequence[Array],
        group: Group,
        backend: Backend,
        hooks: GroupHooks,
    ) -> tuple[Sequence[Array], Sequence[Scaled] | None]:
        """Return a slot of each array of one kind, checked, or a new one; with the codecs and scales if any."""
        ops, dtype = backend.ops, backend.ops.compute_dtype(likes[0].dtype)
        if stored_in == OWN_SHAPE:
            zeros = [ops.full(hooks.slot_shape(slot, like), 0.0, dtype, like) for like in likes]
            return self.column(slot, names, zeros, dtype, list, backend), None
        if slot in hooks.copied or (stored_in is None and type(hooks).new_slot is not self.common_new_slot):
            own = partial(own_new_slots, hooks, group, slot, ops, dtype)
            return self.column(slot, names, likes, dtype, own, backend), None
        value = hooks.initial_slot(group, slot)
        check_number(f"initial_slot: {slot}", value)
        if stored_in != "uint8":
            dtype = dtype if stored_in is None else halves.bfloat16()
            make = partial(backend.slots_like, value=value, dtype=dtype)
            return self.column(slot, names, likes, dtype, make, backend), None
        codec = storage.codec_of(slot in hooks.non_negative)
        code, scale = storage.constant(value, codec)
        codes = self.column(slot, names, likes, CODE, partial(backend.slots_like, value=code, dtype=CODE), backend)
        new = [ops.full((-(-like.size // dither.SCALE_BLOCK),), scale, FLOAT32, like) for like in likes]
        scales = self.column(storage.scale_name(slot), names, new, FLOAT32, list, backend)
        return codes, [(codec, ops.in_memory_order(its)) for its in scales]

    def column(
        self,
        slot: str,
        names: Sequence[str],
        likes: Sequence[Array],
        dtype: Any,
        make: Callable[[Sequence[Array]], Sequence[Array]],
        backend: Backend,
    ) -> Sequence[Array]:
        """Return an entry of each array's state, checked, or one that ``make`` made where there is none yet.

        Each has this dtype and is like one of ``likes``; ``make`` gets those for which there is none.
        """
        if self.state.is_empty:
            return self.begin(slot, names, make(likes), backend)
        entries = self.entries
        lacks = [slot not in entries[name] for name in names]
        for name, like in compress(zip(names, likes, strict=True), map(not_, lacks)):
            backend.ops.check_slot(f"state[{name!r}][{slot!r}]", entries[name][slot], like, dtype)
        new: dict[str, Array] = {}
        if any(lacks):
            names_of_new = list(compress(names, lacks))
            made = self.begin(slot, names_of_new, make(list(compress(likes, lacks))), backend)
            new = dict(zip(names_of_new, made, strict=True))
        return [new[name] if name in new else entries[name][slot] for name in names]

    def begin(self, slot: str, names: Sequence[str], made: Sequence[Array], backend: Backend) -> Sequence[Array]:
        """Keep new entries until :meth:`commit`, and return them. An average that was handed out stays the same array.

        Its values become those of the new one.
        """
        if slot == "ema" and self._early_averages:
            early = [self._early_averages.get(name, array) for name, array in zip(names, made, strict=True)]
            for array, new in zip(early, made, strict=True):
                if array is not new:
                    backend.ops.write(array, backend.ops.on_host(new, copy=False))
            made = early
        self.pending.append(Column(slot, names, made))
        return made

    def commit(self) -> None:
        """Add the new entries to the state, once everything is checked."""
        self.state.add(self.pending)
        self.pending = []

    def columns(self, parameters: Parameters, progress: Progress) -> list[Column]:
        """Return all entries that are arrays, but counts and numbers."""
        columns = (*self.state.columns(), *self.pending)
        names = parameters.names
        numbers = {(names[i], number) for kind in progress.kinds for number in kind.initial for i in kind.places}
        # The arrays of a column have the same numbers.
        return [
            column
            for column in columns
            if column.slot not in ("step", "accumulated_calls") and (column.names[0], column.slot) not in numbers
        ]

    def written(self, extents: Extents, backend: Backend) -> Extents:
        """Return these runs of memory and those of the whole state, which no gradient may overlap."""
        columns = [*self.state.columns(), *self.pending]

        def name_of(i: int) -> str:
            slot, name = [(slot, name) for slot, names, _ in columns for name in names][i]
            return f"state[{name!r}][{slot!r}]"

        return extents.with_runs(name_of, [backend.runs(column.arrays) for column in columns])

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

    def plan(
        self,
        parameters: Parameters,
        groups: Sequence[tuple[Group, Rule]],
        saved: Mapping[str, Any],
        backend: Backend,
        hooks: SlotHooks,
        pieces: Pieces,
        are_accumulating: bool,
        misfits: list[Misfit],
    ) -> dict[str, dict[str, tuple[Array, Any]]]:
        """Return for each array whose saved state fits where each entry goes.

        ``groups`` has the options and the rule that each group will have. If no gradients have accumulated in the saved
        state, nothing is asked of their entries: it may have another ``accumulate_steps``.
        """
        found: dict[str, dict[str, tuple[Array, Any]]] = {}
        present = self.with_pending()
        of_arrays = parameters.group_of.tolist(), parameters.whole_sizes
        for name, computed, k, size in zip(parameters.names, self.memory.computed, *of_arrays, strict=True):
            if name not in saved:
                misfits.append(missing(name))
                continue
            options, rule = groups[k]
            saved_entries = saved[name]
            its = hooks.of_group(options)
            used = its.slot_names(rule, computed)
            entries = dict(present[name])
            first = len(self.pending)
            for slot in {*used, *known_slots().intersection(saved_entries)}.difference(entries):
                self.slot([name], slot, self.stored_in(slot, computed, size, its), [computed], options, backend, its)
            entries.update({slot: array for slot, _, (array,) in self.pending[first:]})
            # A slot that only an earlier rule of the group used (amsgrad was switched off) may be there or not.
            needed = [slot for slot in entries if owner(slot) in used or owner(slot) not in known_slots()]
            if is_fresh(saved_entries):
                needed = ["step"]
            elif not are_accumulating:
                needed = [slot for slot in needed if slot not in ACCUMULATED]
                ignored = set(ACCUMULATED).difference(entries)
                saved_entries = {slot: value for slot, value in saved_entries.items() if slot not in ignored}
            fitting = fitting_entries(name, entries, needed, saved_entries, pieces, misfits)
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


def own_new_slots(
    hooks: GroupHooks, group: Group, slot: str, ops: ArrayOps, dtype: Any, params: Sequence[Array]
) -> list[Array]:
    """Return a slot of each array from an optimizer that makes its own, checked."""
    made = [hooks.new_slot(group, slot, param) for param in params]
    for array, param in zip(made, params, strict=True):
        ops.check_slot(f"new_slot: {slot!r}", array, param, dtype)
    return made


def in_compute_dtype(ops: ArrayOps, arrays: Sequence[Array]) -> list[Array]:
    """Return copies of these arrays in their compute dtypes."""
    return [ops.to_compute_dtype(array) for array in arrays]


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
