"""The ranks of a communicator: exchanges, agreement and meetings."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from on_ranks import TIMEOUT, environment, needs_mpi, on_ranks, run_script

from fastopt.distributed.ranks import RankError, Ranks, have_cores

SIZES = pytest.mark.parametrize("size", [1, 2, 4])


# --- exchanges --------------------------------------------------------------------------------------------------------


def all_gather(comm: Any) -> Any:
    ranks = Ranks(comm)
    assert (ranks.rank, ranks.size) == (comm.rank, comm.size)
    shapes: list[tuple[int, ...]] = [(), (3,), (2, 3), (0,), (2, 0)]
    for shape in shapes:
        for dtype in (np.float16, np.float32, np.int64, np.bool_, np.complex128, "S3"):
            values = np.full(shape, ranks.rank % 2).astype(dtype)
            everyone = ranks.all_gather(values)
            assert everyone.dtype == values.dtype
            assert everyone.shape == (ranks.size, *shape)
            for rank in range(ranks.size):
                np.testing.assert_array_equal(everyone[rank], np.full(shape, rank % 2).astype(dtype))
    transposed = ranks.all_gather(np.arange(6).reshape(2, 3).T + ranks.rank)
    return transposed.tolist(), ranks.all_gather_objects(["x" * ranks.rank, None])


@SIZES
def test_all_gather(size: int) -> None:
    arrays = [(np.arange(6).reshape(2, 3).T + rank).tolist() for rank in range(size)]
    assert on_ranks(size, all_gather) == [(arrays, [["x" * rank, None] for rank in range(size)])] * size


def parts_of(sender: int, receiver: int, dtype: Any) -> Any:
    """Return what one rank sends another: parts of different sizes, some of which are empty."""
    count = (3 * sender + 5 * receiver) % 4
    return (np.arange(count) + 10 * sender + receiver).astype(dtype)


def all_to_all(comm: Any, dtype: Any) -> None:
    ranks = Ranks(comm)
    send = [parts_of(ranks.rank, rank, dtype) for rank in range(ranks.size)]
    expected = [parts_of(rank, ranks.rank, dtype) for rank in range(ranks.size)]
    recv = np.zeros(sum(part.size for part in expected), dtype)
    counts = [part.size for part in send], [part.size for part in expected]
    ranks.wait([ranks.start_all_to_all(np.concatenate(send), counts[0], recv, counts[1])])
    assert recv.tobytes() == np.concatenate(expected).tobytes()


@SIZES
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, np.complex128])
def test_all_to_all(size: int, dtype: Any) -> None:
    on_ranks(size, all_to_all, dtype)


@pytest.mark.skipif(sys.platform == "win32", reason="one platform is enough")
def test_all_to_all_of_a_dtype_that_numpy_has_not() -> None:
    dtypes = pytest.importorskip("ml_dtypes")
    on_ranks(2, all_to_all, np.dtype(dtypes.bfloat16))


def all_gather_in_place(comm: Any) -> list[float]:
    ranks = Ranks(comm)
    counts = [3, 0, 1, 2][: ranks.size]
    begin = sum(counts[: ranks.rank])
    buffer = np.zeros(sum(counts), np.float32)
    buffer[begin : begin + counts[ranks.rank]] = ranks.rank + 1
    ranks.wait([ranks.start_all_gather(buffer, counts)])
    return list(map(float, buffer))


@SIZES
def test_all_gather_in_place(size: int) -> None:
    assert on_ranks(size, all_gather_in_place) == [[1.0, 1, 1, 3, 4, 4][: [0, 3, 3, 4, 6][size]]] * size


def several_at_once(comm: Any) -> None:
    """Each rank waits in another order, for large arrays that nothing else refers to."""
    ranks = Ranks(comm)
    size, count = ranks.size, 100_000
    recv = [np.zeros(size * count) for _ in range(3)]
    requests = [
        ranks.start_all_to_all(np.full(size * count, 10.0 * i + ranks.rank), [count] * size, recv[i], [count] * size)
        for i in range(3)
    ]
    while not ranks.test(requests[ranks.rank :]):
        pass
    ranks.wait(requests[::-1])
    ranks.wait(requests)  # again: they are done
    for i in range(3):
        np.testing.assert_array_equal(recv[i].reshape(size, count)[:, [0, -1]].T, [10.0 * i + np.arange(size)] * 2)


@SIZES
def test_several_exchanges_at_once(size: int) -> None:
    on_ranks(size, several_at_once)


def two_orders(comm: Any) -> Any:
    """Two users of one communicator begin in different orders on different ranks."""
    both = [Ranks(comm), Ranks(comm)]
    buffers = [np.full(2, 10.0 * (i + 1) + comm.rank) for i in range(2)]
    order = [0, 1] if comm.rank == 0 else [1, 0]
    requests = [both[i].start_all_gather(buffers[i], [1, 1]) for i in order]
    both[0].wait(requests)
    return [buffer.tolist() for buffer in buffers]


class WithoutPersistent:
    """A communicator of an MPI library that has no persistent collectives."""

    def __init__(self, comm: Any) -> None:
        self.comm = comm

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_init"):
            raise NotImplementedError
        return getattr(self.comm, name)


def repeated(comm: Any, has_persistent: bool) -> list[list[float]]:
    """Return what an exchange gathers that begins several times, once before anybody waited for it."""
    ranks, buffer, found = Ranks(comm), np.zeros(2 * comm.size), []
    if not has_persistent:
        ranks._comm = WithoutPersistent(ranks._comm)
    exchange = ranks.prepare_all_gather(buffer, [2] * comm.size)
    for number in range(4):
        ranks.settle(exchange)
        buffer[2 * comm.rank :][:2] = 10 * number + comm.rank
        ranks.start(exchange)
        if number != 2:
            ranks.wait([exchange])
            found.append(buffer.tolist())
    assert ranks.test([exchange])
    return found


@pytest.mark.parametrize("has_persistent", [True, False])
def test_a_persistent_exchange_begins_again_and_again(has_persistent: bool) -> None:
    found = [[10.0 * number + rank for rank in range(3) for _ in range(2)] for number in (0, 1, 3)]
    assert on_ranks(3, repeated, has_persistent) == [found] * 3


def test_mpi_has_nothing_to_complain_of_at_the_end() -> None:
    # MPICH prints a line for each persistent exchange that was not freed.
    lines = ["import numpy as np", "from fastopt.distributed.ranks import Ranks", "from mpi4py import MPI"]
    done = run_script(2, "\n".join([*lines, "Ranks(MPI.COMM_WORLD).meet(None, np.zeros(1, np.int64))"]))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_ranks_of_one_communicator_are_independent() -> None:
    assert on_ranks(2, two_orders) == [[[10, 11], [20, 21]]] * 2


def of_split(comm: Any) -> Any:
    half = comm.Split(comm.rank % 2, -comm.rank)  # in reverse order
    ranks, everyone, alone = Ranks(half), Ranks(comm), Ranks(comm.Split(comm.rank))
    numbers = ranks.all_gather(np.array(comm.rank)), everyone.all_gather(np.array(ranks.rank)), alone.size
    half.Free()  # Ranks have a duplicate
    return numbers[0].tolist(), numbers[1].tolist(), numbers[2], ranks.all_gather(np.array(1)).tolist()


def test_parts_of_a_communicator() -> None:
    other = [1, 1, 0, 0]
    assert on_ranks(4, of_split) == [([2 + odd, odd], other, 1, [1, 1]) for odd in (0, 1, 0, 1)]


def opened_and_dropped(comm: Any, count: int) -> None:
    for i in range(count):
        ranks = Ranks(comm)
        assert ranks.all_gather(np.array(i)).tolist() == [i] * comm.size


def test_communicators_are_freed() -> None:
    # MPICH has 2,000 of them.
    on_ranks(2, opened_and_dropped, 2500)


def dropped_in_flight(comm: Any) -> None:
    """The exchange of a dropped Ranks goes on in arrays of its own, though memory is used again."""
    ranks = Ranks(comm)
    count = 500_000
    if comm.rank == 0:
        ranks.start_all_to_all(np.ones(2 * count), [count] * 2, np.zeros(2 * count), [count] * 2)
        del ranks
        others = [np.full(2 * count, 7.0) for _ in range(3)]
    comm.Barrier()
    if comm.rank == 1:
        recv = np.zeros(2 * count)
        ranks.wait([ranks.start_all_to_all(np.full(2 * count, 2.0), [count] * 2, recv, [count] * 2)])
        assert recv.min() == 1
        assert recv[count:].max() == 2
    comm.Barrier()
    if comm.rank == 0:
        assert all((other == 7).all() for other in others)
    Ranks(comm)
    Ranks(comm)


def test_arrays_of_a_dropped_exchange_live_on() -> None:
    on_ranks(2, dropped_in_flight)


# --- checks -----------------------------------------------------------------------------------------------------------


def answer(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except (ValueError, RankError) as error:
        return f"{type(error).__name__}: {error}"
    return "agreed"


class Schedule:
    """An object whose text has its address."""


def agree(comm: Any) -> list[str]:
    ranks, odd = Ranks(comm), comm.rank % 2
    same = {
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "shapes": [(3, 4), ()],
        "groups": {"W": {"lr": 0.5}},
        "array": np.arange(100.0).reshape(4, 25),
        "schedule": Schedule(),
        "function": answer,
    }
    wrong: list[dict[str, Any]] = [
        {"lr": 0.1 + 0.2 * odd, "betas": (0.9, 0.99 + odd)},
        {"betas": (0.9, 0.999 if comm.rank != 1 else 0.99)},
        {"groups": {"W": {"lr": 0.5, **({"eps": 1e-8} if odd else {})}}},
        {"array": np.arange(100.0) + odd * (np.arange(100) == 50)},
        {"few": np.arange(2.0) + odd},
    ]
    different_names = {**same, **({"eps": 1e-8} if odd else {})}
    other_order = dict(sorted(same.items(), reverse=bool(odd)))
    cases = [same, *({**same, **each} for each in wrong), different_names, other_order, same]
    return [answer(ranks.agree, case) for case in cases]


def test_agree_names_what_differs_between_which_ranks() -> None:
    texts, *others = on_ranks(4, agree)
    assert others == [texts] * 3
    assert texts[0] == texts[-1] == "agreed"
    assert texts[1] == (
        "ValueError: the ranks differ: lr is 0.1 on ranks 0 and 2, 0.30000000000000004 on ranks 1 and 3; "
        "give all the same"
    )
    assert "betas is (0.9, 0.999) on ranks 0, 2 and 3, (0.9, 0.99) on rank 1;" in texts[2]
    assert "groups is {'W': {'lr': 0.5}} on ranks 0 and 2, {'W': {'lr': 0.5, 'eps': 1e-08}} on ranks 1" in texts[3]
    assert "array is array(float64, (100,), " in texts[4]
    assert "few is array([0., 1.]) on ranks 0 and 2, array([1., 2.]) on ranks 1 and 3;" in texts[5]
    assert "eps is missing on ranks 0 and 2, 1e-08 on ranks 1 and 3;" in texts[6]
    assert "the ranks differ in the order of names: ['array', 'betas'," in texts[7]
    assert on_ranks(1, agree) == [["agreed"] * len(texts)]


def meet(comm: Any) -> list[Any]:
    ranks, header = Ranks(comm), np.array([comm.rank, 7])
    told = []
    for failing in ((), (1,), (0, 1)):
        error = ValueError(f"bad {comm.rank}") if comm.rank in failing else None
        told.append(answer(ranks.meet, error, header))
        assert ranks.meet(None, header).tolist() == [[rank, 7] for rank in range(comm.size)]
    assert ranks.meet(None, np.zeros(0, np.int64)).shape == (comm.size, 0)
    return told


def test_an_error_that_one_brings_is_raised_by_all_who_can_go_on() -> None:
    one, two = "rank 1 raised ValueError: bad 1", "rank 0 raised ValueError: bad 0"
    of_others = ["agreed", f"RankError: {one}", f"RankError: {two}; {one}"]
    assert on_ranks(4, meet) == [
        ["agreed", f"RankError: {one}", "ValueError: bad 0"],
        ["agreed", "ValueError: bad 1", "ValueError: bad 1"],
        of_others,
        of_others,
    ]
    assert on_ranks(1, meet) == [["agreed", "agreed", "ValueError: bad 0"]]


# --- refused ----------------------------------------------------------------------------------------------------------


def refused(comm: Any) -> None:
    from mpi4py import MPI

    advice = "comm: expected an intracommunicator of mpi4py, such as mpi4py.MPI.COMM_WORLD, not "
    others: list[Any] = [None, 4, "COMM_WORLD", MPI]
    if comm.size == 2:
        others.append(comm.Split(comm.rank).Create_intercomm(0, comm, 1 - comm.rank))
    for other in others:
        with pytest.raises(TypeError, match=advice):
            Ranks(other)
    with pytest.raises(ValueError, match="COMM_NULL"):
        Ranks(MPI.COMM_NULL)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="state_dict"):
            copied(Ranks(comm))


@pytest.mark.parametrize("size", [1, 2])
def test_what_is_no_communicator_is_refused(size: int) -> None:
    on_ranks(size, refused)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=TIMEOUT
    )


def test_without_mpi4py_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['mpi4py'] = None; import fastopt; from fastopt.distributed.ranks import Ranks; "
        "Ranks(None)"
    )
    assert "ImportError: fastopt.distributed needs mpi4py and an MPI library: pip install 'fastopt[mpi]'" in (
        run_python(code).stderr
    )


@needs_mpi
@pytest.mark.parametrize("name", ["COMM_SELF", "COMM_WORLD"])
def test_one_process_needs_no_mpiexec(name: str) -> None:
    code = (
        "from mpi4py import MPI; from fastopt.distributed.ranks import Ranks; import numpy as np; "
        f"print(Ranks(MPI.{name}).meet(None, np.arange(2)))"
    )
    result = run_python(code)
    assert (result.stdout, result.stderr, result.returncode) == ("[[0 1]]\n", "", 0)


def test_cores_of_machines() -> None:
    both = [0, 1]
    assert have_cores([("a", both, 2)] * 2)
    assert not have_cores([("a", both, 2)] * 3)
    assert have_cores([("a", both, 2), ("b", both, 2)] * 2)
    # Each rank is bound to a core of its own.
    assert have_cores([("a", [core], 1) for core in range(4)])
    # A container has the time of two cores.
    assert not have_cores([("a", list(range(8)), 2)] * 3)
