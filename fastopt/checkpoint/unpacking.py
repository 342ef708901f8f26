"""Nested Python values from JSON and a flat dict of arrays: the reverse of ``packing.py``."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..arrays.dtypes import Array
from ..arrays.structure import MAX_DEPTH
from .bounds import MAX_POOL, check_lists, check_spread, whole_number
from .packing import GENERATORS, are_seeds


def parse(content: str, arrays: int) -> Any:
    """Return the JSON of a file with this many arrays.

    Raises
    ------
    ValueError
        If it is no JSON, or beyond a bound.
    """
    check_lists(content, arrays)
    try:
        return json.loads(content, parse_int=whole_number)
    except json.JSONDecodeError as error:
        raise ValueError(f"its content is not JSON at character {error.pos}") from error
    except RecursionError as error:
        raise too_deep() from error


def unpack(packed: Any, arrays: dict[str, Array], depth: int = 0) -> Any:
    """Return the value that :meth:`Packer.pack` packed, and take its arrays out of ``arrays``. Lists are reused.

    Raises
    ------
    ValueError
        If :meth:`Packer.pack` can't have returned this.
    """
    if depth > MAX_DEPTH:
        raise too_deep()
    if isinstance(packed, list):
        for k, item in enumerate(packed):
            packed[k] = unpack(item, arrays, depth + 1)
        return packed
    if not isinstance(packed, dict):
        return packed
    kind: str
    content: Any
    kind, content = next(iter(packed.items()), ("nothing", None))
    if kind == "array" and len(packed) == 2 and packed.get("order") in ("C", "F"):
        array = take(content, arrays)
        if isinstance(array, np.memmap):
            return np.asarray(array)  # it stays in its file
        return np.require(array, requirements=[packed["order"], "W", "O"])
    if len(packed) == 1:
        if kind == "float" and content in ("nan", "inf", "-inf"):
            return float(content)
        if kind == "scalar":
            array = take(content, arrays)
            if array.shape == ():
                return array[()]
        if kind == "tuple" and isinstance(content, list):
            return tuple(unpack(content, arrays, depth))
        if kind == "dict" and isinstance(content, list):
            return unpack_dict(content, arrays, depth + 1)
        if kind == "generator":
            return generator(unpack(content, arrays, depth))
    raise ValueError(f"nothing is written like {packed!r:.80}")


def take(key: Any, arrays: dict[str, Array]) -> Array:
    """Take an array out of ``arrays``."""
    if not isinstance(key, str) or key not in arrays:
        raise ValueError(f"there is no array {key!r:.80}, or it is used twice")
    return arrays.pop(key)


def unpack_dict(pairs: list[Any], arrays: dict[str, Array], depth: int) -> dict[str | int, Any]:
    """Return the dict that was packed as these pairs."""
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], (str, int))):
            raise ValueError(f"it has a dict with the entry {pair!r:.80}; expected a key, a str or int, and its value")
    check_spread([key for key, _ in pairs if isinstance(key, int)])
    found = {key: unpack(item, arrays, depth) for key, item in pairs}
    if len(found) < len(pairs):
        raise ValueError("it has a dict with a key twice")
    return found


def generator(state: Any) -> np.random.Generator:
    """Return NumPy's generator in this state.

    Raises
    ------
    ValueError
        If this is not the state of a generator.
    """
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if not isinstance(name, str) or name not in GENERATORS:
        raise ValueError(f"{state!r:.80} is not the state of a generator")
    bit_generator = getattr(np.random, name)(seed_sequence(state.pop("seeds", None)))
    if not is_like(state, bit_generator.state):
        raise ValueError(f"{state!r:.80} is not the state of a {name}")
    # NumPy does not check positions, and would read beyond its buffers.
    if not 0 <= state["state"].get("pos", 0) <= 624 or not 0 <= state.get("buffer_pos", 0) <= 4:
        raise ValueError("a generator's position is outside its buffer")
    try:
        bit_generator.state = state
    except OverflowError as error:
        raise ValueError(f"the state of a {name} has a number that is too large") from error
    return np.random.Generator(bit_generator)


def seed_sequence(state: Any) -> np.random.SeedSequence | None:
    """Return the seeds from which a generator spawns others, in this state; None if it has none.

    Raises
    ------
    ValueError
        If this is not the state of seeds.
    """
    if state is None:
        return None
    like = np.random.SeedSequence(0).state
    if (
        not (isinstance(state, dict) and state.keys() == like.keys())
        or not (are_seeds(state["entropy"]) and isinstance(state["spawn_key"], tuple) and are_seeds(state["spawn_key"]))
        or not all(type(state[name]) is int for name in ("pool_size", "n_children_spawned"))
        or not (like["pool_size"] <= state["pool_size"] <= MAX_POOL and 0 <= state["n_children_spawned"] < 2**32)
    ):
        raise ValueError(f"{state!r:.80} is not the state of a generator's seeds")
    return np.random.SeedSequence(**state)


def is_like(value: Any, like: Any) -> bool:
    """Return whether a value has the form of another one: dicts of numbers from 0 on, strings and arrays."""
    if isinstance(like, dict):
        return isinstance(value, dict) and value.keys() == like.keys() and all(is_like(value[k], like[k]) for k in like)
    if isinstance(like, np.ndarray):
        return isinstance(value, np.ndarray) and value.dtype == like.dtype and value.shape == like.shape
    return type(value) is type(like) and (isinstance(value, str) or value >= 0)


def too_deep() -> ValueError:
    return ValueError(f"its values are nested more than {MAX_DEPTH} deep")
