"""The state of an optimizer as data, and back: ``state_dict`` and ``load_state_dict``."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..arithmetic.rules import Rule
from ..arrays.dtypes import Array
from ..arrays.memory import described, shown
from ..arrays.structure import branch_of, check_depth
from ..backends.interrupts import uninterrupted
from ..options.ranges import OPTIONAL, Group, check
from . import encoding
from .averages import with_own_values
from .changes import Change, changes, changes_of_groups
from .groups import SavedGroup, is_of_another, of_another
from .hook_checks import checked_extra_state
from .parameters import Parameters
from .params_in_state import CopyingHooks, check_own_values, reload
from .parts import Parts
from .progress import SKIPS
from .results import LoadResult, Misfit, missing, unexpected
from .saving import Load, Saving, SavingInOneProcess
from .slots import SlotHooks
from .whole_options import SAVED, WholeOptions
from .workspace import Workspace

#: The entries of a saved state, and the type of each.
FORM: Mapping[str, type] = {
    "optimizer": str,
    "step_count": int,
    "options": Mapping,
    "param_groups": list,
    "frozen": list,
    "state": Mapping,
    "extra": Mapping,
}

#: The saved options of a whole optimizer, but counts of skipped steps.
WHOLE_OPTIONS = (*SAVED, "accumulated_calls")

#: The entries of "options" that are saved if they have other values than these; earlier versions know none of them.
LATER: Mapping[str, Any] = {"skip_above": None, **dict.fromkeys(SKIPS, 0)}


class Saved(SlotHooks, CopyingHooks, Protocol):
    """An optimizer, as far as saving and loading it needs."""

    @property
    def parts(self) -> Parts: ...
    def ready(self) -> Workspace: ...
    def saving(self) -> Saving: ...
    def rule(self, group: Group) -> Rule: ...
    def extra_state(self) -> dict[str, Any]: ...
    def check_extra_state(self, extra: Mapping[str, Any]) -> list[str]: ...
    def load_extra_state(self, extra: Mapping[str, Any]) -> None: ...


class NewOptions(NamedTuple):
    """The options that a load sets besides those of the whole optimizer."""

    groups: dict[int, SavedGroup]
    frozen: frozenset[str]


class NewState(NamedTuple):
    """The state that a load sets."""

    step_count: int
    accumulated_calls: int
    skips: Sequence[int]
    entries: dict[str, dict[str, tuple[Array, Any]]]
    extra: Mapping[str, Any] | None


class Plan(NamedTuple):
    """The changes that a saved state makes, checked to fit. A part that is not asked for is None."""

    whole_options: dict[str, Any]
    options: NewOptions | None
    state: NewState | None


class SavingOfOptimizer(SavingInOneProcess):
    """See ``saving.py``."""

    def __init__(self, opt: Saved) -> None:
        super().__init__(opt.parts)
        self.opt = opt

    def check(self, what: str) -> None:
        check_own_values(self.opt.parts, what)

    def state(self) -> dict[str, Any]:
        return of(self.opt, copy=False)

    def plan(
        self,
        saved: Mapping[str, Any] | None,
        strict: bool,
        misfits: list[Misfit],
        with_state: bool,
        with_options: bool,
    ) -> Load:
        opt, planned = self.opt, None
        if saved is None:
            result = load_result(type(opt).__name__, [], misfits, strict)
        else:
            planned, result = plan(opt, saved, strict, misfits, with_state, with_options)

        def load(written: Collection[str]) -> None:
            if planned is not None:
                carry_out(opt, planned)
            loaded = {} if planned is None or planned.state is None else planned.state.entries
            reload(opt, opt.parts, [name for name in written if name not in loaded])

        return Load(result, load)


def of(opt: Saved, copy: bool = True) -> dict[str, Any]:
    """Return the state of an optimizer; see :meth:`fastopt.Optimizer.state_dict`."""
    opt.ready()
    parts = opt.parts
    parts.progress.undo_skipped_step()
    groups = []
    for k, group in enumerate(parts.groups.param_groups):
        options = {name: encoding.encoded(value) for name, value in group.items() if name != "params"}
        groups.append({"params": parts.parameters.members(k), **options})
    whole_options = {name: encoding.encoded(getattr(parts.whole, name)) for name in SAVED}
    whole_options["accumulated_calls"] = parts.progress.accumulated_calls
    whole_options |= dict(zip(SKIPS, parts.progress.skips.tolist(), strict=True))
    return {
        "optimizer": type(opt).__name__,
        "step_count": parts.progress.step_count,
        "options": {name: value for name, value in whole_options.items() if name not in LATER or value != LATER[name]},
        "param_groups": groups,
        "frozen": sorted(parts.parameters.frozen),
        "state": {
            name: {slot: parts.backend.ops.on_host(array, copy) for slot, array in entries.items()}
            for name, entries in with_own_values(parts).items()
        },
        "extra": checked_extra_state(opt.extra_state()),
    }


def load(opt: Saved, saved: Mapping[str, Any], strict: bool, with_state: bool, with_options: bool) -> LoadResult:
    """Load a saved state, or a part of it; see :meth:`fastopt.Optimizer.load_state_dict`."""
    if not (with_state or with_options):
        raise ValueError("load_state_dict: state=False, options=False leave nothing to load; give one of the two")
    planned, result = opt.saving().together(partial(plan, opt, saved, strict, [], with_state, with_options))
    uninterrupted(partial(carry_out, opt, planned))
    return result


def plan(
    opt: Saved,
    saved: Mapping[str, Any],
    strict: bool,
    misfits: list[Misfit],
    with_state: bool = True,
    with_options: bool = True,
) -> tuple[Plan, LoadResult]:
    """Check a saved state against an optimizer; ``misfits`` are those found before, elsewhere.

    Raises
    ------
    TypeError, ValueError
        As :meth:`fastopt.Optimizer.load_state_dict`.
    """
    check_form(saved, type(opt).__name__)
    opt.ready()
    opt.parts.progress.undo_skipped_step()
    wrong: list[str] = []
    whole_options = new_whole_options(opt.parts.whole, saved["options"], with_state, with_options, wrong)
    options = new_options(opt, saved, wrong, misfits) if with_options else None
    state = new_state(opt, saved, options, wrong, misfits) if with_state else None
    result = load_result(type(opt).__name__, wrong, misfits, strict)
    result.options = changed_options(opt.parts, whole_options, options, state)
    return Plan(whole_options, options, state), result


def new_whole_options(
    whole: WholeOptions, saved: Mapping[str, Any], with_state: bool, with_options: bool, wrong: list[str]
) -> dict[str, Any]:
    """Return the options of the whole optimizer to load, and add to ``wrong`` what is wrong with them.

    A dynamic scale is both: its factors are options, and the number that steps have found is state.
    """
    known = {*WHOLE_OPTIONS, *LATER}
    if {*LATER, *saved} != known:
        wrong.append(f"options: expected {sorted(known)}, got {shown(list(saved))}")
        return {}
    saved = {**LATER, **saved}
    own = whole.dynamic_scale
    found: dict[str, Any] = {}
    for name in SAVED:
        is_state = name == "grad_scale" and own is not None and encoding.is_loss_scale(saved[name])
        if not (with_options or is_state):
            continue
        try:
            value = encoding.decoded(saved[name], getattr(whole, name))
            whole.check_saved(name, value)
        except (TypeError, ValueError, OverflowError) as error:
            wrong.append(f"options: {error}")
            continue
        if own is not None and is_state and not (with_state and with_options):
            value = value.with_options_of(own) if with_state else own.with_options_of(value)
        found[name] = value
    return found


def new_options(opt: Saved, saved: Mapping[str, Any], wrong: list[str], misfits: list[Misfit]) -> NewOptions:
    """Return the options of the groups and the frozen arrays to load."""
    parts = opt.parts
    members = [parts.parameters.members(k) for k in range(len(parts.groups.param_groups))]
    groups = parts.groups.plan(saved["param_groups"], members, encoding.decoded, opt.rule, wrong, misfits)
    bounds = [groups[k].options["bounds"] if k in groups else pair for k, pair in enumerate(parts.groups.bounds)]
    try:
        parts.parameters.number_bounds(bounds)
    except ValueError as error:
        wrong.append(f"param_groups: {error}")
    known = frozenset(parts.parameters.names)
    misfits += [unexpected(f"frozen: {name}") for name in saved["frozen"] if name not in known]
    return NewOptions(groups, known.intersection(saved["frozen"]))


def new_state(
    opt: Saved, saved: Mapping[str, Any], options: NewOptions | None, wrong: list[str], misfits: list[Misfit]
) -> NewState:
    """Return the state to load, for the options that the optimizer will have."""
    parts = opt.parts
    groups = {} if options is None else options.groups
    then = [
        (groups[k].options, groups[k].rule) if k in groups else (parts.groups.param_groups[k], checked.rule)
        for k, checked in enumerate(parts.groups.checked)
    ]
    of_others = states_of_others(parts, saved["param_groups"])
    misfits += of_others.values()
    fitting = {name: state for name, state in saved["state"].items() if name not in of_others}
    accumulated_calls = saved["options"].get("accumulated_calls", 0)
    are_accumulating = not (type(accumulated_calls) is int and accumulated_calls == 0)  # it is not checked yet
    entries = parts.slots.plan(
        parts.parameters, then, fitting, parts.backend, opt, opt.saving().pieces, are_accumulating, misfits
    )
    skips = [saved["options"].get(name, LATER[name]) for name in SKIPS]
    wrong += parts.progress.check_saved(saved["step_count"], accumulated_calls, skips, parts.options.accumulate_steps)
    extra_wrong = opt.check_extra_state(saved["extra"])
    misfits += [Misfit("extra", True, True, text) for text in extra_wrong]
    return NewState(saved["step_count"], accumulated_calls, skips, entries, None if extra_wrong else saved["extra"])


def states_of_others(parts: Parts, groups: Sequence[Mapping[str, Any]]) -> dict[str, Misfit]:
    """Return a misfit for each array whose saved group is of another optimizer, where several share a step."""
    saved = {name: group for group in groups for name in group["params"]}
    found = {}
    for name, k in zip(parts.parameters.names, parts.parameters.group_of.tolist(), strict=True):
        group = parts.groups.checked[k]
        if name in saved and is_of_another(saved[name], group):
            found[name] = Misfit(name, False, True, f"state[{name!r}] is {of_another(saved[name], group)}")
    return found


def changed_options(
    parts: Parts, whole_options: Mapping[str, Any], options: NewOptions | None, state: NewState | None
) -> dict[str, Change]:
    """Return each option that a load changes: its name, its old and its new value."""
    parameters, found = parts.parameters, {}
    if options is not None:
        found = changes_of_groups(parts.groups.param_groups, options.groups)
        if options.frozen != parameters.frozen:
            found["frozen"] = parameters.in_order(parameters.frozen), parameters.in_order(options.frozen)
    found |= dict(changes({name: getattr(parts.whole, name) for name in whole_options}, whole_options))
    if state is not None and state.step_count != parts.progress.step_count:
        found["step_count"] = parts.progress.step_count, state.step_count
    return found


def plan_params(parameters: Parameters, params: Any) -> tuple[list[Misfit], dict[str, tuple[Array, Array]]]:
    """Return how saved parameters do not fit, and for the names of those that do, where each goes."""
    branch = branch_of(params)
    saved = dict(zip(branch.names(), branch.arrays(), strict=True))
    misfits, pairs = [], {}
    for name, param in zip(parameters.names, parameters.arrays, strict=True):
        value = saved.pop(name, None)
        if not isinstance(value, np.ndarray):
            misfits.append(missing(f"params.{name}"))
        elif value.shape != param.shape or value.dtype != param.dtype:
            text = (
                f"params.{name} is of shape {value.shape}, {value.dtype}; expected shape {param.shape}, {param.dtype}"
            )
            misfits.append(Misfit(f"params.{name}", True, True, text))
        else:
            pairs[name] = param, value
    return misfits + [unexpected(f"params.{name}") for name in saved], pairs


def load_result(optimizer: str, wrong: list[str], misfits: list[Misfit], strict: bool) -> LoadResult:
    """Return what was not loaded.

    Raises
    ------
    ValueError
        With all that is wrong, and every misfit, if there is one that ``strict`` does not allow.
    """
    if wrong or (strict and misfits):
        lines = [*wrong, *(misfit.text for misfit in misfits)]
        raise ValueError("\n  ".join([f"state_dict: it does not fit this {optimizer}:", *lines]))
    result = LoadResult(
        [misfit.path for misfit in misfits if misfit.missing],
        [misfit.path for misfit in misfits if misfit.unexpected],
    )
    result.options = {}
    return result


def carry_out(opt: Saved, plan: Plan) -> None:
    """Load what was planned."""
    parts, state = opt.parts, plan.state
    if state is not None:
        parts.slots.load(state.entries, parts.backend)
    if plan.options is not None:
        parts.groups.load(plan.options.groups, parts.progress.step_count if state is None else state.step_count)
        parts.parameters.frozen = plan.options.frozen
    elif state is not None:
        parts.groups.keep_options(state.step_count)
    for name, value in plan.whole_options.items():
        parts.whole.load(name, value)
    if state is not None:
        parts.progress.load(state.step_count, state.accumulated_calls, state.skips)
        if state.extra is not None:
            opt.load_extra_state(state.extra)
    parts.forget_workspace()


def check_form(saved: Any, optimizer: str) -> None:
    """Raise unless ``saved`` has the entries of a saved state of this optimizer, each of its type.

    Raises
    ------
    TypeError, ValueError
        Says which entry is wrong.
    """
    if not isinstance(saved, Mapping):
        raise TypeError(f"state_dict: expected a dict from state_dict(), got {type(saved).__name__}{advice_for(saved)}")
    check_depth("state_dict", saved)
    if set(saved) != set(FORM):
        raise ValueError(f"state_dict: expected the entries {list(FORM)}, got {shown(list(saved))}")
    for name, kind in FORM.items():
        if not isinstance(saved[name], kind) or isinstance(saved[name], bool):
            raise TypeError(f"state_dict: {name!r} is {described(saved[name])}; give what state_dict() returned")
    for k, group in enumerate(saved["param_groups"]):
        if not isinstance(group, Mapping) or not are_names(group.get("params")):
            raise TypeError(f"state_dict: param_groups[{k}] is not a dict with the names of its arrays as 'params'")
        if not isinstance(group.get("initial_lr", 0.0), (int, float)):
            raise TypeError(f"state_dict: param_groups[{k}]: 'initial_lr' is {described(group['initial_lr'])}")
        check(f"state_dict: param_groups[{k}]: initial_lr", group.get("initial_lr"), OPTIONAL)
    if not are_names(saved["frozen"]):
        raise TypeError("state_dict: 'frozen' is not a list of the names of arrays; give what state_dict() returned")
    for name, entries in saved["state"].items():
        if not isinstance(entries, Mapping):
            raise TypeError(f"state_dict: state[{shown(name)}] is {described(entries)}; expected a dict of arrays")
        wrong = [key for key in (name, *entries) if not isinstance(key, str)]
        if wrong:
            raise TypeError(f"state_dict: 'state' has the keys {shown(wrong)}; expected the names of arrays and slots")
    if saved["optimizer"] != optimizer:
        raise ValueError(
            f"state_dict: it is that of the optimizer {saved['optimizer']!r}, this is {optimizer!r}; build the same one"
        )


def advice_for(saved: Any) -> str:
    """Return what to write instead of something that is no saved state, as the end of a sentence."""
    if hasattr(saved, "restore"):
        return "; a checkpoint is loaded by checkpoint.restore(opt), and its state is checkpoint.optimizer"
    if hasattr(saved, "state_dict"):
        return "; give its state_dict()"
    return "; a file is loaded by fastopt.load(path).restore(opt)" if isinstance(saved, (str, os.PathLike)) else ""


def are_names(value: Any) -> bool:
    """Return whether a value is a list of names."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
