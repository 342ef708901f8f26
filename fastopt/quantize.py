"""Slots in 8 bits: codes and scales; the arithmetic stands in ``arithmetic/quantize.py``."""

from .arithmetic.dither import SCALE_BLOCK as BLOCK  # noqa: F401
from .arithmetic.quantize import *  # noqa: F403


def __dir__() -> list[str]:
    return ["BLOCK", "dequantize", "quantize"]
