"""README's lists are complete, and the names in its table of other libraries' names mean something here."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from places import ROOT

import fastopt

README = ROOT / "README.md"
pytestmark = pytest.mark.skipif(not README.exists(), reason="the source tree is not here")

#: The keywords of other libraries' optimizers in the table.
KEYWORDS = (
    "learning_rate",
    "max_grad_norm",
    "global_clipnorm",
    "clipnorm",
    "clipvalue",
    "b1",
    "b2",
    "beta_1",
    "beta_2",
    "use_ema",
    "gradient_accumulation_steps",
    "foreach",
    "fused",
    "capturable",
    "jit_compile",
)
#: The methods of other libraries' optimizers and schedulers in the table.
METHODS = ("zero_grad", "apply_gradients", "get_last_lr")


def after(start: str) -> str:
    """Return README from this text on, up to the next heading."""
    return README.read_text(encoding="utf-8").split(start)[1].split("\n## ")[0]


def rows() -> list[tuple[list[str], list[str]]]:
    """Return the code in both columns of each row of the table."""
    lines = re.findall(r"^\| (.*?) \| (.*) \|$", after("## Coming from torch, optax or Keras"), re.M)
    return [(re.findall(r"`([^`]+)`", there), re.findall(r"`([^`]+)`", here)) for there, here in lines[1:]]


def row_of(name: str) -> list[str]:
    """Return the code of the right column beside a name of the left one."""
    (here,) = [here for there, here in rows() if name in there]
    return here


def structure() -> dict[str, dict[str, Any]]:
    return {name: {"W": np.ones((2, 2)), "b": np.ones(2)} for name in ("hidden", "out")}


def run(code: str) -> None:
    """Run code of the right column: a keyword, a statement, an expression, or the head of a with statement."""
    params, grads = structure(), structure()
    if keyword := re.match(r"(\w+)=", code):
        assert keyword[1] in inspect.signature(fastopt.AdamW).parameters
        if not code.endswith("="):
            options = eval(f"dict({code})", {"fastopt": fastopt})
            fastopt.AdamW(params, **{"nonfinite": "skip", **options})
        return
    opt = fastopt.AdamW(params, ema_decay=0.9, accumulate_steps=2)
    names = {**vars(fastopt), "fastopt": fastopt, "opt": opt, "params": params, "grads": grads, "info": opt.step(grads)}
    exec(f"{code} pass" if code.endswith(":") else code, names)


@pytest.mark.parametrize("code", sorted({code for _, here in rows() for code in here}) if README.exists() else [])
def test_the_right_column_runs(code: str) -> None:
    run(code)


def test_a_wrong_name_in_the_right_column_is_found() -> None:
    for code in ("clip_norms=", "bounds=3", "opt.frees('hidden.*')", "fastopt.schedule"):
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            run(code)


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_of_others_are_errors_that_say_what_to_write(name: str) -> None:
    here = row_of(name)
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'") as caught:
        fastopt.AdamW(structure(), **{name: 1})
    advised = re.findall(r"write '(\w+)'", str(caught.value))
    assert f"leave '{name}' out" in str(caught.value) if not here else f"{advised[0]}=" in here


@pytest.mark.parametrize("name", METHODS)
def test_methods_of_others_are_errors_that_say_what_to_write(name: str) -> None:
    row_of(f"{name}()")
    with pytest.raises(AttributeError, match=f"AdamW has no '{name}': "):
        getattr(fastopt.AdamW(structure()), name)


def listed(start: str) -> list[str]:
    """Return the names in a paragraph or list of README."""
    names = re.findall(r"`(\w+)`", after(start).split("\n\n**")[0])
    assert len(names) == len(set(names))
    return names


def test_every_schedule_is_listed() -> None:
    schedules = fastopt.schedules
    kinds = {name for name in schedules.__all__ if isinstance(getattr(schedules, name), type)} - {"Schedule"}
    assert set(listed("**Schedules** (`fastopt.schedules`)")) == kinds


def test_every_optimizer_is_listed() -> None:
    others = {"minimize", "LBFGS", "block_coordinate_descent", "sparse_code"}
    assert set(listed("**Optimizers.**")) == {*fastopt.optimizers.__all__, *others}
