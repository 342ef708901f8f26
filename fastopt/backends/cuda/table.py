"""The CUDA backend: the rules of fastopt/rules.py on arrays of a GPU, one launch for all of equal hyperparameters.

Nothing here waits for the device: norms, clip factors, whether the gradients are finite, and the step itself are put
into one stream, in order. What the host is to know of it is a :class:`DeviceNumber`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import total_ordering
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arithmetic.quantize import Map
from ...arithmetic.rules import SGDScalars, sgd
from ..table import CLEAR, FINISH, UPDATE, ArrayExtras, HyperRow, LimitedUnits, Source, Trust
from . import numba_cuda
from .arrays import COMPUTED, DeviceArray, compute_dtype, device_of, models_of, pointer_reader
from .axes import HeldNorms
from .cuda_kernels import (
    GRAD_OPTIONS,
    Maker,
    Options,
    Row,
    Stages,
    accumulate_of,
    check_known,
    clear_of,
    plain_kernel,
    products_kernel,
    stages_of,
    step_of,
    update_kernel,
)
from .numba_cuda import CHUNK, Work, from_host, to_host

__all__ = ["CudaTable", "DeviceNumber", "from_host", "to_host"]

#: Norms that may be asked for before the device's memory of them is used again.
NORMS = 1024


class Launch(NamedTuple):
    """Arrays that one launch updates: those that agree in hyperparameters and dtypes."""

    row: int
    dtypes: Row
    indices: npt.NDArray[np.intp]
    table: Any
    chunks: Any
    chunk_count: int
    #: The table as it is on the device.
    rows: npt.NDArray[np.int64] | None = None


class CudaTable:
    """The arrays of an optimizer, with their addresses on the device."""

    def __init__(
        self,
        params: Sequence[DeviceArray],
        slots: Sequence[Sequence[DeviceArray]],
        extras: Sequence[ArrayExtras] | None = None,
    ) -> None:
        self.params = params
        self.slots = slots
        self.extras = extras or [ArrayExtras()] * len(params)
        self.count = len(params)
        self.device = device_of(params)
        self.sizes = np.array([param.size for param in params], np.int64)
        chunks = -(-self.sizes // CHUNK)
        self.first_chunks = np.cumsum(chunks) - chunks
        self.chunk_counts = chunks
        self.row_numbers = np.zeros(self.count, np.int32)
        self.array_clip = np.ones(self.count)
        self.numbers = np.arange(self.count)
        #: Without their owners: where a gradient is now, another of its kind may be in the next step.
        self.grads: list[DeviceArray | None] = [None] * self.count
        self.grad_owners: Sequence[Any] = [None] * self.count
        self.grad_starts = np.zeros(self.count, np.uintp)
        self.grad_models: list[Any] | None = None
        self.param_owners = [param.owner for param in params]
        self.param_readers = [pointer_reader(owner) for owner in self.param_owners]
        self.param_starts = [param.address for param in params]
        self.launches: list[Launch] = []
        self.are_new_grads = True
        self.planned: Any = None
        self.planned_rows = b""
        self.uploaded: npt.NDArray[np.uintp] | None = None
        self.limits: Any = None
        self.last_limits: npt.NDArray[np.float64] | None = None
        #: The stream that the next step was asked to run in, and the one that the last step ran in.
        self.stream: int | None = None
        self.last_stream: int | None = None
        self.clips_arrays = self.clips_all = self.is_guarded = False
        with numba_cuda.on_device(self.device):
            numba_cuda.synchronize()  # slots may still be written, or used by an earlier table, in any stream
            #: Where the last work ends, in a stream that may go.
            self.end = numba_cuda.Mark()
            self.factors = {dtype: numba_cuda.empty(self.count + 1, dtype) for dtype in COMPUTED}
            self.rates = {dtype: numba_cuda.empty(self.count, dtype) for dtype in COMPUTED}
            self.sums, self.param_sums, self.counts = (numba_cuda.empty(self.count, "float64") for _ in range(3))
        #: By row the rule's scalars that are ``rates``, once those of the step are set.
        self.scaled: Sequence[tuple[str, ...]] = ()
        self.ratios: Any = None
        self.guards: Any = None
        self.told_counts: numba_cuda.Told | None = None
        self.norms: DeviceNorms | None = None
        #: Where the units are whose norms are held, and of which plan and axes.
        self.held_norms: HeldNorms | None = None
        self.held_for: tuple[Any, Any] = None, None

    def set_grads(self, grads: Sequence[DeviceArray | None]) -> None:
        self.grads = [None if grad is None else grad._replace(owner=None) for grad in grads]
        self.grad_owners = [None if grad is None else grad.owner for grad in grads]
        self.grad_starts = np.array([0 if grad is None else grad.address for grad in grads], np.uintp)
        self.grad_readers = [pointer_reader(owner) for owner in self.grad_owners]
        self.grad_models = models_of(self.grad_owners)
        item_sizes = [1 if grad is None else numba_cuda.ITEM_SIZES[grad.dtype] for grad in grads]
        self.grad_item_sizes = np.array(item_sizes, np.uintp)
        self.are_new_grads = True

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        """Do so for torch's tensors, of which it can be told faster than they are checked."""
        if self.grad_models is None or models_of(grads) != self.grad_models:
            return False
        starts = np.array([grad.data_ptr() for grad in grads], np.uintp)
        if (starts % self.grad_item_sizes).any():
            return False
        self.grad_owners, self.grad_starts = grads, starts
        return True

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return self.grad_starts

    def is_current(self) -> bool:
        """Return whether the gradients are where they were, in the stream in which they were."""
        if starts_of(self.grad_owners, self.grad_readers) != self.grad_starts.tolist():
            return False
        first = next((k for k, grad in enumerate(self.grads) if grad is not None), None)
        if first is None:
            return True
        stream = self.grads[first].stream  # type: ignore[union-attr]
        return bool(numba_cuda.interface(self.grad_owners[first]).get("stream") == stream)

    def check_params_stayed(self) -> None:
        starts = starts_of(self.param_owners, self.param_readers)
        if starts == self.param_starts:
            return
        for i, (param, start) in enumerate(zip(self.params, starts, strict=True)):
            if start != param.address:
                raise ValueError(
                    f"params: array number {i} (shape {param.shape}) has moved in memory since the optimizer was "
                    "built; change arrays in place, or build a new optimizer"
                )

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.check_params_stayed()
        with self.in_stream() as stream:
            self.run(step_of, hyper_rows, stream)

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        with self.in_stream() as stream:
            self.run(accumulate_of, [hyper._replace(rule=sgd, scalars=SGDScalars(0.0)) for hyper in hyper_rows], stream)

    def run(self, make: Maker, hyper_rows: Sequence[HyperRow], stream: Any) -> None:
        """Do to every element what ``make`` returns; where that is guarded and not done, clear the gradients."""
        guard = numba_cuda.address(self.guards) if self.is_guarded else 0
        # All kernels first: one that can't be compiled must leave every array as it is.
        ready = [
            (launch, guard, *self.kernel_of(make, launch, hyper_rows[launch.row]))
            for launch in self.launches
            if is_written(launch, hyper_rows[launch.row])
        ]
        if self.is_guarded:
            ready += [
                (launch, guard + 8, *self.kernel_of(clear_of, launch, hyper_rows[launch.row]))
                for launch in self.launches
                if hyper_rows[launch.row].zero_grads and hyper_rows[launch.row].stages & CLEAR
            ]
        for launch, at, kernel, stages, h in ready:
            work = self.work(launch, hyper_rows[launch.row])._replace(guard=at)
            numba_cuda.launch(kernel, launch.chunk_count, numba_cuda.THREADS, stream, work, stages, h)

    def kernel_of(self, make: Maker, launch: Launch, hyper: HyperRow) -> tuple[Any, Stages, tuple[Any, ...]]:
        """Return the kernel of a launch and its numbers."""
        options = self.options(launch, hyper)
        rule, scalars = hyper.rule, hyper.scalars
        if make is clear_of:
            options, rule, scalars = Options(guarded=True), sgd, SGDScalars(0.0)
        dtype = compute_dtype(launch.dtypes.param)
        real = numba_cuda.NUMPY_DTYPES[dtype]
        with np.errstate(all="ignore"):
            h = type(scalars)(*map(real, scalars))
        kernel = update_kernel(self.device, make, rule, options, launch.dtypes, type(h))
        return kernel, stages_of(hyper, dtype), h

    def options(self, launch: Launch, hyper: HyperRow) -> Options:
        check_known(hyper)
        return Options(
            scale=hyper.grad_scale != 1,
            mean=hyper.mean != 0,
            clip_value=hyper.clip_value != math.inf,
            clip_norm=self.clips_arrays,
            clip_global_norm=self.clips_all,
            l2=hyper.l2 != 0,
            l1=hyper.l1 != 0,
            decay=hyper.decay != 1,
            threshold=numba_cuda.NUMPY_DTYPES[compute_dtype(launch.dtypes.param)](hyper.threshold) != 0,
            blend=launch.dtypes.average is not None and hyper.average_weight != 1,
            zero_grads=hyper.zero_grads,
            update=bool(hyper.stages & UPDATE),
            clear=bool(hyper.stages & CLEAR),
            finish=bool(hyper.stages & FINISH),
            guarded=self.is_guarded,
            scaled=self.scaled[launch.row] if self.scaled else (),
            maps=tuple(None if scaled is None else scaled[0] for scaled in self.scales(launch.indices[0])),
        )

    def options_of(self, launch: Launch, hyper: HyperRow, *of: Source) -> Options:
        """Return the options that make these sources."""
        asked = self.options(launch, hyper)
        if {"grad", "clipped_grad"}.isdisjoint(of):
            return Options()
        return Options(**{name: getattr(asked, name) for name in GRAD_OPTIONS})

    def work(self, launch: Launch, hyper: HyperRow) -> Work:
        """Return what a kernel works on."""
        clips, global_clip = self.factor_addresses(compute_dtype(launch.dtypes.param))
        table, chunks = launch.table.address, launch.chunks.address
        rates = numba_cuda.address(self.rates[compute_dtype(launch.dtypes.param)])
        return Work(table, chunks, clips, global_clip, rates, 0, numba_cuda.as_signed(hyper.dither))

    def factor_addresses(self, dtype: str) -> tuple[int, int]:
        """Return where the clip factors are: of each array, and behind them that of all."""
        start = numba_cuda.address(self.factors[dtype])
        return start, start + self.count * numba_cuda.ITEM_SIZES[dtype]

    def read_grads(
        self,
        hyper_rows: Sequence[HyperRow],
        limits: npt.NDArray[np.float64] | None,
        global_limit: float | None,
        count_nonfinite: bool,
    ) -> DeviceNumber | None:
        """Set the clip factors and guards of the next step, on the device; return the global norm if it is limited."""
        self.clips_arrays = self.clips_all = self.is_guarded = False
        self.scaled = ()
        if limits is None and global_limit is None and not count_nonfinite:
            return None
        norm = None
        with self.in_stream() as stream:
            if limits is not None or count_nonfinite:
                self.add_squares(hyper_rows, stream)
            if count_nonfinite:
                self.count_nonfinite(stream)
            if limits is not None:
                factors = [self.factor_addresses(dtype)[0] for dtype in ("float64", "float32")]
                if not np.array_equal(limits, self.last_limits):  # type: ignore[arg-type]
                    self.limits = numba_cuda.uploaded(limits, self.limits, stream)
                    self.last_limits = limits
                sums, limits_at = numba_cuda.address(self.sums), self.limits.address
                blocks = -(-self.count // numba_cuda.THREADS)
                kernel = plain_kernel(self.device, numba_cuda.clip_arrays)
                numba_cuda.launch(kernel, blocks, numba_cuda.THREADS, stream, sums, limits_at, self.count, *factors)
                self.clips_arrays = True
            if global_limit is not None:
                if limits is not None or not count_nonfinite:
                    self.add_squares(hyper_rows, stream)
                factors = [self.factor_addresses(dtype)[1] for dtype in ("float64", "float32")]
                if self.norms is None:
                    self.norms = DeviceNorms()
                norm, at = self.norms.following()
                kernel = plain_kernel(self.device, numba_cuda.clip_all)
                sums, limit = numba_cuda.address(self.sums), float(global_limit)
                numba_cuda.launch(kernel, 1, 1, stream, sums, self.count, limit, at, *factors)
                self.clips_all = True
            self.is_guarded = count_nonfinite
        return norm

    def count_nonfinite(self, stream: Any) -> None:
        """Add up what the squares' kernel counted, set the guards, and tell the host."""
        if self.told_counts is None:
            self.guards = numba_cuda.empty(2, "int64")
            self.told_counts = numba_cuda.Told(self.counts, self.device)
        counts, guards = numba_cuda.address(self.counts), numba_cuda.address(self.guards)
        self.add_chunks(self.partial_counts, self.counts, stream)
        numba_cuda.launch(plain_kernel(self.device, numba_cuda.decide), 1, 1, stream, counts, self.count, guards)
        self.told_counts.tell(stream)

    def nonfinite_counts(self) -> npt.NDArray[np.float64]:
        """Return how many elements of each gradient were not finite when they were last counted; waits for that."""
        return self.told_counts.values()  # type: ignore[union-attr]

    def verdict(self) -> DeviceNumber:
        """Return whether all gradients were finite when they were last counted; waits for that when it is used."""
        return DeviceNumber(lambda: not self.nonfinite_counts().any())

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        if count_nonfinite:
            raise NotImplementedError("sum_products: on a GPU read_grads counts what is not finite")
        with self.in_stream() as stream:
            self.add_products(hyper_rows, stream, left, right)
            return to_host(self.sums)

    def set_trust_ratios(
        self, hyper_rows: Sequence[HyperRow], update: Source, trusts: Sequence[Trust], ratios: Sequence[Any]
    ) -> None:
        """Set each array's trust ratio, by its parameter's norm and its update's; the next pass scales by it."""
        with self.in_stream() as stream:
            self.add_squares(hyper_rows, stream, "param", self.param_sums)
            self.add_squares(hyper_rows, stream, update)
            if self.ratios is None:
                self.ratios = numba_cuda.uploaded(np.array(list(map(numba_cuda.address, ratios))), None, stream)
            guard = numba_cuda.address(self.guards) if self.is_guarded else 0
            rates = [numba_cuda.address(self.rates[dtype]) for dtype in ("float64", "float32")]
            places = self.ratios.address, *rates
            sums = [numba_cuda.address(array) for array in (self.param_sums, self.sums)]
            kernel = plain_kernel(self.device, numba_cuda.trust)
            for launch in self.launches:
                lr, coefficient, eps, adapt, _ = trusts[launch.row]
                table, count = launch.table.address, len(launch.indices)
                numbers = float(lr), float(coefficient), float(eps), int(adapt)
                args = table, launch.table.array.shape[1], count, *sums, *numbers, guard, *places
                numba_cuda.launch(kernel, -(-count // numba_cuda.THREADS), numba_cuda.THREADS, stream, *args)
        self.scaled = [trust.scaled for trust in trusts]

    def hold_norms(self, hyper_rows: Sequence[HyperRow], units: Sequence[LimitedUnits]) -> None:
        """Hold the norms of these arrays' units, unless the step is not done."""
        with self.in_stream() as stream:
            axes = {each.number: each.axes for each in units}
            if self.held_norms is None or (self.planned, axes) != self.held_for:
                self.held_norms, self.held_for = HeldNorms(self, axes, stream), (self.planned, axes)
            self.held_norms.hold(self, hyper_rows, {each.number: each.limit for each in units}, stream)

    def add_squares(
        self, hyper_rows: Sequence[HyperRow], stream: Any, source: Source = "clipped_grad", sums: Any = None
    ) -> None:
        self.add_products(hyper_rows, stream, source, source, sums)

    def add_products(
        self, hyper_rows: Sequence[HyperRow], stream: Any, left: Source, right: Source, sums: Any = None
    ) -> None:
        """Put each array's sum of products into ``sums``: chunks first, then chunks in index order."""
        partials, partial_counts = numba_cuda.address(self.partials), numba_cuda.address(self.partial_counts)
        a_block = numba_cuda.CHUNKS_A_BLOCK
        for launch in self.launches:
            hyper = hyper_rows[launch.row]
            options = self.options_of(launch, hyper, left, right)
            kernel = products_kernel(self.device, left, right, options, launch.dtypes)
            stages = stages_of(hyper, compute_dtype(launch.dtypes.param))
            blocks, threads = -(-launch.chunk_count // a_block), (numba_cuda.LANES, a_block)
            args = self.work(launch, hyper), launch.chunk_count, stages, partials, partial_counts
            numba_cuda.launch(kernel, blocks, threads, stream, *args)
        self.add_chunks(self.partials, self.sums if sums is None else sums, stream)

    def add_chunks(self, partials: Any, sums: Any, stream: Any) -> None:
        """Add the numbers of each array's chunks."""
        kernel = plain_kernel(self.device, numba_cuda.sums)
        args = self.spans.address, numba_cuda.address(partials), numba_cuda.address(sums)
        numba_cuda.launch(kernel, self.count, numba_cuda.THREADS, stream, *args)

    @contextmanager
    def in_stream(self) -> Iterator[Any]:
        """Yield the stream to work in, on the device, with the launches up to date there."""
        with numba_cuda.on_device(self.device):
            stream = self.entered_stream()
            self.plan(stream)
            try:
                yield stream
            finally:
                if self.last_stream != 0:
                    self.end.record(stream)

    def entered_stream(self) -> Any:
        """Return the stream to work in: as asked, else the gradients' own; it waits for all that must come before."""
        given = {grad.stream for grad in self.grads if grad is not None and grad.stream is not None}
        producers = sorted({legacy(stream) for stream in given})
        handle = legacy(self.stream) if self.stream is not None else producers[0] if producers else 0
        stream = numba_cuda.stream_of(handle)
        for producer in producers:
            if producer != handle:
                numba_cuda.wait_for(producer, handle)
        if self.last_stream == 0 != handle:
            numba_cuda.wait_for(0, handle)
        elif self.last_stream not in (None, handle):
            self.end.wait_in(stream)  # that stream itself may be gone
        self.last_stream = handle
        return stream

    def plan(self, stream: Any) -> None:
        """Bring the launches up to date, and on the device what has changed of them."""
        rows = self.row_numbers.tobytes()
        if rows != self.planned_rows or self.are_new_grads:
            kinds = [None if grad is None or not grad.size else (grad.dtype, grad.device) for grad in self.grads]
            planned = (rows, kinds)
            if planned != self.planned:
                self.launches = [
                    Launch(row, dtypes, np.array(indices), None, None, int(self.chunk_counts[indices].sum()))
                    for (row, dtypes), indices in self.members().items()
                ]
                self.upload_chunks(stream)
                self.planned, self.uploaded = planned, None
            self.planned_rows, self.are_new_grads = rows, False
        if self.uploaded is None or not np.array_equal(self.grad_starts, self.uploaded):
            self.launches = [self.with_table(launch, stream) for launch in self.launches]
            self.uploaded = self.grad_starts

    def row_of(self, i: int) -> Row:
        """Return what an array has."""
        extras = self.extras[i]
        scales = tuple(None if scaled is None else scaled[1] for scaled in self.scales(i))
        more = extras.average, extras.accumulated, extras.copy, scales
        return Row(self.params[i], self.grads[i], tuple(self.slots[i]), *more)

    def scales(self, i: int) -> Sequence[tuple[Map, Any] | None]:
        """Return, for each slot of an array, its map and scales if it is in 8 bits; nothing if none is."""
        scales = self.extras[i].scales
        return scales if any(scales) else ()

    def members(self) -> dict[tuple[int, Row], list[int]]:
        """Return the arrays of each launch."""
        members: dict[tuple[int, Row], list[int]] = {}
        for i, grad in enumerate(self.grads):
            if grad is not None and grad.size:
                row = self.row_of(i)
                dtypes = row.like([array.dtype for array in row.present()])
                members.setdefault((int(self.row_numbers[i]), dtypes), []).append(i)
        return members

    def upload_chunks(self, stream: Any) -> None:
        for k, launch in enumerate(self.launches):
            counts = self.chunk_counts[launch.indices]
            array = np.repeat(np.arange(len(counts)), counts)
            chunk = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self.launches[k] = launch._replace(chunks=numba_cuda.uploaded(array << 32 | chunk, None, stream))
        has_grad = np.array([grad is not None for grad in self.grads])
        spans = np.stack([self.first_chunks, np.where(has_grad, self.chunk_counts, 0)], axis=1)
        self.spans = numba_cuda.uploaded(np.ascontiguousarray(spans), None, stream)
        total = int(self.chunk_counts.sum())
        self.partials, self.partial_counts = (numba_cuda.empty(total, "float64") for _ in range(2))

    def with_table(self, launch: Launch, stream: Any) -> Launch:
        """Return a launch with its table on the device, where only the places of gradients change after the first."""
        rows = launch.rows
        if rows is None:
            rows = self.table_of(launch)
        addresses = rows[:, numba_cuda.ROW_HEAD :]
        addresses[:, 1] = self.grad_starts[launch.indices]
        rows[:, 1] = heads_of(addresses, launch.dtypes, self.sizes[launch.indices])
        return launch._replace(rows=rows, table=numba_cuda.uploaded(rows, launch.table, stream))

    def table_of(self, launch: Launch) -> npt.NDArray[np.int64]:
        """Return the rows of a launch's arrays, as numba_cuda describes them, but their heads."""
        arrays = [self.row_of(i).present() for i in launch.indices]
        addresses = np.array([[array.address for array in row] for row in arrays], np.int64)
        sizes = self.sizes[launch.indices]
        head = np.stack([sizes, sizes, launch.indices, self.first_chunks[launch.indices]], axis=1)
        return np.concatenate([head, addresses], axis=1)


def starts_of(owners: Sequence[Any], readers: Sequence[Callable[[Any], int]]) -> list[int]:
    """Return where arrays begin now."""
    return [read(owner) for read, owner in zip(readers, owners, strict=True)]


def is_written(launch: Launch, hyper: HyperRow) -> bool:
    """Return whether the stages of a pass write something of these arrays."""
    is_finished = launch.dtypes.average is not None or launch.dtypes.copy is not None
    return bool(hyper.stages & (UPDATE | CLEAR | (FINISH if is_finished else 0)))


def heads_of(addresses: npt.NDArray[np.int64], dtypes: Row, sizes: npt.NDArray[np.int64]) -> Any:
    """Return how many elements lie before each parameter's first aligned vector; all where its arrays differ in it."""
    item_sizes = np.array([numba_cuda.ITEM_SIZES[dtype] for dtype in dtypes.present()])
    alignments = np.minimum(16, numba_cuda.width(compute_dtype(dtypes.param)) * item_sizes)
    heads = -addresses[:, 0] % alignments[0] // item_sizes[0]
    starts = addresses + heads[:, None] * item_sizes
    return np.where((starts % alignments == 0).all(axis=1), heads, sizes)


def legacy(stream: int) -> int:
    """Return a stream's handle, with one number for the legacy default stream, which the interface calls 1."""
    return 0 if stream == 1 else stream


def stream_handle(stream: Any) -> int:
    """Return the handle of a stream of torch, CuPy, Numba or cuda.core, or the number itself.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):  # Numba, cuda.core
        return int(stream.__cuda_stream__()[1])
    for name in ("cuda_stream", "ptr"):  # torch, CuPy
        if hasattr(stream, name):
            return int(getattr(stream, name))
    raise TypeError(f"stream={stream!r}: expected a CUDA stream of torch, CuPy, Numba or cuda.core, or its handle")


class DeviceNorms:
    """The last NORMS global norms of an optimizer, in the device's memory."""

    def __init__(self) -> None:
        self.values = numba_cuda.empty(NORMS, "float64")
        self.asked: list[weakref.ref[DeviceNumber] | None] = [None] * NORMS
        self.position = 0

    def following(self) -> tuple[DeviceNumber, int]:
        """Return the norm of the next step, and where the device is to put it."""
        place, self.position = self.position, (self.position + 1) % NORMS
        earlier = self.asked[place]
        held = earlier() if earlier is not None else None
        if held is not None:
            float(held)  # fetched while it is still there
        norm = DeviceNumber(lambda: self.fetch(place))
        self.asked[place] = weakref.ref(norm)
        return norm, numba_cuda.address(self.values) + 8 * place

    def fetch(self, place: int) -> float:
        return float(to_host(self.values[place : place + 1])[0])


@total_ordering
class DeviceNumber:
    """A number that the device has yet to tell, and a number as soon as it is used: then it waits for the device.

    ``float(norm)`` and ``bool(applied)`` give the number; comparing, formatting and printing do so by themselves.
    """

    def __init__(self, fetch: Callable[[], Any]) -> None:
        self.fetch: Callable[[], Any] | None = fetch
        self.known: Any = None

    @property
    def value(self) -> Any:
        if self.fetch is not None:
            self.known, self.fetch = self.fetch(), None
        return self.known

    def __float__(self) -> float:
        return float(self.value)

    def __int__(self) -> int:
        return int(self.value)

    __index__ = __int__

    def __bool__(self) -> bool:
        return bool(self.value)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DeviceNumber):
            return bool(self.value == other.value)
        return bool(self.value == other) if isinstance(other, (int, float)) else NotImplemented

    def __lt__(self, other: float | DeviceNumber) -> bool:
        return bool(self.value < (other.value if isinstance(other, DeviceNumber) else other))

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    def then(self, function: Callable[[Any], Any]) -> DeviceNumber:
        """Return what a function makes of the number, as late."""
        return DeviceNumber(lambda: function(self.value))
