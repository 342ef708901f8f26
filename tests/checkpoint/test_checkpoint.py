"""Checkpoints: what comes back, what a killed process leaves, what broken and hostile files do, resuming exactly."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from structures import copied, flat, like, model, same
from tiers import shortly

import fastopt
from fastopt import CheckpointError
from fastopt.arithmetic import halves
from fastopt.checkpoint import metadata as file_metadata
from fastopt.checkpoint import npz, packing, safetensors
from fastopt.checkpoint.metadata import FORMAT_VERSION, digest

needs_extra = pytest.mark.skipif(
    find_spec("safetensors") is None or find_spec("ml_dtypes") is None, reason="needs the extra checkpoint"
)
KINDS = ("run.safetensors", "run.npz") if find_spec("safetensors") else ("run.npz",)
every_kind = pytest.mark.parametrize("kind", [pytest.param("run.safetensors", marks=needs_extra), "run.npz"])
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(fastopt.__file__).parents[1]), str(Path(__file__).parent), *sys.path]),
}


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.by_turns("case")
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
            with pytest.raises(TypeError, match="npz files can't hold"):
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
        entries["step"] = np.array(data.draw(st.integers(0, 2**62)))
    saved["step_count"] = data.draw(st.integers(0, 2**62))
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
    ],
)
def test_what_a_checkpoint_cannot_hold(tmp_path: Path, extra: Any, message: str) -> None:
    (tmp_path / "run.npz").write_bytes(b"old")
    with pytest.raises(TypeError, match=message):
        fastopt.save(tmp_path / "run.npz", extra=extra)
    assert os.listdir(tmp_path) == ["run.npz"]
    assert (tmp_path / "run.npz").read_bytes() == b"old"


@needs_extra
def test_safetensors_itself_reads_the_file(tmp_path: Path) -> None:
    fastopt.save(tmp_path / "run.safetensors", params={"a/b": {"W": np.asfortranarray(np.arange(6.0).reshape(2, 3))}})
    from safetensors.numpy import load_file

    loaded = load_file(tmp_path / "run.safetensors")
    assert {key: value.tolist() for key, value in loaded.items()} == {"params.a%2Fb.W": [[0, 1, 2], [3, 4, 5]]}
    with np.load(write(tmp_path, params={"W": np.ones(2)}), allow_pickle=False) as opened:
        assert sorted(opened) == ["metadata", "params.W"]


def write(folder: Path, kind: str = "run.npz", **content: Any) -> Path:
    fastopt.save(folder / kind, **content)
    return folder / kind


# --- the file ---------------------------------------------------------------------------------------------------------


@every_kind
def test_modes_links_and_leftovers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    before = os.umask(0o027)
    try:
        fastopt.save(path, extra={"n": 1})
    finally:
        os.umask(before)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        link = tmp_path / f"link-{kind}"
        link.symlink_to(path)
        fastopt.save(link, extra={"n": 2})
        assert link.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
        assert fastopt.load(path).extra == {"n": 2}
        link.unlink()
    assert os.listdir(tmp_path) == [kind]


@every_kind
def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, kind, extra={"n": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        fastopt.save(path, extra={"n": 2})
    assert fastopt.load(path).extra == {"n": 1}
    assert os.listdir(tmp_path) == [kind]
    with pytest.raises(FileNotFoundError):
        fastopt.save(tmp_path / "missing" / kind, extra={})
    with pytest.raises(FileNotFoundError):
        fastopt.load(tmp_path / "missing")


@needs_extra
def test_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "run.safetensors", extra={"n": 1})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install 'fastopt\[checkpoint\]', or save to a path ending in .npz"):
        fastopt.save(path, extra={"n": 2})
    assert fastopt.load(write(tmp_path, extra={"n": 3})).extra == {"n": 3}
    assert fastopt.load(path).extra == {"n": 1}


SAVE_FOREVER = """
import sys, numpy as np, fastopt
path, n = sys.argv[1], 0
params = [np.zeros(300_000), np.zeros((7, 5), np.float32)]
opt = fastopt.Adam(params)
print("ready", flush=True)
while True:
    n += 1
    for param in params:
        param[...] = n
    fastopt.save(path, opt, extra={"n": n})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("count", shortly(20, 100))
