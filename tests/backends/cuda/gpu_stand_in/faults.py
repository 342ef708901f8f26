"""What the stand-in is to find, in kernels that are wrong: run by test_stand_in.py and .ci/run in the stand-in."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numba import cuda

from fastopt.backends.cuda.device_code import put, words

pytestmark = pytest.mark.filterwarnings("ignore:Grid size 1 will likely result:Warning")

SIZE = 64


def behind_the_end(address: int) -> None:
    put(address + 8 * cuda.threadIdx.x + 8, 1.0)


def before_the_beginning(address: int) -> None:
    put(address, words(address - 8, 1)[0])


def not_aligned(address: int) -> None:
    put(address + 4, 1.0)


def block_parts(address: int) -> None:
    if cuda.threadIdx.x != 5:
        cuda.syncthreads()
    put(address, 1.0)


def warp_parts(address: int) -> None:
    if cuda.threadIdx.x < 40:
        cuda.syncwarp()
    put(address, 1.0)


def block_meets_at_two_places(address: int) -> None:
    if cuda.threadIdx.x < 32:
        cuda.syncthreads()
        put(address, 1.0)
    else:
        cuda.syncthreads()
        put(address + 8, 2.0)


def too_many_threads(address: int) -> None:
    put(address, 1.0)


FAULTS = {
    behind_the_end: r"thread \(63, 0\) of block 0, at st\.global.*: 8 bytes at 0x.* are not all in memory that",
    before_the_beginning: r"thread \(0, 0\) of block 0, at ld\.global.*: 8 bytes at 0x.* are not all in memory that",
    not_aligned: r"at st\.global.*: 0x.* is not aligned to 8 bytes",
    block_parts: r"at bar\.sync .*: waits for threads that do not come here",
    warp_parts: r"thread \(32, 0\) .* at bar\.warp\.sync .*: waits for threads that do not come here",
    block_meets_at_two_places: r"at bar\.sync .*: waits for threads that do not come here",
    too_many_threads: r"1 blocks of 64 threads can't be launched",
}


@pytest.mark.parametrize("kernel", FAULTS, ids=lambda kernel: kernel.__name__)
def test_a_fault_ends_the_launch(kernel: Any, capfd: pytest.CaptureFixture[str]) -> None:
    array = cuda.device_array(SIZE, np.float64)
    bounds = (32, 1) if kernel is too_many_threads else None
    compiled = cuda.jit(launch_bounds=bounds)(kernel)
    with pytest.raises(Exception, match="CUDA_ERROR_LAUNCH_FAILED"):
        compiled[1, SIZE](array.__cuda_array_interface__["data"][0])
    output = capfd.readouterr().err
    assert re.search(FAULTS[kernel], output), output


def last_writer(address: int) -> None:
    put(address, float(cuda.threadIdx.x))


def test_threads_run_in_both_orders() -> None:
    array = cuda.device_array(1, np.float64)
    kernel = cuda.jit(last_writer)
    found = []
    for _ in range(4):
        kernel[1, SIZE](array.__cuda_array_interface__["data"][0])
        found += array.copy_to_host().tolist()
    assert found == [SIZE - 1, 0, SIZE - 1, 0]


def bits_set(address: int) -> None:
    put(address, cuda.popc(address))


def test_an_unknown_operation_is_named() -> None:
    array = cuda.device_array(1, np.int64)
    with pytest.raises(NotImplementedError, match=r"PTX: popc\.b64 is not among the operations of the stand-in"):
        cuda.jit(bits_set)[1, SIZE](array.__cuda_array_interface__["data"][0])


def test_new_memory_is_not_zero() -> None:
    assert (cuda.device_array(SIZE, np.uint8).copy_to_host() == 0xAB).all()


def test_memory_that_was_given_back_is_not_used(capfd: pytest.CaptureFixture[str]) -> None:
    array = cuda.device_array(1, np.float64)
    kernel, address = cuda.jit(last_writer), array.__cuda_array_interface__["data"][0]
    kernel[1, SIZE](address)
    del array
    cuda.current_context().memory_manager.deallocations.clear()
    with pytest.raises(Exception, match="CUDA_ERROR_LAUNCH_FAILED"):
        kernel[1, SIZE](address)
    assert "are not all in memory that was allocated" in capfd.readouterr().err
