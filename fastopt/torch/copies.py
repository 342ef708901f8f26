"""Copies of parameters in the state, which must follow what is written into the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from ..core.optimizer import Optimizer

version_of = attrgetter("_version")


class Copies:
    """The masters of half precision and the ``z`` of Schedule-Free, as far as they are copies.

    torch counts the changes of a tensor. A step computes a parameter of its copy, so that the values which somebody
    else wrote into it would be lost. A count of -1 is none: the parameter and its copy are new, or come from a state.
    """

    def __init__(self, inner: Optimizer) -> None:
        parts = inner.parts
        is_half = parts.backend.ops.is_half
        has_masters = any(is_half(array.dtype) for array in parts.parameters.arrays)
        self.are_there = has_masters or "z" in inner.copied
        self.inner, self.versions = inner, [-1] * len(parts.parameters.names)

    def follow(self, params: Sequence[Any]) -> None:
        """Take over what was written into these parameters since the last step."""
        versions = list(map(version_of, params))
        if versions == self.versions:
            return
        for name, array, before, now in zip(
            self.inner.parts.parameters.names, self.inner.parts.parameters.arrays, self.versions, versions, strict=True
        ):
            if before != now and self.differs(name, array, is_counted=before != -1):
                self.inner.reload_params(name)

    def differs(self, name: str, array: Any, is_counted: bool) -> bool:
        """Return whether a parameter has other values than its copy; for a ``z`` a counted change has to do."""
        master = self.inner.state[name].get("master")
        if master is None:
            return is_counted
        return not np.array_equal(master.astype(array.dtype), array, equal_nan=True)

    def note(self, params: Sequence[Any]) -> None:
        """Note the changes that torch has counted."""
        self.versions = list(map(version_of, params))
