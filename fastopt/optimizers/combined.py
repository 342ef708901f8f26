"""Several optimizers over one structure of parameters, in one step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arithmetic.rules import Rule
from ..arrays.structure import Branch, is_container
from ..backends.table import HyperRow
from ..core.hooks import is_default
from ..core.optimizer import Optimizer
from ..core.option_set import OPTIMIZER, OptionSet
from ..core.part_steps import HOOKS_ALONE, part_workspace, update_part, whole_option
from ..core.parts import Parts
from ..core.step import Step
from ..core.turns import change
from ..core.whole_options import WholeOptions
from ..core.workspace import Workspace
from ..options.bounds import split
from ..options.common import Common, StepOptions, Unpack
from ..options.group_by import Grouped, Match, is_group, matches
from ..options.ranges import Choice, Group
from ..options.values import differ
from .schedule_free import are_training, has_modes, to_mode

#: An optimizer's class, with its options if there are any.
Chosen: TypeAlias = type[Optimizer] | tuple[type[Optimizer], Mapping[str, Any]]

#: The options that groups of every optimizer have.
GROUP_OPTIONS = frozenset(Optimizer(HOOKS_ALONE, {}).defaults)


class Part(NamedTuple):
    """An optimizer among those of a Combined, and the choice of its arrays."""

    match: Match
    optimizer: type[Optimizer]
    options: Mapping[str, Any]

    def __str__(self) -> str:
        """Return how errors name the part."""
        shown = repr(self.match) if isinstance(self.match, str) else getattr(self.match, "__name__", repr(self.match))
        return f"the part {shown} ({self.optimizer.__name__})"


class Combined(Optimizer):
    r"""Several optimizers over one structure of parameters, in one step.

    Muon for the matrices and AdamW for the rest, say. All gradients are checked together before anything changes. There
    is one global norm, one decision about gradients that are not finite, one loss scale, one average, one clock for
    schedules, one state and one checkpoint. Elementwise optimizers update their arrays in one call.

    Parameters
    ----------
    params : array or structure of arrays
        As every optimizer takes it, but without groups.
    optimizers : dict or sequence of pairs
        Which optimizer updates which arrays; the first match wins. A key is a pattern of names, as in
        :func:`fastopt.group_by`, or a function of an array's name and the array, such as ``lambda name, p: p.ndim ==
        2``. A value is an optimizer's class, or a pair of the class and a dict of its options. These are the options of
        a group: its own, and ``decoupled``, ``clip_norm``, ``max_weight_norm`` and others that groups have.
    **common : see :class:`fastopt.Optimizer`

    Raises
    ------
    TypeError, ValueError
        Also if an array has no optimizer, or an optimizer no array; or if an option of the whole step makes no sense
        for one of the optimizers: the error says why. A Combined can't be a part of another one: give its parts.

    Notes
    -----
    The options of the whole step are errors in a part, as an option of a group is here. ``bounds`` of numbers belong to
    a part, structures of bounds for all arrays here.

    Each part makes a group of ``param_groups``, in the order of the parts. A group has the options of its class, with
    the same ranges, and ``"optimizer"``, the name of the class, which can't be changed. ``add_param_group`` needs
    this entry too; the options that it leaves out are those of the first part of this class.

    Each array has the state that it would have with its own optimizer alone. Parts of one class are groups of one
    optimizer: those of Prodigy share one ``d``. :meth:`train` and :meth:`eval` switch the arrays of Schedule-Free
    parts. A step is planned, as one call, if all parts are elementwise and all else allows it.

    With random rounding (``state_dtype``, ``stochastic_rounding``) an array's random numbers depend on its place among
    all arrays, and so differ from those that it would have with its own optimizer alone.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"hidden": {"W": np.ones((2, 3)), "b": np.zeros(3)}, "out": {"W": np.ones((3, 1)), "b": np.zeros(1)}}
    >>> opt = fastopt.Combined(
    ...     params,
    ...     {"hidden.W": (fastopt.Muon, {"lr": 0.02}), "*": (fastopt.AdamW, {"lr": 3e-4})},
    ...     clip_global_norm=1.0,
    ... )
    >>> [(group["optimizer"], group["lr"]) for group in opt.param_groups]
    [('Muon', 0.02), ('AdamW', 0.0003)]
    >>> grads = {"hidden": {"W": np.ones((2, 3)), "b": np.ones(3)}, "out": {"W": np.ones((3, 1)), "b": None}}
    >>> round(opt.step(grads).grad_norm, 4)
    3.4641
    >>> list(opt.state["hidden.W"]), list(opt.state["out.W"])
    (['step', 'b'], ['step', 'm', 'v'])
    """

    def __init__(
        self,
        params: Any,
        optimizers: Mapping[Match, Chosen] | Sequence[tuple[Match, Chosen]],
        **common: Unpack[Common],
    ) -> None:
        check_ungrouped(params)
        arrays = Branch(params if is_container(params) else [params])
        parts = parts_of(optimizers)
        group_of = groups_of(parts, list(arrays.names()), list(arrays.arrays()))
        groups = []
        #: The optimizers, by the names of their classes.
        self._optimizers: dict[str, Optimizer] = {}
        for part in parts:
            hooks = hooks_of(part)
            groups.append(dict(hooks.defaults))
            its = self._optimizers.setdefault(type(hooks).__name__, hooks)
            check_alike(part, its, hooks)
        options = {name: value for group in reversed(groups) for name, value in group.items()}
        check_no_group_options(common, options)
        super().__init__(Grouped(params, groups, group_of), {}, **common)
        self.defaults = options

    def attributes_to_pickle(self) -> dict[str, Any]:
        hooks = {name: (type(its), its.attributes_to_pickle()) for name, its in self._optimizers.items()}
        return {**super().attributes_to_pickle(), "_optimizers": hooks}

    def set_pickled(self, attributes: Mapping[str, Any]) -> None:
        super().set_pickled(attributes)
        self._optimizers = {}
        for name, (cls, its) in attributes["_optimizers"].items():
            hooks = self._optimizers[name] = cls.__new__(cls)
            hooks.set_pickled(its)

    def make_parts(self, params: Any, options: StepOptions, whole: WholeOptions, backend: str | None) -> Parts:
        parts = super().make_parts(params, options, whole, backend)
        for hooks in self.each():
            hooks.parts = parts
        return parts

    def of_group(self, group: Group) -> Optimizer:
        name = group.get(OPTIMIZER)
        if not (isinstance(name, str) and name in self._optimizers):
            raise ValueError(
                f"param group: {OPTIMIZER}={name!r:.80}: expected the name of the class that updates these arrays, one "
                f"of {list(self._optimizers)}"
            )
        return self._optimizers[name]

    def each(self) -> Sequence[Optimizer]:
        return tuple(self._optimizers.values())

    def rule(self, group: Group) -> Rule:
        return self._optimizers[group[OPTIMIZER]].rule(group)

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        return self._optimizers[group[OPTIMIZER]].hyper(group, step)

    def adjusted(self, row: HyperRow, group: Group) -> HyperRow:
        return self._optimizers[group[OPTIMIZER]].adjusted(row, group)

    @property
    def rows_stay(self) -> bool:  # type: ignore[override]
        return all(hooks.rows_stay for hooks in self.each())

    def row_keys(self, numbers: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        keys = []
        for hooks in self.each():
            its = hooks.row_keys(numbers[: len(hooks.numbers)])
            if its:
                is_its = self._has_arrays_of(hooks)
                # The keys of other arrays are the same number, so that these share rows as they would alone.
                keys += [np.where(is_its, key, key.dtype.type(0)) for key in its]
        return keys

    def check_step(self) -> None:
        for hooks in self.each():
            hooks.check_step()

    def prepare(self, workspace: Workspace) -> None:
        workspace.own = {}
        for name, hooks in self._optimizers.items():
            if not is_default(hooks, "update"):
                workspace.own[name] = own = part_workspace(workspace)
                hooks.prepare(own)

    def update(self, step: Step) -> None:
        parts = step.workspace.own
        if not parts:
            super().update(step)
            return
        names = [group[OPTIMIZER] for group in step.row_options]
        if not parts.keys() >= {*names}:
            rows = zip(step.hyper_rows, names, strict=True)
            step.table.step([row._replace(stages=0) if name in parts else row for row, name in rows])
        for name, workspace in parts.items():
            its_rows = [r for r, its in enumerate(names) if its == name]
            if its_rows:
                update_part(self._optimizers[name], step, its_rows, workspace)

    def extra_state(self) -> dict[str, Any]:
        return {
            name: hooks.extra_state()
            for name, hooks in self._optimizers.items()
            if not is_default(hooks, "extra_state")
        }

    def check_extra_state(self, extra: Mapping[str, Any]) -> list[str]:
        wrong = super().check_extra_state(extra)
        for name, its in {} if wrong else extra.items():
            is_dict = isinstance(its, Mapping)
            wrong += self._optimizers[name].check_extra_state(its) if is_dict else [f"extra: {name!r} is no dict"]
        return wrong

    def load_extra_state(self, extra: Mapping[str, Any]) -> None:
        for name, its in extra.items():
            self._optimizers[name].load_extra_state(its)

    @property
    def is_training(self) -> bool:
        """Whether the arrays of Schedule-Free parts are their training sequences ``y``, where gradients belong."""
        return are_training(self)

    @change
    def train(self) -> None:
        """Change the arrays of Schedule-Free parts in place from ``x`` to ``y``."""
        self._check_has_modes("train")
        to_mode(self, True)

    @change
    def eval(self) -> None:
        """Change the arrays of Schedule-Free parts in place from ``y`` to the averages ``x``."""
        self._check_has_modes("eval")
        to_mode(self, False)

    def _check_has_modes(self, what: str) -> None:
        if not any(map(has_modes, self.each())):
            raise ValueError(
                f"{what}: expected a Schedule-Free optimizer among {list(self._optimizers)}; the others have one mode "
                "alone, so leave the call out"
            )

    def _has_arrays_of(self, hooks: Optimizer) -> npt.NDArray[np.bool_]:
        """Return for each array whether this optimizer updates it."""
        groups = [self.of_group(group.values) is hooks for group in self.parts.groups.checked]
        return np.array(groups, bool)[self.parts.parameters.group_of]


def check_ungrouped(params: Any) -> None:
    """Raise if the parameters have groups already."""
    if isinstance(params, Grouped) or (isinstance(params, (list, tuple)) and any(map(is_group, params))):
        raise TypeError(
            "Combined: the parameters have groups already; give the arrays themselves, a part makes a group"
        )


def parts_of(optimizers: Any) -> list[Part]:
    """Return the parts, checked but for their options.

    Raises
    ------
    TypeError, ValueError
        If one is not a match and an optimizer that can be a part.
    """
    if not isinstance(optimizers, Iterable):
        raise TypeError(
            f"Combined: expected a dict of matches and optimizers, or pairs of these, got {optimizers!r:.80}"
        )
    pairs = list(optimizers.items() if isinstance(optimizers, Mapping) else optimizers)
    if not pairs:
        raise ValueError("Combined: expected at least one optimizer, such as {'*': (fastopt.AdamW, {'lr': 3e-4})}")
    found: list[Part] = []
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"Combined: expected pairs of a match and an optimizer, got {pair!r:.80}")
        match, chosen = pair
        optimizer, options = chosen if isinstance(chosen, (tuple, list)) and len(chosen) == 2 else (chosen, {})
        if not (isinstance(match, str) or callable(match)):
            raise TypeError(
                f"Combined: expected a pattern of names, or a function of an array's name and the array, got "
                f"{match!r:.80}"
            )
        if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer) and isinstance(options, Mapping)):
            raise TypeError(
                f"Combined: expected an optimizer's class, or a pair of the class and a dict of its options, got "
                f"{chosen!r:.80}"
            )
        if issubclass(optimizer, Combined):
            raise ValueError(
                "Combined: a Combined can't be a part of another one, since each takes the options of the whole step; "
                "give its parts, with patterns that tell them apart"
            )
        found.append(Part(match, optimizer, options))
    matches = [part.match for part in found]
    again = [match for match in matches if matches.count(match) > 1]
    if again:
        raise ValueError(f"Combined: {again[0]!r} is there more than once; give each match once")
    return found


def groups_of(parts: Sequence[Part], names: Sequence[str], arrays: Sequence[Any]) -> dict[str, int]:
    """Return the number of the part of each array, by the array's name."""
    group_of: dict[str, int] = {}
    for k, part in enumerate(parts):
        matched = matches(part.match, names, arrays, f"Combined: {part}")
        new = [name for name in matched if name not in group_of]
        if not new:
            raise ValueError(f"Combined: {part} gets no array, since earlier parts match {matched}; put it before them")
        group_of.update(dict.fromkeys(new, k))
    unmatched = [name for name in names if name not in group_of]
    if unmatched:
        raise ValueError(
            f"Combined: no part matches {unmatched}; add one at the end for all others, such as "
            "'*': (fastopt.AdamW, {'lr': 3e-4}), and freeze what is not to be trained"
        )
    return group_of


