"""The random numbers that rounding uses: a counter-based generator, the same bits for every thread count, instruction
set and backend. csrc/dither.h is the twin.

A number is a function of (seed, the array's step, the array, the stream, the element) and of nothing else: blocks of
256 elements have a hash of it all (the finalizer of splitmix64), and inside a block the elements' numbers in reversed
bits, which spread evenly, tell them apart. So every number is uniform over the steps, and there is no state but the
seed.

Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 256
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

#: What the elements of a block are told apart by: the 8 bits of each one's number in reverse, then 8 bits of 0.
ELEMENTS = sum((np.arange(BLOCK, dtype=np.uint32) >> i & 1) << (15 - i) for i in range(8))

#: The stream of the parameter itself; those of its slots are 0, 1, ... This is FO_MAX_SLOTS of csrc/fastopt.h.
PARAM_STREAM = 6


def mix(x: int) -> int:
    """Return splitmix64's finalizer of a 64-bit number."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def step_key(seed: int, step: int) -> int:
    """Return the 64 bits that a step of some arrays begins with."""
    return mix(seed & MASK ^ mix(step))


def random_bits(key: int, number: int, stream: int, begin: int, length: int) -> npt.NDArray[np.uint32]:
    """Return 16 random bits for each element of array ``number`` from ``begin`` on, a multiple of 256."""
    stream_key = mix(key ^ mix(number << 8 | stream))
    first = begin // BLOCK
    hashes = np.arange(first, first - (-length // BLOCK), dtype=np.uint64)
    with np.errstate(over="ignore"):
        hashes *= np.uint64(GOLDEN)
        hashes += np.uint64(stream_key)
        hashes = (hashes ^ hashes >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        hashes = (hashes ^ hashes >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        hashes ^= hashes >> np.uint64(31)
    blocks = (hashes >> np.uint64(48)).astype(np.uint32)
    return (blocks[:, None] ^ ELEMENTS).reshape(-1)[:length]  # type: ignore[no-any-return]
