"""Every value of every option, good or bad, written into a run that is planned."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from planned_runs import OPTION_SETS, OptionSet, Run, check_like_unplanned, needs_plans

pytestmark = [needs_plans, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

Trouble = Callable[[Run], Any]


class OwnFloat(float):
    """A number that may change its mind."""


NUMBERS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "0.1",
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "negative": lambda: -0.1,
    "minus_zero": lambda: -0.0,
    "list": lambda: [0.1],
    "array": lambda: np.array(0.1),
    "True": lambda: True,
    "numpy_True": lambda: np.True_,
    "int_0": lambda: 0,
    "int_1": lambda: 1,
    "0.0": lambda: 0.0,
    "0.05": lambda: 0.05,
    "1.0": lambda: 1.0,
    "tiny": lambda: 5e-324,
    "huge": lambda: 1e308,
    "huge_int": lambda: 10**400,
    "float64": lambda: np.float64(0.05),
    "float32": lambda: np.float32(0.05),
    "float16": lambda: np.float16(0.05),
    "int64": lambda: np.int64(1),
    "subclass": lambda: OwnFloat(0.05),
    "fraction": lambda: Fraction(1, 20),
    "complex": lambda: 1j,
    "schedule": lambda: lambda step: 0.1 / (1 + step),
    "numpy_schedule": lambda: lambda step: np.float32(0.1) / (1 + step),
    "bad_schedule": lambda: lambda step: -1.0,
    "wordy_schedule": lambda: lambda step: "0.1",
    "schedule_of_schedules": lambda: lambda step: lambda: 0.1,
}
FEW = ["None", "nan", "negative", "True", "int_0", "0.0", "int_1", "0.05", "float32", "list", "schedule", "array"]
FLAGS: dict[str, Any] = {"True": True, "False": False, "1": 1, "0.0": 0.0, "None": None, "numpy_True": np.True_}
BOUNDS: dict[str, Any] = {
    "pair": (-0.3, 0.7),
    "same": (-0.25, 0.5),
    "list": [0, None],
    "neither": (None, None),
    "None": None,
    "crossed": (1, 0),
    "number": 0.5,
    "nan": (float("nan"), None),
    "arrays": (np.zeros(3), None),
    "schedule": (None, lambda step: 1.0),
}
BETAS: dict[str, Callable[[], Any]] = {
    "other": lambda: (0.5, 0.6),
    "same": lambda: (0.9, 0.999),
    "list": lambda: [0.5, 0.6],
    "ints": lambda: (0, 0),
    "numpy": lambda: (np.float32(0.5), np.float64(0.6)),
    "array": lambda: np.array([0.5, 0.6]),
    "one": lambda: (1.0, 0.9),
    "short": lambda: (0.9,),
    "nan": lambda: (0.9, float("nan")),
    "True": lambda: (0.9, True),
    "number": lambda: 0.9,
    "schedule": lambda: (lambda step: 0.5 + 0.01 * step, 0.9),
}


def writing(option: str, value: Callable[[], Any]) -> Trouble:
    def write(run: Run) -> Callable[[], Any]:
        before = run.group[option]
        run.group[option] = value()
        return lambda: run.group.update({option: before})

    return write


def written_options() -> dict[str, tuple[str, Trouble]]:
    """Return the troubles that write one option: its name and the trouble."""
    number = {"lr": NUMBERS, **{name: {few: NUMBERS[few] for few in FEW} for name in ("weight_decay", "momentum")}}
    for name in ("clip_value", "clip_norm", "max_weight_norm", "l1", "prox_l1", "eps"):
        number[name] = {few: NUMBERS[few] for few in FEW}
    number["max_weight_norm_axis"] = {few: NUMBERS[few] for few in ("None", "int_1", "0.0", "list")}
    number["betas"] = BETAS
    troubles = {
        f"{option}={kind}": (option, writing(option, value))
        for option, values in number.items()
        for kind, value in values.items()
    }
    for kind, value in BOUNDS.items():
        troubles[f"bounds={kind}"] = "bounds", writing("bounds", lambda value=value: value)
    for flag in ("nesterov", "maximize", "decoupled", "cautious_decay", "amsgrad", "lr_in_momentum"):
        for kind, value in FLAGS.items():
            troubles[f"{flag}={kind}"] = flag, writing(flag, lambda value=value: value)
    return troubles


WRITTEN = written_options()


@pytest.mark.by_turns("name")
@pytest.mark.parametrize(
    ("its", "name"),
    [
        pytest.param(its, name, id=f"{name}-{its}")
        for name, (option, _) in WRITTEN.items()
        for its in OPTION_SETS
        if option in its.defaults
    ],
)
def test_a_written_option(its: OptionSet, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_like_unplanned(its, WRITTEN[name][1], monkeypatch)