def hooks_of(part: Part) -> Optimizer:
    """Return an optimizer without arrays that serves as the hooks of a part's group."""
    name = part.optimizer.__name__
    for option, value in part.options.items():
        if option in Common.__annotations__ and option not in GROUP_OPTIONS:
            raise ValueError(f"Combined: {part}: {whole_option(name, option, value)}")
    try:
        hooks = part.optimizer(HOOKS_ALONE, **part.options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Combined: {part}: {error}") from error
    if OPTIMIZER in hooks.defaults:
        raise ValueError(f"Combined: {part} has an option {OPTIMIZER!r}, which names the class here; rename the option")
    hooks.defaults = {OPTIMIZER: name, **hooks.defaults}
    ranges = {**hooks.ranges, OPTIMIZER: Choice(name)}
    hooks.option_set = OptionSet(name, hooks.defaults, ranges, hooks.refused)
    return hooks


def check_alike(part: Part, first: Optimizer, hooks: Optimizer) -> None:
    """Raise if a part's hooks differ from the first ones of this class in more than options of the group.

    Raises
    ------
    ValueError
        Says in what.
    """
    if type(first) is not type(hooks):
        raise ValueError(
            f"Combined: {part} has another class than an earlier part of this name; a saved state could not tell them "
            "apart: rename one"
        )
    one, other = ({**vars(each), "defaults": None, "option_set": None} for each in (first, hooks))
    differing = [name for name in {**one, **other} if differ({name: one.get(name)}, {name: other.get(name)})]
    if differing:
        raise ValueError(
            f"Combined: {part} differs from an earlier part of this class in {differing}, which are no options of a "
            "group; make them options, or give both the same"
        )


def check_no_group_options(common: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise if an option of a group is given for the whole step."""
    for name, value in common.items():
        # Structures of bounds are for all arrays.
        of_groups = split(value)[0] if name == "bounds" else value
        if name in options and not (name == "bounds" and of_groups in (None, (None, None))):
            raise ValueError(
                f"Combined: {name}={of_groups!r:.80} is an option of a group; give it to the parts that need it"
            )
