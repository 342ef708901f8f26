"""Slots in 8 bits: codes and scales; the arithmetic stands in ``arithmetic/quantize.py``."""

from .arithmetic.quantize import *  # noqa: F403
