"""The state of an optimizer as data, and back: what ``state_dict`` and ``load_state_dict`` do."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .. import schedules
from ..arithmetic import rules
from ..arrays.dtypes import Array
from ..arrays.memory import described
from ..arrays.structure import Branch, is_container
from ..options.loss_scale import DynamicLossScale
from ..options.ranges import Group
from . import storage
from .optimizer import Optimizer, check_scale
from .results import LoadResult

#: The entries of a saved state, and what each is.
FORM: Mapping[str, type] = {
    "optimizer": str,
    "step_count": int,
    "options": Mapping,
    "param_groups": list,
    "frozen": list,
    "state": Mapping,
    "extra": Mapping,
}
#: What a saved group has besides its options.
NO_OPTIONS = ("params", "initial_lr")

#: The options of a whole optimizer, which are its attributes.
WHOLE_OPTIONS = ("clip_global_norm", "grad_scale", "seed", "accumulated_calls")

#: What a state may hold for what is done around the rule.
AROUND = ("master", "ema", "accumulated", "accumulated_calls")

#: Every schedule whose arguments say all about it, by its name.
SCHEDULES: Mapping[str, type[schedules.Schedule]] = {
    name: value
    for name, value in vars(schedules).items()
    if name in schedules.__all__ and isinstance(value, type) and value is not schedules.Schedule
}


class Misfit(NamedTuple):
    """A part of a saved state, or of the optimizer, that the other has not in this form."""

    path: str
    missing: bool
    unexpected: bool
    text: str


class Plan(NamedTuple):
    """What a saved state will change, found to fit."""

    step_count: int
    whole_options: dict[str, Any]
    groups: dict[int, tuple[Group, float | None]]
    frozen: set[str]
    entries: dict[str, dict[str, tuple[Array, Any]]]
    extra: Mapping[str, Any] | None


def of(opt: Optimizer, copy: bool = True) -> dict[str, Any]:
    """Return the state of an optimizer; see :meth:`fastopt.Optimizer.state_dict`."""
    opt._ready_table()
    opt._keep_new_slots()
    groups = []
    for k, group in enumerate(opt.param_groups):
        members = [name for name, owner in zip(opt._names, opt._group_of, strict=True) if owner == k]
        initial_lr = {"initial_lr": opt._initial_lrs[k]} if k in opt._initial_lrs else {}
        options = {name: encoded(value) for name, value in group.items() if name != "params"}
        groups.append({"params": members, **options, **initial_lr})
    return {
        "optimizer": type(opt).__name__,
        "step_count": opt.step_count,
        "options": {name: encoded(getattr(opt, name)) for name in WHOLE_OPTIONS},
        "param_groups": groups,
        "frozen": sorted(opt._frozen),
        "state": {
            name: {slot: opt._arrays.on_host(array, copy) for slot, array in entries.items()}
            for name, entries in opt.state.items()
        },
        "extra": opt._extra_state(),
    }


def load(opt: Optimizer, saved: Mapping[str, Any], strict: bool = True) -> LoadResult:
    """Load a saved state into an optimizer; see :meth:`fastopt.Optimizer.load_state_dict`."""
    plan, result = prepared(opt, saved, strict, [])
    carry_out(opt, plan)
    return result


def prepared(opt: Optimizer, saved: Mapping[str, Any], strict: bool, misfits: list[Misfit]) -> tuple[Plan, LoadResult]:
    """Check a saved state against an optimizer; ``misfits`` are those found before, elsewhere.

    Raises
    ------
    TypeError, ValueError
        As :meth:`fastopt.Optimizer.load_state_dict`.
    """
    check_form(saved)
    if saved["optimizer"] != type(opt).__name__:
        raise ValueError(
            f"state_dict: it is that of the optimizer {saved['optimizer']!r}, this is {type(opt).__name__!r}; build "
            "the same one"
        )
    opt._ready_table()
    return planned(opt, saved, strict, misfits)


def planned(opt: Optimizer, saved: Mapping[str, Any], strict: bool, misfits: list[Misfit]) -> tuple[Plan, LoadResult]:
    wrong: list[str] = []
    whole_options = planned_whole_options(opt, saved["options"], wrong)
    groups = planned_groups(opt, saved["param_groups"], wrong, misfits)
    rule_of = {k: opt.rule(options) for k, (options, _) in groups.items()}

    entries: dict[str, dict[str, tuple[Array, Any]]] = {}
    for name, computed, k in zip(opt._names, opt._computed, opt._group_of.tolist(), strict=True):
        if name not in saved["state"]:
            misfits.append(missing(name))
            continue
        options = groups[k][0] if k in groups else opt.param_groups[k]
        used = opt.slot_names(rule_of.get(k, opt._settled[k].rule), computed)
        for slot in {*used, *known_slots().intersection(saved["state"][name])}.difference(wanted_of(opt, name)):
            opt._slot(name, computed, options, slot)
        wanted = wanted_of(opt, name)
        # A slot that only an earlier rule of the group used (amsgrad was switched off) may be there or not.
        needed = [slot for slot in wanted if owner(slot) in used or owner(slot) not in known_slots()]
        if is_fresh(saved["state"][name]):
            needed = ["step"]
        fitting = planned_entries(name, wanted, needed, saved["state"][name], misfits)
        if fitting is not None:
            entries[name] = fitting
    misfits += [unexpected(name) for name in saved["state"] if name not in opt.state]
    misfits += [unexpected(f"frozen: {name}") for name in saved["frozen"] if name not in opt.state]
    if not 0 <= saved["step_count"] < 2**63:
        wrong.append(f"step_count: expected a number from 0 to below 2**63, got {saved['step_count']}")
    extra_wrong = opt._check_extra_state(saved["extra"])
    misfits += [Misfit("extra", True, True, text) for text in extra_wrong]
    result = settled(opt, wrong, misfits, strict)
    frozen = {name for name in saved["frozen"] if name in opt.state}
    extra = None if extra_wrong else saved["extra"]
    return Plan(saved["step_count"], whole_options, groups, frozen, entries, extra), result


def planned_params(opt: Optimizer, params: Any) -> tuple[list[Misfit], list[tuple[Array, Array]]]:
    """Return how saved parameters do not fit, and for those that do, where each goes."""
    branch = Branch(params if is_container(params) else [params])
    saved = dict(zip(branch.names(), branch.arrays(), strict=True))
    misfits, pairs = [], []
    for name, param in zip(opt._names, opt._params, strict=True):
        value = saved.pop(name, None)
        if not isinstance(value, np.ndarray):
            misfits.append(missing(f"params.{name}"))
        elif value.shape != param.shape or value.dtype != param.dtype:
            text = (
                f"params.{name} is of shape {value.shape}, {value.dtype}; expected shape {param.shape}, {param.dtype}"
            )
            misfits.append(Misfit(f"params.{name}", True, True, text))
        else:
            pairs.append((param, value))
    return misfits + [unexpected(f"params.{name}") for name in saved], pairs


def settled(opt: Optimizer, wrong: list[str], misfits: list[Misfit], strict: bool) -> LoadResult:
    """Return what was not loaded.

    Raises
    ------
    ValueError
        With all that is wrong, and every misfit, if there is one that ``strict`` does not allow.
    """
    if wrong or (strict and misfits):
        lines = [*wrong, *(misfit.text for misfit in misfits)]
        raise ValueError("\n  ".join([f"state_dict: it does not fit this {type(opt).__name__}:", *lines]))
    return LoadResult(
        [misfit.path for misfit in misfits if misfit.missing],
        [misfit.path for misfit in misfits if misfit.unexpected],
    )


def missing(path: str) -> Misfit:
    return Misfit(path, True, False, f"missing: {path}")


def unexpected(path: str) -> Misfit:
    return Misfit(path, False, True, f"unexpected: {path}")


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


def wanted_of(opt: Optimizer, name: str) -> dict[str, Array]:
    """Return what an array's state is or, by the table that was just made, will be."""
    return {**opt.state[name], **{slot: array for owner, slot, array in opt._new_slots if owner == name}}


