"""States that were saved when an option had another name, or was not there, load in each form, for every optimizer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case
from checkpoints import every_kind
from structures import copied, flat, like, model, same

import fastopt
from fastopt.core import state_dict
from fastopt.core.groups import LATER
from fastopt.options.names import RENAMED

EACH = {case.optimizer: case for case in CASES if "max_weight_norm" not in case.optimizer.refused}.values()

OLD_NAMES = {new: old for old, new in RENAMED.items()}


def limited(case: Case, params: Any) -> fastopt.Optimizer:
    opt = case.build(params, max_weight_norm=0.5, max_weight_norm_axis=-1)
    opt.step(like(params))
    opt.freeze("out*")
    return opt


def with_old_names(saved: dict[str, Any]) -> dict[str, Any]:
    """Return a state as it was when options had their old names, and before the options of ``LATER``."""
    groups = [
        {OLD_NAMES.get(name, name): value for name, value in group.items() if name not in LATER}
        for group in saved["param_groups"]
    ]
    return {**saved, "param_groups": groups}


@pytest.mark.parametrize("case", EACH, ids=str)
def test_state_dicts_with_old_names(case: Case) -> None:
    params = model()
    opt = limited(case, params)
    others = copied(params)
    other = case.build(others)
    old = pickle.loads(pickle.dumps(with_old_names(opt.state_dict())))
    assert {"max_norm", "max_norm_axis"} <= set(old["param_groups"][0])
    assert other.load_state_dict(old) == ([], [])
    assert same(other.state_dict(), opt.state_dict())
    grads = like(params)
    assert opt.step(grads) == other.step(copied(grads))
    assert same(others, params)


@every_kind
def test_files_with_old_names(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = model()
    opt = limited(next(iter(EACH)), params)
    present = state_dict.of
    with monkeypatch.context() as patched:
        patched.setattr(state_dict, "of", lambda *args, **options: with_old_names(present(*args, **options)))
        fastopt.save(tmp_path / kind, opt)
    others = copied(params)
    for array in flat(others):
        array[...] = 0
    other = type(opt)(others)
    loaded = fastopt.load(tmp_path / kind)
    assert loaded.optimizer is not None
    assert "max_norm" in loaded.optimizer["param_groups"][0]
    assert loaded.restore(other) == ([], [])
    assert same(other.state_dict(), opt.state_dict())
    assert same(others, params)


def test_an_old_name_is_checked_as_the_present_one() -> None:
    opt = fastopt.Adam(np.ones((2, 2)))
    saved = with_old_names(opt.state_dict())
    saved["param_groups"][0]["max_norm"] = -1.0
    with pytest.raises(ValueError, match=r"param_groups\[0\]: max_weight_norm=-1.0: expected "):
        opt.load_state_dict(saved)
    saved["param_groups"][0] |= {"max_norm": 1.0, "max_weight_norm": 2.0}  # which one counts?
    with pytest.raises(ValueError, match=r"param_groups\[0\]: expected the options .*'max_norm'"):
        opt.load_state_dict(saved)
