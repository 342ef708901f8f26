"""What a hostile file may cost, and the bounds that keep it so; ``save`` refuses what ``load`` would."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import every_kind, signed
from structures import same

import fastopt
from fastopt import CheckpointError
from fastopt.arrays.structure import MAX_DEPTH
from fastopt.checkpoint import bounds

#: The modulus of Python's hashes of whole numbers.
MODULUS = 2**61 - 1

#: Bytes of memory for each byte of a file, and for any file.
BYTES, ANY = 32, 300_000


def with_header(text: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode())
        return path

    return make


def with_extra(text: str) -> Callable[[Path], Path]:
    content = f'{{"params":null,"optimizer":null,"extra":{{"dict":[["a",{text}]]}}}}'
    return lambda path: signed(content, {}, path)


def many(text: str, around: str = "[*]", size: int = 50_000) -> str:
    """Return this text many times, in place of the star; a number in place of its percent sign."""
    items = (text.replace("%", str(k)) for k in range(size // len(text)))
    return around.replace("*", ",".join(items))


HOSTILE: dict[str, Callable[[Path], Path]] = {
    "lists in a header": with_header(many("[]", '{"a":[*]}')),
    "a deep header": with_header("[" * 50_000),
    "many names": with_header(many('"%":[]', "{*}")),
    "many empty arrays": with_header(many('"%":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}', "{*}")),
    "much metadata": with_header(many('"%":""', '{"__metadata__":{*}}')),
    "a long shape": with_header(many("1", '{"a":{"dtype":"F32","shape":[*],"data_offsets":[0,0]}}')),
    "a long number": with_header(many("9" * 50_000, '{"a":{"dtype":"F32","shape":[*],"data_offsets":[0,0]}}')),
    "much space": with_header("{" + " " * 50_000),
    "lists": with_extra(many("[]")),
    "tuples": with_extra(many('{"tuple":[]}')),
    "dicts": with_extra(many('{"dict":[]}')),
    "numbers": with_extra(many("9999")),
    "strings": with_extra(many('"ab"')),
    "digits": with_extra("9" * 50_000),
    "a deep list": with_extra("[" * 50_000),
    "keys that collide": with_extra('{"dict":[' + ",".join(f"[{k * MODULUS},0]" for k in range(1, 2000)) + "]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_is_in_proportion_to_the_file(tmp_path: Path, name: str) -> None:
    path = HOSTILE[name](tmp_path / "hostile")
    fastopt.load(signed('{"params":null,"optimizer":null,"extra":{"dict":[]}}', {}, tmp_path / "plain"))
    tracemalloc.start()
    try:
        fastopt.load(path)
    except CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < BYTES * path.stat().st_size + ANY


def chained(bits: int) -> list[int]:
    """Return small keys that fill the places of a dict in the order of its tries, and others that begin there."""
    mask, chain = 2**bits - 1, [0]
    while len(chain) < 2**bits // 3:
        chain.append((5 * chain[-1] + 1) & mask)
    at = np.full(mask + 1, mask)
    at[chain] = np.arange(len(chain))
    keys = np.arange(mask + 1, 2**21)
    place, perturbation = keys & mask, keys
    are_used = at[place] < mask
    for _ in range(5):
        perturbation = perturbation >> 5
        place = (5 * place + perturbation + 1) & mask
        are_used &= at[place] < mask
    others = keys[are_used & (at[place] < len(chain) // 4)]
    return [*chain, *others[: len(chain) - 10].tolist()]


def test_keys_that_collide() -> None:
    rng = np.random.default_rng(3)
    for keys in (
        range(5000),
        range(0, -5000, -1),
        [k << 20 for k in range(3000)],
        [k * 10**6 for k in range(3000)],
        [k << 45 for k in range(3000)],
        rng.integers(0, 2**62, 3000).tolist(),
        [k * MODULUS for k in range(100)],
        [],
    ):
        bounds.check_spread(list(keys))
    for keys in ([k * MODULUS for k in range(1, 2000)], [k * MODULUS + 7 for k in range(-2000, 0)], chained(12)):
        assert len(keys) > 1900
        with pytest.raises(ValueError, match="keys, whole numbers, were chosen to collide"):
            bounds.check_spread(keys)


@every_kind
def test_save_refuses_keys_that_collide(tmp_path: Path, kind: str) -> None:
    extra = {"a": {k * MODULUS: 0 for k in range(1, 2000)}}
    with pytest.raises(ValueError, match=r"^extra.a: it has a dict whose keys, whole numbers, .* use strings as keys"):
        fastopt.save(tmp_path / kind, extra=extra)
    assert os.listdir(tmp_path) == []


def nested(depth: int, kind: type) -> Any:
    value: Any = np.ones(1)
    for _ in range(depth):
        value = {"a": value} if kind is dict else kind([value])
    return value


@every_kind
@pytest.mark.parametrize("kind_of_value", [list, tuple, dict])
def test_as_deep_as_it_may_be(tmp_path: Path, kind: str, kind_of_value: type) -> None:
    params, extra = nested(MAX_DEPTH - 1, kind_of_value), {"a": nested(MAX_DEPTH - 2, kind_of_value)}
    fastopt.save(tmp_path / kind, fastopt.SGD(params), params=params, extra=extra)
    loaded = fastopt.load(tmp_path / kind)
    assert same((loaded.params, loaded.extra), (params, extra))
    assert loaded.restore(fastopt.SGD(params)) == ([], [])


CYCLIC_LIST: list[Any] = [np.ones(1)]
CYCLIC_LIST.append(CYCLIC_LIST)
CYCLIC_DICT: dict[str, Any] = {"b": np.ones(1)}
CYCLIC_DICT["a"] = CYCLIC_DICT
TOO_DEEP = [CYCLIC_LIST, CYCLIC_DICT, (CYCLIC_LIST,), nested(MAX_DEPTH + 2, list), nested(50_000, list)]


@pytest.mark.parametrize("number", range(len(TOO_DEEP)))
def test_what_is_too_deep(tmp_path: Path, number: int) -> None:
    value = TOO_DEEP[number]
    message = r"nested more than 100 deep, or contains itself; make it flatter"
    for use in (
        lambda: fastopt.save(tmp_path / "run.npz", extra={"x": value}),
        lambda: fastopt.save(tmp_path / "run.npz", params=value),
        lambda: fastopt.SGD(value),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            use()
        assert len(str(caught.value)) < 200
    assert os.listdir(tmp_path) == []


@every_kind
def test_numbers_of_many_digits(tmp_path: Path, kind: str) -> None:
    longest = 2**bounds.MAX_BITS - 1
    extra = {"a": [longest, -longest], "b": {longest: 1, -longest: 2}}
    fastopt.save(tmp_path / kind, extra=extra)
    assert fastopt.load(tmp_path / kind).extra == extra
    for wrong in ({"a": [10**4300]}, {"a": {-(10**4300): 1}}):
        with pytest.raises(ValueError, match=r"extra.a.* has a number of 14285 bits; expected at most 14283"):
            fastopt.save(tmp_path / kind, extra=wrong)
    assert fastopt.load(tmp_path / kind).extra == extra


@every_kind
def test_names_of_any_length(tmp_path: Path, kind: str) -> None:
    extra = {"\U0001f600" * 70_000: {"a": np.ones(1), "b": np.zeros(2)}}
    fastopt.save(tmp_path / kind, extra=extra)
    assert same(fastopt.load(tmp_path / kind).extra, extra)


@every_kind
@pytest.mark.parametrize("bound", ["MAX_TEXT", "MAX_LISTS"])
def test_save_refuses_what_load_would(tmp_path: Path, kind: str, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind
    extra = {"a": [[]] * 1000}
    fastopt.save(path, extra=extra)
    monkeypatch.setattr(bounds, bound, 500)
    message = "besides arrays have [0-9]+ (bytes|lists, tuples and dicts); expected at most"
    with pytest.raises(ValueError, match=message):
        fastopt.save(path, extra=extra)
    with pytest.raises(CheckpointError, match=message):
        fastopt.load(path)
    fastopt.save(path, extra={"a": 1})
    assert fastopt.load(path).extra == {"a": 1}


def test_far_more_than_real_files_have(tmp_path: Path) -> None:
    """Of the largest state of an array the bounds allow several hundred thousand."""
    name = "model.decoder.layers.10000.self_attention.query_projection.weight"
    params = {name: np.ones(1, np.float16)}
    opt = fastopt.AdamW(params, amsgrad=True, ema_decay=0.9, accumulate_steps=2)
    for _ in range(2):
        opt.step({name: np.ones(1)})
    fastopt.save(tmp_path / "x", opt)
    data = (tmp_path / "x").read_bytes()
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    assert len(header) * 300_000 < bounds.MAX_TEXT
    content = json.loads(header)["__metadata__"]["content"]
    arrays = len(json.loads(header)) - 1
    assert content.count("[") + content.count("{") < bounds.MAX_LISTS_OF_ARRAY * arrays
