"""Bad input, and what an error has to say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Bad(NamedTuple):
    """What is wrong, how to do it, and what the error is and says."""

    what: str
    do: Callable[..., Any]
    error: type[Exception]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.what.replace(" ", "-")


SWAPPED = np.dtype(np.float32).newbyteorder()


def f32(*shape: int, fill: float = 1.0) -> Any:
    return np.full(shape, fill, np.float32)


def misaligned(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.zeros(size + 1, np.uint8)[1:].view(dtype).reshape(shape)


def read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


class Tensor:
    """What is like an array, but is none."""

    shape, dtype = (3,), np.dtype(np.float32)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return f32(3)


def overlapping() -> dict[str, Any]:
    whole = f32(10)
    return {"left": whole[:6], "right": whole[5:]}


def twice() -> list[Any]:
    array = f32(3)
    return [array, f32(2), array]


def in_two_groups() -> list[Any]:
    array = f32(4)
    return [{"params": [array]}, {"params": [array[2:]], "lr": 0.1}]


def check_says(raised: Any, says: tuple[str, ...]) -> None:
    missing = [part for part in says if part not in str(raised.value)]
    assert not missing, f"{missing} not in: {raised.value}"
