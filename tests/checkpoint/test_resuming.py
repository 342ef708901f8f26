"""A run that goes on from a checkpoint, in a new process, has the bits of one that never stopped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES
from checkpoints import ENVIRONMENT, needs_extra
from structures import same

import fastopt
from fastopt.arithmetic import halves

# FTRL takes no rate of 0.
SCHEDULE = fastopt.schedules.warmup_cosine(0.01, warmup=20, total=180, floor=1e-3, start=1e-4)


#: What is switched on besides the options of a row.
class More(NamedTuple):
    options: dict[str, Any]
    dtypes: tuple[str, str] = ("float32", "float64")
    columns: int = 5


MORE = {
    "plain": More({}),
    "scheduled": More({"lr": SCHEDULE, "weight_decay": fastopt.schedules.linear(0.1, 0.0, 150)}),
    "averaged, accumulated": More({"ema_decay": 0.9, "ema_bias_correction": True, "accumulate_steps": 3}),
    "masters": More({"polyak": True, "polyak_start": 20}, ("bfloat16", "float16")),
    "rounded": More({"stochastic_rounding": True, "state_dtype": "bfloat16", "seed": 7}, ("bfloat16", "float32")),
    "8 bits": More({"state_dtype": "uint8"}, ("float32", "float32"), 1400),
}


def is_trained(number: int, name: str) -> bool:
    """Return whether a row is trained so: of what does not depend on the rule, every fifth that takes it."""
    if name in ("plain", "scheduled"):
        return True
    return number % 5 == 2 and not CASES[number].optimizer.refused.keys() & MORE[name].options.keys()


def train(folder: Path, first: int, last: int) -> None:
    """Train every row from one step to another, from the file of the first and into the file of the last."""
    for number, case in enumerate(CASES):
        for name, more in MORE.items():
            if not is_trained(number, name):
                continue
            rng, shape = np.random.default_rng(number), (3, more.columns)
            if first:
                loaded = fastopt.load(folder / f"{number}-{name}-{first}.safetensors")
                params, rng = loaded.params, loaded.extra["rng"]
                opt = case.build(params, **more.options)
                opt.load_state_dict(loaded.optimizer)
            else:
                dtypes = [halves.bfloat16() if name == "bfloat16" else np.dtype(name) for name in more.dtypes]
                params = {
                    "W": np.asfortranarray(rng.normal(size=shape).astype(dtypes[0])),
                    "b": [rng.normal(size=7).astype(dtypes[1]), np.asarray(rng.normal(size=()), dtypes[1])],
                }
                opt = case.build(params, **more.options)
            for step in range(first, last):
                grads = {"W": rng.normal(size=shape), "b": [rng.normal(size=7), rng.normal(size=())]}
                if step % 7 == 3:
                    grads["b"] = None
                opt.step(grads)
            fastopt.save(folder / f"{number}-{name}-{last}.safetensors", opt, extra={"rng": rng})


@needs_extra
@pytest.mark.parametrize("steps", [30, pytest.param(500, marks=pytest.mark.long)])
def test_resuming_in_a_new_process_is_exact(tmp_path: Path, steps: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    train(tmp_path / "whole", 0, steps)
    train(tmp_path / "halves", 0, steps // 2)
    half = f"pathlib.Path({str(tmp_path / 'halves')!r}), {steps // 2}, {steps}"
    here = f"sys.path.insert(0, {str(Path(__file__).parent)!r})"
    code = f"import pathlib, sys; {here}; import test_resuming; test_resuming.train({half})"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == sum(is_trained(number, name) for number in range(len(CASES)) for name in MORE)
    assert len(files) > 2 * len(CASES) + 20
    for name in files:
        whole, halves = fastopt.load(tmp_path / "whole" / name), fastopt.load(tmp_path / "halves" / name)
        assert same(tuple(whole), tuple(halves)), name
