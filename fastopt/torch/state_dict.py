"""The state of an optimizer in torch's form: tensors under torch's names, and a ``state_dict`` that torch loads.

Besides torch's two entries there is ``"fastopt"``, with what torch has no place for. torch's optimizers pass over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..convert import as_number, as_options
from ..core import state_dict
from ..core.encoding import decoded
from ..core.params_in_state import check_own_values
from ..core.turns import Kind
from ..options.ranges import Group, plain
from ..options.values import value_at
from .groups import Names
from .memory import Order, as_array, as_arrays, as_tensor, as_tensors

#: The entry that torch does not know, and the parts of our state that are in it.
OURS = "fastopt"
PARTS = ("optimizer", "step_count", "options", "frozen", "extra")


def slot_name(opt: Any, name: str, array: Any, entries: Mapping[str, Any]) -> str:
    """Return the name of a slot in torch: ours if torch could not read it."""
    is_plain = f"{name}_scale" not in entries and array.dtype in (np.float32, np.float64)
    return opt.names.their_slots.get(name, name) if is_plain else name


def tensor_of(array: Any, like: Any, order: Order) -> Any:
    """Return an array of the state as a tensor; one of its parameter's shape has the parameter's axes."""
    return as_tensor(array, order if array.shape == like.shape else None)


def has_begun(entries: Mapping[str, Any]) -> bool:
    """Return whether an array has made a step, or has gradients that accumulate."""
    return bool(entries["step"] or entries.get("accumulated_calls", 0))


def tensors_of(opt: Any, i: int, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of parameter number ``i`` as tensors in the same memory, by torch's names."""
    array, order = opt.inner.parts.parameters.arrays[i], opt.orders[i]
    tensors = {slot_name(opt, slot, each, entries): tensor_of(each, array, order) for slot, each in entries.items()}
    return {**tensors, **opt.further_entries(i)}


# --- out --------------------------------------------------------------------------------------------------------------


def state_of(opt: Any) -> dict[str, Any]:
    """Return the state in torch's form. Its tensors lie in the memory of the state, as torch's do."""
    opt.written.take(opt.param_groups, opt.inner)
    saved = opt.inner.parts.turns.run("state_dict", Kind.READER, state_dict.of, opt.inner, copy=False)
    groups: list[Group] = []
    states: dict[int, Any] = {}
    i = 0
    for group, its in zip(opt.param_groups, saved["param_groups"], strict=True):
        options = {opt.names.theirs(name): its[name] for name in opt.names.of_group}
        groups.append({**group, **options, "params": list(range(i, i + len(its["params"])))})
        for name in its["params"]:
            entries = saved["state"][name]
            if has_begun(entries):
                states[i] = {**tensors_of(opt, i, entries), **counts_of(opt, group, int(entries["step"]))}
            i += 1
    return {"state": states, "param_groups": groups, OURS: as_tensors({part: saved[part] for part in PARTS})}


def counts_of(opt: Any, group: Mapping[str, Any], steps: int) -> dict[str, Any]:
    """Return the step count of a parameter in torch's form, and the numbers that torch keeps beside it."""
    counterpart = opt.names.counterpart
    if counterpart is None:
        return {"step": number(steps)}
    options = {name: plain(group[opt.names.theirs(name)]) for name in counterpart.options}
    values = {name: value_at(value, opt.inner.step_count) for name, value in options.items()}
    numbers = {name: number(value) for name, value in counterpart.numbers(values, steps).items()}
    return {"step": steps if counterpart.counts is int else number(steps), **numbers}


def number(value: float) -> Any:
    """Return a number as a tensor, whatever torch's default device is."""
    return torch.tensor(float(value), device="cpu")


# --- in ---------------------------------------------------------------------------------------------------------------


