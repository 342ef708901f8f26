"""Runs of a history over arrays of any lengths, dtypes and bounds, and everything that they leave, as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastopt.backends.choosing import host_backend
from fastopt.backends.table import ArrayExtras


class Bounds(NamedTuple):
    """The bounds of each array: those of its elements or None, and its numbers; None: no numbers at all."""

    arrays: list[tuple[Any, Any]]
    numbers: tuple[Any, Any] | None


def no_bounds(params: list[Any]) -> Bounds:
    return Bounds([(None, None)] * len(params), None)


def some_bounds(params: list[Any]) -> Bounds:
    """Return bounds of all kinds: of single elements, of an array, on both sides, on one, on none."""
    arrays: list[tuple[Any, Any]] = []
    lower, upper = np.full(len(params), -np.inf), np.full(len(params), np.inf)
    for k, param in enumerate(params):
        below, above = np.full_like(param, -0.25), np.full_like(param, 0.5)
        below[::3], above[1::4] = -np.inf, np.inf
        below[::7] = above[::7] = 0.125  # fixed
        arrays.append([(None, None), (below, above), (None, above), (below, None)][k % 4])
        if k % 3 == 0:
            lower[k], upper[k] = -0.125, 0.25
        if k % 5 == 1:
            upper[k] = 0.375
    return Bounds(arrays, (lower, upper))


def move_in(params: list[Any], bounds: Bounds) -> None:
    """Move parameters into their bounds."""
    for k, (param, (below, above)) in enumerate(zip(params, bounds.arrays, strict=True)):
        if below is not None:
            np.maximum(param, below, out=param)
        if above is not None:
            np.minimum(param, above, out=param)
        if bounds.numbers is not None:
            np.clip(param, bounds.numbers[0][k], bounds.numbers[1][k], out=param)


def run(
    lengths: list[int],
    dtypes: list[str],
    backend: str,
    size: int = 4,
    bounds: Any = no_bounds,
    grad_dtypes: tuple[str, ...] = (),
    iterations: int = 7,
    specials: tuple[float, ...] = (),
) -> list[bytes]:
    """Return the bytes of the parameters, and the numbers of each operation, of a few iterations."""
    return list(pieces(lengths, dtypes, backend, size, bounds, grad_dtypes, iterations, specials))


def pieces(
    lengths: list[int],
    dtypes: list[str],
    backend: str,
    size: int,
    bounds: Any,
    grad_dtypes: tuple[str, ...],
    iterations: int,
    specials: tuple[float, ...],
) -> Iterator[bytes]:
    rng = np.random.default_rng(11)
    kinds = [dtypes[k % len(dtypes)] for k in range(len(lengths))]
    params = [rng.normal(size=n).astype(kind) for n, kind in zip(lengths, kinds, strict=True)]
    scales = [np.exp(2 * rng.normal(size=n)) for n in lengths]
    targets = [rng.normal(size=n) for n in lengths]
    limits = bounds(params)
    move_in(params, limits)
    chosen = host_backend(backend)
    extras = [ArrayExtras(lower=below, upper=above) for below, above in limits.arrays]
    table = chosen.table(params, [()] * len(params), extras)
    history = chosen.history(table, size, limits.numbers)

    def set_grads(with_specials: bool = False) -> None:
        grads = [
            (scale * (param - target)).astype(grad_dtypes[k % len(grad_dtypes)] if grad_dtypes else kinds[k])
            for k, (scale, param, target) in enumerate(zip(scales, params, targets, strict=True))
        ]
        if with_specials:
            for k, grad in enumerate(grads):
                grad[k % 5 :: 37] = specials[k % len(specials)]
        table.set_grads(grads)

    def told(value: Any) -> bytes:
        # NaN has several patterns of bits.
        return repr(value).encode()

    set_grads()
    yield told(history.begin())
    for k in range(iterations):
        yield told(history.direct(0.03125 if k == 0 else 1.0))
        set_grads(bool(specials) and k % 2 == 1)
        yield told(history.read())
        yield told(history.try_step(0.625))
        set_grads()
        yield told(history.read())
        if k % 3 == 2:
            history.put_back()
            yield b"".join(param.tobytes() for param in params)
            history.try_step(0.25)
            set_grads()
            yield told(history.read())
        yield told((history.accept(), history.count))
        yield b"".join(param.tobytes() for param in params)
    yield told(history.begin())
    history.direct(0.5)
    yield b"".join(param.tobytes() for param in params)
