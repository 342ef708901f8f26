r"""Slots in 8 bits: ``state_dtype="uint8"``.

Blocks of 256 elements have a float32 scale each, their largest magnitude ``s`` (at least 2**-110, if not 0); every
element has one byte. An Adam then needs 2 (1 + 4 / 256) = 2.03 bytes of state a parameter instead of 8. Arrays of
fewer than 4096 elements stay as they are. The maps:

``signed``, of slots such as ``m``
    The byte is the sign and 7 bits ``c``: those of the floating-point number ``2 + 65534 |x| / s``, less those of 2,
    with 3 bits of mantissa. So there are 8 steps an octave over 15 octaves, evenly spaced below; 0 is exact. What is
    read back differs from ``x`` by less than ``step_signed(x, s) = (|x| + s / 32767) / 8``.

``root``, of slots that are never negative (``v``, ``v_max``, ``sum``, ``u``)
    ``(c / 255)**2 * s``, with c from 0 to 255: finer for small values, as the root is what is divided by. 0 is exact,
    and what is not 0 has ``c >= 1``: a small ``v`` never becomes 0, which would let the step explode.
    What is read back differs from ``x`` by less than ``step_root(x, s) = 2 / 255 * sqrt(x * s) + s / 65025``.

Rounding is up or down with the probabilities that keep the mean (but where that would be 0, as said): a ``v`` that
changes by a thousandth a step would stand still if each were rounded to the nearest. The random numbers are those of
:mod:`fastopt.arithmetic.dither`. The bounds hold up to 4 units in the last place of float32 (of ``s``). A block that
holds something infinite or NaN reads back infinite or NaN throughout.

The maps need no tables: ``csrc/quantize.h`` has the same arithmetic, and gives the same bits.

Source: the idea of blocks with a scale each is that of Dettmers et al., 8-bit Optimizers via Block-wise Quantization
(arXiv 2110.02861), whose maps are tables.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array
from .dither import SCALE_BLOCK
from .halves import Bits32

Map: TypeAlias = Literal["signed", "root"]
Codes: TypeAlias = npt.NDArray[np.uint8]
Scales: TypeAlias = npt.NDArray[np.float32]

#: Arrays with fewer elements keep float32 slots.
SMALLEST = 4096

#: Of a block that is not all 0: the reciprocals of smaller scales would be infinite.
LEAST_SCALE = np.float32(2.0**-110)

#: The bits of 2.0, which are a 0, a 1, and zeros: behind the first 5 bits stand the code's 7.
FIRST = np.uint32(0x40000000)
SIGNED_LARGEST = np.float32(65534)

#: The largest square that is rounded is a little less, so that no rounding error makes a 256 of 255.
ROOT_LARGEST = np.float32(65025)
ROOT_LARGEST_NORMAL = np.float32(65024.984375)

#: Random bits that round to the middle of the two: for values that are written once.
MIDDLE = np.uint32(0x8000)


def quantize(x: Array, map: Map, random: Bits32 | None = None) -> tuple[Codes, Scales]:
    """Return the codes of a one-dimensional float32 array, and the scales of its blocks.

    Parameters
    ----------
    x : float32 array, shape (n,)
        Not negative where ``map`` is ``"root"``.
    map : "signed" or "root"
        As the module says.
    random : uint32 array, shape (n,), optional
        16 random bits each to round with, as of :func:`fastopt.arithmetic.dither.random_bits`; without them codes are
        rounded near.

    Returns
    -------
    codes : uint8 array, shape (n,)
    scales : float32 array, shape (ceil(n / 256),)

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import quantize
    >>> codes, scales = quantize.quantize(np.float32([0.5, -1.0, 0.0, 2.0]), "signed")
    >>> quantize.dequantize(codes, scales, "signed").round(2)
    array([ 0.5, -1. ,  0. ,  2. ], dtype=float32)
    """
    padded = np.zeros((-(-x.size // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    padded.reshape(-1)[: x.size] = x
    bits = np.full(x.size, MIDDLE) if random is None else random
    with np.errstate(all="ignore"):
        scales = scales_of(magnitudes(padded).max(axis=1, initial=0))
        normals = normals_of(scales, map)
        padded[normals == 0] = 0
        normal = np.repeat(normals, SCALE_BLOCK)[: x.size]
        flat = padded.reshape(-1)[: x.size]
        return encode(flat, normal, bits, map), scales


def dequantize(codes: Codes, scales: Scales, map: Map) -> Array:
    """Return what codes and scales stand for: a float32 array, shape (n,)."""
    with np.errstate(all="ignore"):
        values: Array = decode(codes, np.repeat(units_of(scales, map), SCALE_BLOCK)[: codes.size], map)
    return values


def step_signed(x: Array, scale: Array | float) -> Array:
    """Return the worst-case error of the signed map at ``x``, as the module says."""
    return np.asarray((np.abs(x) + scale / 32767) / 8)


def step_root(x: Array, scale: Array | float) -> Array:
    """Return the worst-case error of the root map at ``x``, as the module says."""
    return np.asarray(2 / 255 * np.sqrt(x * scale) + scale / 65025)


# These work on what stands for arrays when a CUDA kernel is compiled, too.


def magnitudes(x: Array) -> Bits32:
    """Return the bits of float32 numbers without their signs: in the order of the magnitudes, with NaN behind all."""
    return x.view(np.uint32) & np.uint32(0x7FFFFFFF)  # type: ignore[no-any-return]


def scales_of(largest: Bits32) -> Array:
    """Return the scales of blocks, given the bits of their largest magnitudes."""
    least = LEAST_SCALE.view(np.uint32)
    return np.where((largest > 0) & (largest < least), least, largest).view(np.float32)


def normals_of(scales: Array, map: Map) -> Array:
    """Return what the elements of blocks are multiplied by before encoding; 0 if all of them are to be encoded as 0."""
    is_fine = (scales > 0) & (scales < np.float32(np.inf))
    largest = SIGNED_LARGEST if map == "signed" else ROOT_LARGEST_NORMAL
    return np.where(is_fine, largest / scales, np.float32(0))  # type: ignore[no-any-return]


def units_of(scales: Array, map: Map) -> Array:
    """Return what the elements of blocks are multiplied by after decoding."""
    return scales * (np.float32(1) / (SIGNED_LARGEST if map == "signed" else ROOT_LARGEST))  # type: ignore[no-any-return]


def encode(x: Array, normals: Array, random: Bits32, map: Map) -> Codes:
    return (encode_signed if map == "signed" else encode_root)(x, normals, random)


def decode(codes: Codes, units: Array, map: Map) -> Array:
    return (decode_signed if map == "signed" else decode_root)(codes) * units


def encode_signed(x: Array, normal: Array, random: Bits32) -> Codes:
    bits = (x * normal).view(np.uint32)
    magnitude = (bits & np.uint32(0x7FFFFFFF)).view(np.float32) + np.float32(2)
    rounded = magnitude.view(np.uint32) + (random << 4)
    return ((rounded | bits >> 4 & np.uint32(0x08000000)) >> 20).astype(np.uint8)  # type: ignore[no-any-return]


def decode_signed(codes: Codes) -> Array:
    wide = codes.astype(np.uint32)
    first = FIRST | (wide & np.uint32(0x80)) << 24
    return (first | (wide & np.uint32(0x7F)) << 20).view(np.float32) - first.view(np.float32)  # type: ignore[no-any-return]


def encode_root(x: Array, normal: Array, random: Bits32) -> Codes:
    square = np.maximum(x * normal, np.float32(1))
    uniform = random.astype(np.float32) * np.float32(2.0**-16)
    # From c to c + 1 with the probability that keeps the mean, (square - c**2) / (2 * c + 1):
    # sqrt(square - u (1 - u)) + u >= c + 1 where square - c**2 >= (1 - u) (2 * c + 1).
    codes = (np.sqrt((square - uniform) + uniform * uniform) + uniform).astype(np.int32)
    # The bits of 0 are 0, and the others' are more than any code.
    return np.minimum(codes, x.view(np.int32)).astype(np.uint8)  # type: ignore[no-any-return]


def decode_root(codes: Codes) -> Array:
    root = codes.astype(np.float32)
    return root * root