def load(opt: Any, saved: Mapping[str, Any]) -> None:
    """Load a state in torch's form: that of :func:`state_of`, or of torch's optimizer of the same name.

    Raises
    ------
    TypeError, ValueError
        If it is none, or does not fit. Nothing has changed then.
    """
    check_own_values(opt.inner.parts, "load_state_dict")
    check_form(opt, saved)
    names = opt.inner.parts.parameters.names
    groups = saved["param_groups"]
    indices = [index for group in groups for index in group["params"]]
    inner = opt.new_inner(
        [options_of(opt, *both, OURS in saved) for both in zip(opt.param_groups, groups, strict=True)]
    )
    wanted = inner.state_dict()
    if OURS in saved:
        wanted |= as_arrays(dict(saved[OURS]))
    else:
        wanted["options"] = opt.inner.state_dict()["options"]
    arrays, orders = inner.parts.parameters.arrays, map(opt.order_of, opt.params)
    for name, index, array, order in zip(names, indices, arrays, orders, strict=True):
        its, new = saved["state"].get(index, {}), wanted["state"][name]
        wanted["state"][name] = {**new, **entries_of(opt.names, its, new, array, order, OURS in saved)}
    if OURS not in saved:
        wanted["step_count"] = max(int(entries["step"]) for entries in wanted["state"].values())
    inner.load_state_dict(wanted)
    opt.take_further_entries([saved["state"].get(index, {}) for index in indices])
    for group, new, its in zip(opt.param_groups, groups, inner.param_groups, strict=True):
        labels = {name: value for name, value in opt.names.labels(new).items() if name not in ("params", "param_names")}
        group.update(labels)
        for name in opt.names.of_group:
            group[opt.names.theirs(name)] = its[name]
    opt.take(inner)


def check_form(opt: Any, saved: Any) -> None:
    """Raise unless a state is one of torch's form, for as many parameters in as many groups.

    Raises
    ------
    TypeError, ValueError
        Says what differs.
    """
    if not isinstance(saved, Mapping) or not {"state", "param_groups"} <= set(saved):
        raise TypeError("state_dict: expected a dict with the keys 'state' and 'param_groups'; give opt.state_dict()")
    here = [len(group["params"]) for group in opt.param_groups]
    there = [len(group["params"]) for group in saved["param_groups"]]
    if here != there:
        raise ValueError(
            f"state_dict: expected groups of {here} parameters, got groups of {there}; build the same groups first"
        )
    if OURS not in saved and opt.names.counterpart is None:
        raise ValueError(f"state_dict: it has no entry {OURS!r}, and torch has no {opt.names.optimizer}")
    if OURS in saved and saved[OURS]["optimizer"] != opt.names.optimizer:
        raise ValueError(
            f"state_dict: it is that of {saved[OURS]['optimizer']}, this is {opt.names.optimizer}; build the same one"
        )


def options_of(opt: Any, group: Group, saved: Group, is_ours: bool) -> Group:
    """Return the options of a group by our names: the saved ones, and those that torch lacks as they are."""
    options: Group = opt.names.options(group)
    if is_ours:
        return options | {name: decoded(value, options[name]) for name, value in opt.names.options(saved).items()}
    counterpart = opt.names.counterpart
    missing = [name for name in counterpart.options if counterpart.renamed.get(name, name) not in saved]
    if missing:
        raise ValueError(
            f"state_dict: a group has no {missing}; expected the state of torch's {counterpart.name}, or of this one"
        )
    options |= as_options(counterpart, saved)
    for ours, theirs in opt.names.their_options.items():
        # torch's AdamW is decoupled whatever it loads.
        options[ours] = bool(saved.get(theirs, options[ours]) or counterpart.more.get(theirs))
    return options


def entries_of(
    names: Names, its: Mapping[str, Any], new: Mapping[str, Any], array: Any, order: Order, is_ours: bool
) -> dict[str, Any]:
    """Return the saved entries of an array by our names; ``new`` are those that it has without a step."""
    if is_ours:
        slots = {names.our_slots.get(name, name): value for name, value in its.items()}
    else:
        slots = {slot: its.get(name) for slot, name in names.their_slots.items()}
    found: dict[str, Any] = {}
    for slot, value in slots.items():
        if slot == "step" or slot not in new or not isinstance(value, torch.Tensor):
            continue
        values = as_array(value.cpu(), order if value.ndim == array.ndim and order is not None else None)
        # torch's state has the dtype of the parameter, also in half precision.
        found[slot] = values if is_ours else values.astype(new[slot].dtype)
    steps = as_number(its["step"]) if "step" in its else 1 if found else 0
    return {**found, "step": np.array(int(steps))}
