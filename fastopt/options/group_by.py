"""Groups: glob patterns over the arrays' names, or functions, select their options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ..arrays.advice import instead_of
from ..arrays.memory import described, shown
from ..arrays.structure import Branch, is_container
from ..arrays.texts import amount_in, brief
from .ranges import Group

#: A glob pattern of names, or a function of an array's name and the array that returns whether it matches.
Match: TypeAlias = str | Callable[[str, Any], bool]


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


def group_by(params: Any, patterns: Mapping[Match, Group] | Iterable[tuple[Match, Group]]) -> Grouped:
    """Sort parameters into groups with separate options, by patterns over their names or by functions.

    The first match wins. Gradients keep the parameters' structure, and the names stay.

    Parameters
    ----------
    params : dict, list, tuple or nested mix of arrays
        As an optimizer takes it, but without groups.
    patterns : dict or sequence of pairs
        What to match, and the options of the arrays that match. A glob pattern: ``*`` is any text (dots too), ``?`` one
        character, ``[ab]`` one of these. Or a function of an array's name and the array that returns whether it
        matches. One makes no group if earlier ones took all that it matches.

    Returns
    -------
    Grouped
        Give it to an optimizer instead of the parameters. ``param_groups`` is in the order of the patterns.

    Raises
    ------
    TypeError
        If the parameters are not a container, the options of a pattern are not a dict, or a function returns neither
        True nor False.
    ValueError
        If an array matches nothing, a pattern or function matches no array, or a name or pattern occurs twice.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> params = {"hidden": {"W": np.ones((2, 2)), "b": np.ones(2)}, "norm": np.ones(2)}
    >>> opt = fastopt.AdamW(fastopt.group_by(params, {"*.b": {"weight_decay": 0}, "norm*": {"lr": 1e-4}, "*": {}}))
    >>> [group["weight_decay"] for group in opt.param_groups]
    [0, 0.01, 0.01]
    >>> info = opt.step({"hidden": {"W": np.ones((2, 2)), "b": np.ones(2)}, "norm": None})

    Decay of the matrices alone:

    >>> grouped = fastopt.group_by(params, {lambda name, p: p.ndim >= 2: {}, "*": {"weight_decay": 0}})
    >>> [(len(group["params"]), group["weight_decay"]) for group in fastopt.AdamW(grouped).param_groups]
    [(1, 0.01), (2, 0)]

    Rates that decrease from layer to layer:

    >>> rates = fastopt.schedules.cosine(0.1, total=1000)
    >>> layers = {"blocks": [{"W": np.ones(1)} for _ in range(3)], "head": np.ones(1)}
    >>> lower = {f"blocks.{k}.*": {"lr": rates * 0.5 ** (3 - k)} for k in range(3)}
    >>> opt = fastopt.AdamW(fastopt.group_by(layers, {**lower, "*": {}}), lr=rates)
    >>> opt.step({"blocks": [None, None, {"W": np.ones(1)}]}).lrs
    (0.0125, 0.025, 0.05, 0.1)
    """
    if not is_container(params) or isinstance(params, Grouped):
        raise TypeError(
            f"group_by: expected a dict, list or tuple of arrays, got {type(params).__name__}{hint(params)}"
        )
    if isinstance(params, (list, tuple)) and any(map(is_group, params)):
        raise TypeError("group_by: these are groups already (dicts with the key 'params'); give the arrays themselves")
    pairs = list(patterns.items() if isinstance(patterns, Mapping) else patterns)
    for match, options in pairs:
        if not (isinstance(match, str) or callable(match)) or not isinstance(options, Mapping):
            raise TypeError(
                f"group_by: expected a pattern (or a function of an array's name and the array) and a dict of options, "
                f"got {match!r:.80}: {options!r:.80}"
            )
    check_unique("patterns", [match if isinstance(match, str) else shown(match) for match, _ in pairs])
    branch = Branch(params)
    names, arrays = list(branch.names()), list(branch.arrays())
    check_unique("names", names)
    first_match: dict[str, int] = {}
    for k, (match, _) in enumerate(pairs):
        for name in matches(match, names, arrays, f"group_by: {shown_match(match)}"):
            first_match.setdefault(name, k)
    unmatched = [name for name in names if name not in first_match]
    if unmatched:
        raise ValueError(
            f"group_by: no pattern matches {unmatched}; the patterns are {[shown_match(match) for match, _ in pairs]} "
            "(add '*': {} at the end for all others)"
        )
    used = sorted({*first_match.values()})
    group_of = {name: used.index(first_match[name]) for name in names}
    return Grouped(params, [dict(pairs[k][1]) for k in used], group_of)


def matches(match: Match, names: Sequence[str], arrays: Sequence[Any], where: str) -> list[str]:
    """Return the names of the arrays that a pattern, or a function of name and array, matches.

    Raises
    ------
    TypeError, ValueError
        If a function returns neither True nor False, or nothing matches; ``where`` begins the error.
    """
    if isinstance(match, str):
        return matching(match, names)
    found = []
    for name, array in zip(names, arrays, strict=True):
        verdict = match(name, array)
        if not isinstance(verdict, (bool, np.bool_)):
            raise TypeError(f"{where}: expected True or False for {name!r}, got {verdict!r:.80}")
        if verdict:
            found.append(name)
    if not found:
        raise ValueError(f"{where} matches no array; the names are {list(names)}")
    return found


def shown_match(match: Match) -> str:
    """Return how errors name a pattern or a function."""
    return match if isinstance(match, str) else brief(match)


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
        raise TypeError(f"expected a name or a pattern of names, got a value {described(pattern)}; {advice}")
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        below = [name for name in names if fnmatchcase(name, f"{pattern}.*")]
        advice = f"; for all arrays in it write '{pattern}.*'" if below else ""
        raise ValueError(f"no array's name matches {pattern!r}{advice}; the names are {list(names)}")
    return found


def check_unique(what: str, items: Sequence[str]) -> None:
    duplicates = [item for item, count in Counter(items).items() if count > 1]
    if duplicates:
        raise ValueError(f"group_by: the {what} {duplicates} are there more than once; give each once")
