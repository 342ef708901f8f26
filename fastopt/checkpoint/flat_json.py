"""JSON objects of which the form of each value is known: nothing else is made from a hostile one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeAlias

#: A function that returns the value of a key at a position of a text, and the position behind it.
Reader: TypeAlias = Callable[[str, str, int], tuple[Any, int]]

DECODER = json.JSONDecoder()

SPACE = re.compile(r"[ \t\r\n]*")


def decoded(data: bytes) -> str:
    """Return the text of a file's header."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"its header is not UTF-8 at byte {error.start}") from error


def read_object(text: str, read: Reader) -> dict[str, Any]:
    """Return the object that a text is.

    Raises
    ------
    ValueError
        If it is none, has a name twice, or ``read`` refuses a value.
    """
    found, position = read_object_at(text, 0, read)
    if position != len(text):
        raise ValueError(f"its header goes on behind its end, at character {position}")
    return found


def read_object_at(text: str, position: int, read: Reader) -> tuple[dict[str, Any], int]:
    """Return the object at a position, and the position behind it and the space that follows."""
    found: dict[str, Any] = {}
    position = behind("{", text, position)
    if text[position : position + 1] == "}":
        return found, behind("}", text, position)
    while True:
        key, position = read_string("", text, position)
        if key in found:
            raise ValueError(f"its header has a name twice: {key!r:.80}")
        found[key], position = read(key, text, behind(":", text, position))
        if text[position : position + 1] == "}":
            return found, behind("}", text, position)
        position = behind(",", text, position)


def read_string(key: str, text: str, position: int) -> tuple[Any, int]:
    """Return the string at a position, and the position behind it and the space that follows."""
    if text[position : position + 1] != '"':
        raise ValueError(f"its header has no string at character {position}, for {key!r:.80}")
    try:
        found, position = DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise ValueError(f"its header has a string that is not JSON at character {error.pos}") from error
    return found, skip_space(text, position)


def behind(mark: str, text: str, position: int) -> int:
    """Return the position behind a mark and the space around it."""
    position = skip_space(text, position)
    if text[position : position + 1] != mark:
        raise ValueError(f"its header has no {mark!r} at character {position}")
    return skip_space(text, position + 1)


def skip_space(text: str, position: int) -> int:
    found = SPACE.match(text, position)
    return position if found is None else found.end()
