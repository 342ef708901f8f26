r"""Slots in 8 bits: ``state_dtype="uint8"``.

Each block of 256 elements has a float32 scale ``s``: its largest magnitude (at least 2**-110, if not 0). Each element
has one byte. Adam then needs 2 (1 + 4 / 256) = 2.03 bytes of state per parameter instead of 8. Arrays of fewer than
4096 elements stay as they are. There are two codecs:

``signed``, for slots such as ``m``
    The byte is the sign and 7 bits ``c``: the bits of the floating-point number ``2 + 65534 |x| / s``, less those of 2,
    with 3 bits of mantissa: 8 steps per octave over 15 octaves, and even steps below; 0 is exact. The decoded value
    differs from ``x`` by less than ``step_signed(x, s) = (|x| + s / 32767) / 8``.

``root``, for slots that are never negative (``v``, ``v_max``, ``sum``, ``u``)
    ``(c / 255)**2 * s``, with c from 0 to 255: finer for small values, since rules divide by the root. 0 is exact, and
    other values have ``c >= 1``: a small ``v`` never becomes 0, which would let the step explode. The decoded value
    differs from ``x`` by less than ``step_root(x, s) = 2 / 255 * sqrt(x * s) + s / 65025``.

Values are rounded up or down with the probabilities that keep the mean (except that ``root`` never rounds to 0). If
each were rounded to the nearest, a ``v`` that changes by a thousandth per step would stand still. The random numbers
are those of :mod:`fastopt.arithmetic.dither`. The bounds hold up to 4 units in the last place of float32 (of ``s``). A
block with an infinite or NaN element decodes to infinite or NaN throughout.

The codecs need no tables: ``csrc/quantize.h`` has the same arithmetic, and gives the same bits.

Source: the idea of a scale per block is from Dettmers et al., 8-bit Optimizers via Block-wise Quantization (arXiv
2110.02861), whose codecs are tables.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array, is_float
from ..arrays.memory import described, in_shape_of
from .dither import SCALE_BLOCK
from .halves import Bits32

Map: TypeAlias = Literal["signed", "root"]
Codes: TypeAlias = npt.NDArray[np.uint8]
Scales: TypeAlias = npt.NDArray[np.float32]

#: Arrays with fewer elements keep float32 slots.
SMALLEST = 4096

#: The least scale of a block that is not all 0: the reciprocals of smaller ones would be infinite.
LEAST_SCALE = np.float32(2.0**-110)

#: The bits of 2.0: a 0, a 1, and zeros. The 7 bits of the code follow the first 5.
FIRST = np.uint32(0x40000000)
SIGNED_LARGEST = np.float32(65534)

#: The largest normalized square is a little less, so that no rounding error makes code 256 of 255.
ROOT_LARGEST = np.float32(65025)
ROOT_LARGEST_NORMAL = np.float32(65024.984375)

#: Bits that round to the nearer code, for values that are written once.
MIDDLE = np.uint32(0x8000)


def quantize(x: Array, map: Map, random: Bits32 | None = None) -> tuple[Codes, Scales]:
    """Return the codes of a float array of any shape, and the scales of its blocks.

    The blocks go through an array in C order or Fortran order as it lies in memory, and the codes lie likewise. They go
    through any other array in C order.

    Parameters
    ----------
    x : float array
        Computed in float32. Not negative where ``map`` is ``"root"``.
    map : "signed" or "root"
        The codec; see the module.
    random : uint32 array of as many elements, optional
        16 random bits for each element, in the order of the blocks. None: round to the nearer code.

    Returns
    -------
    codes : uint8 array, with the shape of ``x``
    scales : float32 array, shape (ceil(x.size / 256),)

    Raises
    ------
    TypeError, ValueError
        If ``x`` is not an array of floats, ``map`` is another word, or there is not one random number for each element.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt import quantize
    >>> codes, scales = quantize.quantize(np.float32([[0.5, -1.0], [0.0, 2.0]]), "signed")
    >>> quantize.dequantize(codes, scales, "signed").round(2)
    array([[ 0.5, -1. ],
           [ 0. ,  2. ]], dtype=float32)
    """
    check_map(map)
    if not isinstance(x, (np.ndarray, np.generic)) or not is_float(x.dtype):
        raise TypeError(f"x is {found(x)}; expected a NumPy array of floats")
    x = np.asarray(x)
    if random is not None:
        if not isinstance(random, np.ndarray) or random.dtype != np.uint32:
            raise TypeError(f"random is {found(random)}; expected a NumPy array of uint32")
        if random.size != x.size:
            raise ValueError(f"random: expected {x.size} numbers, one for each element, got {random.size}")
    values = in_block_order(x)
    blocks = np.zeros((-(-x.size // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    bits = np.full(x.size, MIDDLE) if random is None else random.reshape(-1)
    with np.errstate(all="ignore"):
        blocks.reshape(-1)[: x.size] = values
        scales = scales_of(magnitudes(blocks).max(axis=1, initial=0))
        normals = normals_of(scales, map)
        blocks[normals == 0] = 0
        normal = np.repeat(normals, SCALE_BLOCK)[: x.size]
        flat = blocks.reshape(-1)[: x.size]
        return in_shape_of(x, encode(flat, normal, bits, map)), scales


def dequantize(codes: Codes, scales: Scales, map: Map) -> Array:
    """Return the values of codes, such as those of ``opt.state["W"]["m"]``, and their scales, ``["m_scale"]``.

    Parameters
    ----------
    codes : uint8 array
        In the order of memory of the array that was quantized: a copy in another order has other blocks.
    scales : float32 array, shape (ceil(codes.size / 256),)
    map : "signed" or "root"
        The codec: "root" for slots that are never negative. (``opt.slot("W", "m")`` knows it.)

    Returns
    -------
    float32 array, with the shape of ``codes``

    Raises
    ------
    TypeError, ValueError
        If an argument is not such an array, or ``map`` is another word.
    """
    check_map(map)
    for name, array, dtype in (("codes", codes, np.uint8), ("scales", scales, np.float32)):
        if not isinstance(array, (np.ndarray, np.generic)) or array.dtype != dtype:
            raise TypeError(f"{name} is {found(array)}; expected a NumPy array of {np.dtype(dtype)}")
    codes = np.asarray(codes)
    blocks = -(-codes.size // SCALE_BLOCK)
    if scales.shape != (blocks,):
        raise ValueError(
            f"scales has shape {scales.shape}; expected ({blocks},), one for every {SCALE_BLOCK} codes of shape "
            f"{codes.shape}"
        )
    with np.errstate(all="ignore"):
        units = np.repeat(units_of(scales, map), SCALE_BLOCK)[: codes.size]
        return in_shape_of(codes, decode(in_block_order(codes), units, map))


def check_map(map: Map) -> None:
    if map not in ("signed", "root"):
        raise ValueError(f"map={map!r}: expected 'signed' or 'root'")


def found(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else described(value)


def in_block_order(array: Array) -> Array:
    """Return the elements in the order of the blocks."""
    return (array if array.flags.c_contiguous or not array.flags.f_contiguous else array.T).reshape(-1)


def step_signed(x: Array, scale: Array | float) -> Array:
    """Return the worst-case error of the signed codec at ``x``."""
    return np.asarray((np.abs(x) + scale / 32767) / 8)


def step_root(x: Array, scale: Array | float) -> Array:
    """Return the worst-case error of the root codec at ``x``."""
    return np.asarray(2 / 255 * np.sqrt(x * scale) + scale / 65025)


# The functions below also work on the symbols that stand for arrays while a CUDA kernel is compiled.


def magnitudes(x: Array) -> Bits32:
    """Return the bits of float32 numbers without their signs, which sort by magnitude, with NaN last."""
    return x.view(np.uint32) & np.uint32(0x7FFFFFFF)  # type: ignore[no-any-return]


def scales_of(largest: Bits32) -> Array:
    """Return the scales of blocks, given the bits of their largest magnitudes."""
    least = LEAST_SCALE.view(np.uint32)
    return np.where((largest > 0) & (largest < least), least, largest).view(np.float32)


def normals_of(scales: Array, codec: Map) -> Array:
    """Return the factors of blocks before encoding; 0 where all elements are encoded as 0."""
    is_fine = (scales > 0) & (scales < np.float32(np.inf))
    largest = SIGNED_LARGEST if codec == "signed" else ROOT_LARGEST_NORMAL
    return np.where(is_fine, largest / scales, np.float32(0))  # type: ignore[no-any-return]


def units_of(scales: Array, codec: Map) -> Array:
    """Return the factors of blocks after decoding."""
    return scales * (np.float32(1) / (SIGNED_LARGEST if codec == "signed" else ROOT_LARGEST))  # type: ignore[no-any-return]


def encode(x: Array, normals: Array, random: Bits32, codec: Map) -> Codes:
    return (encode_signed if codec == "signed" else encode_root)(x, normals, random)


def decode(codes: Codes, units: Array, codec: Map) -> Array:
    return (decode_signed if codec == "signed" else decode_root)(codes) * units


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
    # An x of 0 has the bits 0; the bits of any other x are more than 255.
    return np.minimum(codes, x.view(np.int32)).astype(np.uint8)  # type: ignore[no-any-return]


def decode_root(codes: Codes) -> Array:
    root = codes.astype(np.float32)
    return root * root
