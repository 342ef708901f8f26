"""Ranks that make calls in different orders wait for each other: an error on all of them, and no false alarm."""

from __future__ import annotations

import re
import subprocess

import pytest
from on_ranks import HERE, errors_of, run_script

PLACE = r"\(deadlock_programs\.py, line \d+\)"


def run(size: int, name: str) -> subprocess.CompletedProcess[str]:
    return run_script(size, HERE / "deadlock_programs.py", name)


def pattern(*calls: str) -> str:
    """Return the pattern of the error about these calls of the first ranks."""
    shown = ", ".join(f"rank {rank} in {call} {PLACE}" for rank, call in enumerate(calls))
    return f"RankError: the ranks wait for each other: {shown}; make these calls in the same order on every rank"


@pytest.mark.parametrize(
    ("size", "name", "calls"),
    [
        (2, "opposite_orders", ["step of AdamW 1", "step of SGD 2"]),
        (2, "step_and_save", ["step of AdamW 1", "save of AdamW 2"]),
        (2, "state_dict_and_step", ["state_dict of AdamW 1", "step of AdamW 2"]),
        (2, "constructor_and_step", ["step of AdamW 1", "a constructor of AdamW 2"]),
        (2, "added_and_step", ["step of AdamW 1", "step of AdamW 2"]),
        (2, "circle_after_good_steps", ["step of AdamW 1", "step of AdamW 2"]),
        (3, "ring", ["step of AdamW 1", "step of AdamW 1", "step of AdamW 1"]),
        (3, "first_of_part_and_step", ["a constructor of SGD", "step of AdamW 1"]),
        (3, "part_and_world", ["step of AdamW 1", "step of AdamW 1"]),
    ],
)
def test_all_ranks_name_the_calls(size: int, name: str, calls: list[str]) -> None:
    first, *others = errors_of(run(size, name))
    assert re.fullmatch(pattern(*calls), first), first
    assert others == [first] * (size - 1)


def test_two_pairs_of_ranks() -> None:
    """One of each pair is named."""
    first, *others = errors_of(run(4, "two_and_two"))
    assert re.search(rf"rank [01] in step of AdamW 1 {PLACE}, rank [23] in step of AdamW 2 {PLACE};", first)
    assert len(others) == 3


def test_whoever_goes_on_gets_the_error_again() -> None:
    result = run(2, "error_is_caught")
    texts = result.stdout.splitlines()
    assert len(texts) == 6
    assert set(texts) == {texts[0]}
    assert "the ranks wait for each other" in texts[0]
    assert result.returncode != 0


@pytest.mark.parametrize(
    ("size", "name"),
    [
        (2, "adds_in_other_orders"),
        (4, "slow_ranks"),
        (4, "slow_constructors"),
        (2, "in_a_call_of_mpi"),
        (2, "in_threads"),
        (2, "in_a_thread_that_is_late"),
    ],
)
def test_no_false_alarm(size: int, name: str) -> None:
    result = run(size, name)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == size
