"""Three tiers of tests by markers: the default, ``exhaustive`` (the gate runs it too), ``long`` (run by hand).

A grid of optimizers x options x dtypes x ... takes too long for every run; ``@pytest.mark.by_turns("case")`` thins it.
The items are grouped by case. The i-th case takes the i-th item of its group. A value of any parameter that is in no
item so far takes its first. All other items of the grid are exhaustive, and run by hand.
Items that the option -m leaves out are dropped as soon as they are made: the rest of all grids is twice all tests.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

exhaustive = pytest.mark.exhaustive
#: The marks of what the default tier and the gate leave out of a grid.
rest_of_grid = (exhaustive, pytest.mark.rest_of_grid)


def shortly(short: int, full: int) -> list[Any]:
    """Return values of a parameter that is a number of runs: few of them by default, all of them in the gate."""
    return [short, pytest.param(full, marks=exhaustive)]


MARKERS = {
    "exhaustive": "long runs of what the default tier runs shortly, in .ci/run too; and the rest of grids",
    "rest_of_grid": "what the default tier leaves out of a thinned grid: combinations of values that it has; by hand",
    "long": "takes minutes or much memory; runs by hand: nox -s long",
    "by_turns(*names, count=1)": "thin a grid: each value of these parameters takes `count` of its items by turns",
    "huge": "needs more than 10 GB of memory; runs where the machine has it",
    "gpu": "needs an NVIDIA GPU and fastopt[cuda]; skipped elsewhere",
}


def values_of(item: pytest.Item) -> dict[str, str]:
    """Return the values of an item's parameters, as text."""
    parameters: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
    return {name: str(value) for name, value in parameters.items()}


def taken_by_turns(items: Sequence[pytest.Item], names: Sequence[str], count: int) -> set[pytest.Item]:
    """Return the part of a grid that the default tier runs."""
    groups: dict[tuple[str, ...], list[pytest.Item]] = {}
    for item in items:
        values = values_of(item)
        groups.setdefault(tuple(values[name] for name in names), []).append(item)
    taken = {
        group[(number + turn * len(group) // count) % len(group)]
        for number, group in enumerate(groups.values())
        for turn in range(count)
    }
    covered = {pair for item in taken for pair in values_of(item).items()}
    for item in items:
        values = values_of(item).items()
        if not values <= covered:
            taken.add(item)
            covered |= values
    return taken


def mark_grid(items: Sequence[pytest.Item]) -> None:
    """Mark as exhaustive what the default tier leaves out of a grid: of the items of one function."""
    marker = items[0].get_closest_marker("by_turns") if items else None
    if marker is not None:
        taken = taken_by_turns(items, marker.args, marker.kwargs.get("count", 1))
        for item in items:
            if item not in taken:
                for mark in rest_of_grid:
                    item.add_marker(mark)


def chosen(items: list[pytest.Item], marks: str) -> list[pytest.Item]:
    """Return the items of one function without those that pytest's option -m surely leaves out."""
    terms = marks.split(" and ")
    if not all(re.fullmatch(r"(not )?\w+", term) for term in terms):
        return items  # pytest itself chooses
    wanted = {term: True for term in terms if " " not in term} | {term[4:]: False for term in terms if " " in term}
    return [item for item in items if all(has_marker(item, name) == each for name, each in wanted.items())]


def has_marker(item: pytest.Item, name: str) -> bool:
    return item.get_closest_marker(name) is not None
