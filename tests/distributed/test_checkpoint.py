"""Checkpoints of sharded runs: the file of one process, written and read by all ranks."""

from __future__ import annotations

import errno
import os
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_ranks import on_ranks, run_script
from saved_runs import RUNS, Run, difference, error_of, leaves, over, steps

import fastopt
from fastopt import distributed
from fastopt.checkpoint import CheckpointError, metadata
from fastopt.distributed import blocks, checkpoint

ADAM = Run(fastopt.Adam)
EXTRA = {"epoch": 3, "rng": np.random.default_rng(3), "order": np.arange(10_000), "nested": [1, ("x", np.float32(2))]}


def saved(comm: Any, run: Run, folder: str) -> str:
    """Save a run, and the same run in one process; return how the files differ."""
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    steps(opt, params, comm.size, range(4))
    steps(plain, like, comm.size, range(4))
    distributed.save(f"{folder}/sharded", opt, extra=EXTRA)
    if comm.rank:
        return ""
    fastopt.save(f"{folder}/plain", plain, extra=EXTRA)
    files = [Path(folder, name).read_bytes() for name in ("sharded", "plain")]
    return "" if files[0] == files[1] else f"{len(files[0])}, {len(files[1])} bytes, or others"


def resumed(comm: Any, run: Run, folder: str, ranks: int) -> list[str]:
    """Go on with a run of this many ranks; return how it differs from one of one process without a break."""
    found, expected = [], run.params()
    unbroken = run.plain(expected)
    steps(unbroken, expected, ranks, range(6))
    for load in (lambda path: distributed.load(path, comm), fastopt.load):
        params = run.params()
        over(lambda array: array.fill(7), params)
        opt = run.sharded(params, comm)
        result = load(f"{folder}/sharded").restore(opt)
        found += [] if tuple(result) == ([], []) else [str(result)]
        steps(opt, params, ranks, range(4, 6))
        found.append(difference(leaves(expected), leaves(params)))
        found.append(difference(unbroken.state_dict(), opt.state_dict()))
    loaded = distributed.load(f"{folder}/sharded", comm)
    found += [] if loaded.extra["rng"].random() == np.random.default_rng(3).random() else ["extra"]
    params = run.params()
    plain = run.plain(params)
    loaded.restore(plain)
    steps(plain, params, ranks, range(4, 6))
    found.append(difference(leaves(expected), leaves(params)))
    return [text for text in found if text]


@pytest.mark.parametrize("run", RUNS, ids=repr)
def test_the_file_is_that_of_one_process_and_goes_on_with_any_number_of_ranks(run: Run, tmp_path: Path) -> None:
    k = RUNS.index(run)
    size, other = [(4, 2), (4, 1), (3, 4), (2, 3)][k % 4]
    assert on_ranks(size, saved, run, str(tmp_path)) == [""] * size
    assert on_ranks(other, resumed, run, str(tmp_path), size) == [[]] * other
    assert sorted(os.listdir(tmp_path)) == ["plain", "sharded"]


def shares(comm: Any, path: str) -> tuple[list[int], list[int]]:
    """Save and load; return how many bytes each rank wrote and checked."""
    run = Run(fastopt.AdamW)
    params = {"W": np.ones((300, 500), np.float32), "b": np.ones(5000, np.float32)}
    opt = run.sharded(params, comm)
    opt.step({name: array.copy() for name, array in params.items()})
    written, hashed = [0], [0]
    write_pieces, digests = checkpoint.write_pieces, blocks.digests_of_blocks

    def counted_writes(file: Any, rank: int, pieces: Any, layout: Any) -> None:
        written[0] += sum(piece.elements.nbytes for piece in pieces.values())
        write_pieces(file, rank, pieces, layout)

    def counted_digests(data: Any) -> bytes:
        hashed[0] += data.nbytes
        return digests(data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoint, "write_pieces", counted_writes)
        patched.setattr(blocks, "digests_of_blocks", counted_digests)
        distributed.save(path, opt)
        saved_by_rank = hashed[0]
        hashed[0] = 0
        distributed.load(path, comm)
    return written, [saved_by_rank, hashed[0]]


