"""The state of a sharded optimizer as that of one process, and back; its averages, and values that stand in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import numpy as np

from ..arrays.dtypes import Array
from ..core import averages, state_dict
from ..core.encoding import encoded
from ..core.optimizer import Optimizer
from ..core.parameters import Parameters
from ..core.params_in_state import values_stand_in
from ..core.results import LoadResult, Misfit
from ..core.saving import Load, Planned
from ..core.turns import Kind
from ..optimizers.sgd import AHEAD, SGD, prepare_lookahead
from ..options.group_by import matching
from .agreement import check_same_values
from .layout import Bucket
from .parameters import Gather
from .pieces import Piece, PiecesOfState, join
from .ranks import Ranks

#: The advice to a program whose ranks have written other values into their parameters.
MAKE_ALIKE = "write the same on every rank, or call reload_params(), which takes each slice from its owner"


class SharedState(Optimizer):
    """The part of :class:`fastopt.distributed.Sharded` that is about its state and the values of its parameters.

    All ranks call these methods together.
    """

    ranks: Ranks
    whole: Parameters
    buckets: list[Bucket]
    gather: Gather
    are_cut: list[bool]

    def begin(self, ranks: Ranks) -> None:
        """Take the ranks; no call that they make together is running."""
        self.ranks, self._turn = ranks, threading.Lock()

    def take_turn(self, what: str) -> None:
        """Begin a call that the ranks make together; ``finally: self.end_turn()`` ends it.

        Raises
        ------
        RuntimeError
            If such a call of this optimizer is running.
        """
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                f"{what}: another call that the ranks make together is running, in another thread or around this one; "
                "make one after the other"
            )
        self.ranks.call = what

    def end_turn(self) -> None:
        """End a call that the ranks make together."""
        self._turn.release()

    def checked(self, check: Callable[[], Any]) -> Any:
        """Return what a function returns that checks this rank's arguments, or raise if it raised on any rank."""
        raise NotImplementedError

    @contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Take a turn for a call that the ranks make together."""
        self.take_turn(what)
        try:
            yield
        finally:
            self.end_turn()

    @property
    def pieces(self) -> PiecesOfState:
        """How the entries of the state lie in those of one process."""
        has_scales = self.parts.options.state_dtype == "uint8"
        return PiecesOfState(self.ranks, self, self.whole, self.buckets, self.are_cut, has_scales)

    def saving(self) -> SavingOfShared:
        return SavingOfShared(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as :meth:`fastopt.Optimizer.state_dict` does in one process: whole arrays, on every rank.

        All ranks call it together. Each has the whole state then: it is for small ones, and for moving to one process.
        :func:`fastopt.distributed.save` writes a file without that.

        Returns
        -------
        dict
            With the names, shapes, dtypes and bits of one process; it loads there, and on any other number of ranks.

        Raises
        ------
        RuntimeError
            If a step is running around this call, or another rank failed.
        """
        return self.parts.turns.run("state_dict", Kind.READER, whole_state, self, "state_dict")

    def slot(self, name: str, slot: str) -> Array:
        """Return the values of a whole slot, on every rank: as :meth:`fastopt.Optimizer.slot`. All ranks call it."""
        with self.turn("slot"):
            values = self.checked(partial(super().slot, name, slot))
            (array,) = join(self.ranks, [self.pieces.of_entry(name, slot, values)])
            return array

    @property
    def ema(self) -> Any:
        """The averaged parameters, whole, on every rank: copies, which the next step does not change.

        All ranks read it together. Otherwise as :attr:`fastopt.Optimizer.ema`.
        """
        return self.parts.turns.run("ema", Kind.READER, whole_averages, self)

    def averaged(self) -> AbstractContextManager[None]:
        """Put the averaged parameters into the parameter arrays, and back: as :meth:`fastopt.Optimizer.averaged`.

        All ranks enter it together; each leaves it for itself.
        """
        prepare = partial(prepare_everywhere, self, "averaged()", averages.prepare_averaged, True)
        return values_stand_in(self.parts, "averaged()", averages.AVERAGES, prepare)

    def reload_params(self, pattern: str = "*") -> list[str]:
        """Take over what was written into these parameters: as :meth:`fastopt.Optimizer.reload_params`.

        All ranks call it together. Every rank gets the values that the owner of a slice has.
        """
        with self.turn("reload_params"):
            self.checked(partial(matching, pattern, self.whole.names))
            self.gather.run([True] * len(self.whole.names))
            names = super().reload_params(pattern)
            self.whole.write_copies(self.parts.backend)
            return names

    def check_params(self) -> None:
        """Check that all ranks have the same values in the parameters; all ranks call it together.

        A step does not: where one rank has written into its parameters, it brings the values of each slice's owner to
        all. The check reads all parameters, and sends 16 bytes.

        Raises
        ------
        ValueError
            On every rank, if one differs: the name of the first array that does, and the ranks.
        RuntimeError
            If another such call is running, or another rank failed.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> from mpi4py import MPI
        >>> from fastopt.distributed import Sharded
        >>> opt = Sharded(fastopt.SGD, {"W": np.ones(2)}, MPI.COMM_SELF)
        >>> opt.check_params()  # nobody differs from the only rank
        """
        with self.turn("check_params"):
            self.checked(self.whole.check_in_place)
            check_same_values(self.ranks, self.whole.names, self.whole.arrays, MAKE_ALIKE)


