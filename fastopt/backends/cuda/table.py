"""The arrays of an optimizer on a GPU: one launch for all that have equal hyperparameters.

Nothing here waits for the device. All work is put into one stream, in order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...arithmetic import tiny
from ...arithmetic.pipeline import StageScalars
from ...arithmetic.recording import RecordedRule
from ...arithmetic.rules import SGDScalars, sgd
from ..stages import stage_flags, stage_values
from ..table import CLEAR, FINISH, UPDATE, ArrayExtras, HyperRow, Source
from .arrays import DeviceArray, device_of
from .compiling import Kernel, compiled
from .elements import KernelOptions, Maker, accumulate_of, clear_of, step_of
from .gradients import DeviceGrads, Owners
from .kernels import element_kernel
from .launches import Launch, LaunchPlan, launch
from .layout import CHUNKS_PER_BLOCK, COMPUTE_DTYPES, ITEM_SIZES, LANES, NUMPY_DTYPES, THREADS, Work
from .memory import address, as_signed, empty, to_host
from .streams import StreamOrder, on_device, synchronize
from .sum_kernels import products_kernel, sums

#: The fields of HyperRow that have defaults and that kernels know.
KNOWN = {
    *("mean", "l1", "cautious", "threshold", "lower", "upper"),
    *("average_weight", "dither", "stages", "zero_grads", "flush"),
}


class NextStep(NamedTuple):
    """The results of earlier passes that the next step uses, on the device."""

    clips_arrays: bool = False
    clips_all: bool = False
    #: The address of a number that is not 0 if the step must not be done, and of its opposite after it; 0: no guard.
    guard: int = 0
    #: For each row the rule's scalars that are each array's own rate.
    rates: Sequence[tuple[str, ...]] = ()


class CudaTable:
    """The arrays of an optimizer on a device."""

    def __init__(
        self,
        params: Sequence[DeviceArray],
        slots: Sequence[Sequence[DeviceArray]],
        extras: Sequence[ArrayExtras] | None = None,
    ) -> None:
        self.params = params
        self.count = len(params)
        self.device = device_of(params)
        self.row_numbers = np.zeros(self.count, np.int32)
        self.array_clip = np.ones(self.count)
        self.indices = np.arange(self.count)
        self.owners = Owners([param.owner for param in params])
        self.starts = [param.address for param in params]
        self.grads = DeviceGrads(self.count)
        self.plan = LaunchPlan(params, slots, extras or [ArrayExtras()] * self.count)
        self.next = NextStep()
        #: The stream that the next step was asked to run in.
        self.stream: int | None = None
        with on_device(self.device):
            synchronize()  # slots may still be written, or used by an earlier table, in any stream
            self.order = StreamOrder()
            #: For each array the factor of its gradient, and after them that of all gradients; and the arrays' rates.
            self.factors = {dtype: empty(self.count + 1, dtype) for dtype in COMPUTE_DTYPES}
            self.rates = {dtype: empty(self.count, dtype) for dtype in COMPUTE_DTYPES}
            self.sums = empty(self.count, "float64")

    # The gradients, and where the parameters are.

    def set_grads(self, grads: Sequence[DeviceArray | None]) -> None:
        self.grads.take(grads)

    def move_grads(self, grads: Sequence[Any], are_written: bool) -> bool:
        return self.grads.move(grads)

    def grad_addresses(self) -> npt.NDArray[np.uintp]:
        return self.grads.starts

    def is_current(self) -> bool:
        return self.grads.are_current()

    def check_params_stayed(self) -> None:
        starts = self.owners.starts()
        if starts == self.starts:
            return
        for i, (param, start) in enumerate(zip(self.params, starts, strict=True)):
            if start != param.address:
                raise ValueError(
                    f"params: array number {i} (shape {param.shape}) has moved in memory since the optimizer was "
                    "built; change arrays in place, or build a new optimizer"
                )

    # The passes.

    @contextmanager
    def in_stream(self) -> Iterator[Any]:
        """Yield the stream to work in, on the device, with the launches adapted to the gradients."""
        with on_device(self.device):
            stream = self.order.enter(self.stream, self.grads.streams())
            self.plan.update(self.row_numbers, self.grads, stream)
            try:
                yield stream
            finally:
                self.order.leave(stream)

    def step(self, hyper_rows: Sequence[HyperRow]) -> None:
        self.check_params_stayed()
        with self.in_stream() as stream:
            self.run(step_of, hyper_rows, stream)

    def accumulate(self, hyper_rows: Sequence[HyperRow]) -> None:
        rows = [hyper._replace(rule=sgd, scalars=SGDScalars(0.0)) for hyper in hyper_rows]
        with self.in_stream() as stream:
            self.run(accumulate_of, rows, stream)

    def run(self, make: Maker, hyper_rows: Sequence[HyperRow], stream: Any) -> None:
        """Call on every element the function that ``make`` returns; clear the gradients if a guard forbids that."""
        guard = self.next.guard
        # All kernels first: one that can't be compiled must leave every array as it is.
        ready = [
            (each, guard, *self.kernel_of(make, each, hyper_rows[each.row]))
            for each in self.plan.launches
            if is_written(each, hyper_rows[each.row])
        ]
        if guard:
            ready += [
                (each, guard + 8, *self.kernel_of(clear_of, each, hyper_rows[each.row]))
                for each in self.plan.launches
                if hyper_rows[each.row].zero_grads and hyper_rows[each.row].stages & CLEAR
            ]
        for each, at, kernel, scalars, h in ready:
            work = self.work(each, hyper_rows[each.row])._replace(guard=at)
            launch(kernel, each.chunk_count, THREADS, stream, work, scalars, h)

    def kernel_of(self, make: Maker, each: Launch, hyper: HyperRow) -> tuple[Kernel, StageScalars, tuple[Any, ...]]:
        """Return the kernel of a launch, and its numbers."""
        options, rule, scalars = self.options(each, hyper), hyper.rule, hyper.scalars
        if make is clear_of:
            options, rule, scalars = KernelOptions(guarded=True), sgd, SGDScalars(0.0)
        with np.errstate(all="ignore"):
            numbers = tuple(map(NUMPY_DTYPES[each.dtype], scalars))
        h = numbers if isinstance(rule, RecordedRule) else type(scalars)(*numbers)
        kernel = compiled(self.device, element_kernel, make, rule, options, each.dtypes, type(h))
        return kernel, stage_scalars(hyper, each.dtype), h

    def options(self, each: Launch, hyper: HyperRow) -> KernelOptions:
        check_known(hyper)
        clips_arrays, clips_all, guard, rates = self.next
        has_average = each.dtypes.average is not None
        flags = stage_flags(hyper, NUMPY_DTYPES[each.dtype], clips_arrays, clips_all, has_average)
        return KernelOptions(
            # In every step, so that one kernel does for all: the scalars are 0 where nothing is flushed.
            flags._replace(
                flush_slots=tiny.is_flushed(hyper.rule),
                flush_average=has_average,
                lower_of_elements=each.dtypes.lower is not None,
                upper_of_elements=each.dtypes.upper is not None,
            ),
            guard != 0,
            rates[each.row] if rates else (),
            tuple(None if scaled is None else scaled[0] for scaled in self.plan.scales(each.indices[0])),
        )

    def source_options(self, each: Launch, hyper: HyperRow, *sources: Source) -> KernelOptions:
        """Return the options that make these sources."""
        options = self.options(each, hyper)
        if {"grad", "clipped_grad"}.isdisjoint(sources):
            return KernelOptions()
        return KernelOptions(options.flags.of_grad())

    def work(self, each: Launch, hyper: HyperRow) -> Work:
        """Return the first argument of the kernels of a launch."""
        clips, global_clip = self.factor_addresses(each.dtype)
        rates = address(self.rates[each.dtype])
        return Work(each.table.address, each.chunks.address, clips, global_clip, rates, 0, as_signed(hyper.dither))

    def factor_addresses(self, dtype: str) -> tuple[int, int]:
        """Return where the clip factors are: of each array, and of all."""
        start = address(self.factors[dtype])
        return start, start + self.count * ITEM_SIZES[dtype]

    # Sums.

    def sum_products(
        self, hyper_rows: Sequence[HyperRow], left: Source, right: Source, count_nonfinite: bool = False
    ) -> npt.NDArray[np.float64]:
        if count_nonfinite:
            raise NotImplementedError("sum_products: on a GPU the reader counts elements that are not finite")
        with self.in_stream() as stream:
            self.add_products(hyper_rows, stream, left, right)
            return to_host(self.sums)

    def add_squares(
        self, hyper_rows: Sequence[HyperRow], stream: Any, source: Source = "clipped_grad", to: Any = None
    ) -> None:
        self.add_products(hyper_rows, stream, source, source, to)

    def add_products(
        self, hyper_rows: Sequence[HyperRow], stream: Any, left: Source, right: Source, to: Any = None
    ) -> None:
        """Put each array's sum of products into ``to``, else ``sums``: chunks first, then chunks in index order."""
        plan = self.plan
        for each in plan.launches:
            hyper = hyper_rows[each.row]
            options = self.source_options(each, hyper, left, right)
            kernel = compiled(self.device, products_kernel, left, right, options, each.dtypes)
            blocks, threads = -(-each.chunk_count // CHUNKS_PER_BLOCK), (LANES, CHUNKS_PER_BLOCK)
            numbers = self.work(each, hyper), each.chunk_count, stage_scalars(hyper, each.dtype)
            launch(kernel, blocks, threads, stream, *numbers, plan.partials, plan.partial_counts)
        self.add_chunks(plan.partials, self.sums if to is None else to, stream)

    def add_chunks(self, partials: Any, to: Any, stream: Any) -> None:
        """Add the numbers of each array's chunks."""
        launch(compiled(self.device, sums), self.count, THREADS, stream, self.plan.spans.address, partials, to)


def stage_scalars(hyper: HyperRow, dtype: str) -> StageScalars:
    with np.errstate(all="ignore"):
        return StageScalars(*map(NUMPY_DTYPES[dtype], stage_values(hyper, dtype)))


def is_written(each: Launch, hyper: HyperRow) -> bool:
    """Return whether the stages of a pass write to any of these arrays."""
    dtypes, has_bounds = each.dtypes, hyper.lower > -math.inf or hyper.upper < math.inf
    parts = dtypes.average, dtypes.copy, dtypes.lower, dtypes.upper
    is_finished = has_bounds or any(part is not None for part in parts)
    return bool(hyper.stages & (UPDATE | CLEAR | (FINISH if is_finished else 0)))


def check_known(hyper: Any) -> None:
    """Raise for a number that asks for something no kernel does.

    Raises
    ------
    ValueError
        Says which.
    """
    defaults = hyper._field_defaults
    asked = [name for name in defaults if name not in KNOWN and getattr(hyper, name) != defaults[name]]
    if asked:
        raise ValueError(f"{', '.join(asked)}: not done on a GPU yet; leave it out, or give NumPy arrays")
