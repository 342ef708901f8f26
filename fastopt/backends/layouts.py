"""The layouts of arrays, compared as fast as it can be done here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays.dtypes import Array
from ..arrays.layouts import AttributeLayouts, Layouts
from .choosing import native_missing


def layouts_of(columns: Sequence[Sequence[Array]], users: int, visible: Mapping[str, Any]) -> Layouts:
    """Record how these arrays lie in memory; :class:`AttributeLayouts` describes the parameters."""
    if native_missing() is None:
        from .native import ndarrays

        if ndarrays.has_known_ndarrays:
            return ndarrays.NativeLayouts(columns, users, visible)
    return AttributeLayouts(columns, users, visible)
