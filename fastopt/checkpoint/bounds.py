"""Bounds of a checkpoint: real ones never reach them, and a hostile file that does costs no time or memory.

``save`` refuses what ``load`` would.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

#: Bytes of the JSON of a file. 100,000 arrays with long names and eight entries of the state each have 0.25 GB.
MAX_TEXT = 2**30

#: Lists, tuples and dicts besides those of arrays, of which each may have MAX_LISTS_OF_ARRAY. One takes up to 300 bytes
#: of memory, and three in the file. A history of a million pairs has two million.
MAX_LISTS = 2**22
MAX_LISTS_OF_ARRAY = 8

#: Digits of a whole number: as many as Python converts, since it takes a time that is quadratic in them.
MAX_DIGITS = 4300
MAX_BITS = 14_283

#: Numbers that make the seed of a generator, and words that it is mixed into: people give one number, and NumPy mixes
#: four words.
MAX_SEEDS = 1000
MAX_POOL = 1000

#: Characters of a path that the key of an array has. A ZIP archive has names of at most 65,535 bytes.
MAX_KEY = 10_000

#: Dimensions of an array, as many as NumPy 2 has; and elements, for a size in bytes that int64 holds.
MAX_DIMENSIONS = 64
MAX_ELEMENTS = 2**59

#: Tries for a free place in a dict, for each key and for any dict; most keys take one or two.
MAX_TRIES_OF_KEY = 32
MAX_TRIES = 10_000


def whole_number(digits: str) -> int:
    """Return the number that JSON has as these digits."""
    size = len(digits.removeprefix("-"))
    if size > MAX_DIGITS:
        raise ValueError(f"it has a number of {size} digits; expected at most {MAX_DIGITS}")
    return int(digits)


def check_text(size: int) -> None:
    """Raise if the JSON of a file has too many bytes."""
    if size > MAX_TEXT:
        raise ValueError(f"its names and values besides arrays have {size} bytes; expected at most {MAX_TEXT}")


def check_lists(content: str, arrays: int) -> None:
    """Raise if a content, as JSON, has too many lists and dicts for this many arrays."""
    found, most = content.count("[") + content.count("{"), MAX_LISTS + MAX_LISTS_OF_ARRAY * arrays
    if found > most:
        raise ValueError(
            f"its values besides arrays have {found} lists, tuples and dicts; expected at most {most}: put numbers "
            "into arrays"
        )


def check_spread(keys: Sequence[int]) -> None:
    """Raise if the time to make a dict of these keys is quadratic in their number, because their hashes collide.

    Hashes of strings are random, those of whole numbers are not. This looks for places as the dict of CPython does.
    """
    left = MAX_TRIES + MAX_TRIES_OF_KEY * len(keys)
    hashes = [hash(key) & (2**sys.hash_info.width - 1) for key in keys]
    size = 8
    while True:
        is_used = bytearray(size)
        for place in hashes[: size * 2 // 3]:
            perturbation = place
            place &= size - 1
            while is_used[place]:
                left -= 1
                if not left:
                    raise ValueError("it has a dict whose keys, whole numbers, were chosen to collide")
                perturbation >>= 5
                place = (5 * place + perturbation + 1) & (size - 1)
            is_used[place] = 1
        if size * 2 // 3 >= len(keys):
            return
        size *= 2
