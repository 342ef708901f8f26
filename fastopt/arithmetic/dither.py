"""The random numbers that rounding uses: a counter-based generator, the same bits for every thread count, instruction
set and backend. csrc/dither.h is the twin.

A number is a function of (seed, the array's step, the array, the stream, the element) and of nothing else: blocks of
256 elements have a hash of it all (the finalizer of splitmix64), and inside a block the elements' numbers in reversed
bits, which spread evenly, tell them apart. So every number is uniform over the steps, and there is no state but the
seed.

Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Elements that share a random number, and a scale in 8-bit storage: FO_SCALE_BLOCK of csrc/fastopt.h.
SCALE_BLOCK = 256
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

#: The stream of the parameter itself; those of its slots are 0, 1, ... This is FO_MAX_SLOTS of csrc/fastopt.h.
PARAM_STREAM = 6


def mix(x: Any) -> Any:
    """Return splitmix64's finalizer of 64-bit numbers: a Python int, or unsigned ones of NumPy."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def step_key(seed: int, step: int) -> int:
    """Return the 64 bits that a step of some arrays begins with."""
    return int(mix(seed & MASK ^ mix(step)))


def stream_key(key: Any, number: Any, stream: int) -> Any:
    """Return the 64 bits that a stream of array ``number`` begins with, in a step of this key."""
    return mix(key ^ mix(number << 8 | stream))


def block_bits(key: Any, block: Any) -> Any:
    """Return the 16 bits that blocks of a stream begin with."""
    return (mix(block * GOLDEN + key) >> 48).astype(np.uint32)


def element_bits(place: Any) -> Any:
    """Return what tells elements apart by their places in a block (uint32): 8 bits in reverse, then 8 bits of 0."""
    place = (place & 0x55) << 1 | (place >> 1 & 0x55)
    place = (place & 0x33) << 2 | (place >> 2 & 0x33)
    return ((place & 0x0F) << 4 | place >> 4) << 8


#: Of all elements of a block.
ELEMENTS = element_bits(np.arange(SCALE_BLOCK, dtype=np.uint32))


def random_bits(key: int, number: int, stream: int, begin: int, length: int) -> npt.NDArray[np.uint32]:
    """Return 16 random bits for each element of array ``number`` from ``begin`` on, a multiple of 256."""
    first = begin // SCALE_BLOCK
    blocks = np.arange(first, first - (-length // SCALE_BLOCK), dtype=np.uint64)
    with np.errstate(over="ignore"):
        starts = block_bits(np.uint64(stream_key(key, number, stream)), blocks)
        return (starts[:, None] ^ ELEMENTS).reshape(-1)[:length]  # type: ignore[no-any-return]


def random_bits_near(key: Any, number: Any, stream: int, indices: Any) -> Any:
    """Return the same for elements of the places ``indices`` (uint64): less than 256, which follow each other."""
    stream_bits = stream_key(key, number, stream)
    blocks = indices >> 8
    # In two blocks at most.
    first, last = (block_bits(stream_bits, block) for block in (blocks[:1], blocks[-1:]))
    starts = np.where(blocks > blocks[:1], last, first)
    return starts ^ element_bits((indices & (SCALE_BLOCK - 1)).astype(np.uint32))


def random_bits_within(key: Any, number: Any, stream: int, first: Any, offsets: Any) -> Any:
    """Return the same for elements of one block: at the place ``first`` (uint64) and the uint32 ``offsets`` behind it.

    First and offsets have no bit in common, so that one reversal serves all.
    """
    start = block_bits(stream_key(key, number, stream), first >> 8)
    return start ^ element_bits((first & (SCALE_BLOCK - 1)).astype(np.uint32)) ^ element_bits(offsets)
