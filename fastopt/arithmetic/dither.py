"""The random numbers for rounding: a counter-based generator, with the same bits for every thread count, instruction
set and backend. csrc/dither.h is the twin.

A number depends on the seed, the array's step, the array, the stream and the element, and on nothing else. Each block
of 256 elements has a hash of these (the finalizer of splitmix64). Inside a block, the hash is combined with the
element's place in reversed bits, which spread evenly. So every number is uniform over the steps, and the seed is the
only state.

Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

#: Elements that share a hash, and a scale in 8-bit storage: FO_SCALE_BLOCK of csrc/fastopt.h.
SCALE_BLOCK = 256
MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15

#: The stream of the parameter; those of its slots are 0, 1, ... This is FO_MAX_SLOTS of csrc/fastopt.h.
PARAM_STREAM = 6


def mix(x: Any) -> Any:
    """Return splitmix64's finalizer of 64-bit numbers: a Python int, or NumPy's unsigned integers."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & MASK
    return x ^ x >> 31


def step_key(seed: int, step: int) -> int:
    """Return the 64-bit key of a step."""
    return int(mix(seed & MASK ^ mix(step)))


def stream_key(key: Any, number: Any, stream: int) -> Any:
    """Return the 64-bit key of a stream of array ``number``, in the step with this key."""
    return mix(key ^ mix(number << 8 | stream))


def block_bits(key: Any, block: Any) -> Any:
    """Return the 16-bit hash of each block of a stream."""
    return (mix(block * GOLDEN + key) >> 48).astype(np.uint32)


def element_bits(place: Any) -> Any:
    """Return the 16 bits of each element from its place in a block (uint32): 8 bits in reverse, then 8 zeros."""
    place = (place & 0x55) << 1 | (place >> 1 & 0x55)
    place = (place & 0x33) << 2 | (place >> 2 & 0x33)
    return ((place & 0x0F) << 4 | place >> 4) << 8


#: The bits of all elements of a block.
ELEMENTS = element_bits(np.arange(SCALE_BLOCK, dtype=np.uint32))


def random_bits(key: int, number: int, stream: int, begin: int, length: int) -> npt.NDArray[np.uint32]:
    """Return 16 random bits for each element of array ``number`` from ``begin`` on, a multiple of 256."""
    first = begin // SCALE_BLOCK
    blocks = np.arange(first, first - (-length // SCALE_BLOCK), dtype=np.uint64)
    with np.errstate(over="ignore"):
        starts = block_bits(np.uint64(stream_key(key, number, stream)), blocks)
        return (starts[:, None] ^ ELEMENTS).reshape(-1)[:length]  # type: ignore[no-any-return]


def random_bits_near(key: Any, number: Any, stream: int, indices: Any) -> Any:
    """Return the same for the elements at ``indices`` (uint64), which are fewer than 256 and consecutive."""
    stream_bits = stream_key(key, number, stream)
    blocks = indices >> 8
    # They lie in at most two blocks.
    first, last = (block_bits(stream_bits, block) for block in (blocks[:1], blocks[-1:]))
    starts = np.where(blocks > blocks[:1], last, first)
    return starts ^ element_bits((indices & (SCALE_BLOCK - 1)).astype(np.uint32))


def random_bits_within(key: Any, number: Any, stream: int, first: Any, offsets: Any) -> Any:
    """Return the same for elements of one block: those at the uint32 ``offsets`` behind the place ``first`` (uint64).

    ``first`` and ``offsets`` have no bit in common, so that one reversal serves all.
    """
    start = block_bits(stream_key(key, number, stream), first >> 8)
    return start ^ element_bits((first & (SCALE_BLOCK - 1)).astype(np.uint32)) ^ element_bits(offsets)
