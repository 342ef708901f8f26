"""Checkpoints: what is saved comes back, in both formats."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CASES
from checkpoints import KINDS, every_kind, needs_extra, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from structures import copied, flat, like, model, same

import fastopt
from fastopt.checkpoint import npz, packing, safetensors


@every_kind
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_optimizer_goes_on_from_a_file(tmp_path: Path, kind: str, case: Any) -> None:
    params = model()
    opt = case.build(params)
    for _ in range(3):
        opt.step(like(params))
    fastopt.save(tmp_path / kind, opt)
    loaded = fastopt.load(tmp_path / kind)
    assert same(loaded.params, params)
    assert same(loaded.optimizer, opt.state_dict())
    assert loaded.extra == {}
    others = copied(params)
    for array in flat(others):
        array[...] = 0
    other = case.build(others)
    assert loaded.restore(other) == ([], [])
    grads = like(params)
    assert opt.step(grads) == other.step(copied(grads))
    assert same(others, params)
    third = case.build(loaded.params)
    third.load_state_dict(loaded.optimizer)
    third.step(copied(grads))
    assert same(loaded.params, params)


@every_kind
@pytest.mark.parametrize(
    "params",
    [np.ones((2, 3), np.float32), [np.ones(2), (np.ones(1), {"a/../b": np.ones(1), 3: np.ones(0)})], {"": np.ones(1)}],
)
def test_structures_come_back(tmp_path: Path, kind: str, params: Any) -> None:
    fastopt.save(tmp_path / kind, fastopt.SGD(params), params=params)
    assert same(fastopt.load(tmp_path / kind).params, params)


@every_kind
def test_without_params_those_of_the_optimizer_are_saved(tmp_path: Path, kind: str) -> None:
    array = np.ones(3)
    for given_, expected in [
        (array, array),
        ((np.ones(1), [np.ones(2)]), [np.ones(1), [np.ones(2)]]),
        ([{"params": [np.ones(1)], "lr": 0.1}, {"params": {"W": np.ones(2)}}], None),
        (fastopt.group_by({"a": {"b": array}}, {"*": {}}), {"a": {"b": array}}),
    ]:
        opt = fastopt.Adam(given_)
        fastopt.save(tmp_path / kind, opt)
        loaded = fastopt.load(tmp_path / kind)
        if expected is not None:
            assert same(loaded.params, expected)
        assert loaded.restore(opt) == ([], [])


def test_a_model_alone(tmp_path: Path) -> None:
    fastopt.save(tmp_path / "model.npz", params={"W": np.full(2, 3.0)})
    loaded = fastopt.load(tmp_path / "model.npz")
    assert loaded.optimizer is None
    params = {"W": np.zeros(2)}
    opt = fastopt.SGD(params, lr=0.5)
    loaded.restore(opt)
    assert params["W"].tolist() == [3, 3]
    assert opt.param_groups[0]["lr"] == 0.5


def test_restore_checks_parameters_too(tmp_path: Path) -> None:
    params = {"body": np.ones(2), "head": np.ones(3), "old": np.ones(1)}
    opt = fastopt.SGD(params, momentum=0.9)
    opt.step(like(params))
    fastopt.save(tmp_path / "run.npz", opt)
    new = {"body": np.zeros(2), "head": np.zeros(4), "new": np.zeros(1)}
    other = fastopt.SGD(new, momentum=0.9)
    with pytest.raises(ValueError, match=r"params.head is of shape \(3,\), float64; expected shape \(4,\)") as caught:
        fastopt.load(tmp_path / "run.npz").restore(other)
    for text in ("missing: params.new", "unexpected: params.old", "missing: new", "head.b is of shape (3,)"):
        assert text in str(caught.value)
    assert not any(array.any() for array in new.values())
    result = fastopt.load(tmp_path / "run.npz").restore(other, strict=False)
    assert result.missing == ["params.head", "params.new", "param_groups[0]", "head.b", "new"]
    assert new["body"].tolist() == params["body"].tolist()
    assert not new["head"].any()


DTYPES = [*(name for name in packing.DTYPES if "bfloat" not in name and "float8" not in name)]

ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2"]


@needs_extra
@pytest.mark.parametrize("name", [*DTYPES, *ML_DTYPES])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (5, 3)])
def test_every_dtype_shape_and_order(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(name) if name in DTYPES else safetensors.dtype_of(packing.DTYPES[name])
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 2 if name == "bool" else 256, (*shape, dtype.itemsize), dtype=np.uint8)
    array = raw.view(dtype).reshape(shape)
    arrays = [array, np.asfortranarray(array), np.repeat(array, 2, axis=-1)[..., ::2] if shape else array]
    dense = [arrays[0], arrays[1], np.array(arrays[2], order="C")]
    for kind in KINDS:
        if kind == "run.npz" and name in ML_DTYPES:
            with pytest.raises(TypeError, match=r"npz files can't hold .*; save as \.safetensors$"):
                fastopt.save(tmp_path / kind, params=arrays)
            assert not (tmp_path / kind).exists()
            continue
        fastopt.save(tmp_path / kind, params=arrays)
        loaded = fastopt.load(tmp_path / kind).params
        assert same(loaded, dense)
        assert all(value.flags.writeable and value.flags.aligned for value in loaded)


names = st.text(max_size=8)

floats = st.floats(allow_nan=True)

some_arrays = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int8, np.int64, np.uint8, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | floats | names | some_arrays | some_arrays.map(np.asfortranarray),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@every_kind
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(extra=st.dictionaries(names, values, max_size=4))
def test_anything_plain_comes_back(tmp_path: Path, kind: str, extra: dict[str, Any]) -> None:
    fastopt.save(tmp_path / kind, extra=extra)
    assert same(fastopt.load(tmp_path / kind).extra, extra)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_arbitrary_states_come_back(tmp_path: Path, data: Any) -> None:
    """Any slots of any values, NaN payloads and infinities included, of optimizers with any names and shapes."""
    shapes = data.draw(
        st.dictionaries(names, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), min_size=1, max_size=3)
    )
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    params = {name: np.array(data.draw(hnp.arrays(dtype, shape))) for name, shape in shapes.items()}
    opt = data.draw(st.sampled_from(CASES)).build(params)
    saved = opt.state_dict()
    for entries in saved["state"].values():
        for slot in set(entries) - {"step"}:
            entries[slot] = np.array(data.draw(hnp.arrays(entries[slot].dtype, entries[slot].shape)))
        entries["step"] = np.array(data.draw(st.integers(0, 2**53 - 1)))
    saved["step_count"] = data.draw(st.integers(0, 2**53 - 1))
    opt.load_state_dict(saved)
    path = tmp_path / data.draw(st.sampled_from(KINDS))
    fastopt.save(path, opt)
    assert same(fastopt.load(path).optimizer, saved)


@every_kind
def test_generators_go_on(tmp_path: Path, kind: str) -> None:
    rngs = [np.random.Generator(getattr(np.random, name)(3)) for name in packing.GENERATORS]
    for rng in rngs:
        rng.integers(3, size=5, dtype=np.int32)
    fastopt.save(tmp_path / kind, extra={"rngs": rngs})
    for rng, loaded in zip(rngs, fastopt.load(tmp_path / kind).extra["rngs"], strict=True):
        assert rng.normal(size=9).tolist() == loaded.normal(size=9).tolist()


@every_kind
@pytest.mark.parametrize("seed", [None, 3, np.int64(3), [1, 2**70], (1, 2), np.array([1, 2]), np.uint32([7])], ids=str)
def test_generators_go_on_spawning(tmp_path: Path, kind: str, seed: Any) -> None:
    rngs = [np.random.Generator(getattr(np.random, name)(seed)) for name in packing.GENERATORS]
    rngs += [rng.spawn(2)[1] for rng in rngs]
    fastopt.save(tmp_path / kind, extra={"rngs": rngs})
    for rng, loaded in zip(rngs, fastopt.load(tmp_path / kind).extra["rngs"], strict=True):
        for ours, theirs in zip(rng.spawn(2), loaded.spawn(2), strict=True):
            assert ours.normal(size=3).tolist() == theirs.normal(size=3).tolist()
        assert rng.random() == loaded.random()


def test_the_advice_of_what_it_cannot_hold_works(tmp_path: Path) -> None:
    old, python, bits, stopping = (
        np.random.RandomState(0),
        random.Random(0),
        np.random.PCG64(0),
        fastopt.EarlyStopping(3),
    )
    stopping.update(1.0, [np.ones(2)])
    states = [old.get_state(), python.getstate(), np.random.Generator(bits), stopping.state_dict()]
    fastopt.save(tmp_path / "x.npz", extra={"states": states})
    for_old, for_python, loaded, for_stopping = fastopt.load(tmp_path / "x.npz").extra["states"]
    new, new_python, new_stopping = np.random.RandomState(), random.Random(), fastopt.EarlyStopping(3)
    new.set_state(for_old)
    new_python.setstate(for_python)
    new_stopping.load_state_dict(for_stopping)
    assert (new.rand(), new_python.random()) == (old.rand(), python.random())
    assert loaded.random() == np.random.Generator(bits).random()
    assert new_stopping.best == 1.0


class OtherSeeds(np.random.SeedSequence):
    pass


@every_kind
@pytest.mark.parametrize("seeds", [OtherSeeds(1), np.random.SeedSequence(range(3))], ids=["of_another_class", "odd"])
def test_generators_with_seeds_that_are_not_saved_go_on(tmp_path: Path, kind: str, seeds: Any) -> None:
    rng = np.random.default_rng(seeds)
    fastopt.save(tmp_path / kind, extra={"rng": rng})
    assert fastopt.load(tmp_path / kind).extra["rng"].random() == rng.random()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"a": {"b": [object()]}}, "extra.a.b.0 is of type object; a checkpoint holds None"),
        ({"a": {1, 2}}, "extra.a is of type set"),
        ({"a": {None: 1}}, "extra.a has the key None"),
        ({"a": np.array(["x"])}, "extra.a has dtype <U1; a checkpoint's arrays are of float64"),
        ({"a": np.array([object()])}, "extra.a has dtype object"),
        ({"a": np.ones(2, ">f4")}, "extra.a has dtype >f4"),
        ({"a": np.longdouble(1)}, "extra.a has dtype"),
        ({"a": {1, 2}}, r"NumPy's generators \(give a list of it\)"),
        ({"a": Path("x")}, r"\(give str of it\)"),
        ({"a": np.random.PCG64(0)}, r"\(give np.random.Generator of it\)"),
        ({"a": np.random.RandomState(0)}, r"\(give its get_state\(\), and load that into a new one\)"),
        ({"a": random.Random(0)}, r"\(give its getstate\(\), "),
        ({"a": fastopt.EarlyStopping(3)}, r"\(give its state_dict\(\), "),
        ({"a": memoryview(b"x")}, r"NumPy's generators$"),
    ],
)
def test_what_a_checkpoint_cannot_hold(tmp_path: Path, extra: Any, message: str) -> None:
    (tmp_path / "run.npz").write_bytes(b"old")
    with pytest.raises(TypeError, match=message):
        fastopt.save(tmp_path / "run.npz", extra=extra)
    assert os.listdir(tmp_path) == ["run.npz"]
    assert (tmp_path / "run.npz").read_bytes() == b"old"


def test_safetensors_itself_reads_the_file(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    fastopt.save(tmp_path / "run.safetensors", params={"a/b": {"W": np.asfortranarray(np.arange(6.0).reshape(2, 3))}})
    loaded = load_file(tmp_path / "run.safetensors")
    assert {key: value.tolist() for key, value in loaded.items()} == {"params.a%2Fb.W": [[0, 1, 2], [3, 4, 5]]}
    with np.load(write(tmp_path, params={"W": np.ones(2)}), allow_pickle=False) as opened:
        assert sorted(opened) == ["metadata", "params.W"]


@needs_extra
def test_the_bytes_are_those_of_the_packages(tmp_path: Path) -> None:
    """Those of safetensors, but for the order of its metadata, which is random; and those of np.savez."""
    save_file = pytest.importorskip("safetensors.numpy").save_file
    metadata = {"format": "fastopt", "content": 'é\n"\\', "a": ""}
    for backwards in (False, True):
        codes = list(packing.DTYPES.values())[:: -1 if backwards else 1]
        names = ["b", "é", "Z", '"', "\ue000", "\U0001f600", *map(str, range(9))]
        arrays = {
            name: np.ones(k % 3, safetensors.dtype_of(code))
            for k, (name, code) in enumerate(zip(names, codes, strict=True))
        }
        with open(tmp_path / "ours", "wb") as file:
            safetensors.write_safetensors(file, arrays, metadata)
        save_file(arrays, tmp_path / "theirs", metadata=metadata)
        ours, theirs = (split_header((tmp_path / name).read_bytes()) for name in ("ours", "theirs"))
        assert ours == theirs
        arrays = {name: array for name, array in arrays.items() if not packing.is_extension(array.dtype.name)}
        with open(tmp_path / "ours", "wb") as file:
            npz.write_npz(file, arrays, metadata)
        packed = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
        np.savez(tmp_path / "theirs.npz", **{npz.METADATA_KEY: packed, **arrays})
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs.npz").read_bytes()


def split_header(data: bytes) -> tuple[Any, ...]:
    """Return the length of a safetensors header, its metadata, its other entries in order, and the rest of the file."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    return start, header.pop("__metadata__"), list(header.items()), data[start:]
