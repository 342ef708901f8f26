"""The control of ``nox -s sanitizers``: the sanitizers find what is wrong in the native part."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif("ASAN_OPTIONS" not in os.environ, reason="needs the build of nox -s sanitizers")


def errors_of_squares(room: int, first_byte: int) -> str:
    """Return what is printed where 200 float64 are summed that begin at this byte of memory for ``room`` of them.

    NumPy may give smaller arrays memory that it kept from others.
    """
    code = f"""
import numpy as np
from fastopt.backends.native.library import ffi, lib
memory, sums = np.ones({room}), np.zeros(1)
values = ffi.cast("char *", ffi.from_buffer(memory)) + {first_byte}
lib.fo_sum_squares(values, lib.FO_FLOAT64, 1, 200, 1, ffi.from_buffer("double *", sums))
print(sums)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode == 0) == (done.stdout == "[200.]\n") == (not done.stderr)
    return done.stderr


def test_planted_mistakes_are_found() -> None:
    assert errors_of_squares(room=200, first_byte=0) == ""
    assert "AddressSanitizer: heap-buffer-overflow" in errors_of_squares(room=199, first_byte=0)
    assert "runtime error: load of misaligned address" in errors_of_squares(room=201, first_byte=1)
