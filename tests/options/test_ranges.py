"""The one validator: the numbers of each range, and the words that name it."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fastopt.options.ranges import COUNT, FRACTION, NON_NEGATIVE, POSITIVE, Choice, Range, as_number, check

TINY = 5e-324
NUMBERS = [-math.inf, -(10**400), -1, -TINY, 0, TINY, 0.5, 1, 1 + 2**-52, 1e308, 10**400, math.inf, math.nan]


@pytest.mark.parametrize(
    ("range_", "words", "inside"),
    [
        (Range(), "a finite number", [-1, -TINY, 0, TINY, 0.5, 1, 1 + 2**-52, 1e308]),
        (NON_NEGATIVE, "a finite number of at least 0", [0, TINY, 0.5, 1, 1 + 2**-52, 1e308]),
        (POSITIVE, "a finite number above 0", [TINY, 0.5, 1, 1 + 2**-52, 1e308]),
        (Range(0, includes_high=True), "a number of at least 0", [0, TINY, 0.5, 1, 1 + 2**-52, 1e308, math.inf]),
        (Range(high=1), "a finite number below 1", [-1, -TINY, 0, TINY, 0.5]),
        (Range(high=0, includes_high=True), "a finite number of at most 0", [-1, -TINY, 0]),
        (Range(0, 1), "a number from 0 to below 1", [0, TINY, 0.5]),
        (FRACTION, "a number from 0 to 1", [0, TINY, 0.5, 1]),
        (Range(0, 1, excludes_low=True), "a number above 0 to below 1", [TINY, 0.5]),
        (Range(0, 1, excludes_low=True, includes_high=True), "a number above 0 and at most 1", [TINY, 0.5, 1]),
        (Range(0, 1, schedulable=True), "a number from 0 to below 1, a schedule", [0, TINY, 0.5]),
        (Range(1, optional=True), "a finite number of at least 1, or None", [1, 1 + 2**-52, 1e308]),
    ],
)
def test_ranges(range_: Range, words: str, inside: list[float]) -> None:
    assert str(range_) == words
    assert [number for number in NUMBERS if range_.holds(number)] == inside
    for number in NUMBERS:
        if number in inside:
            check("x", number, range_)
        else:
            with pytest.raises(ValueError, match=rf"^x={re.escape(repr(number))}: expected {words}$"):
                check("x", number, range_)


@pytest.mark.parametrize("value", [3, np.int8(3), np.array(3)])
def test_whole_numbers_become_plain(value: Any) -> None:
    number = as_number("n", value, COUNT)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_become_plain(value: Any) -> None:
    number = as_number("x", value, NON_NEGATIVE)
    assert (number, type(number)) == (0.5, float)


@pytest.mark.parametrize("value", [True, np.True_, "1", None, 1j, [1]])
@pytest.mark.parametrize("allowed", [COUNT, NON_NEGATIVE])
def test_another_type(value: Any, allowed: Range) -> None:
    for validate in (as_number, check):
        with pytest.raises(TypeError, match=f"^x=.*: expected {allowed}$"):
            validate("x", value, allowed)
    assert as_number("x", None, allowed._replace(optional=True)) is None


def test_choices_and_flags() -> None:
    check("mode", "max", Choice("min", "max"))
    with pytest.raises(ValueError, match=r"^mode='low': expected one of 'min', 'max'$"):
        check("mode", "low", Choice("min", "max"))
    check("nesterov", np.True_, None)
    with pytest.raises(TypeError, match=r"^nesterov=1: expected True or False$"):
        check("nesterov", 1, None)
