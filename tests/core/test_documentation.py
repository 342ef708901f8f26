"""``help`` of an optimizer has every option, with its type and default; nothing is put together at import."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import Lamprey
from checkpoints import ENVIRONMENT

import fastopt
from fastopt.core.documentation import Documentation
from fastopt.optimizers.combined import GROUP_OPTIONS
from fastopt.options.common import OF_WHOLE_STEP, Common

OPTIMIZERS = [getattr(fastopt, name) for name in fastopt.optimizers.__all__]
every_optimizer = pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)


def heads(cls: type) -> dict[str, str]:
    """Return what the section of parameters says of the kind of each."""
    section = re.split(r"^\w[\w ]*\n-{3,}$", inspect.getdoc(cls) or "", flags=re.M)[1]
    found = re.findall(r"^([\w*][\w*, ]*?) : (.*)$", section, re.M)
    return {name: kind for names, kind in found for name in names.split(", ")}


@every_optimizer
def test_every_option_is_described_with_its_type(cls: type) -> None:
    kinds = heads(cls)
    assert next(iter(kinds)) == "params"
    assert {*kinds} == {*inspect.signature(cls).parameters} > {*Common.__annotations__}
    assert not [kind for kind in kinds.values() if "see :" in kind or "as in :" in kind]
    types = ("float", "int", "bool", "pair", "triple", "tuple", "array", "str", "{")
    assert not {name: kind for name, kind in kinds.items() if not kind.startswith(types)}


@every_optimizer
def test_defaults_are_those_of_the_class(cls: Any) -> None:
    group = cls(np.ones((2, 2))).param_groups[0]
    parameters = inspect.signature(cls).parameters
    for name, kind in heads(cls).items():
        if name in group and name != "params":
            assert parameters[name].default == group[name], name
            written = kind.partition(", default ")[2]
            assert not written or eval(written, {"infinity": np.inf}) == group[name], name
    assert heads(cls)["decoupled"] == f"bool, default {group['decoupled']}"
    assert parameters["nonfinite"].default == "propagate"
    assert parameters["max_weight_norm"].annotation == "float | None"


@every_optimizer
def test_help_shows_it(cls: type) -> None:
    text = pydoc.plain(pydoc.render_doc(cls))
    assert "clip_global_norm: 'float | None' = None" in text
    assert "ema_decay : float or function, optional" in text
    assert "Whether ``ema`` is the arithmetic mean of the parameters" in text
    for reason in cls.refused.values():  # type: ignore[attr-defined]
        assert f"{cls.__name__} does not take it: {reason}." in text


def test_adamw_shows_the_options_of_adam() -> None:
    doc = inspect.getdoc(fastopt.AdamW) or ""
    assert "eps_root : float >= 0, default 0.0\n    Added inside the root, after the correction (as in optax)." in doc
    assert heads(fastopt.SparseAdam)["lr"] == heads(fastopt.Adam)["lr"] == "float >= 0 or schedule, default 1e-3"


def test_the_base_and_instances_too() -> None:
    assert {*heads(fastopt.Optimizer)} >= {*Common.__annotations__, "params", "options"}
    assert fastopt.SGD(np.ones(1)).__doc__ == fastopt.SGD.__doc__


def test_combined_shows_the_options_of_the_whole_step_alone() -> None:
    assert {*Common.__annotations__} - OF_WHOLE_STEP == (GROUP_OPTIONS - {"bounds"}) & {*Common.__annotations__}
    assert not OF_WHOLE_STEP - {*Common.__annotations__}
    expected = {"params", "optimizers", *OF_WHOLE_STEP}
    assert {*inspect.signature(fastopt.Combined).parameters} == expected
    assert {*heads(fastopt.Combined)} == expected


def test_nothing_is_put_together_before_it_is_read() -> None:
    for cls in (*OPTIMIZERS, fastopt.Optimizer, fastopt.Combined):
        written = vars(cls)["__doc__"]
        assert isinstance(written, Documentation)
        assert "nonfinite_limit" not in written.template
        assert len(inspect.getdoc(cls) or "") > len(written.template) + 5000


def test_classes_of_ones_own() -> None:
    class Mine(fastopt.SGD):
        """Mine."""

    class Strict(fastopt.SGD):
        def __init__(self, params: Any, lr: float = 2.0) -> None:
            super().__init__(params, lr)

    class Late(fastopt.AdamW):
        """Late.

        Parameters
        ----------
        lr, weight_decay : as in :class:`AdamW`
        params, **common : see :class:`fastopt.Optimizer`
        """

        def __init__(self, params: Any, lr: float = 0.5, weight_decay: float = 0.01, **common: Any) -> None:
            super().__init__(params, lr, weight_decay=weight_decay, **common)

    assert Mine.__doc__ == "Mine."
    assert inspect.signature(Mine) == inspect.signature(fastopt.SGD)
    assert Strict.__doc__ is None
    assert list(inspect.signature(Strict).parameters) == ["params", "lr"]
    assert heads(Late)["lr"] == "float >= 0 or schedule, default 0.5"
    assert heads(Late)["weight_decay"] == "float >= 0 or schedule, default 1e-2"
    assert list(inspect.signature(Lamprey).parameters)[:4] == ["params", "lr", "beta", "keep"]
    assert "polyak" in inspect.signature(Lamprey).parameters
    assert Lamprey.__doc__ == "A rule that nobody has."


def test_without_docstrings() -> None:
    code = "import fastopt, numpy as np; print(fastopt.AdamW.__doc__, fastopt.AdamW(np.ones(2)))"
    told = subprocess.run(
        [sys.executable, "-OO", "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True
    )
    assert told.stdout.startswith("None AdamW(1 array, 2 elements, lr=0.001")
