"""Arrays that are moved to other memory."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fastopt.arrays.windows import Windows, can_move

needs_moving = pytest.mark.skipif(not can_move, reason="this Python has array objects of another layout")


def test_arrays_can_be_moved_in_cpython() -> None:
    assert can_move == (sys.implementation.name == "cpython")


@needs_moving
def test_moved_arrays_read_and_write_the_other_memory() -> None:
    likes = [np.zeros((2, 3)), np.zeros((2, 3), order="F"), np.zeros((), np.float32), np.zeros(5, np.float16)]
    windows = Windows(likes)
    assert all(np.shares_memory(window, like) for window, like in zip(windows.arrays, likes, strict=True))
    rng = np.random.default_rng(0)
    for _ in range(3):
        others = [np.array(rng.normal(size=like.shape), like.dtype, order="A") for like in likes]
        others[1] = np.asfortranarray(others[1])
        windows.move([other.ctypes.data for other in others])
        for window, other, like in zip(windows.arrays, others, likes, strict=True):
            assert np.array_equal(window, other)
            window[...] = 1
            assert (other == 1).all()
            assert (like == 0).all()
