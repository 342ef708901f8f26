"""The interface of an optimizer, or of a full-batch method, for saving and restoring a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from ..backends.backend import Backend
from .fitting import WHOLE, Pieces
from .parameters import Parameters
from .results import LoadResult, Misfit
from .turns import Turns

Planned = TypeVar("Planned")


class Load(NamedTuple):
    """A saved state that was checked against whatever loads it."""

    result: LoadResult
    #: Loads it. It gets the names of the parameters that were just written.
    carry_out: Callable[[Collection[str]], None]


class Saving(Protocol):
    """The state of one optimizer for a file, and how it is loaded."""

    @property
    def parameters(self) -> Parameters:
        """The parameters that a file has."""

    def check(self, what: str) -> None:
        """Raise if the parameters have other values for the moment; ``what`` names the call."""

    def state(self) -> dict[str, Any]:
        """Return the state, without copies where that can be."""

    @property
    def pieces(self) -> Pieces:
        """How the entries of the state lie in those of a file."""

    def params(self) -> Any:
        """Return them on the host, in their structure, without copies where that can be."""

    def together(self, plan: Callable[[], tuple[Planned, LoadResult]]) -> tuple[Planned, LoadResult]:
        """Return what a function plans. Processes that load together raise together, if it raises in one of them."""

    def plan(
        self,
        saved: Mapping[str, Any] | None,
        strict: bool,
        misfits: list[Misfit],
        with_state: bool,
        with_options: bool,
    ) -> Load:
        """Check a saved state, None: parameters alone are loaded; ``misfits`` are those of the parameters.

        Raises
        ------
        TypeError, ValueError
            As ``load_state_dict``.
        """


class ResumableParts(Protocol):
    @property
    def parameters(self) -> Parameters: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def turns(self) -> Turns: ...


class SavingInOneProcess:
    """The part of :class:`Saving` that is the same wherever one process has all arrays, and a file has their state."""

    def __init__(self, parts: ResumableParts) -> None:
        self.parts = parts

    @property
    def parameters(self) -> Parameters:
        return self.parts.parameters

    @property
    def pieces(self) -> Pieces:
        return WHOLE

    def params(self) -> Any:
        arrays = [self.parts.backend.ops.on_host(array, copy=False) for array in self.parts.parameters.arrays]
        return self.parts.parameters.structure(arrays)

    def together(self, plan: Callable[[], tuple[Planned, LoadResult]]) -> tuple[Planned, LoadResult]:
        return plan()


@runtime_checkable
class Resumable(Protocol):
    """Whatever goes on from a file: an optimizer, or a full-batch method."""

    @property
    def parts(self) -> ResumableParts: ...
    def saving(self) -> Saving: ...
