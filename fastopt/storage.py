"""How slots are stored: as they are computed, in bfloat16, or in 8 bits with scales."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from . import halves, quantize
from .arrays import Array, computed_in, in_memory_order, is_bfloat16
from .quantize import Map


def slot_storage(state_dtype: str | None, size: int) -> str | None:
    """Return how the slots of an array of this size are stored; None: as they are computed."""
    return None if state_dtype == "uint8" and size < quantize.SMALLEST else state_dtype


def new_slot(slot: str, param: Array, value: float, stored_in: str | None, is_non_negative: bool) -> dict[str, Array]:
    """Return a slot's arrays by name, in its parameter's shape and memory order, all of one value."""
    if stored_in is None:
        return {slot: np.full_like(param, value, computed_in(param.dtype), subok=False)}
    if stored_in == "bfloat16":
        stored = np.empty_like(param, halves.bfloat16(), subok=False)
        halves.round_into(stored, np.full(param.shape, value, np.float32))
        return {slot: stored}
    codes, scales = quantize.quantize(np.full(1, value, np.float32), map_of(is_non_negative))
    return {
        slot: np.full_like(param, codes[0], np.uint8, subok=False),
        scale_name(slot): np.full(-(-param.size // quantize.BLOCK), scales[0]),
    }


def map_of(is_non_negative: bool) -> Map:
    return "root" if is_non_negative else "signed"


def scale_name(slot: str) -> str:
    return f"{slot}_scale"


def scales_of(state: Mapping[str, Array], slot: str, non_negative: Container[str]) -> tuple[Map, Array] | None:
    """Return the map and the scales of a slot in 8 bits, None for others."""
    return (map_of(slot in non_negative), state[scale_name(slot)]) if state[slot].dtype == np.uint8 else None


def read_slot(state: Mapping[str, Any], slot: str, non_negative: Container[str]) -> Array:
    """Return a slot's values in the dtype that is computed in."""
    stored = state[slot]
    scaled = scales_of(state, slot, non_negative)
    if scaled is not None:
        map, scales = scaled
        flat = in_memory_order(stored)
        values = quantize.dequantize(flat.reshape(-1), scales, map).reshape(flat.shape)
        return values if stored.flags.c_contiguous else values.T
    return halves.to_float32(stored) if is_bfloat16(stored.dtype) else stored
