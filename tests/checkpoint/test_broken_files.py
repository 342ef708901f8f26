"""Broken and hostile checkpoints: only the documented errors, and nothing read that the file does not say."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import every_kind, signed, write
from structures import same
from tiers import shortly

import fastopt
from fastopt import CheckpointError
from fastopt.checkpoint import metadata as file_metadata
from fastopt.checkpoint import packing, safetensors
from fastopt.checkpoint.metadata import digest


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


@pytest.mark.parametrize(
    "change",
    [
        {"entropy": -1},
        {"entropy": "1"},
        {"entropy": [[1]]},
        {"entropy": [1] * 1001},
        {"spawn_key": None},
        {"spawn_key": 1},
        {"spawn_key": (1.5,)},
        {"spawn_key": (0,) * 10**6},
        {"pool_size": 3},
        {"pool_size": 10**12},
        {"pool_size": True},
        {"n_children_spawned": -1},
        {"n_children_spawned": 2**32},
        {"n_children_spawned": 1.0},
        {"more": 1},
    ],
    ids=lambda change: f"{change!r:.40}",
)
def test_hostile_seeds(tmp_path: Path, change: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    seeds = {**rng.bit_generator.seed_seq.state, **change}
    packer = packing.Packer()
    packed = packer.pack({**rng.bit_generator.state, "seeds": seeds}, ())
    content = {"params": None, "optimizer": None, "extra": {"dict": [["rng", {"generator": packed}]]}}
    with pytest.raises(CheckpointError, match="is not the state of a generator's seeds"):
        fastopt.load(signed(content, packer.arrays, tmp_path / "x.npz"))


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


def test_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "run.safetensors", params={"W": np.ones(100_000)})

    def cut(entries: Any, size: int) -> None:
        os.truncate(path, path.stat().st_size - 1)

    monkeypatch.setattr(safetensors, "check_cover", cut)
    with pytest.raises(CheckpointError, match=r"it was cut in the array 'params\.W' while it was read"):
        fastopt.load(path)


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
    with pytest.raises(CheckpointError, match=r"it has two parts 'params[.]W[.]npy'"):
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


@every_kind
def test_a_newer_format(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(file_metadata, "FORMAT_VERSION", 3)
        path = write(tmp_path, kind, extra={})
        assert fastopt.load(path).extra == {}
    with pytest.raises(CheckpointError, match="it is of format version 3; this fastopt reads up to 2: use a newer"):
        fastopt.load(path)


def test_files_of_others(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"W": np.ones(2)}, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", W=np.ones(2))
    np.savez(tmp_path / "y.npz", metadata=np.frombuffer(b"{}", np.uint8))
    for name in ("x.safetensors", "x.npz", "y.npz"):
        with pytest.raises(CheckpointError, match=r"it was not written by fastopt[.]save"):
            fastopt.load(tmp_path / name)


def test_the_digest_is_sha256_of_all_that_is_said() -> None:
    """By hand, so that files stay readable."""
    array = np.arange(5000, dtype=np.float32)
    metadata = {"format": "fastopt", "format_version": "2", "content": "{}"}
    blocks = [hashlib.sha256(struct.pack(f"<{len(part)}f", *part)).digest() for part in (array[:4096], array[4096:])]
    told = b'["fastopt", "2", "{}"]' + b'["a", "float32", [5000]]' + b"".join(blocks)
    assert digest(metadata, {"a": array}) == hashlib.sha256(told).hexdigest()


def test_the_digest_of_the_first_version() -> None:
    metadata = {"format": "fastopt", "format_version": "1", "content": "{}"}
    told = b'["fastopt", "1", "{}"]' + b'["a", "float32", [2]]' + struct.pack("<2f", 1, math.inf)
    assert digest(metadata, {"a": np.float32([1, math.inf])}) == hashlib.sha256(told).hexdigest()


@every_kind
def test_files_of_the_first_version_load(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(file_metadata, "FORMAT_VERSION", 1)
        path = write(tmp_path, kind, extra={"x": np.arange(5000.0)})
    loaded = fastopt.load(path)
    assert np.array_equal(loaded.extra["x"], np.arange(5000.0))
