"""The parts of an optimizer, together: what the modules around it work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..backends.backend import Backend
from ..options.common import StepOptions
from ..options.ranges import Group
from .groups import Groups
from .parameters import Parameters
from .progress import Progress
from .slots import Slots
from .turns import Kind, Turns
from .whole_options import WholeOptions
from .workspace import Workspace


@dataclass(slots=True)
class Parts:
    """The parts of an optimizer. Each knows its own subject alone; the optimizer's methods bring them together."""

    #: Where steps run, and the choice of the user: the same, unless that one can't run a rule.
    backend: Backend
    chosen: Backend
    options: StepOptions
    whole: WholeOptions
    parameters: Parameters
    groups: Groups
    slots: Slots
    progress: Progress
    turns: Turns
    #: Made by the first step; :meth:`forget_workspace` says that another one is necessary.
    workspace: Workspace | None = None
    #: The values that stand in for those of the parameters at the moment, and how to end that; "" if there are none.
    stand_in: str = ""

    def options_of(self, name: str) -> Group:
        """Return the options of the group of an array.

        Raises
        ------
        KeyError
            If there is no such array.
        """
        if name not in self.parameters.names:
            raise KeyError(name)
        group: int = self.parameters.group_of[self.parameters.names.index(name)]
        return self.groups.checked[group].values

    def forget_workspace(self) -> None:
        """Have another table made: a change made it necessary. A thread that was about to run the plan does not."""
        plan = None if self.workspace is None else self.workspace.planning.plan
        if plan is not None:
            plan.end()
        self.workspace = None


def part(path: str, doc: str, is_change: bool = False) -> Any:
    """Return a property that reads and writes an attribute of an optimizer's parts, such as "whole.seed".

    ``is_change``: to write it is a change of the optimizer. Options are not: the next step takes them over.
    """
    name, attribute = path.split(".")

    def read(opt: Any) -> Any:
        return getattr(getattr(opt.parts, name), attribute)

    def write(opt: Any, value: Any) -> None:
        setattr(getattr(opt.parts, name), attribute, value)

    def change(opt: Any, value: Any) -> None:
        opt.parts.turns.run(attribute, Kind.CHANGE, write, opt, value)

    return property(read, change if is_change else write, doc=doc)
