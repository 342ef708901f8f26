"""Groups by name: glob patterns over the arrays' names select their options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from ..arrays.advice import instead_of
from ..arrays.memory import described
from ..arrays.structure import Branch, is_container
from ..arrays.texts import amount_in
from .ranges import Group


class Grouped(NamedTuple):
    """Parameters in their own structure, with the group of each: the result of :func:`group_by`.

    Attributes
    ----------
    params : structure of arrays
        The structure as it was given; gradients have the same structure.
    options : list of dict
        The options of each group.
    group_of : dict
        The number of each array's group, by the array's name.
    """

    params: Any
    options: list[Group]
    group_of: dict[str, int]

    def __repr__(self) -> str:
        return f"Grouped(params=<{amount_in(self.params)}>, options={self.options!r})"


def group_by(params: Any, patterns: Mapping[str, Group] | Iterable[tuple[str, Group]]) -> Grouped:
    """Sort parameters into groups with separate options, by patterns over their names.

    The first pattern that matches a name wins. Gradients keep the parameters' structure, and the names stay.

    Parameters
    ----------
    params : dict, list, tuple or nested mix of arrays
        As an optimizer takes it, but without groups.
    patterns : dict or sequence of pairs
        Glob patterns and the options of the arrays that match: ``*`` is any text (dots too), ``?`` one character,
        ``[ab]`` one of these. A pattern makes no group if earlier ones took all its names.

    Returns
    -------
    Grouped
        Give it to an optimizer instead of the parameters. ``param_groups`` is in the order of the patterns.

    Raises
    ------
    TypeError
        If the parameters are not a container, or the options of a pattern are not a dict.
    ValueError
        If an array matches no pattern, a pattern matches no array, or a name or pattern occurs twice.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"hidden": {"W": np.ones((2, 2)), "b": np.ones(2)}, "norm": np.ones(2)}
    >>> opt = fastopt.AdamW(fastopt.group_by(params, {"*.b": {"weight_decay": 0}, "norm*": {"lr": 1e-4}, "*": {}}))
    >>> [group["weight_decay"] for group in opt.param_groups]
    [0, 0.01, 0.01]
    >>> info = opt.step({"hidden": {"W": np.ones((2, 2)), "b": np.ones(2)}, "norm": None})
    """
    if not is_container(params) or isinstance(params, Grouped):
        raise TypeError(
            f"group_by: expected a dict, list or tuple of arrays, got {type(params).__name__}{hint(params)}"
        )
    if isinstance(params, (list, tuple)) and any(map(is_group, params)):
        raise TypeError("group_by: these are groups already (dicts with the key 'params'); give the arrays themselves")
    pairs = list(patterns.items() if isinstance(patterns, Mapping) else patterns)
    for pattern, options in pairs:
        if not isinstance(pattern, str) or not isinstance(options, Mapping):
            raise TypeError(f"group_by: expected a pattern and a dict of options, got {pattern!r}: {options!r:.80}")
    check_unique("patterns", [pattern for pattern, _ in pairs])
    names = list(Branch(params).names())
    check_unique("names", names)
    for pattern, _ in pairs:
        matching(pattern, names)
    first_match = {
        name: next((k for k, (pattern, _) in enumerate(pairs) if fnmatchcase(name, pattern)), None) for name in names
    }
    unmatched = [name for name, k in first_match.items() if k is None]
    if unmatched:
        raise ValueError(
            f"group_by: no pattern matches {unmatched}; the patterns are {[pattern for pattern, _ in pairs]} (add "
            "'*': {} at the end for all others)"
        )
    used = sorted({k for k in first_match.values() if k is not None})
    group_of = {name: used.index(k) for name, k in first_match.items() if k is not None}
    return Grouped(params, [dict(pairs[k][1]) for k in used], group_of)


def hint(params: Any) -> str:
    """Return what to give instead of parameters that have no names, if they are no array."""
    return "" if isinstance(params, (np.ndarray, Grouped)) else f" ({instead_of(params)})"


def is_group(value: Any) -> bool:
    """Return whether a value is a group: a dict of arrays and their options."""
    return isinstance(value, Mapping) and "params" in value


def matching(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a glob pattern matches.

    Raises
    ------
    ValueError
        If it matches none.
    """
    if not isinstance(pattern, str):
        advice = "give its name" if hasattr(pattern, "shape") else "make a call for each: for name in names: ...(name)"
        raise TypeError(f"expected a name or a pattern of names, got {described(pattern)}; {advice}")
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise ValueError(f"no array's name matches {pattern!r}; the names are {list(names)}")
    return found


def check_unique(what: str, items: Sequence[str]) -> None:
    duplicates = [item for item, count in Counter(items).items() if count > 1]
    if duplicates:
        raise ValueError(f"group_by: the {what} {duplicates} are there more than once; give each once")
