"""States with things done to them: only documented errors, in our words, and nothing changed by one that is refused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import KINDS, signed
from hostile import FOREIGN, NASTY, OPTIMIZERS, PYTHON, cyclic, deep, mutate, mutate_arrays, new_grads, trained
from structures import same
from tiers import exhaustive

import fastopt
from fastopt import CheckpointError
from fastopt.checkpoint import packing

NAMES = list(OPTIMIZERS)


def runs(short: int, full: int, long: int) -> Any:
    """Run the default tier, the gate and the tier by hand with these numbers of states, each from a seed of its own."""
    values = [
        pytest.param(0, short),
        pytest.param(10_000_000, full, marks=exhaustive),
        pytest.param(20_000_000, long, marks=pytest.mark.long),
    ]
    return pytest.mark.parametrize(("first", "count"), values)


def check_words(error: BaseException) -> None:
    """Raise if a message has words of Python's, or is too long to read."""
    text = str(error)
    assert not FOREIGN.search(text), text[:1000]
    assert text


def state_of(params: Any, opt: fastopt.Optimizer) -> Any:
    return copy.deepcopy((params, opt.state_dict(), [dict(group, params=None) for group in opt.param_groups]))


def check_restored(params: dict[str, Any], opt: fastopt.Optimizer, restore: Callable[[], Any]) -> bool:
    """Restore: a state that is refused changes nothing; after one that is loaded, a step works or says why not."""
    before = state_of(params, opt)
    try:
        restore()
    except (TypeError, ValueError) as error:
        check_words(error)
        assert same(state_of(params, opt), before), "a refused state changed something"
        return False
    opt.state_dict()
    for array in params.values():
        assert array.flags.writeable
    with np.errstate(all="ignore"):
        try:
            opt.step(new_grads(params, opt))
        except (TypeError, ValueError, RuntimeError) as error:
            check_words(error)
    return True


def packed(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content and the arrays of a checkpoint."""
    params, opt = trained(name)
    packer = packing.Packer()
    kind = packing.GENERATORS[NAMES.index(name) % len(packing.GENERATORS)]  # all of them in each file: few would load
    extra = {
        "rng": np.random.Generator(getattr(np.random, kind)(1)),
        "x": (1, float("inf"), [None, {"1": True, 2: "two"}]),
        "n": np.float64(3),
    }
    content = {
        "params": packer.pack(params, ("params",)),
        "optimizer": packer.pack(opt.state_dict(), ()),
        "extra": packer.pack(extra, ("extra",)),
    }
    return content, packer.arrays


SOURCES = cache(lambda: {name: packed(name) for name in NAMES})
STATES = cache(lambda: {name: trained(name)[1].state_dict() for name in NAMES})


def check_file(seed: int, path: Path) -> tuple[bool, bool]:
    """Change a checkpoint, load and restore it; return whether that worked."""
    rng = np.random.default_rng(seed)
    name, kind = NAMES[rng.integers(len(NAMES))], KINDS[rng.integers(len(KINDS))]
    content, arrays = copy.deepcopy(SOURCES()[name])
    for _ in range(rng.integers(1, 3)):
        if rng.integers(5) == 0:
            mutate_arrays(arrays, rng)
        else:
            mutate(content, rng, lambda: copy.deepcopy(NASTY[rng.integers(len(NASTY))]))
    text = json.dumps(content)
    if rng.integers(5):  # most files have no array that nothing refers to: such a file is refused before all else
        arrays = {key: array for key, array in arrays.items() if f'"{key}"' in text}
    signed(content, arrays, path, kind)
    try:
        loaded = fastopt.load(path)
    except CheckpointError as error:
        check_words(error)
        return False, False
    strict, state, options = bool(rng.integers(2)), bool(rng.integers(4)), [None, True, False][rng.integers(3)]
    params, opt = trained(name)
    return True, check_restored(params, opt, lambda: loaded.restore(opt, strict, state=state, options=options))


def check_state(seed: int) -> bool:
    """Change a state and load it; return whether that worked."""
    rng = np.random.default_rng(seed)
    name = NAMES[rng.integers(len(NAMES))]
    saved = copy.deepcopy(STATES()[name])
    for _ in range(rng.integers(1, 3)):
        mutate(saved, rng, lambda: nasty(rng))
    strict, kind = bool(rng.integers(2)), int(rng.integers(3))
    params, opt = trained(name)
    return check_restored(params, opt, lambda: opt.load_state_dict(saved, strict, state=kind != 1, options=kind != 2))


def nasty(rng: np.random.Generator) -> Any:
    number = rng.integers(len(PYTHON) + len(NASTY))
    return PYTHON[number]() if number < len(PYTHON) else copy.deepcopy(NASTY[number - len(PYTHON)])


def all_seeds(first: int, count: int, check: Callable[[int], Any]) -> list[Any]:
    """Return the result for each seed, whose number is shown where a check fails."""
    found = []
    for seed in range(first, first + count):
        try:
            found.append(check(seed))
        except BaseException:
            print("the seed is", seed)
            raise
    return found


@runs(250, 800, 100_000)
def test_files_behind_right_digests(tmp_path: Path, first: int, count: int) -> None:
    found = all_seeds(first, count, lambda seed: check_file(seed, tmp_path / "x"))
    loads, restores = (sum(part) for part in zip(*found, strict=True))
    assert loads > count // 10
    assert restores > count // 50


@runs(250, 800, 100_000)
def test_states_of_python_objects(first: int, count: int) -> None:
    assert sum(all_seeds(first, count, check_state)) > count // 50


ODD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "contains itself": (
        lambda saved: saved["options"].update(seed=cyclic()),
        "state_dict is nested more than 100 deep",
    ),
    "deep": (lambda saved: saved["extra"].update(a=deep()), "state_dict is nested more than 100 deep"),
    "no name of a schedule": (
        lambda saved: saved["param_groups"][0].update(lr={"schedule": [], "arguments": {}}),
        r"there is no schedule \[\]; the schedules are",
    ),
    "keys of two types": (lambda saved: saved["extra"].update({"a": 1, 2: 3}), "extra: expected the entries"),
    "no name": (lambda saved: saved["state"].update({2: {}}), r"'state' has the keys \[2\]; expected the names of"),
    "no slot": (lambda saved: saved["state"]["W"].update({2: 1}), r"'state' has the keys \[2\]; expected the names of"),
    "many digits": (
        lambda saved: saved["options"].update(seed=-(10**5000)),
        "seed=<a value of type int>: expected a whole",
    ),
    "many steps": (lambda saved: saved.update(step_count=10**5000), "step_count: expected a number from 0 to 2"),
    "an array as a choice": (
        lambda saved: saved["param_groups"][0].update(adjust_lr_fn=np.ones(2)),
        r"adjust_lr_fn=array\(\[1., 1.\]\): expected one of None, 'original'",
    ),
    "a slot of another rule": (lambda saved: saved["state"]["W"].update(sum=np.ones(1)), "W.sum is of shape"),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_values(name: str) -> None:
    change, message = ODD[name]
    params = {"W": np.ones((2, 3), np.float32)}
    opt = fastopt.Muon(params)
    opt.step({"W": np.ones((2, 3))})
    saved = opt.state_dict()
    change(saved)
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        opt.load_state_dict(saved)
    check_words(caught.value)