class SavingOfShared(state_dict.SavingOfOptimizer):
    """See ``core/saving.py``."""

    opt: SharedState

    @property
    def parameters(self) -> Parameters:
        return self.opt.whole

    @property
    def pieces(self) -> PiecesOfState:
        return self.opt.pieces

    def params(self) -> Any:
        return self.opt.params

    def check(self, what: str) -> None:
        if what == "save":
            raise ValueError(
                "save: the ranks have the state of this optimizer together; call fastopt.distributed.save(path, opt) "
                "on all of them, which writes the same file"
            )
        super().check(what)

    def state(self) -> dict[str, Any]:
        return whole_state(self.opt, "state")

    def together(self, plan: Callable[[], tuple[Planned, LoadResult]]) -> tuple[Planned, LoadResult]:
        with self.opt.turn("load"):
            planned, result = self.opt.checked(plan)
            # The ranks were alike before; they will be if all change the same.
            changed = {f"the load's change of {name}": encoded(pair) for name, pair in result.options.items()}
            self.opt.ranks.agree({"the LoadResult": tuple(result), **changed})
            return planned, result

    def plan(
        self,
        saved: Mapping[str, Any] | None,
        strict: bool,
        misfits: list[Misfit],
        with_state: bool,
        with_options: bool,
    ) -> Load:
        load = super().plan(saved, strict, misfits, with_state, with_options)

        def carry_out(written: Collection[str]) -> None:
            load.carry_out(written)
            self.opt.whole.write_copies(self.opt.parts.backend)

        return Load(load.result, carry_out)


def whole_state(opt: SharedState, what: str) -> dict[str, Any]:
    """Return the state as that of one process."""
    with opt.turn(what):
        saved: dict[str, Any] = opt.checked(partial(state_of_pieces, opt))
        places = [
            (entries, slot) for entries in saved["state"].values() for slot in entries if type(entries[slot]) is Piece
        ]
        arrays = join(opt.ranks, [entries[slot] for entries, slot in places])
        for (entries, slot), array in zip(places, arrays, strict=True):
            entries[slot] = array
        return saved


def state_of_pieces(opt: SharedState) -> dict[str, Any]:
    """Return the state as that of one process, with pieces instead of arrays; numbers, which all ranks have, copied."""
    saved, pieces = state_dict.of(opt, copy=False), opt.pieces
    saved["state"] = {
        name: {
            slot: np.array(entry) if pieces.is_number(slot) else pieces.of_entry(name, slot, entry)
            for slot, entry in entries.items()
        }
        for name, entries in saved["state"].items()
    }
    return saved


def whole_averages(opt: SharedState) -> Any:
    """Return the averages of the whole parameters, in their structure."""
    with opt.turn("ema"):
        found = opt.checked(partial(averages.averages_of, opt, "ema"))
        pieces = [opt.pieces.of_entry(name, "ema", its) for name, its in zip(opt.whole.names, found, strict=True)]
        return opt.whole.structure(join(opt.ranks, pieces))


def prepare_everywhere(
    opt: SharedState,
    what: str,
    prepare: Callable[[Any], tuple[Sequence[Array], Callable[[], None]]],
    has_copies: bool,
) -> tuple[Sequence[Array], Callable[[], None]]:
    """Return the whole parameters, with their copies, and a function that writes values into them on all ranks.

    ``prepare`` returns a function that writes those of this rank's parts.
    """
    with opt.turn(what):
        _, write_own = opt.checked(partial(prepare, opt))
    copies = [copy for copy in opt.whole.copies if copy is not None] if has_copies else []

    def write() -> None:
        write_own()
        gather_values(opt, has_copies)

    return [*opt.whole.arrays, *copies], write


def gather_values(opt: SharedState, has_copies: bool) -> None:
    """Get the parts of the other ranks, after each has changed its own."""
    opt.gather.run([True] * len(opt.whole.names))
    if has_copies:
        opt.whole.write_copies(opt.parts.backend)


def lookahead(opt: Any) -> AbstractContextManager[None]:
    """Shift the parameters to where the momentum would take them, and back: as :meth:`fastopt.SGD.lookahead`.

    All ranks enter it together; each leaves it for itself.
    """
    prepare = partial(prepare_everywhere, opt, "lookahead()", prepare_lookahead, False)
    return values_stand_in(opt.parts, "lookahead()", AHEAD, prepare)


def mode_method(optimizer: type[Optimizer], name: str) -> Callable[[Any], None]:
    """Return ``train`` or ``eval`` of a sharded optimizer of a Schedule-Free class."""
    change = getattr(optimizer, name)

    def method(opt: SharedState) -> None:
        with opt.turn(name):
            opt.checked(opt.ready)
            change(opt)
            gather_values(opt, True)

    method.__doc__ = f"{change.__doc__} All ranks call it together."
    return method


def further_methods(optimizer: type[Optimizer]) -> dict[str, Any]:
    """Return the methods of a sharded optimizer that only some classes have."""
    methods: dict[str, Any] = {}
    if issubclass(optimizer, SGD):
        methods["lookahead"] = lookahead
    for name in ("train", "eval"):
        if hasattr(optimizer, name):
            methods[name] = mode_method(optimizer, name)
    return methods
