"""Programs that go wrong on one rank: the others learn of it, and mpiexec ends, with an error code."""

from __future__ import annotations

import re
import subprocess

import pytest
from on_ranks import HERE, errors_of, run_script


def run(size: int, name: str) -> subprocess.CompletedProcess[str]:
    return run_script(size, HERE / "fault_programs.py", name)


ENDED = "RankError: rank {} has ended its program, while this rank waits for it"


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("interrupted", "KeyboardInterrupt"),
        ("interrupted_in_a_wait", "KeyboardInterrupt"),
        ("raises_while_others_compute", "ValueError: early"),
        ("raises_while_a_thread_of_it_goes_on", "ValueError: in the main thread"),
        ("raises_between_two_ranks", "ValueError: no data"),
        ("raises_ahead_in_other_ranks", "ValueError: backward pass"),
        ("large_exchange_is_left", "ValueError: no gradient"),
        ("error_of_a_meeting", "ValueError: bad shape"),
    ],
)
def test_the_other_rank_names_the_failure(name: str, failure: str) -> None:
    assert errors_of(run(2, name)) == sorted([failure, f"RankError: rank 1 raised {failure}"])


def test_all_ranks_print_their_errors_unmixed() -> None:
    result = run(4, "last_rank_raises")
    text = "ValueError: the loss is"
    assert errors_of(result) == [*["RankError: rank 3 raised " + text] * 3, text]
    assert result.stderr.count(text + "\nnot finite\n") == 4


@pytest.mark.parametrize("name", ["last_rank_leaves", "last_rank_makes_fewer_steps", "finalized_by_the_user"])
def test_the_end_of_a_program_takes_the_others_out_of_their_wait(name: str) -> None:
    assert errors_of(run(2, name)) == [ENDED.format(1)]


def test_several_ranks_fail_at_once() -> None:
    first, *others = errors_of(run(3, "two_raise"))
    assert re.fullmatch("RankError: rank [12] raised ValueError: bad batch [12]", first)
    assert others == ["ValueError: bad batch 1", "ValueError: bad batch 2"]


def test_a_rank_that_fails_before_the_first_exchange() -> None:
    expected = ["RankError: rank 1 of COMM_WORLD raised ValueError: no data", "ValueError: no data"]
    assert errors_of(run(2, "raises_before_its_ranks")) == expected


@pytest.mark.parametrize("name", ["raises_without_ranks", "raises_at_the_end"])
def test_a_failure_that_concerns_nobody_else(name: str) -> None:
    assert errors_of(run(3, name)) == ["ValueError: on its own"]


def test_a_rank_that_fails_before_it_makes_another_group() -> None:
    expected = ["RankError: rank 1 of COMM_WORLD raised ValueError: no part", "ValueError: no part"]
    assert errors_of(run(3, "raises_before_ranks_of_other_processes")) == expected


def test_a_failure_goes_from_group_to_group() -> None:
    failure = "raised ValueError: end of the chain"
    assert errors_of(run(3, "chain_of_groups")) == [
        f"RankError: rank 1 raised RankError: rank 1 {failure}",
        f"RankError: rank 1 {failure}",
        "ValueError: end of the chain",
    ]


def test_whoever_goes_on_after_a_failure_gets_it_again() -> None:
    result = run(2, "error_of_others_is_caught")
    assert errors_of(result) == ["ValueError: gone"]
    assert result.stdout == "rank 0 caught: rank 1 raised ValueError: gone\n" * 2


def test_ranks_in_a_call_of_mpi_are_aborted() -> None:
    result = run(2, "others_are_in_a_call_of_mpi")
    assert errors_of(result) == ["ValueError: alone"]
    assert "fastopt: rank 1 failed 0.5 s ago, and others go on: aborting them" in result.stderr


def test_failure_is_told_where_the_excepthook_is_replaced() -> None:
    result = run(2, "excepthook_is_replaced")
    assert result.returncode != 0
    assert sorted(result.stdout.splitlines()) == [
        "my own hook: rank 1 raised ValueError: told at the end",
        "my own hook: told at the end",
    ]


def test_a_killed_rank_ends_the_others() -> None:
    # The process manager does it; nothing is promised but that it ends.
    assert run(2, "killed").returncode != 0


def test_a_rank_that_ends_without_python_ends_the_others() -> None:
    run(2, "os_exit")


def test_a_program_that_ends_well_prints_nothing_more() -> None:
    result = run(3, "ends_well")
    assert (result.returncode, result.stderr) == (0, "")
    assert sorted(result.stdout.splitlines()) == [f"rank {rank} ends" for rank in range(3)]


def test_a_fork_is_refused() -> None:
    result = run(2, "forked")
    assert (result.returncode, result.stderr) == (0, "")
    told = "this process is a fork of rank {}: only the parent can use the communicator"
    assert sorted(result.stdout.splitlines()) == [told.format(rank) for rank in range(2)]
