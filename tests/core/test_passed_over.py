"""Parameters that are None are passed over, and the fields of named tuples are names."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, Case, needs_native

import fastopt

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


class Layer(NamedTuple):
    W: Any
    b: Any = None


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({"W": ones(2), "b": None}, ["W"]),
        ({"b": None, "W": ones(2)}, ["W"]),
        ([ones(2), None, ones(3)], ["0", "2"]),
        ((None, ones(2)), ["1"]),
        ({"a": {"W": ones(2), "b": None}, "c": [None, {"d": ones(1)}], "e": {"f": None}}, ["a.W", "c.1.d"]),
        ([{"params": {"W": ones(2), "b": None}}, {"params": [None, ones(3)], "lr": 0.5}], ["0.W", "1.1"]),
        (Layer(ones(2)), ["W"]),
        (Layer(ones(2), ones(1)), ["W", "b"]),
        ({"hidden": Layer(ones(2)), "out": Layer(ones(1), ones(1))}, ["hidden.W", "out.W", "out.b"]),
        ([Layer(ones(2)), Layer(ones(2), ones(1))], ["0.W", "1.W", "1.b"]),
        (Layer(Layer(ones(2), ones(1)), ones(1)), ["W.W", "W.b", "b"]),
    ],
    ids=["last", "first", "list", "tuple", "nested", "groups", "layer", "both", "layers", "list_of_layers", "deep"],
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_names_and_steps(params: Any, names: list[str], backend: str) -> None:
    opt = fastopt.SGD(params, lr=0.5, backend=backend)
    assert list(opt.state) == names
    start = {name: array.copy() for name, array in zip(names, opt.parts.parameters.arrays, strict=True)}
    grads = map_leaves(params)
    for _ in range(6):
        opt.step(grads)
    assert opt.step_count == 6
    for name, array in zip(names, opt.parts.parameters.arrays, strict=True):
        rate = opt.param_groups[-1]["lr"] if len(opt.param_groups) > 1 else 0.5
        assert np.array_equal(array, start[name] - 6 * rate), name


def map_leaves(structure: Any) -> Any:
    """Return gradients in the structure of parameters, with None where these have None."""
    if structure is None or isinstance(structure, np.ndarray):
        return None if structure is None else np.ones_like(structure)
    if isinstance(structure, dict):
        return {name: map_leaves(child) for name, child in structure.items() if name != "lr"}
    children = [map_leaves(child) for child in structure]
    return type(structure)._make(children) if isinstance(structure, Layer) else children


@pytest.mark.parametrize("case", [case for k, case in enumerate(CASES) if k % 4 == 0], ids=str)
def test_the_same_bits_as_without_it(case: Case) -> None:
    with_none: Any = {"a": {"W": np.ones((2, 3)), "b": None}, "c": np.ones(3)}
    without: Any = {"a": {"W": np.ones((2, 3))}, "c": np.ones(3)}
    opt, other = case.build(with_none), case.build(without)
    rng = np.random.default_rng(0)
    for step in range(8):
        W, c = rng.normal(size=(2, 3)), rng.normal(size=3)
        ours: Any = {"a": {"W": W, "b": None}, "c": c} if step % 2 else {"a": {"W": W}, "c": c}
        assert opt.step(ours) == other.step({"a": {"W": W}, "c": c})
    assert with_none["a"]["W"].tobytes() == without["a"]["W"].tobytes()
    assert with_none["c"].tobytes() == without["c"].tobytes()
    assert opt.planned_steps == other.planned_steps


def test_structures_have_none_too(tmp_path: Path) -> None:
    params = {"W": ones(2), "b": None, "l": [None, ones(1)]}
    copies = {"W": np.zeros(2, np.float16), "b": None, "l": [None, None]}
    opt = fastopt.SGD(params, lr=0.5, ema_decay=0.5, copy_to=copies, bounds=({"W": 0.0}, None))
    opt.step({"W": ones(2)})
    for structure in (opt.params, opt.ema):
        assert structure["b"] is None
        assert structure["l"][0] is None
    assert opt.params["W"] is params["W"]
    assert copies["W"].tolist() == [0.5, 0.5]
    with opt.averaged():
        assert params["W"].tolist() == [0.75, 0.75]
    stopping = fastopt.EarlyStopping(2)
    stopping.update(1.0, params)
    opt.step({"W": ones(2), "b": None, "l": [None, ones(1)]})
    stopping.restore(params, opt)
    assert params["W"].tolist() == [0.5, 0.5]
    for kind in ("run.npz", "run.safetensors"):
        fastopt.save(tmp_path / kind, opt)
        loaded = fastopt.load(tmp_path / kind)
        assert loaded.params["b"] is None
        fresh = {"W": ones(2) * 9, "b": None, "l": [None, ones(1)]}
        other = fastopt.SGD(fresh, lr=0.5, ema_decay=0.5, copy_to=copies, bounds=({"W": 0.0}, None))
        assert loaded.restore(other) == ([], [])
        assert fresh["W"].tolist() == [0.5, 0.5]
    assert fastopt.averaging.mean([params, params])["b"] is None


def test_groups_by_name_and_combined() -> None:
    params = {"a": Layer(ones(2, 2)), "c": {"W": ones(2, 2), "b": None}}
    opt = fastopt.SGD(fastopt.group_by(params, {"a.*": {"lr": 0.5}, "*.W": {"lr": 0.25}}))
    opt.step({"a": Layer(ones(2, 2)), "c": {"W": ones(2, 2)}})
    assert (params["a"].W[0, 0], params["c"]["W"][0, 0]) == (0.5, 0.75)  # type: ignore[union-attr, index]
    assert opt.freeze("a.W") == ["a.W"]
    both = fastopt.Combined(params, {lambda name, p: p.ndim == 2: fastopt.Muon})
    both.step({"a": Layer(ones(2, 2)), "c": None})
    with pytest.raises(ValueError, match=r"no array's name matches 'c\.b'"):
        opt.freeze("c.b")


def test_adding() -> None:
    opt = fastopt.SGD({"W": ones(2), "b": None}, lr=0.5)
    opt.add_param_group({"params": {"head": Layer(ones(1))}, "lr": 0.25})
    assert list(opt.state) == ["W", "head.W"]
    opt.step({"W": ones(2), "head": Layer(ones(1))})
    with pytest.raises(ValueError, match=r"the names \['b'\] are there already"):
        opt.add_param_group({"params": {"b": ones(1)}})


def test_a_gradient_of_none() -> None:
    params = {"W": ones(2), "l": {"b": None}}
    opt = fastopt.SGD(params, lr=0.5)
    opt.step({"W": ones(2), "l": None})
    for _ in range(5):
        opt.step({"W": ones(2), "l": {"b": None}})
    before = params["W"].copy()  # type: ignore[union-attr]
    with pytest.raises(TypeError, match=r"grads\.l\.b: expected None, as in the parameters, got one of type numpy"):
        opt.step({"W": ones(2), "l": {"b": ones(1)}})
    assert np.array_equal(params["W"], before)  # type: ignore[arg-type]
    params["l"]["b"] = ones(1)  # type: ignore[index, call-overload, assignment]
    with pytest.raises(ValueError, match=r"'l\.b' is no longer the object"):
        opt.step({"W": ones(2)})


def test_nothing_but_none() -> None:
    for params in ({"W": None}, [None], [{"params": [None]}]):
        with pytest.raises(ValueError, match="there is no array in this structure"):
            fastopt.SGD(params)
