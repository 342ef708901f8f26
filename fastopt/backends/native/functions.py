"""The functions that C publishes as Python's own: a call of them takes less time than one through cffi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import ndarrays
from .library import lib

#: By their names: planned_step of csrc/python/plan.c, and those at the end of csrc/python/parts.h.
functions: dict[str, Callable[..., Any]] = {}

#: Whether there are any: they read Python's and NumPy's objects, whose layouts must be known.
are_published = ndarrays.has_known_ndarrays and bool(lib.fo_publish(id(functions)))