def test_each_rank_writes_and_checks_its_share(tmp_path: Path) -> None:
    found = on_ranks(4, shares, str(tmp_path / "run"))
    total = 3 * 4 * 155_000
    for counts in (
        [written for (written,), _ in found],
        [saved for _, (saved, _) in found],
        [loaded for _, (_, loaded) in found],
    ):
        assert total <= sum(counts) <= total + 100
        assert max(counts) < 0.35 * total


# --- errors -----------------------------------------------------------------------------------------------------------


def failing(comm: Any, path: str, case: str) -> tuple[str, list[str]]:
    """Return the error of a save that fails on rank 1, or on rank 0, and what is in the folder."""
    params = ADAM.params()
    opt = ADAM.sharded(params, comm)
    distributed.save(path, opt)
    steps(opt, params, comm.size, range(1))
    arguments: dict[str, Any] = {"extra": {"epoch": 3}}
    with pytest.MonkeyPatch.context() as patched:

        def no_space(*args: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        if case == "a full disk at rank 1" and comm.rank == 1:
            patched.setattr(checkpoint, "write_pieces", no_space)
        if case == "a full disk at rank 0" and comm.rank == 0:
            patched.setattr(checkpoint, "write_pieces", no_space)
        if case == "no move" and comm.rank == 0:
            patched.setattr(os, "replace", no_space)
        if case == "an extra of rank 1" and comm.rank == 1:
            arguments["extra"]["epoch"] = 4
        if case == "a wrong extra of rank 1" and comm.rank == 1:
            arguments["extra"]["epoch"] = {3}
        if case == "no folder":
            path = str(Path(path).parent / "no" / "run")
        if case == "npz":
            path += ".npz"
        error = error_of(lambda: distributed.save(path, opt, **arguments))
    comm.Barrier()
    return error, os.listdir(Path(path).parent) if case != "no folder" else ["run"]


@pytest.mark.parametrize(
    ("case", "own", "others"),
    [
        ("a full disk at rank 1", {1: "OSError: [Errno 28] No space left"}, "RankError: rank 1 raised OSError"),
        ("a full disk at rank 0", {0: "OSError: [Errno 28] No space left"}, "RankError: rank 0 raised OSError"),
        ("no move", {0: "OSError: [Errno 28] No space left"}, "RankError: rank 0 raised OSError"),
        ("no folder", {0: "FileNotFoundError: "}, "RankError: rank 0 raised FileNotFoundError"),
        (
            "an extra of rank 1",
            {},
            "ValueError: the ranks differ: extra['epoch'] is '3' on ranks 0 and 2, '4' on rank 1",
        ),
        (
            "a wrong extra of rank 1",
            {1: "TypeError: extra.epoch is "},
            "RankError: rank 1 raised TypeError: extra.epoch",
        ),
        ("npz", {}, "ValueError: save: "),
    ],
)
def test_a_save_that_fails_raises_on_all_ranks_and_leaves_the_old_file(
    tmp_path: Path, case: str, own: dict[int, str], others: str
) -> None:
    for rank, (error, files) in enumerate(on_ranks(3, failing, str(tmp_path / "run"), case)):
        expected = own.get(rank, others)
        assert error.startswith(expected), error
        assert files == ["run"]
    loaded = fastopt.load(tmp_path / "run")
    assert loaded.optimizer is not None
    assert loaded.optimizer["step_count"] == 0


def broken(comm: Any, path: str) -> str:
    return error_of(lambda: distributed.load(path, comm))


def test_broken_files_have_the_error_of_one_process_on_every_rank(tmp_path: Path) -> None:
    params = ADAM.params()
    opt = ADAM.plain(params)
    steps(opt, params, 1, range(1))
    good = tmp_path / "good"
    fastopt.save(good, opt, extra=EXTRA)
    content = good.read_bytes()
    path = tmp_path / "broken"
    for place in (2, 1000, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 4
        path.write_bytes(changed)
        with pytest.raises(CheckpointError) as info:
            fastopt.load(path)
        assert on_ranks(3, broken, str(path)) == [f"CheckpointError: {info.value}"] * 3
    for length in (0, 5, 500, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as info:
            fastopt.load(path)
        assert on_ranks(3, broken, str(path)) == [f"CheckpointError: {info.value}"] * 3
    for error in on_ranks(2, broken, str(tmp_path / "none")):
        assert error.startswith("FileNotFoundError: ")


def other_formats(comm: Any, paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        params = ADAM.params()
        opt = ADAM.sharded(params, comm)
        distributed.load(path, comm).restore(opt)
        expected = fastopt.load(path)
        found.append(difference(leaves(expected.params), leaves(params)))
        found.append(difference(expected.optimizer, opt.state_dict()))
    return found


def test_npz_files_and_those_of_version_1_load_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = ADAM.params()
    opt = ADAM.plain(params)
    steps(opt, params, 1, range(1))
    fastopt.save(tmp_path / "run.npz", opt)
    monkeypatch.setattr(metadata, "FORMAT_VERSION", 1)
    fastopt.save(tmp_path / "run", opt)
    assert on_ranks(2, other_formats, [str(tmp_path / "run.npz"), str(tmp_path / "run")]) == [[""] * 4] * 2


def in_one_process(comm: Any, path: str) -> list[str]:
    params = ADAM.params()
    opt, plain = ADAM.sharded(params, comm), ADAM.plain(ADAM.params())
    return [error_of(lambda: fastopt.save(path, opt)), error_of(lambda: distributed.save(path, plain))]


def test_each_save_names_the_other(tmp_path: Path) -> None:
    for one, other in on_ranks(2, in_one_process, str(tmp_path / "run")):
        assert "call fastopt.distributed.save(path, opt)" in one
        assert "fastopt.save writes what one process has" in other
    assert os.listdir(tmp_path) == []


def averages(comm: Any, path: str) -> str:
    run = Run(fastopt.AdamW, {"ema_decay": 0.5})
    params, like = run.params(), run.params()
    opt, plain = run.sharded(params, comm), run.plain(like)
    steps(opt, params, comm.size, range(2))
    steps(plain, like, comm.size, range(2))
    distributed.save(path, opt, params=opt.ema)
    loaded = distributed.load(path, comm).params
    with opt.averaged():
        refused = error_of(lambda: distributed.save(path, opt))
    equal = [np.array_equal(*pair) for pair in zip(leaves(plain.ema), leaves(loaded), strict=True)]
    return ("" if all(equal) else "the averages") + ("" if "averaged ones" in refused else refused)


def test_averages_are_saved_as_parameters(tmp_path: Path) -> None:
    assert on_ranks(3, averages, str(tmp_path / "run")) == [""] * 3


# --- killed ranks -----------------------------------------------------------------------------------------------------

KILLED = """
    import os, signal, sys
    import numpy as np
    from mpi4py import MPI
    import fastopt
    from fastopt import distributed
    from fastopt.distributed import checkpoint

    path, where, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
    comm = MPI.COMM_WORLD
    opt = distributed.Sharded(fastopt.Adam, np.ones(40_000, np.float32), comm)
    distributed.save(path, opt)
    opt.step(np.ones(40_000, np.float32))

    def killed(*args):
        if where == "after writing":
            original(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    module, name = (os, "replace") if where == "before the move" else (checkpoint, "write_pieces")
    original = getattr(module, name)
    if comm.rank == rank:
        setattr(module, name, killed)
    distributed.save(path, opt)
"""


@pytest.mark.parametrize(
    ("where", "rank"),
    [
        ("before writing", 1),
        ("before the move", 0),
        pytest.param("after writing", 2, marks=pytest.mark.exhaustive),
        pytest.param("before writing", 0, marks=pytest.mark.exhaustive),
    ],
)
def test_a_rank_that_is_killed_while_saving_leaves_the_old_file(tmp_path: Path, where: str, rank: int) -> None:
    path = tmp_path / "run"
    ended = run_script(3, textwrap.dedent(KILLED), str(path), where, str(rank))
    assert ended.returncode != 0
    loaded = fastopt.load(path)
    assert loaded.optimizer is not None
    assert loaded.optimizer["step_count"] == 0
