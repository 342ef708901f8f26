"""The options of torch's groups: their names, and what was written into them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..backends.backend import Backend
from ..convert import COUNTERPARTS, RUNTIME_ENTRIES, SCHEDULER_ENTRIES, Counterpart
from ..core.optimizer import Optimizer
from ..options.bounds import split
from ..options.common import OF_WHOLE_STEP, Common
from ..options.names import check_keywords, hints
from ..options.ranges import Group

#: The entries of torch's groups that are no options of a step.
LABELS = ("params", "param_names", *SCHEDULER_ENTRIES)


class Names:
    """The names of an optimizer's options and slots: torch's, where it has the optimizer.

    Parameters
    ----------
    optimizer : type
        One of fastopt's optimizers.
    """

    def __init__(self, optimizer: type[Optimizer]) -> None:
        self.optimizer = optimizer.__name__
        self.counterpart: Counterpart | None = next((row for row in COUNTERPARTS if row.name == self.optimizer), None)
        theirs = {} if self.counterpart is None else dict(self.counterpart.renamed)
        if self.counterpart is not None and "decoupled_weight_decay" in self.counterpart.more:
            theirs["decoupled"] = "decoupled_weight_decay"
        self.their_options: Mapping[str, str] = theirs
        self.our_options: Mapping[str, str] = {their: our for our, their in theirs.items()}
        self.their_slots: Mapping[str, str] = {} if self.counterpart is None else self.counterpart.slots
        self.our_slots: Mapping[str, str] = {their: our for our, their in self.their_slots.items()}
        self.signature = inspect.signature(optimizer)
        #: The options of a group, with their defaults.
        self.of_group: Group = dict(optimizer(np.zeros((1, 1))).defaults)  # type: ignore[call-arg]

    def theirs(self, name: str) -> str:
        return self.their_options.get(name, name)

    def ours(self, name: str) -> str:
        return self.our_options.get(name, name)

    def split(self, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Group, Group]:
        """Return the options of groups, by torch's names, and those of the whole optimizer.

        Raises
        ------
        TypeError, ValueError
            For an option that there is not.
        """
        check_runtime(self.optimizer, options)
        options = {self.ours(name): value for name, value in options.items() if name not in RUNTIME_ENTRIES}
        check_keywords(self.optimizer, options.keys() - self.signature.parameters.keys(), self.of_group)
        given = self.signature.bind(None, *arguments, **options).arguments
        numbers, structures = split(given.get("bounds"))
        of_group = {**self.of_group, **{name: value for name, value in given.items() if name in self.of_group}}
        whole = {name: value for name, value in given.items() if name not in (*self.of_group, "params")}
        if structures is not None:
            whole["bounds"] = structures
        of_group["bounds"] = numbers
        return {**{self.theirs(name): value for name, value in of_group.items()}, **RUNTIME_ENTRIES}, whole

    def check_group(self, group: Group) -> None:
        """Raise if an entry of a new group was probably meant as an option; others are labels, as in torch."""
        check_runtime(self.optimizer, group)
        unknown = [name for name in group if name not in (*LABELS, *RUNTIME_ENTRIES, *self.of_group, *self.our_options)]
        for name in unknown:
            advice = hints([name], [*self.of_group, *Common.__annotations__])
            if name in OF_WHOLE_STEP:
                advice = f"; give it to the optimizer: {self.optimizer}(params, {name}=...)"
            if advice and name not in ("name", "device", "dtype"):
                raise ValueError(f"param group: no option of a group is called {name!r}{advice}")

    def options(self, group: Group) -> Group:
        """Return the options of one of torch's groups, by our names."""
        return {self.ours(name): value for name, value in group.items() if self.ours(name) in self.of_group}

    def labels(self, group: Group) -> Group:
        """Return the entries of a group that are no options."""
        return {name: value for name, value in group.items() if self.ours(name) not in self.of_group}


def check_runtime(optimizer: str, options: Mapping[str, Any]) -> None:
    """Raise for the options of torch that a step here can't have; ``foreach`` and ``fused`` have no effect."""
    for name in ("capturable", "differentiable"):
        if options.get(name):
            raise ValueError(f"{optimizer}: {name}=True: expected False; a step runs outside of torch's graphs")


class Written:
    """Takes over what was written into torch's groups since the last step.

    Parameters
    ----------
    names : Names
    groups : list of dict
        torch's groups; the optimizer has their options.
    backend : Backend
    """

    def __init__(self, names: Names, groups: Sequence[Group], backend: Backend) -> None:
        self.names, self.are_same = names, backend.same_entries
        self.seen = [(list(group), as_seen(list(group.values()))) for group in groups]

    def take(self, groups: Sequence[Group], inner: Optimizer) -> None:
        """Write into the optimizer what was written into the groups."""
        if self.are_same(groups, self.seen):
            return
        for k, group in enumerate(groups):
            (keys, now), (keys_before, before) = (list(group), list(group.values())), self.seen[k]
            if keys == keys_before and len(now) == len(before):
                changed = [i for i, value in enumerate(now) if value is not before[i]]
            else:
                changed = list(range(len(keys)))
            for i in changed:
                name = self.names.ours(keys[i])
                if name in self.names.of_group:
                    inner.param_groups[k][name] = now[i].item() if isinstance(now[i], torch.Tensor) else now[i]
            self.seen[k] = keys, as_seen(now, changed)


def as_seen(values: list[Any], changed: Iterable[int] | None = None) -> list[Any]:
    """Return values to compare with; a tensor may change in place, so that nothing is to be equal to them."""
    looked_at = values if changed is None else [values[i] for i in changed]
    return [*values, None] if any(isinstance(value, torch.Tensor) for value in looked_at) else values
