"""The options that the groups of an optimizer may have, and the values of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..arrays.memory import shown
from ..options.bounds import checked_pair
from ..options.common import OF_WHOLE_STEP, is_plain
from ..options.names import hints
from ..options.ranges import RANGES, Allowed, Group, Range, as_option, check, in_double, plain

#: The option of a group that names the class of its optimizer, where several optimizers share a step.
OPTIMIZER = "optimizer"


class OptionSet:
    """The options of the groups of one optimizer.

    Parameters
    ----------
    optimizer : str
        The name of the optimizer's class, for errors.
    defaults : dict
        Each option with its default.
    ranges, refused : dict
        Those of :class:`fastopt.core.hooks.Hooks`.
    """

    def __init__(
        self, optimizer: str, defaults: Group, ranges: Mapping[str, Allowed], refused: Mapping[str, str]
    ) -> None:
        self.optimizer, self.defaults, self.ranges, self.refused = optimizer, defaults, ranges, refused

    def allowed(self, name: str) -> Allowed:
        """Return the values that an option may have."""
        return self.ranges[name] if name in self.ranges else RANGES.get(name)

    def check(self, name: str, value: Any, where: str = "") -> Any:
        """Return an option's value as groups hold it; raise if it can't have this value."""
        if name == "max_weight_norm_axis":
            for each in value if isinstance(value, (tuple, list)) else (value,):
                check(f"{where}{name}", each, Range(-math.inf, whole=True))
            return as_option(value)
        if name == "bounds":
            return checked_pair(f"{where}{name}", value)
        return check(f"{where}{name}", value, self.allowed(name))

    def computed(self, name: str, value: Any) -> Any:
        """Return an option's value, which was checked, as steps compute with it."""
        if name == "bounds":
            return plain(value)
        return in_double(plain(value), self.allowed(name))

    def check_allowed(self, options: Mapping[str, Any]) -> None:
        """Raise if one of these options asks for what this optimizer refuses."""
        for name, value in options.items():
            if name in self.refused and not is_plain(name, value):
                raise ValueError(
                    f"{name}={shown(value):.80}: {self.optimizer} does not take it: {self.refused[name]}; leave it out"
                )

    def check_known(self, options: Group) -> None:
        """Raise if a group names an option that there is not."""
        unknown = [name for name in options if name not in self.defaults and name != "initial_lr"]
        of_whole = [name for name in unknown if name in OF_WHOLE_STEP]
        if of_whole:
            raise ValueError(
                f"param group: {of_whole[0]!r} is an option of the whole optimizer, and not of a group; give it to the "
                f"optimizer: {self.optimizer}(params, {of_whole[0]}={shown(options[of_whole[0]]):.80})"
            )
        if unknown:
            raise ValueError(
                f"param group: no option is called {unknown}{hints(unknown, self.defaults)}; the options are "
                f"{list(self.defaults)}"
            )
