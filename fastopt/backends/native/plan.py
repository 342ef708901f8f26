"""The native backend's plans: csrc/plan.h, filled in. The one place that reads ``FASTOPT_PLAN``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...arithmetic.operations import Rule, scalars_type
from ...arrays.memory import address
from ...arrays.structure import LEAF, Branch
from ...options.ranges import Range
from .. import threads
from ..plan import PlanArrays, PlanContents, PlanGroup
from ..table import WHOLE_PASS
from .functions import are_published, functions
from .library import DTYPES, RULES, ffi, lib, struct_dtype
from .ndarrays import ALIGNED, WRITEABLE, addresses_of, uintptrs
from .table import NativeTable

NODE, CONTAINER, OPTION, ARRAY = (
    struct_dtype(name) for name in ("fo_node", "fo_container", "fo_option", "fo_plan_array")
)


def are_possible() -> bool:
    """Return whether plans can be made here: C has published its functions, and ``FASTOPT_PLAN`` is not 0."""
    wanted = os.environ.get("FASTOPT_PLAN") or "1"
    if wanted not in ("0", "1"):
        raise ValueError(f"FASTOPT_PLAN={wanted}: expected 0 or 1 (whether a step like the last one is one call)")
    return wanted == "1" and are_published


#: Whether plans are made.
are_made = are_possible()


class Places(list[Any]):
    """Objects at places of one common list, which keeps them alive."""

    def added(self, objects: Sequence[Any]) -> tuple[int, int]:
        """Add objects; return the place of the first one, and their number."""
        first = len(self)
        self.extend(objects)
        return first, len(objects)


class NativePlan:
    """A step like the last one as a C struct. It keeps alive all that the struct points to.

    Attributes
    ----------
    run : callable
        ``run(address, hooks, grads)`` makes the step and returns its StepInfo, or None if it is not like the last one.
    address : int
        The struct's.
    """

    def __init__(self, table: NativeTable, planned: PlanContents) -> None:
        self.run = functions["planned_step"]
        self.owners: list[Any] = [table, planned, list(table.own_rules.values())]
        self.struct = ffi.new("fo_plan *")
        self.address = int(ffi.cast("uintptr_t", self.struct))
        self.struct.count = table.count
        self.struct.is_single = planned.arrays.is_single
        self.struct.isa = lib.fo_isa_in_use() if table.own_rules else -1
        self.set_arrays(table, planned.arrays)
        self.set_structure(planned.arrays)
        self.set_options(table, planned)
        self.set_rows(table.count, planned)
        self.set_reading(table, planned)
        self.set_functions(planned)

    def is_outdated(self) -> bool:
        """Return whether something has changed for good, so that the plan makes no step any more."""
        return bool(self.struct.is_outdated)

    def end(self) -> None:
        self.struct.is_outdated = 1

    def memory(self, kind: str, count: int) -> Any:
        """Return zeroed memory that lives as long as the plan."""
        memory = ffi.new(kind, max(count, 1))
        self.owners.append(memory)
        return memory

    def columns(self, name: str, dtype: np.dtype[Any], count: int) -> Any:
        """Return structs of this name for a field of the plan, as a NumPy array."""
        memory = self.memory(f"{name}[]", count)
        return memory, np.frombuffer(ffi.buffer(memory), dtype)[:count]

    def addresses(self, objects: Sequence[Any]) -> Any:
        """Return the addresses of objects, which live as long as the plan."""
        addresses = addresses_of(objects)
        self.owners += [objects, addresses]
        return uintptrs(addresses)

    def set_arrays(self, table: NativeTable, arrays: PlanArrays) -> None:
        plan, count = self.struct, table.count
        plan.arrays = self.memory("fo_array[]", count)
        ffi.memmove(plan.arrays, table.arrays, ffi.sizeof("fo_array") * count)
        plan.grads = self.memory("void *[]", count)
        plan.leaves = self.memory("uintptr_t[]", count)
        plan.counts = table.counts
        plan.planned, columns = self.columns("fo_plan_array", ARRAY, count)
        columns["param"] = addresses_of(arrays.params)
        columns["is_reversed"] = [not param.flags.c_contiguous for param in arrays.params]
        columns["is_frozen"] = arrays.is_frozen
        columns["group"] = arrays.group_of
        columns["lower"], columns["upper"] = arrays.lower, arrays.upper
        columns["size"] = table.sizes
        for i, buffer in arrays.buffers.items():
            columns["buffer"][i], columns["buffer_bytes"][i] = address(buffer), buffer.nbytes
        plan.layouts, plan.layouts_count = arrays.layouts.blocks, len(arrays.layouts.columns)
        plan.ndarray = id(np.ndarray)
        for dtype, number in DTYPES.items():
            plan.grad_dtypes[number] = id(dtype)
        plan.grad_dtypes[lib.FO_BFLOAT16] = id(bfloat16())
        plan.run_count = arrays.starts.size
        plan.starts, plan.stops = uintptrs(arrays.starts), uintptrs(arrays.stops)
        self.owners += [arrays.starts, arrays.stops]

    def set_structure(self, arrays: PlanArrays) -> None:
        plan = self.struct
        nodes = nodes_of(arrays.root, None)
        plan.node_count = len(nodes)
        plan.nodes, columns = self.columns("fo_node", NODE, len(nodes))
        columns["key"] = addresses_of([key for key, *_ in nodes])
        for k, name in enumerate(("kind", "children", "end", "first_leaf"), start=1):
            columns[name] = [node[k] for node in nodes]
        wrapper = sys.intern("params")
        plan.wrapper = id(wrapper) if arrays.is_grouped else 0
        sources = [source for branch in arrays.root.branches_in_order() for source in branch.sources]
        sources = [source for source in sources if type(source.container) is not tuple]
        plan.container_count = len(sources)
        plan.containers, columns = self.columns("fo_container", CONTAINER, len(sources))
        keys, children = Places(), Places()
        for column, source in zip(columns, sources, strict=True):
            column["container"] = id(source.container)
            column["kind"] = lib.FO_DICT if type(source.container) is dict else lib.FO_LIST
            column["first"], column["count"] = keys.added(source.keys)
            children.added(source.children)
        plan.child_keys, plan.children = self.addresses(keys), self.addresses(children)
        self.owners += [nodes, wrapper, sources]

    def set_options(self, table: NativeTable, planned: PlanContents) -> None:
        plan, groups = self.struct, planned.groups
        keys, values, places = Places(), Places(), []
        for group in groups:
            places.append(keys.added(list(group.entries)))
            values.added(list(group.entries.values()))
        whole_options, entries = planned.whole_options
        plan.first_whole_option = len(keys)
        keys.added(list(entries))
        values.added(list(entries.values()))
        plan.option_count = len(keys)
        plan.options, columns = self.columns("fo_option", OPTION, len(keys))
        columns["key"], columns["value"] = addresses_of(keys), addresses_of(values)
        plan.groups = self.memory("fo_group[]", len(groups))
        plan.group_count = len(groups)
        for k, (group, (first, count)) in enumerate(zip(groups, places, strict=True)):
            set_group(plan.groups[k], group, first, count, planned.zero_grads)
            set_rule(plan.groups[k], group.rule, table)
            for column, name in zip(columns[first : first + count], group.entries, strict=True):
                if name in group.allowed:
                    set_writing(column, group.allowed[name])
                column["changes"] = lib.FO_WHOLE_ROW if name in group.changing_rows else lib.FO_SCALARS
        option_values = list(values)  # an exact list: C changes it
        plan.option_values = id(option_values)
        plan.whole_options = id(whole_options)
        plan.parameters, plan.frozen = map(id, planned.frozen)
        plan.groups_dict, plan.groups_list = map(id, planned.param_groups)
        plan.may_change = 1
        self.owners += [keys, option_values]

    def set_rows(self, count: int, planned: PlanContents) -> None:
        plan = self.struct
        plan.row_room = room = min(max(planned.rows, 2 * len(planned.groups), 16), count)
        plan.rows = self.memory("fo_hyper[]", room)
        plan.row_groups, plan.row_steps = self.memory("int64_t[]", room), self.memory("int64_t[]", room)
        plan.row_made, plan.older_rows = self.memory("int64_t[]", room), self.memory("int64_t[]", room)

    def set_reading(self, table: NativeTable, planned: PlanContents) -> None:
        plan = self.struct
        plan.accumulate_steps = planned.accumulate_steps
        plan.clips_arrays = planned.clips_arrays
        plan.clips_global = planned.global_limit is not None
        plan.global_limit = 0 if planned.global_limit is None else planned.global_limit
        plan.skip_above = planned.skip_above
        plan.counts_nonfinite = planned.counts_nonfinite
        plan.names = id(planned.names)
        plan.skips = ffi.from_buffer("int64_t[]", planned.skips, require_writable=True)
        plan.readings = self.memory("fo_reading[]", table.count)
        chunks = int((-(-table.sizes // lib.FO_CHUNK)).sum())
        plan.partials = self.memory("fo_reading[]", chunks)
        plan.grad_flags = ALIGNED
        if planned.zero_grads:
            plan.grad_flags |= WRITEABLE
            plan.grad_runs = self.memory("fo_run[]", table.count)

    def set_functions(self, planned: PlanContents) -> None:
        plan, source = self.struct, planned.source
        calls = source.check_option, source.options_at, source.row_at
        plan.check_option, plan.options_at, plan.row_at = map(id, calls)
        plan.step_info = id(planned.step_info)
        plan.threads = id(vars(threads))
        plan.marks = ffi.from_buffer("int64_t[]", planned.marks, require_writable=True)
        plan.queue = id(planned.queue)
        self.owners.append(calls)


def set_group(struct: Any, group: PlanGroup, first: int, count: int, zero_grads: bool) -> None:
    """Fill in the struct of a group whose options begin at this place."""
    struct.options, struct.values, struct.first, struct.count = id(group.group), id(group.values), first, count
    struct.is_scheduled, struct.changes, struct.has_new_rows = (
        bool(group.scheduled),
        lib.FO_WHOLE_ROW,
        group.has_new_rows,
    )
    struct.same_from, struct.limit, struct.flush = group.same_from, group.limit, group.flush
    struct.has_copies = group.has_copies
    row = struct.row
    row.grad_scale, row.mean, row.clip_value = group.grad_scale, group.mean, group.clip_value
    row.stages, row.zero_grads = WHOLE_PASS, zero_grads


def set_rule(struct: Any, rule: Rule, table: NativeTable) -> None:
    """Fill in the rule of a group."""
    struct.rule = id(rule)
    if rule in RULES:
        struct.row.rule, struct.scalar_count = RULES[rule], len(scalars_type(rule)._fields)
    else:
        own = table.own_rules[rule]
        struct.row.own, struct.scalar_count, struct.scalars = own.struct, len(own.scalars._fields), id(own.scalars)


def set_writing(column: Any, allowed: Any) -> None:
    """Fill in how an option may be written."""
    column["writing"] = lib.FO_CHECKED
    is_number = isinstance(allowed, Range)
    ranges = {allowed} if is_number else set(allowed) if isinstance(allowed, tuple) else ()
    if len(ranges) != 1:
        return
    (each,) = ranges
    if not each.whole:
        column["writing"] = lib.FO_NUMBER if is_number else lib.FO_NUMBERS
        column["length"] = 0 if is_number else len(allowed)
        column["low"], column["high"] = each.low, each.high
        column["includes_low"] = np.isfinite(each.low) and not each.excludes_low
        column["includes_high"] = each.includes_high


def nodes_of(branch: Branch, key: Any) -> list[list[Any]]:
    """Return the key, kind, number of children, end and first leaf of a branch and all below it, in preorder."""
    kind = lib.FO_DICT if branch.is_dict else lib.FO_LIST
    nodes = [[key, kind, len(branch.keys), 0, 0]]
    leaves = 0
    for child_key, child in zip(branch.keys, branch.branches, strict=True):
        number = len(nodes)
        if child is LEAF:
            nodes.append([child_key, lib.FO_LEAF, 0, number + 1, leaves])
            leaves += 1
            continue
        below = nodes_of(child, child_key)
        nodes += [[*node[:3], node[3] + number, node[4] + leaves] for node in below]
        leaves += sum(node[1] == lib.FO_LEAF for node in below)
    nodes[0][3] = len(nodes)
    return nodes


def bfloat16() -> Any:
    """Return the dtype of ml_dtypes if the program uses it; no gradient has it otherwise."""
    known = sys.modules.get("ml_dtypes")
    return None if known is None else np.dtype(known.bfloat16)
