"""The gradients of a step: taken from the caller, checked, and added over all ranks while they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arithmetic import halves
from ..arrays.dtypes import Array
from ..arrays.memory import shown
from ..arrays.row_sparse import RowSparse
from ..backends.backend import Backend
from ..backends.packing import FROM_ROW, FROM_SUMS, FROM_ZERO
from ..core.gradients import Gradients
from ..core.parameters import Parameters
from .exchange import BucketOfGradients, Exchange
from .layout import Bucket
from .payload import GradientPayload
from .ranks import Ranks


class MicroBatch:
    """The gradients of one micro-batch, as they come."""

    def __init__(self, arrays: list[Array | None], is_given: npt.NDArray[np.bool_], missing: list[int]) -> None:
        self.arrays, self.is_given = arrays, is_given
        #: How many arrays each bucket waits for.
        self.missing = missing

    def complete(self) -> None:
        """Wait for no more arrays: those that did not come are None."""
        self.missing = [0] * len(self.missing)


def no_gradients(count: int, buckets: Sequence[Bucket]) -> MicroBatch:
    """Return a micro-batch of which no gradient has come."""
    return MicroBatch([None] * count, np.zeros(count, bool), [len(bucket.numbers) for bucket in buckets])


class GradientsOfRanks:
    """The gradients that a step gets, and their sums over all ranks.

    The exchange of a bucket may begin when all of its arrays are there. All ranks exchange the same buckets in the same
    order. Nobody waits for an exchange before the ranks have met: then either all finish all of them, or, after an
    error, those that some have begun.

    Parameters
    ----------
    ranks : Ranks
        Those of the exchanges alone: ranks may be at different ones when they meet.
    backend : Backend
        Where sums are computed.
    whole : Parameters
        The arrays.
    buckets : sequence of Bucket
        Their buckets.
    exact : bool
        Whether the gradients are those of micro-batches, added as ``accumulate_steps`` does.
    wire_dtype : dtype or None
        That of the numbers that are sent; None: the compute dtype.
    piece_bytes : int
        About how many bytes of parameters are exchanged at once.
    are_cleared : bool
        Whether a step clears the caller's arrays.
    scale : callable
        Returns the loss scale.
    """

    def __init__(
        self,
        ranks: Ranks,
        backend: Backend,
        whole: Parameters,
        buckets: Sequence[Bucket],
        *,
        exact: bool,
        wire_dtype: np.dtype[Any] | None,
        piece_bytes: int,
        are_cleared: bool,
        scale: Callable[[], float],
    ) -> None:
        self.ranks, self.backend, self.names, self.params = ranks, backend, whole.names, whole.arrays
        self.whole, self.exact, self.are_cleared, self.scale = whole, exact, are_cleared, scale
        self.number_of = {name: i for i, name in enumerate(whole.names)}
        self.bucket_of = {i: b for b, bucket in enumerate(buckets) for i in bucket.numbers}
        self.layout = buckets
        self.buckets = [BucketOfGradients(backend, each, ranks.rank, wire_dtype, piece_bytes) for each in buckets]
        self.exchange = Exchange(ranks)
        self.checks = Gradients(backend.ops, backend.add_rows, whole.names, whole.arrays, whole.extents, are_cleared)
        in_order = list(map(backend.ops.in_memory_order, whole.arrays))
        self.table = backend.table(in_order, [()] * len(in_order))
        if all(array.flags.c_contiguous for array in whole.arrays):
            self.checks.begin(self.table)
        #: Whether a step of all gradients is one of a single process.
        self.is_of_one_process = ranks.size == 1 and not exact and wire_dtype is None
        #: How many micro-batches each step has on each rank; None: the first step will tell.
        self.count: int | None = None if exact else 1
        #: The order in which buckets are exchanged. A backward pass ends with the first layers.
        self.order = list(range(len(buckets)))[::-1]
        self.is_order_agreed = len(buckets) == 1
        #: Those that a meeting exchanges, if they do not come by :meth:`add`.
        self.payload: GradientPayload | None = None
        self.are_added = True
        self.forget()

    def forget(self) -> None:
        """Begin a new step."""
        self.micro_batches: list[MicroBatch] = []
        self.clearable: list[Any] = []
        if self.are_added:
            #: How many micro-batches had each array, by :meth:`add`.
            self.add_counts = [0] * len(self.names)
        #: The buckets in the order in which they were complete, by :meth:`add`.
        self.completion_order: list[int] = []
        #: How many buckets were put into the exchange.
        self.position = 0
        #: Whether gradients come by :meth:`add`, if any come.
        self.are_added = True
        #: The scale by which exchanged micro-batches are divided.
        self.scale_in_use: float | None = None
        self.checks.forget()
        self.table.forget_grads()
        if self.payload is not None:
            self.payload.forget()

    @property
    def has_begun(self) -> bool:
        """Whether there are gradients already."""
        return bool(self.micro_batches)

    @property
    def micro_batch_count(self) -> int:
        """How many micro-batches there are."""
        return len(self.micro_batches) if self.exact else 1

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Which arrays have a gradient on this rank."""
        if len(self.micro_batches) == 1:
            return self.micro_batches[0].is_given
        found = np.zeros(len(self.names), bool)
        for micro_batch in self.micro_batches:
            found |= micro_batch.is_given
        return found

    @property
    def nbytes(self) -> int:
        """How many bytes the sums, and the memory of exchanges, have now."""
        payload = 0 if self.payload is None else self.payload.nbytes
        return payload + self.exchange.nbytes + sum(bucket.sums.nbytes for bucket in self.buckets)

    def slice_of(self, i: int) -> Array:
        """Return the sums of the part of array number ``i`` that this rank owns."""
        return self.buckets[self.bucket_of[i]].slice_of(i)

    # --- taking gradients ---------------------------------------------------------------------------------------------

    def add(self, name: str, grad: Any) -> None:
        """Take the gradient of one array, and begin the exchanges that can begin.

        Raises
        ------
        TypeError, ValueError
            If there is no such array, or it has its gradient, or this can't be one. Nothing has changed then.
        """
        i = self.number_of.get(name)
        if i is None:
            raise ValueError(f"add: there is no array {name!r}; the arrays are {shown(self.names):.400}")
        k, most = self.add_counts[i], self.count
        if most is not None and k >= most:
            has = f"the gradients of {most} micro-batches" if self.exact else "a gradient"
            raise ValueError(f"add: {name!r} has {has} in this step already; call step() first")
        grad = self.backend.ops.as_array(f"add: {name!r}", grad)
        if isinstance(grad, RowSparse):
            self.refuse_row_sparse(name)
        array: Array | None = None
        if grad is not None and name not in self.whole.frozen:
            if self.are_cleared:
                self.backend.ops.check_clearable([name], [grad])
            array = self.backend.ops.grad_in_memory_order(name, grad, self.params[i])[0]
        while len(self.micro_batches) <= k:
            self.micro_batches.append(no_gradients(len(self.names), self.layout))
        micro_batch, b = self.micro_batches[k], self.bucket_of[i]
        micro_batch.arrays[i], micro_batch.is_given[i] = array, array is not None
        micro_batch.missing[b] -= 1
        self.add_counts[i] += 1
        if self.are_cleared and grad is not None:
            self.clearable.append(grad)
        if k == 0 and micro_batch.missing[b] == 0:
            self.completion_order.append(b)
        self.go_on()

    def take(self, grads: Any) -> None:
        """Take all gradients of a step: a structure like the parameters, or with ``exact`` a list of such.

        Raises
        ------
        TypeError, ValueError
            If one can't be the gradient of its array, or is row-sparse.
        """
        if self.has_begun:
            raise ValueError("step: gradients were given after add(); give all by add(), then call step()")
        if self.exact and not (isinstance(grads, (list, tuple)) and grads):
            raise TypeError(
                f"step: expected a list of the gradients of this rank's micro-batches (exact=True), got "
                f"{shown(grads):.80}"
            )
        micro_batches, clearable = [], []
        frozen = self.whole.frozen
        for each in grads if self.exact else [grads]:
            leaves = self.whole.leaves(each, "grads")
            if frozen:
                leaves = [None if name in frozen else leaf for name, leaf in zip(self.names, leaves, strict=True)]
            self.checks.take(self.table, leaves, lambda i: self.refuse_row_sparse(self.names[i]))
            given = list(self.checks.given)
            micro_batches.append(MicroBatch(given, self.checks.present, [0] * len(self.layout)))
            if self.are_cleared:
                clearable += [array for array in self.checks.clearable if array is not None]
        self.micro_batches, self.clearable, self.are_added = micro_batches, clearable, False

    def refuse_row_sparse(self, name: str) -> None:
        raise TypeError(
            f"grads: {name!r} is row-sparse, which a sharded optimizer does not take: the ranks exchange "
            "whole gradients; give a dense one"
        )

    def check_scale(self, scale: float) -> None:
        """Raise if gradients were divided by another loss scale than that of the step."""
        if self.scale_in_use not in (None, scale):
            raise ValueError(
                f"step: grad_scale is {scale!r}, but gradients were divided by {self.scale_in_use!r} when they came by "
                "add(); set opt.grad_scale before the first add()"
            )

    def clear(self) -> None:
        """Clear the arrays that the user gave."""
        for array in self.clearable:
            self.backend.ops.clear(array)

    # --- exchanging them ----------------------------------------------------------------------------------------------

    def begin(self, scale: float) -> None:
        """Begin the exchanges that can begin, before the ranks have met: they go on while this rank waits."""
        self.scale_in_use = scale
        if self.payload is None or self.are_added:
            self.go_on()
        else:
            self.payload.pack(self.micro_batches[0].arrays)

    def go_on(self) -> None:
        """Exchange the next buckets that are complete, without waiting."""
        total = 0 if self.count is None else self.count * len(self.buckets)
        while self.position < total:
            k, place = divmod(self.position, len(self.buckets))
            b = self.order[place]
            if k >= len(self.micro_batches) or self.micro_batches[k].missing[b] > 0:
                break
            arrays = self.micro_batches[k].arrays
            self.put(k, self.buckets[b], [arrays[i] for i in self.layout[b].numbers])
        self.exchange.poke()

    def put(self, k: int, bucket: BucketOfGradients, arrays: Sequence[Array | None]) -> None:
        factor, beginning = 1.0, FROM_ROW
        if self.is_scaled:
            if self.scale_in_use is None:
                self.scale_in_use = self.scale()
            factor, beginning = 1.0 / self.scale_in_use, FROM_SUMS if k else FROM_ZERO
        self.position += 1
        self.exchange.put(bucket, arrays, factor, beginning)

    @property
    def is_scaled(self) -> bool:
        """Whether sums are of gradients that were divided by the loss scale, as those of ``accumulate_steps`` are."""
        return self.exact and self.calls > 1

    @property
    def calls(self) -> int:
        """How many calls of one process make the step."""
        return (self.count or 1) * self.ranks.size if self.exact else 1

    def finish(self, scale: float) -> None:
        """Exchange all that is not on its way yet, after the ranks have met; collective."""
        if self.payload is not None and not self.are_added:
            self.payload.add()
            return
        if self.count is None:
            self.count = self.micro_batch_count
        if self.scale_in_use is None:
            self.scale_in_use = scale
        self.fill()
        self.go_on()
        self.exchange.finish()
        if self.are_added and not self.is_order_agreed:
            # From now on in the order in which rank 0 had them.
            order = self.ranks.all_gather_objects(self.completion_order)[0]
            self.order = [*order, *(b for b in self.order if b not in order)]
            self.is_order_agreed = bool(order)

    def check_count(self) -> None:
        """Raise if this is another number of micro-batches than in the steps before, or 0."""
        count = self.micro_batch_count
        if self.exact and (count == 0 or self.count not in (None, count)):
            expected = "at least 1" if self.count is None else f"{self.count}, as in the steps before"
            raise ValueError(
                f"step: expected as many micro-batches on each rank: {expected}; got {count} on each; nothing was "
                "changed"
            )

    def fill(self) -> None:
        """Wait for no more gradients: those that did not come are None."""
        while len(self.micro_batches) < (self.count or 0):
            self.micro_batches.append(no_gradients(len(self.names), self.layout))
        for micro_batch in self.micro_batches:
            micro_batch.complete()

    def drop(self, ranks: Ranks) -> None:
        """Forget these gradients, on all ranks: finish the exchanges that any rank has begun. Collective.

        ``ranks`` are those that meet, not those of the exchanges. If one of them is gone, nothing is finished.
        """
        begun = int(ranks.all_gather(np.array([self.exchange.begun])).max()) if ranks.can_go_on() else 0
        if begun > 0:
            self.exchange.most = begun
            self.fill()
            self.go_on()
            self.exchange.drop()
        self.forget()


def half_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of numbers on the wire of this name."""
    return halves.bfloat16() if name == "bfloat16" else np.dtype(name)