def test_killed_while_saving(tmp_path: Path, count: int) -> None:
    """Kills at any moment of a loop that saves: the file is there whenever it was, and always whole."""
    kills, rng = 0, np.random.default_rng(5)
    processes: list[tuple[Path, subprocess.Popen[str]]] = []
    try:
        for start in range(0, count, 10):
            processes = []
            for number in range(start, start + 10):
                path = tmp_path / f"{number}{Path(KINDS[number % len(KINDS)]).suffix}"
                fastopt.save(path, extra={"n": 0}, params=[np.zeros(1)])
                command = [sys.executable, "-c", SAVE_FOREVER, str(path)]
                processes.append((path, subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)))
            for path, process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, 0.02))
                process.kill()
                process.communicate()
                assert process.returncode == -signal.SIGKILL
                loaded = fastopt.load(path)
                assert all((param == loaded.extra["n"]).all() for param in loaded.params)
                kills += 1
                path.unlink()
    finally:
        for _, process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()
    assert kills == count
    assert len(os.listdir(tmp_path)) >= count // 20, "too few kills hit a file that was being written"


# --- broken and hostile files -----------------------------------------------------------------------------------------


def test_a_generator_that_would_read_beyond_its_buffer(tmp_path: Path) -> None:
    for name, change in [
        ("MT19937", {"state": {"dict": [["key", {"array": "a", "order": "C"}], ["pos", 10**9]]}}),
        ("Philox", {"buffer_pos": 99}),
    ]:
        state = getattr(np.random, name)(1).state
        packer = packing.Packer()
        items = [[key, change.get(key, packer.pack(value, ("a",)))] for key, value in state.items()]
        arrays = packer.arrays
        if name == "MT19937":
            arrays = {"a": state["state"]["key"]}
        content = {"params": None, "optimizer": None, "extra": {"dict": [["rng", {"generator": {"dict": items}}]]}}
        with pytest.raises(CheckpointError, match="a generator's position is outside its buffer"):
            fastopt.load(signed(content, arrays, tmp_path / "x.npz"))


def small(folder: Path, kind: str) -> bytes:
    params = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2)}
    opt = fastopt.Adam(params, lr=fastopt.schedules.cosine(0.1, 5))
    opt.step({"W": np.ones((2, 3)), "b": None})
    path = folder / kind
    fastopt.save(path, opt, extra={"rng": np.random.default_rng(1), "x": (1, float("inf"))})
    return path.read_bytes()


@every_kind
def test_truncated_anywhere(tmp_path: Path, kind: str) -> None:
    data = small(tmp_path, kind)
    path = tmp_path / "broken"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="broken: it "):
            fastopt.load(path)