def owner(entry: str) -> str:
    """Return the slot that an entry of an array's state belongs to: scales to theirs, all others to themselves."""
    slot = entry.removesuffix(storage.scale_name(""))
    return slot if slot in known_slots() else entry


def planned_whole_options(opt: Optimizer, saved: Mapping[str, Any], wrong: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if sorted(saved) != sorted(WHOLE_OPTIONS):
        wrong.append(f"options: expected {sorted(WHOLE_OPTIONS)}, got {list(saved)}")
        return found
    for name, value in saved.items():
        try:
            found[name] = decoded(value, getattr(opt, name))
            check_whole_option(opt, name, found[name])
        except (TypeError, ValueError, OverflowError) as error:
            wrong.append(f"options: {error}")
    return found


def check_whole_option(opt: Optimizer, name: str, value: Any) -> None:
    """Raise unless an option of the whole optimizer can be loaded.

    Raises
    ------
    TypeError, ValueError
        Says why not.
    """
    if name == "grad_scale":
        if isinstance(value, DynamicLossScale) != isinstance(opt.grad_scale, DynamicLossScale):
            raise ValueError(f"grad_scale is {value!r}; this optimizer's is {opt.grad_scale!r}: build it with the same")
        if not isinstance(value, DynamicLossScale):
            check_scale(value)
        return
    opt._check_option(name, value)
    if name == "accumulated_calls" and value >= opt.pass_options.accumulate_steps:
        raise ValueError(
            f"accumulated_calls={value}: expected a number below accumulate_steps={opt.pass_options.accumulate_steps}"
        )


def planned_groups(
    opt: Optimizer, saved: list[Mapping[str, Any]], wrong: list[str], misfits: list[Misfit]
) -> dict[int, tuple[Group, float | None]]:
    """Return the options and initial learning rate of each group of the optimizer that has a saved one."""
    names_of = [
        [name for name, owner in zip(opt._names, opt._group_of, strict=True) if owner == k]
        for k in range(len(opt.param_groups))
    ]
    found: dict[int, tuple[Group, float | None]] = {}
    for j, group in enumerate(saved):
        k = next((k for k, names in enumerate(names_of) if k not in found and names == group["params"]), None)
        if k is None:
            text = f"param_groups[{j}] is of the arrays {group['params']}; the groups here are of {names_of}"
            misfits.append(Misfit(f"param_groups[{j}]", False, True, text))
            continue
        current = {name: value for name, value in opt.param_groups[k].items() if name != "params"}
        given = {name: value for name, value in group.items() if name not in NO_OPTIONS}
        if set(given) != set(current):
            wrong.append(f"param_groups[{j}]: expected the options {list(current)}, got {list(given)}")
            continue
        try:
            options = {name: decoded(given[name], current[name]) for name in current}
            opt._settle(options, 0)
            found[k] = (options, group.get("initial_lr"))
        except (TypeError, ValueError, OverflowError) as error:
            wrong.append(f"param_groups[{j}]: {error}")
    if not wrong:
        misfits += [missing(f"param_groups[{k}]") for k in range(len(names_of)) if k not in found]
    return found


def planned_entries(
    name: str,
    wanted: Mapping[str, Array],
    needed: list[str],
    saved: Mapping[str, Any],
    misfits: list[Misfit],
) -> dict[str, tuple[Array, Any]] | None:
    """Return where each saved entry of an array's state goes, None where they do not fit."""
    before = len(misfits)
    misfits += [missing(f"{name}.{slot}") for slot in needed if slot not in saved]
    for slot, value in saved.items():
        if slot not in wanted:
            misfits.append(unexpected(f"{name}.{slot}"))
            continue
        like = wanted[slot]
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
    return {slot: (wanted[slot], value) for slot, value in saved.items()} if len(misfits) == before else None


def carry_out(opt: Optimizer, plan: Plan) -> None:
    for name, entries in plan.entries.items():
        for slot in set(opt.state[name]).difference(entries):
            if owner(slot) in known_slots() or slot in AROUND:
                if slot == "accumulated_calls":
                    opt.state[name][slot][...] = 0  # it is a part of all counts, which go on
                opt.state[name].drop(slot)
        for slot, (array, value) in entries.items():
            opt._arrays.write(array, value)
            opt.state[name].keep(slot, array)
    for k, (options, initial_lr) in plan.groups.items():
        opt.param_groups[k].update(options)
        if initial_lr is None:
            opt._initial_lrs.pop(k, None)
        else:
            opt._initial_lrs[k] = initial_lr
    for name, value in plan.whole_options.items():
        if isinstance(value, DynamicLossScale):
            opt.grad_scale.load_state_dict(value.state_dict())  # type: ignore[union-attr]
        else:
            setattr(opt, name, value)
    opt.step_count = plan.step_count
    opt._resumed_at = plan.step_count if opt._initial_lrs else None
    opt._frozen = plan.frozen
    if plan.extra is not None:
        opt._load_extra_state(plan.extra)
    opt._table = None


def check_form(saved: Any) -> None:
    """Raise unless ``saved`` has the entries of a saved state, each of its type.

    Raises
    ------
    TypeError, ValueError
        Says which entry is wrong.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"state_dict: expected a dict from state_dict(), got {type(saved).__name__}")
    if set(saved) != set(FORM):
        raise ValueError(f"state_dict: expected the entries {list(FORM)}, got {list(saved)}")
    for name, kind in FORM.items():
        if not isinstance(saved[name], kind) or isinstance(saved[name], bool):
            raise TypeError(f"state_dict: {name!r} is {described(saved[name])}; give what state_dict() returned")
    for k, group in enumerate(saved["param_groups"]):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
            raise TypeError(f"state_dict: param_groups[{k}] is no dict with the names of its arrays as 'params'")
        if not isinstance(group.get("initial_lr", 0.0), (int, float)):
            raise TypeError(f"state_dict: param_groups[{k}]: 'initial_lr' is {described(group['initial_lr'])}")
    for name, entries in saved["state"].items():
        if not isinstance(entries, Mapping):
            raise TypeError(f"state_dict: state[{name!r}] is {described(entries)}; expected a dict of arrays")


def encoded(value: Any) -> Any:
    """Return an option as plain Python: a schedule as its name and arguments, a function as its name."""
    if isinstance(value, (tuple, list)):
        return type(value)([encoded(item) for item in value])
    if SCHEDULES.get(type(value).__name__) is type(value):
        arguments = {field.name: encoded(getattr(value, field.name)) for field in fields(value)}
        return {"schedule": type(value).__name__, "arguments": arguments}
    if isinstance(value, DynamicLossScale):
        return {"loss_scale": value.state_dict()}
    if callable(value):
        return {"function": name_of(value)}
    return value.item() if isinstance(value, np.generic) else value


def decoded(value: Any, current: Any) -> Any:
    """Return the option that :func:`encoded` made plain; a function is taken from the current value of the option.

    Raises
    ------
    TypeError, ValueError
        If it can't be made.
    """
    if isinstance(value, (tuple, list)):
        likes = current if isinstance(current, (tuple, list)) and len(current) == len(value) else [None] * len(value)
        return type(value)([decoded(item, like) for item, like in zip(value, likes, strict=True)])
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"schedule", "arguments"} and isinstance(value["arguments"], Mapping):
        kind = SCHEDULES.get(value["schedule"])
        if kind is None:
            raise ValueError(f"there is no schedule {value['schedule']!r}; the schedules are {list(SCHEDULES)}")
        known = [field.name for field in fields(kind)]
        if set(value["arguments"]) != set(known):
            raise ValueError(f"{kind.__name__}: expected the arguments {known}, got {list(value['arguments'])}")
        like_of = {name: getattr(current, name) if type(current) is kind else None for name in known}
        return kind(**{name: decoded(item, like_of[name]) for name, item in value["arguments"].items()})
    if set(value) == {"loss_scale"} and isinstance(value["loss_scale"], Mapping):
        scale = DynamicLossScale()
        scale.load_state_dict(dict(value["loss_scale"]))
        return scale
    if set(value) == {"function"}:
        if callable(current) and name_of(current) == value["function"]:
            return current
        raise ValueError(
            f"the schedule calls the function {value['function']!r}, which can't be saved; build the optimizer with "
            "the same schedule and load again"
        )
    raise ValueError(f"expected a number, a schedule or a tuple, got {value!r:.80}")


def name_of(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
