"""How slots are stored: as they are computed, in bfloat16, or in 8 bits with scales."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from ..arithmetic import halves, quantize
from ..arithmetic.quantize import Map
from ..arrays.dtypes import Array, is_bfloat16


def slot_storage(state_dtype: str | None, size: int) -> str | None:
    """Return how the slots of an array of this size are stored; None: as they are computed."""
    return None if state_dtype == "uint8" and size < quantize.SMALLEST else state_dtype


def constant(value: float, codec: Map) -> tuple[int, float]:
    """Return the code of every element and the scale of every block of an 8-bit slot filled with one value."""
    codes, scales = quantize.quantize(np.full(1, value, np.float32), codec)
    return int(codes[0]), float(scales[0])


def codec_of(is_non_negative: bool) -> Map:
    """Return the code that stores a slot in 8 bits: "root" for one that is never negative."""
    return "root" if is_non_negative else "signed"


def scale_name(slot: str) -> str:
    return f"{slot}_scale"


def scales_of(state: Mapping[str, Array], slot: str, non_negative: Container[str]) -> tuple[Map, Array] | None:
    """Return the codec and the scales of an 8-bit slot, None for others."""
    return (codec_of(slot in non_negative), state[scale_name(slot)]) if state[slot].dtype == np.uint8 else None


def read_slot(state: Mapping[str, Any], slot: str, non_negative: Container[str]) -> Array:
    """Return a slot's values in the compute dtype."""
    stored = state[slot]
    scaled = scales_of(state, slot, non_negative)
    if scaled is not None:
        codec, scales = scaled
        return quantize.dequantize(stored, scales, codec)
    return halves.to_float32(stored) if is_bfloat16(stored.dtype) else stored
