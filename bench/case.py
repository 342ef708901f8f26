"""What is measured: one piece of work on one set of arrays, and a contender ready to do it."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Case:
    """One piece of work on one set of arrays with this many threads."""

    work: Work
    set: ArraySet
    threads: int

    @property
    def elements(self) -> int:
        return self.set.elements

    @property
    def memory(self) -> int:
        """Bytes of the gradient and of the arrays that are written."""
        return 4 * self.elements * (1 + self.work.written)

    @property
    def bytes_moved(self) -> int:
        return 4 * self.elements * (self.work.reads + self.work.writes)

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

    def __init__(self, step: Callable, gradient_sets: list, before: Callable = lambda grads: None) -> None:
        self._step, self._before, self._sets = step, before, itertools.cycle(gradient_sets)

    def prepare(self) -> None:
        grads = next(self._sets)
        handed = self._before(grads)
        self._grads = grads if handed is None else handed

    def step(self) -> None:
        self._step(self._grads)
