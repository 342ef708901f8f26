"""The safetensors format. Files are parsed here, so that a hostile file never reaches code that trusts it."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array
from .packing import DTYPES, check_key, is_extension

#: The longest header to read, as in safetensors itself.
MAX_HEADER = 100_000_000

#: The dtypes in the order in which the package writes arrays.
ORDER = (
    "U64",
    "I64",
    "F64",
    "F32",
    "U32",
    "I32",
    "BF16",
    "F16",
    "U16",
    "I16",
    "F8_E4M3",
    "F8_E5M2",
    "I8",
    "U8",
    "BOOL",
)


class Entry(NamedTuple):
    """An array's form and its range of bytes, counted from the end of the header."""

    dtype: np.dtype[Any]
    shape: list[int]
    begin: int
    end: int


def write_safetensors(file: IO[bytes], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file, in the bytes that the package safetensors writes.

    The package can't write into an open file: it makes a temporary one of its own, which a kill leaves behind.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    keys = sorted(arrays, key=lambda key: (ORDER.index(DTYPES[arrays[key].dtype.name]), key.encode()))
    position = 0
    for key in keys:
        array = arrays[key]
        offsets = [position, position + array.nbytes]
        header[key] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        position = offsets[1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for key in keys:
        file.write(arrays[key].reshape(-1).view(np.uint8).data)


def read_safetensors(file: IO[bytes]) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the metadata of a file, after a check that the arrays cover each byte once."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > min(size - 8, MAX_HEADER):
        raise ValueError(f"its header claims {length} bytes, and the file has {size}")
    header = json.loads(file.read(length), object_pairs_hook=unique)
    if not isinstance(header, dict):
        raise ValueError("its header is not a dict")
    metadata = header.pop("__metadata__", None)
    arrays = {}
    for key, entry in checked_entries(header, size - 8 - length).items():
        file.seek(8 + length + entry.begin)
        data = bytearray(file.read(entry.end - entry.begin))
        arrays[key] = np.frombuffer(data, entry.dtype).reshape(entry.shape)
    return arrays, metadata


def checked_entries(header: Mapping[str, Any], size: int) -> dict[str, Entry]:
    """Return the entries of a header, after a check that they fill ``size`` bytes."""
    entries = {key: checked_entry(key, fields) for key, fields in header.items()}
    position = 0
    for begin, end in sorted((entry.begin, entry.end) for entry in entries.values()):
        if begin != position:
            raise ValueError(f"its arrays overlap or leave a gap at byte {position}")
        position = end
    if position != size:
        raise ValueError(f"its arrays end at byte {position} of {size}")
    return entries


def checked_entry(key: str, fields: Any) -> Entry:
    """Return the entry of an array in a header, after a check that its numbers are valid and consistent."""
    check_key(key)
    wrong = ValueError(f"its header says of {key!r:.80}: {fields!r:.80}")
    if (
        set(fields) != {"dtype", "shape", "data_offsets"}
        or len(fields["data_offsets"]) != 2
        or len(fields["shape"]) > 64
    ):
        raise wrong
    begin, end = fields["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**62 for number in (*fields["shape"], begin, end)):
        raise wrong
    dtype = dtype_of(fields["dtype"])
    if end - begin != math.prod(fields["shape"]) * dtype.itemsize:
        raise wrong
    return Entry(dtype, fields["shape"], begin, end)


def dtype_of(code: str) -> np.dtype[Any]:
    """Return the dtype, from NumPy or ml_dtypes, with this name in safetensors.

    Raises
    ------
    ImportError
        If ml_dtypes is needed and missing.
    """
    name = {code: name for name, code in DTYPES.items()}[code]
    if not is_extension(name):
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(f"this checkpoint has {name} arrays, which need ml_dtypes: pip install ml-dtypes") from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict; raise if a name occurs twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found
