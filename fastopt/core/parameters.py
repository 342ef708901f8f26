"""The arrays of an optimizer: their structure and names, the copies of them, and which are frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..arrays.advice import refused_param
from ..arrays.dtypes import Array
from ..arrays.layouts import Layouts
from ..arrays.memory import Extents
from ..arrays.structure import Branch, is_container
from ..backends.backend import Backend
from ..backends.layouts import layouts_of
from ..options.bounds import Pair
from ..options.group_by import is_group, matching
from .bounds import NumberBounds, OwnBounds, number_bounds, own_bounds
from .layout_errors import check_layouts


class Addition(NamedTuple):
    """Arrays that were checked and can be added."""

    branch: Branch
    names: list[str]
    #: As the backend sees them.
    arrays: list[Any]
    extents: Extents
    layouts: Layouts | None


class Parameters:
    """The arrays of an optimizer. They know no options, no state and no gradients.

    Parameters
    ----------
    params : array or structure of arrays
        The user's; decides the form of the structure. :meth:`add` adds the arrays.
    """

    def __init__(self, params: Any) -> None:
        self.is_single = not is_container(params)
        self.is_grouped = isinstance(params, (list, tuple)) and any(map(is_group, filter(is_container, params)))
        self.root = Branch({} if isinstance(params, Mapping) else [])
        self.names: list[str] = []
        self.arrays: list[Array] = []
        self.copies: list[Array | None] = []
        self.bounds: list[OwnBounds | None] = []
        #: The size of each array, or of the one that it is a slice of.
        self.whole_sizes: list[int] = []
        #: The number of each array's group.
        self.group_of: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.frozen: frozenset[str] = frozenset()  # another object after each change
        #: The memory of the arrays and their copies.
        self.extents: Extents
        #: Those of the arrays and their copies, as they were given; None on a GPU.
        self.layouts: Layouts | None = None

    def branch(self, params: Any) -> Branch:
        """Return new parameters as a branch that can be merged into the root."""
        if self.root.is_dict:
            if not isinstance(params, Mapping):
                raise TypeError(
                    f"param group: expected a dict of new names, since the parameters are a dict, got "
                    f"{type(params).__name__}"
                )
            taken = [key for key in params if key in self.root.keys]
            if taken:
                raise ValueError(f"param group: the names {taken} are there already; give the arrays new names")
            return Branch(params)
        if params is None:
            raise refused_param("0", params)
        is_entries = isinstance(params, (list, tuple)) and not self.is_grouped
        return Branch(params if is_entries else [params], offset=len(self.root.keys))

    def addition(
        self,
        branch: Branch,
        names: list[str],
        given: list[Any],
        backend: Backend,
        checks: Sequence[Callable[[str, Any], None]],
    ) -> Addition:
        """Check the arrays of a branch, which have these names and further checks; nothing changes yet.

        Raises
        ------
        TypeError, ValueError
            If one can't be updated in place, shares memory with another, or has a name that is taken.
        """
        self.check_layouts()
        arrays, are_plain = [], backend.are_plain_params(given)
        for name, array, check_param in zip(names, given, checks, strict=True):
            arrays.append(array if are_plain else backend.ops.checked_param(name, array))
            check_param(name, array)
        if not arrays:
            raise ValueError("params: there is no array in this structure; give at least one")
        if len({*self.names, *names}) < len(self.names) + len(names):
            taken = [name for name, count in Counter([*self.names, *names]).items() if count > 1]
            raise ValueError(f"params: the names {taken} are there more than once; rename them")
        copies = [copy for copy in self.copies if copy is not None]
        all_names, all_arrays = self.names + names + ["copy_to"] * len(copies), self.arrays + arrays + copies
        layouts = layouts_of([self.arrays + arrays, copies], 2, {}) if backend.on_host else None
        return Addition(branch, names, arrays, backend.extents(all_names, all_arrays), layouts)

    def add(self, addition: Addition, group_of: Sequence[int]) -> None:
        """Add arrays, each to the group of this number."""
        self.is_single = self.is_single and not self.arrays
        self.extents, self.layouts = addition.extents, addition.layouts
        self.root.merge(addition.branch)
        self.names += addition.names
        self.arrays += addition.arrays
        self.whole_sizes += [array.size for array in addition.arrays]
        self.copies += [None] * len(addition.arrays)
        self.bounds += [None] * len(addition.arrays)
        self.group_of = np.concatenate([self.group_of, np.array(group_of, int)])

    def move(self, places: Sequence[int], group: int) -> None:
        """Move the arrays at these places into the group of this number."""
        group_of = self.group_of.copy()
        group_of[list(places)] = group
        self.group_of = group_of

    def leaves(self, structure: Any, what: str) -> list[Any]:
        """Return the leaves of a structure of the parameters' form, one for each array."""
        return [structure] if self.is_single else self.root.leaves(self.ungrouped(structure), what)

    def ungrouped(self, structure: Any) -> Any:
        """Take leaves out of a list of dicts with the key 'params', where the parameters were given so."""
        if self.is_grouped and isinstance(structure, (list, tuple)):
            return [group["params"] if is_group(group) and len(group) == 1 else group for group in structure]
        return structure

    def structure(self, leaves: Sequence[Any]) -> Any:
        """Return leaves, one for each array, in the parameters' form: the opposite of :meth:`leaves`."""
        return leaves[0] if self.is_single else self.root.rebuilt(iter(leaves))

    def given(self) -> Any:
        """Return the user's own arrays in their structure (lists for tuples)."""
        return self.structure(list(self.root.arrays()))

    def members(self, group: int) -> list[str]:
        """Return the names of the arrays of a group."""
        return [name for name, its in zip(self.names, self.group_of, strict=True) if its == group]

    def in_order(self, names: Collection[str]) -> list[str]:
        """Return these of the arrays' names, in the order of the arrays."""
        return [name for name in self.names if name in names]

    def freeze(self, pattern: str) -> list[str]:
        names = matching(pattern, self.names)
        self.frozen = self.frozen.union(names)
        return names

    def unfreeze(self, pattern: str) -> list[str]:
        names = matching(pattern, self.names)
        self.frozen = self.frozen.difference(names)
        return names

    def check_in_place(self) -> None:
        """Raise if a container of the user's holds another object than when it was given."""
        replaced = self.root.replaced()
        if replaced is not None:
            raise ValueError(
                f"params: {replaced!r} is no longer the object that the optimizer was given; put that one back and "
                "write into it (array[...] = value; then opt.reload_params() if it is float16 or bfloat16), or build a "
                "new optimizer"
            )

    def check_layouts(self) -> None:
        """Raise if an array or its copy was changed in place by more than its values since it was given."""
        check_layouts(self.layouts, self.where)

    def where(self, k: int, i: int) -> tuple[str, str]:
        """Return what errors call array number ``i``, or for ``k`` 1 copy number ``i``, and since when it is there."""
        if k == 0:
            return f"params: {self.names[i]!r}", "when the optimizer was built"
        copied = [name for name, copy in zip(self.names, self.copies, strict=True) if copy is not None]
        return f"copy_to: {copied[i]!r}", "when the optimizer was built"

    def check_writeable(self, present: npt.NDArray[np.bool_]) -> None:
        """Raise if an array that is to be changed is read-only."""
        for name, param, is_present in zip(self.names, self.arrays, present, strict=True):
            if is_present and not param.flags.writeable:
                raise ValueError(
                    f"params: {name!r} was made read-only after the optimizer was built, and is to be updated in "
                    "place; make it writeable, or keep it as it is: opt.freeze"
                )

    def take_copies(self, copy_to: Any, backend: Backend) -> None:
        """Check where copies of the parameters are to be written, and write them for the first time."""
        copies = [
            None if copy is None else backend.ops.checked_copy(name, copy, param)
            for name, copy, param in zip(self.names, self.leaves(copy_to, "copy_to"), self.arrays, strict=True)
        ]
        named = [(f"copy_to: {name}", copy) for name, copy in zip(self.names, copies, strict=True) if copy is not None]
        names, arrays = [name for name, _ in named], [copy for _, copy in named]
        self.extents = backend.extents(self.names + names, self.arrays + arrays)
        self.layouts = layouts_of([self.arrays, arrays], 2, {}) if backend.on_host else None
        self.copies = copies
        self.write_copies(backend)

    def take_bounds(self, structures: tuple[Any, Any], pairs: Sequence[Pair], backend: Backend) -> None:
        """Check bounds that are structures like the parameters, given those of the groups; keep copies of them."""
        sides = [
            [None] * len(self.names) if side is None else self.leaves(side, f"bounds[{k}]")
            for k, side in enumerate(structures)
        ]
        self.bounds = [
            own_bounds(name, param, given, backend.ops)
            for name, param, given in zip(self.names, self.arrays, zip(*sides, strict=True), strict=True)
        ]
        self.number_bounds(pairs)

    def number_bounds(self, pairs: Sequence[Pair]) -> NumberBounds:
        """Return the numbers that bound each array, given the bounds of the groups."""
        return number_bounds(self.names, self.arrays, self.bounds, self.group_of, pairs)

    def write_copies(self, backend: Backend) -> None:
        """Write the parameters into their copies."""
        for copy, param in zip(self.copies, self.arrays, strict=True):
            if copy is not None:
                backend.ops.write_rounded(copy, param)
