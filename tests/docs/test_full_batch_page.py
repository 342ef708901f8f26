"""docs/guide/full_batch.rst: its tables are complete, and what they say is so."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pages import names_of, page_of

import fastopt

PAGE = page_of("guide/full_batch")
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the source tree is not here")


def first_column(title: str) -> list[str]:
    """Return the first cells of the table in the section of this title."""
    section = PAGE.read_text("utf-8").split(f"\n{title}\n---")[1]
    table = re.split(r"^\S.*\n---", section, flags=re.M)[0]
    return re.findall(r"^   \* - (.*)$", table, re.M)[1:]


def test_the_examples_run() -> None:
    assert names_of("guide/full_batch")["result"].success


def test_the_page_explains_every_status() -> None:
    explained = {status for cell in first_column("When it stops") for status in re.findall(r'"(\w+)"', cell)}
    assert explained == set(re.findall(r'"(\w+)"', (fastopt.MinimizeResult.__doc__ or "").split("status : str")[1]))


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Coming from SciPy", {"args", "jac", "options", "disp"}),
        (
            "Coming from torch",
            {"history_size", "tolerance_grad", "tolerance_change", "lr", "line_search_fn", "max_iter"},
        ),
    ],
)
def test_names_of_others_are_errors_with_a_remedy(title: str, names: set[str]) -> None:
    found = {name for cell in first_column(title) for name in re.findall(r"\b([a-z_]+)(?==|``)", cell)}
    assert names <= found
    for name in names:
        with pytest.raises(TypeError, match=rf"unexpected keyword argument '{name}'.*; "):
            fastopt.minimize(lambda x: (x @ x, 2 * x), np.ones(2), **{name: None})
