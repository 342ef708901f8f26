"""What is measured: one piece of work on one set of arrays, and a contender ready to do it."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.shapes import ArraySet

BLOCK = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


@dataclass(frozen=True)
class Work:
    """Memory traffic of a step: arrays read and written, is the gradient read once more for a norm, and written."""

    written: int
    norm: bool = False
    write_grads: bool = False

    @property
    def reads(self) -> int:
        return self.written + self.norm + (self.written > 0 or self.write_grads)

    @property
    def writes(self) -> int:
        return self.written + self.write_grads

    def memory(self, elements: int) -> int:
        """Bytes of the gradient and of the arrays that are written."""
        return 4 * elements * (1 + self.written)

    def bytes_moved(self, elements: int) -> int:
        return 4 * elements * (self.reads + self.writes)


@dataclass(frozen=True)
class Case:
    """One piece of work on one set of arrays with this many threads."""

    work: Work
    set: ArraySet
    threads: int
    blas_threads: int | None = None  # of NumPy's BLAS, where they differ from `threads`

    @property
    def elements(self) -> int:
        return self.set.elements

    @property
    def memory(self) -> int:
        """Bytes that a contender needs at least."""
        return self.work.memory(self.elements)

    @property
    def bytes_moved(self) -> int:
        return self.work.bytes_moved(self.elements)

    def arrays(self, seed: int = 0) -> list[np.ndarray]:
        """New float32 arrays, every page of them touched."""
        return [fill(np.empty(shape, np.float32), seed) for shape in self.set.shapes]

    def gradient_sets(self) -> list[list[np.ndarray]]:
        """Gradients, four sets to take in turn where each step is to see other arrays than the step before."""
        return [self.arrays(seed=7) for _ in range(4 if self.set.fresh else 1)]


def fill(array: np.ndarray, seed: int) -> np.ndarray:
    """Normal numbers from a fixed block: as fast as copying, and the same for every contender."""
    flat, block = array.reshape(-1), np.roll(BLOCK[: min(array.size, BLOCK.size)], seed)
    for start in range(0, flat.size, block.size):
        flat[start : start + block.size] = block[: flat.size - start]
    return array


class Stepper:
    """A contender that is ready to go: `prepare()` outside the measured time, then `step()`.

    Parameters
    ----------
    step : called with one of the gradient sets
    gradient_sets : in whatever form the contender takes them
    before : called with the gradient set outside the measured time, say to fill gradients that a step overwrites;
        what it returns, if anything, is what `step` gets
    """

    def __init__(self, step: Callable, gradient_sets: list, before: Callable | None = None) -> None:
        self.before = before
        self._step, self._sets = step, itertools.cycle(gradient_sets)

    def prepare(self, steps: int = 1) -> None:
        self._grads = [self._next_gradients() for _ in range(steps)]

    def step(self) -> None:
        for grads in self._grads:
            self._step(grads)

    def seconds(self, steps: int) -> float:
        """One step's time, the mean of so many in a row; more than one only where nothing comes before a step."""
        self.prepare(steps)
        step, sets = self._step, self._grads
        start = time.perf_counter()
        for grads in sets:
            step(grads)
        return (time.perf_counter() - start) / steps

    def _next_gradients(self) -> Any:
        grads = next(self._sets)
        handed = self.before(grads) if self.before else None
        return grads if handed is None else handed