@needs_extra
def test_any_flipped_bit_of_safetensors(tmp_path: Path) -> None:
    data = bytearray(small(tmp_path, "run.safetensors"))
    path = tmp_path / "broken"
    for place in range(len(data)):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(CheckpointError):
            fastopt.load(path)
        data[place] ^= 1 << place % 8


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with a few things done to it: bits, bytes, numbers, pieces cut, doubled, moved, inserted."""
    found = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        at, length = int(rng.integers(len(found) + 1)), int(rng.integers(1, 40))
        kind = rng.integers(7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            found[at : at + length] = rng.bytes(length)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = found[at : at + length]
        elif kind == 4:
            digits = [k for k, byte in enumerate(found) if 48 <= byte <= 57]
            if digits:
                found[int(rng.choice(digits))] = 48 + int(rng.integers(10))
        elif kind == 5:
            found[at : at + 8] = struct.pack("<Q", (0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)[rng.integers(6)])
        else:
            other = int(rng.integers(len(found) + 1))
            found[at : at + length] = found[other : other + length]
    return bytes(found)


@every_kind
@pytest.mark.parametrize("count", shortly(500, 5000))
def test_fuzz_of_the_loader(tmp_path: Path, kind: str, count: int) -> None:
    """Nothing but the documented error; and a file that loads is one that says the same."""
    data = small(tmp_path, kind)
    original = fastopt.load(tmp_path / kind)
    rng = np.random.default_rng(11)
    path = tmp_path / "mutated"
    refused = 0
    for _ in range(count):
        path.write_bytes(mutated(data, rng))
        try:
            loaded = fastopt.load(path)
        except CheckpointError:
            refused += 1
        else:
            assert same(tuple(loaded), tuple(original))
    assert refused > 0.8 * count


def signed(content: Any, arrays: dict[str, Any], path: Path) -> Path:
    """Write a file whose digest is right, whatever its content."""
    text = content if isinstance(content, str) else json.dumps(content)
    metadata = {"format": "fastopt", "format_version": str(FORMAT_VERSION), "content": text}
    metadata["digest"] = digest(metadata, arrays)
    npz.write_npz(path, arrays, metadata)
    return path


@pytest.mark.parametrize("count", shortly(300, 3000))
def test_fuzz_behind_the_digest(tmp_path: Path, count: int) -> None:
    """Hostile content with a right digest: only the documented errors, from the loader and from the optimizer."""
    small(tmp_path, "run.npz")
    with np.load(tmp_path / "run.npz") as opened:
        arrays = {key: opened[key] for key in opened}
    content = json.loads(arrays.pop("metadata").tobytes())["content"].encode()
    rng = np.random.default_rng(12)
    loads = 0
    for _ in range(count):
        text = mutated(content, rng).decode("latin-1")
        try:
            loaded = fastopt.load(signed(text, arrays, tmp_path / "signed.npz"))
        except CheckpointError:
            continue
        loads += 1
        opt = fastopt.Adam({"W": np.zeros((2, 3), np.float32), "b": np.zeros(2)})
        try:
            loaded.restore(opt)
        except (TypeError, ValueError):
            assert opt.step_count == 0
    assert loads > count // 300


ONE: dict[str, Any] = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"params.a": {**ONE, "shape": [2**61]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": [2**32, 2**32]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": [2**32, 2**32, 0]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": [1] * 100_000 + [2]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": [-2]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": [2.0]}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": "22"}}, b"\0" * 8),
        ({"params.a": {**ONE, "shape": None}}, b"\0" * 8),
        ({"params.a": {**ONE, "data_offsets": [0, 2**63]}}, b"\0" * 8),
        ({"params.a": {**ONE, "data_offsets": [8, 0]}}, b"\0" * 8),
        ({"params.a": {**ONE, "data_offsets": [0, 8, 16]}}, b"\0" * 8),
        ({"params.a": {**ONE, "data_offsets": [-8, 0]}}, b"\0" * 8),
        ({"params.a": {**ONE, "dtype": "F31"}}, b"\0" * 8),
        ({"params.a": {**ONE, "dtype": ["F32"]}}, b"\0" * 8),
        ({"params.a": {**ONE, "more": 1}}, b"\0" * 8),
        ({"params.a": 5}, b""),
        ({"params.a": ONE, "params.b": ONE}, b"\0" * 8),
        ({"params.a": ONE, "params.b": {**ONE, "data_offsets": [4, 12]}}, b"\0" * 12),
        ({"params.a": ONE, "params.b": {**ONE, "data_offsets": [12, 20]}}, b"\0" * 20),
        ({"params.a": ONE}, b"\0" * 9),
        ({"params.a": ONE}, b"\0" * 7),
        ({"../../etc/passwd": ONE}, b"\0" * 8),
        ({"/etc/passwd": ONE}, b"\0" * 8),
        ({"..\\x": ONE}, b"\0" * 8),
        ({"a\0b": ONE}, b"\0" * 8),
        ({"~/x": ONE}, b"\0" * 8),
        ({"": ONE}, b"\0" * 8),
        ([], b""),
        ("x", b""),
        ({"__metadata__": {"format": "pt"}}, b""),
        ({"__metadata__": {"format": "fastopt"}}, b""),
        ({"__metadata__": []}, b""),
    ],
)
def test_hostile_safetensors_headers(tmp_path: Path, header: Any, data: bytes) -> None:
    if isinstance(header, dict) and "__metadata__" not in header:
        arrays = {key: np.zeros(2, np.float32) for key in header}
        content = {"params": [{"array": key, "order": "C"} for key in header], "optimizer": None, "extra": {"dict": []}}
        metadata = {"format": "fastopt", "format_version": "1", "content": json.dumps(content)}
        metadata["digest"] = digest(metadata, arrays)
        header = {"__metadata__": metadata, **header}
    text = json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(CheckpointError, match=r"hostile.safetensors: it "):
        fastopt.load(path)


@pytest.mark.parametrize("start", [b"", b"\0" * 7, b"\xff" * 8, struct.pack("<Q", 2**40), struct.pack("<Q", 5) + b"{}"])
def test_hostile_lengths(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "x").write_bytes(start)
    with pytest.raises(CheckpointError):
        fastopt.load(tmp_path / "x")


def test_the_plain_header_of_these_tests_is_fine(tmp_path: Path) -> None:
    """So that it is the change in each hostile header that is refused."""
    arrays = {"params.a": np.zeros(2, np.float32)}
    content = {"params": [{"array": "params.a", "order": "C"}], "optimizer": None, "extra": {"dict": []}}
    metadata = {"format": "fastopt", "format_version": "1", "content": json.dumps(content)}
    metadata["digest"] = digest(metadata, arrays)
    text = json.dumps({"__metadata__": metadata, "params.a": ONE}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    assert same(fastopt.load(tmp_path / "x").params, [np.zeros(2, np.float32)])


def test_a_name_twice_in_a_header(tmp_path: Path) -> None:
    text = json.dumps({"params.a": ONE}).encode()[:-1] + b', "params.a": ' + json.dumps(ONE).encode() + b"}"
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 8)
    with pytest.raises(CheckpointError, match="a name twice"):
        fastopt.load(tmp_path / "x")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"params": ' + '{"tuple": [' * 5000 + "]}" * 5000 + "}",
        {"params": None, "optimizer": None},
        {"params": None, "optimizer": None, "extra": None, "more": None},
        {"params": {"array": "z", "order": "C"}, "optimizer": None, "extra": None},
        {"params": {"array": "a", "order": "X"}, "optimizer": None, "extra": None},
        {"params": [{"array": "a", "order": "C"}] * 2, "optimizer": None, "extra": None},
        {"params": {"object": "a"}, "optimizer": None, "extra": {"scalar": "a"}},
        {"params": {"generator": {"dict": [["bit_generator", "os.system"]]}}, "optimizer": None, "extra": None},
        {"params": {"generator": {"dict": [["bit_generator", "PCG64"]]}}, "optimizer": None, "extra": None},
        {"params": {"dict": [[{}, 1]]}, "optimizer": None, "extra": {"scalar": "a"}},
        {"params": {"dict": [["a"]]}, "optimizer": None, "extra": {"scalar": "a"}},
        {"params": {"float": "0x"}, "optimizer": None, "extra": {"scalar": "a"}},
        {"params": {"scalar": "a"}, "optimizer": None, "extra": None},
        {"params": {"scalar": "a"}, "optimizer": None, "extra": [1]},
        {"params": {"scalar": "a"}, "optimizer": 3, "extra": {"dict": []}},
    ],
)
def test_hostile_content(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match="it is not a complete checkpoint: "):
        fastopt.load(signed(content, {"a": np.zeros(())}, tmp_path / "x.npz"))


def parts(folder: Path) -> dict[str, bytes]:
    path = write(folder, params={"W": np.ones(2)})
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


HOSTILE_PARTS: list[Callable[[dict[str, bytes]], dict[str, bytes]]] = [
    lambda found: {**found, "../evil.npy": found["params.W.npy"]},
    lambda found: {**found, "/evil.npy": found["params.W.npy"]},
    lambda found: {**found, "evil": b""},
    lambda found: {**found, "evil.npy": found["params.W.npy"]},
    lambda found: {**found, "params.W.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999999,)}")},
    lambda found: {**found, "params.W.npy": npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\n")},
    lambda found: {**found, "params.W.npy": npy("{'descr': '<f8', 'fortran_order': True, 'shape': ()}", b"\0" * 8)},
    lambda found: {**found, "params.W.npy": npy("__import__('os').system('true')")},
    lambda found: {**found, "params.W.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", b"\0" * 8, 2)},
    lambda found: {**found, "params.W.npy": npy("(" * 9000)},
    lambda found: {**found, "params.W.npy": b""},
    lambda found: {"params.W.npy": found["params.W.npy"]},
    lambda found: {"metadata.npy": found["metadata.npy"]},
]


@pytest.mark.parametrize("number", range(len(HOSTILE_PARTS)))
def test_hostile_npz_parts(tmp_path: Path, number: int) -> None:
    found = HOSTILE_PARTS[number](parts(tmp_path))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, data in found.items():
            archive.writestr(name, data)
    with pytest.raises(CheckpointError):
        fastopt.load(tmp_path / "x.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_npz_bombs_and_doubles(tmp_path: Path) -> None:
    found = parts(tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("params.W.npy", b"\0" * 10_000_000)
    with pytest.raises(CheckpointError, match="its parts claim more bytes than the file has"):
        fastopt.load(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "double.npz", "w") as archive:
        for name in ("metadata.npy", "params.W.npy", "params.W.npy"):
            archive.writestr(name, found[name])
    with pytest.raises(CheckpointError, match=r"is not as fastopt[.]save writes it"):
        fastopt.load(tmp_path / "double.npz")


@every_kind
@pytest.mark.parametrize("version", ["", "x", "1.5", "-1", "0", " 1", "²", "9" * 5000])
def test_odd_format_versions(tmp_path: Path, kind: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(file_metadata, "FORMAT_VERSION", version)
        path = write(tmp_path, kind, extra={})
    told = "its format version is '.*; expected a whole number of at least 1|it is of format version 9{80}; this"
    with pytest.raises(CheckpointError, match=told):
        fastopt.load(path)


@pytest.mark.parametrize("extra", [0, "epoch", [], [("epoch", 3)]])
def test_extra_is_a_dict(tmp_path: Path, extra: Any) -> None:
    with pytest.raises(TypeError, match=r"extra is of type \w+; expected a dict: extra={'name': value}"):
        fastopt.save(tmp_path / "run.npz", extra=extra)
    assert os.listdir(tmp_path) == []


@every_kind
def test_a_newer_format(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(file_metadata, "FORMAT_VERSION", 2)
        path = write(tmp_path, kind, extra={})
        assert fastopt.load(path).extra == {}
    with pytest.raises(CheckpointError, match="it is of format version 2; this fastopt reads up to 1: use a newer"):
        fastopt.load(path)


@needs_extra
def test_files_of_others(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"W": np.ones(2)}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", W=np.ones(2))
    np.savez(tmp_path / "y.npz", metadata=np.frombuffer(b"{}", np.uint8))
    for name in ("x.safetensors", "x.npz", "y.npz"):
        with pytest.raises(CheckpointError, match=r"it was not written by fastopt[.]save"):
            fastopt.load(tmp_path / name)


def test_the_digest_is_sha256_of_all_that_is_said() -> None:
    """By hand, so that files stay readable."""
    metadata = {"format": "fastopt", "format_version": "1", "content": "{}"}
    told = b'["fastopt", "1", "{}"]' + b'["a", "float32", [2]]' + struct.pack("<2f", 1, math.inf)
    assert digest(metadata, {"a": np.float32([1, math.inf])}) == hashlib.sha256(told).hexdigest()


# --- resuming ---------------------------------------------------------------------------------------------------------

SCHEDULE = fastopt.schedules.warmup_cosine(0.01, warmup=20, total=180, floor=1e-3)


#: What is switched on besides the options of a row.
class More(NamedTuple):
    options: dict[str, Any]
    dtypes: tuple[str, str] = ("float32", "float64")
    columns: int = 5


MORE = {
    "plain": More({}),
    "scheduled": More({"lr": SCHEDULE, "weight_decay": fastopt.schedules.linear(0.1, 0.0, 150)}),
    "averaged, accumulated": More({"ema_decay": 0.9, "ema_bias_correction": True, "accumulate_steps": 3}),
    "masters": More({"polyak": True, "polyak_start": 50}, ("bfloat16", "float16")),
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
@pytest.mark.parametrize("steps", shortly(60, 200))
def test_resuming_in_a_new_process_is_exact(tmp_path: Path, steps: int) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "halves").mkdir()
    train(tmp_path / "whole", 0, steps)
    train(tmp_path / "halves", 0, steps // 2)
    half = f"pathlib.Path({str(tmp_path / 'halves')!r}), {steps // 2}, {steps}"
    code = f"import pathlib, test_checkpoint; test_checkpoint.train({half})"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert len(files) == sum(is_trained(number, name) for number in range(len(CASES)) for name in MORE)
    assert len(files) > 2 * len(CASES) + 20
    for name in files:
        whole, halves = fastopt.load(tmp_path / "whole" / name), fastopt.load(tmp_path / "halves" / name)
        assert same(tuple(whole), tuple(halves)), name


def test_importing_loads_only_what_is_used() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import fastopt; "  # NumPy 1 itself loads hashlib
        "names = {'safetensors', 'ml_dtypes', 'matplotlib', 'torch', 'hashlib', "
        "'fastopt.schedules', "
        "'fastopt.checkpoint', 'fastopt.lr_scheduler', 'fastopt.core.state_dict'}; "
        "print(sorted((names & set(sys.modules)) - before)); "
        "print(fastopt.schedules.constant(0.1), fastopt.init.fans((2, 3)), fastopt.load, 'save' in dir(fastopt))"
    )
    told = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    assert told.stdout.startswith("[]\nconstant(value=0.1) (2, 3) <function load at")
    assert told.stdout.endswith(" True\n")
    with pytest.raises(AttributeError, match="module 'fastopt' has no attribute 'nothing'"):
        fastopt.nothing  # noqa: B018
    assert all(hasattr(fastopt, name) for name in fastopt.__all__)
