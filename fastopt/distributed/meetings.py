"""The meeting of the ranks before a step: nothing changes unless all can make the same one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.optimizer import Optimizer
from ..core.parameters import Parameters
from ..core.params_in_state import check_own_values
from . import agreement
from .gradients import GradientsOfRanks
from .messages import MESSAGE
from .ranks import ROOM, Ranks

#: The first numbers of a header, before those of the arrays: the counts of steps and of calls, digests of the options,
#: of the learning rates and of the scale, the number of micro-batches, and whether they come by ``add``. Behind them
#: there is a bit for each array: whether this rank has a gradient of it.
HEAD = struct.Struct("=7q")
HEAD_LENGTH = 7


def numbers_sent(arrays: int) -> int:
    """Return how many numbers a rank sends to each other one when they meet for a step of this many arrays."""
    return MESSAGE + max(header_length(arrays) - ROOM, 0)


def header_length(arrays: int) -> int:
    return HEAD_LENGTH - (-arrays // 64)


#: The header of a meeting that compares nothing.
NOTHING: npt.NDArray[np.int64] = np.zeros(0, np.int64)


def checked_together(ranks: Ranks, check: Callable[[], Any]) -> Any:
    """Return what a function returns that checks this rank's arguments.

    Raises
    ------
    RankError
        If it has raised on another rank; on this rank its own error.
    CallsDiffer
        If another rank makes another call.
    """
    error, found = None, None
    try:
        found = check()
    except Exception as raised:
        error = raised
    ranks.meet(error, NOTHING)
    return found


class Meetings:
    """The meetings of the ranks before the steps of an optimizer.

    Parameters
    ----------
    ranks : Ranks
        The ranks.
    opt : Optimizer
        The optimizer, whose arrays are the parts of this rank.
    whole : Parameters
        The arrays that the user gave.
    are_cut : sequence of bool
        For each array, whether it was cut.
    gradients : GradientsOfRanks
        The gradients that this rank gives.
    """

    def __init__(
        self, ranks: Ranks, opt: Optimizer, whole: Parameters, are_cut: Sequence[bool], gradients: GradientsOfRanks
    ) -> None:
        self.ranks, self.opt, self.whole, self.are_cut, self.gradients = ranks, opt, whole, are_cut, gradients
        backend, parts = opt.parts.backend, opt.parts
        self.are_writeable = backend.writeable_check(whole.arrays)
        self.digest = agreement.Digest(parts)
        #: Whether a learning rate follows a schedule.
        self.are_scheduled = False
        self.header = np.zeros(header_length(len(whole.names)), np.int64)
        self.memory = self.header.data.cast("B")
        self.nothing, self.everything = np.zeros(len(whole.names), bool), np.ones(len(whole.names), bool)
        #: The header's bits, the arrays that have them, and those as a list.
        self.bits = self.memory[HEAD.size : HEAD.size - (-len(whole.names) // 8)]
        self.last, self.last_list = b"", [False]

    def meet(
        self,
        what: str,
        grads: Any = None,
        grad_scale: float | None = None,
        stream: Any = None,
        *,
        is_flush: bool = False,
    ) -> list[bool]:
        """Check this rank's arguments of a step, and that the ranks are at the same step with the same options.

        Parameters
        ----------
        what : str
            The call, for errors.
        grads, grad_scale, stream
            The arguments of the step; ``grads`` is None if the gradients are there already.
        is_flush : bool
            Whether the step takes no gradients.

        Returns
        -------
        For each array, whether a rank has a gradient of it.

        Raises
        ------
        RankError, TypeError, ValueError
            If an argument is wrong on any rank, or they differ. Nothing has changed then.
        """
        error, header, gradients = None, self.header, self.gradients
        present, counts = self.nothing if is_flush else self.everything, self.opt.parts.progress.counts
        lrs: Sequence[float] = ()
        scale, count, are_added = 1.0, 0, False
        try:
            lrs, scale = self.check(what, grad_scale, stream)
            if not is_flush:
                if grads is not None:
                    gradients.take(grads)
                gradients.check_scale(scale)
                present, count, are_added = gradients.present, gradients.micro_batch_count, gradients.are_added
            if not self.are_writeable():
                self.whole.check_writeable(self.everything if is_flush else present)
            if self.ranks.size > 1 and not is_flush:
                gradients.begin(scale)
        except Exception as raised:
            if self.ranks.size == 1:
                raise
            error = raised
        as_list = self.list_of(present)
        if self.ranks.size == 1:
            return as_list
        head = counts.item(0), counts.item(1, 0), self.digest.number, hash(lrs), hash(scale), count, are_added
        HEAD.pack_into(self.memory, 0, *head)
        try:
            headers = self.ranks.meet(error, header)
        except Exception:
            if self.ranks.calls_differ:
                gradients.drop(self.ranks)
            raise
        found, length = headers.tobytes(), header.nbytes
        if found == bytes(self.memory) * self.ranks.size:
            return as_list
        own = bytes(self.memory[: HEAD.size])
        if not all(found.startswith(own, rank * length) for rank in range(self.ranks.size)):
            of_step = {
                "the learning rates of this step": lrs,
                "the scale of the loss in this step": scale,
                "the number of micro-batches": count,
                "whether gradients come by add()": are_added,
            }
            self.ranks.agree({**agreement.options_of(self.opt.parts), **of_step})
        bits_of_any = np.bitwise_or.reduce(headers[:, HEAD_LENGTH:], axis=0).view(np.uint8)
        is_present: list[bool] = np.unpackbits(bits_of_any, count=len(present)).astype(bool).tolist()
        return is_present

    def list_of(self, present: npt.NDArray[np.bool_]) -> list[bool]:
        """Write which arrays are present into the header; return it as a list, the same one while they stay."""
        found = present.tobytes()
        if found != self.last:
            self.bits[:] = np.packbits(present).data
            self.last, self.last_list = found, present.tolist()
        return self.last_list

    def end(self, error: Exception) -> None:
        """Meet with an error instead of a step."""
        self.ranks.meet(error, np.zeros_like(self.header))

    def check(self, what: str, grad_scale: float | None, stream: Any) -> tuple[Sequence[float], float]:
        """Check the arguments of a step but the gradients, and what may have been changed since the last one.

        Returns
        -------
        The learning rates of the groups if one follows a schedule, and the scale of the loss.
        """
        parts, whole = self.opt.parts, self.whole
        if parts.stand_in:
            check_own_values(parts, what)
        whole.check_in_place()
        whole.check_layouts()
        parts.backend.set_stream(None, stream)
        self.opt.check_step()
        if self.digest.has_changed():
            whole.frozen = parts.parameters.frozen
            try:
                self.opt.ready()
                self.check_weight_norms()
                self.are_scheduled = any(group.scheduled for group in parts.groups.checked)
            except BaseException:
                self.digest.forget()  # they are checked again
                raise
        scale = parts.whole.loss_scale(grad_scale)
        lrs: Sequence[float] = ()
        if self.are_scheduled:
            lrs = tuple(group["lr"] for group in parts.groups.values(parts.progress.step_count))
        return lrs, scale

    def check_weight_norms(self) -> None:
        """Raise if ``max_weight_norm`` was set for an array that was cut without it."""
        checked, group_of = self.opt.parts.groups.checked, self.opt.parts.parameters.group_of.tolist()
        for name, array, is_cut, k in zip(self.whole.names, self.whole.arrays, self.are_cut, group_of, strict=True):
            if is_cut and array.ndim > 1 and checked[k].values["max_weight_norm"] is not None:
                raise ValueError(
                    f"max_weight_norm: {name!r} was cut into slices, since it had no limit when the optimizer was "
                    "built; give one then, such as infinity"
                )
