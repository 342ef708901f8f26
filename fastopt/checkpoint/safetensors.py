"""The safetensors format. Files are parsed here, so that a hostile file never reaches code that trusts it."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from io import BufferedReader
from typing import IO, Any, NamedTuple

import numpy as np

from ..arrays.dtypes import Array, name_of
from .bounds import MAX_DIMENSIONS, MAX_ELEMENTS, check_text
from .flat_json import decoded, read_object, read_object_at, read_string
from .metadata import Form
from .packing import DTYPES, check_key, is_extension

#: The key of the metadata among those of the arrays.
METADATA_KEY = "__metadata__"

#: The entry of an array in a header.
ENTRY = re.compile(
    r'\{\s*"dtype"\s*:\s*"(?P<dtype>[A-Z0-9_]{1,16})"\s*,'
    rf'\s*"shape"\s*:\s*\[(?P<shape>(?:\s*[0-9]{{1,19}}\s*(?:,\s*[0-9]{{1,19}}\s*){{,{MAX_DIMENSIONS - 1}}})?)\]\s*,'
    r'\s*"data_offsets"\s*:\s*\[\s*(?P<begin>[0-9]{1,19})\s*,\s*(?P<end>[0-9]{1,19})\s*\]\s*\}\s*',
    re.ASCII,
)

#: The dtypes in the order in which the package writes arrays.
ORDER = "U64 I64 F64 F32 U32 I32 BF16 F16 U16 I16 F8_E4M3 F8_E5M2 I8 U8 BOOL".split()  # noqa: SIM905  # one line instead of 15

#: NumPy's names of the dtypes.
NAMES = {code: name for name, code in DTYPES.items()}


class Entry(NamedTuple):
    """An array's form and its range of bytes, counted from the end of the header."""

    dtype: np.dtype[Any]
    shape: list[int]
    begin: int
    end: int


class Layout(NamedTuple):
    """The header of a file, and where its arrays are."""

    header: bytes
    #: By key, in the order of the file.
    entries: dict[str, Entry]


def layout_of(forms: Mapping[str, Form], metadata: Mapping[str, str]) -> Layout:
    """Return the layout of a file with arrays of these forms, in the bytes that the package safetensors writes."""
    header: dict[str, Any] = {METADATA_KEY: dict(sorted(metadata.items()))}
    entries, position = {}, 0
    for key in sorted(forms, key=lambda key: (ORDER.index(DTYPES[name_of(forms[key].dtype)]), key.encode())):
        dtype, shape = forms[key].dtype, list(forms[key].shape)
        entries[key] = Entry(dtype, shape, position, position + math.prod(shape) * dtype.itemsize)
        position = entries[key].end
        offsets = [entries[key].begin, position]
        header[key] = {"dtype": DTYPES[name_of(dtype)], "shape": shape, "data_offsets": offsets}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    check_text(len(text))
    return Layout(struct.pack("<Q", len(text)) + text, entries)


def write_safetensors(file: IO[bytes], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file.

    The package can't write into an open file: it makes a temporary one of its own, which a kill leaves behind.
    """
    header, entries = layout_of(arrays, metadata)
    file.write(header)
    for key in entries:
        file.write(arrays[key].reshape(-1).view(np.uint8).data)


def read_safetensors(file: BufferedReader) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the metadata of a file, after a check that the arrays cover each byte once."""
    begin, entries, metadata = read_header(file)
    arrays: dict[str, Array] = {}
    for key, entry in entries.items():
        arrays[key] = np.empty(entry.shape, entry.dtype)
        file.seek(begin + entry.begin)
        if file.readinto(arrays[key].reshape(-1).view(np.uint8).data) < entry.end - entry.begin:
            raise ValueError(f"it was cut in the array {key!r:.80} while it was read")
    return arrays, metadata


def read_header(file: IO[bytes]) -> tuple[int, dict[str, Entry], Any]:
    """Return the length of a file's header, the entries and the metadata, after a check that they cover the rest."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        raise ValueError(f"its header claims {length} bytes, and the file has {size}")
    check_text(length)
    entries = read_object(decoded(file.read(length)), read_value)
    metadata = entries.pop(METADATA_KEY, None)
    check_cover(entries, size - 8 - length)
    return 8 + length, entries, metadata


def read_value(key: str, text: str, position: int) -> tuple[Any, int]:
    """Return the metadata of a header, or the entry of an array, and the position behind it."""
    if key == METADATA_KEY:
        return read_object_at(text, position, read_string)
    check_key(key)
    found = ENTRY.match(text, position)
    if found is None:
        raise ValueError(f"its header says of {key!r:.80}: {text[position : position + 80]!r}")
    sizes = found["shape"].split(",") if found["shape"] else []
    shape, begin, end = [int(size) for size in sizes], int(found["begin"]), int(found["end"])
    dtype = dtype_of(found["dtype"])
    # An array without elements may not have sizes that NumPy can't multiply either.
    too_large = math.prod(size or 1 for size in shape) >= MAX_ELEMENTS
    if end - begin != math.prod(shape) * dtype.itemsize or too_large:
        raise ValueError(f"its header says of {key!r:.80}: {found[0]!r:.200}")
    return Entry(dtype, shape, begin, end), found.end()


def check_cover(entries: Mapping[str, Entry], size: int) -> None:
    """Raise unless the entries of a header fill ``size`` bytes."""
    position = 0
    for begin, end in sorted((entry.begin, entry.end) for entry in entries.values()):
        if begin != position:
            raise ValueError(f"its arrays overlap or leave a gap at byte {position}")
        position = end
    if position != size:
        raise ValueError(f"its arrays end at byte {position} of {size}")


def dtype_of(code: str) -> np.dtype[Any]:
    """Return the dtype, from NumPy or ml_dtypes, with this name in safetensors.

    Raises
    ------
    ImportError
        If ml_dtypes is needed and missing.
    """
    name = NAMES.get(code)
    if name is None:
        raise ValueError(f"it has arrays of the dtype {code!r}; expected one of {list(NAMES)}")
    if not is_extension(name):
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError as error:
        raise ImportError(f"this checkpoint has {name} arrays, which need ml_dtypes: pip install ml-dtypes") from error
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found
