"""NumPy's format, .npz: a ZIP archive of .npy files, without compression or pickles."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from ..arrays.dtypes import Array, name_of
from .bounds import MAX_DIMENSIONS, MAX_ELEMENTS, check_text
from .flat_json import decoded, read_object, read_string
from .metadata import CheckpointError
from .packing import DTYPES, check_key, is_extension

#: The name of the metadata's array.
METADATA_KEY = "metadata"

#: The start of an .npy file as NumPy writes it for the dtypes and the order that a checkpoint has.
NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)(?P<header>\{'descr': '(?P<dtype>[<>|][biuf][1-8])', 'fortran_order': False, "
    rb"'shape': \((?P<shape>(?:[0-9]{1,19}, ?)*(?:[0-9]{1,19})?)\), \} *\n)",
    re.DOTALL,
)

#: Errors of zipfile in a damaged archive. An OSError is one with EINVAL: it looked for a place before the file.
DAMAGED = (zipfile.BadZipFile, RuntimeError, EOFError, struct.error, OverflowError, UnicodeDecodeError, OSError)


def write_npz(file: IO[bytes], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file.

    Raises
    ------
    TypeError
        If the format can't hold one of the arrays.
    """
    unknown = {key: name for key, array in arrays.items() if is_extension(name := name_of(array.dtype))}
    if unknown:
        raise TypeError(f".npz files can't hold {unknown}; save as .safetensors")
    packed = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
    check_text(packed.nbytes)
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in {METADATA_KEY: packed, **arrays}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def read_npz(file: IO[bytes]) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the metadata of a file, after a check that no array is larger than its part of the file."""
    arrays: dict[str, Array] = {}
    for name, data in parts(file):
        key = name.removesuffix(".npy")
        check_key(key)
        if key in arrays or key == name:
            raise ValueError(f"it has two parts {name!r:.80}, or a part that is not an array")
        arrays[key] = read_npy(data)
    packed = arrays.pop(METADATA_KEY, None)
    if packed is None:
        raise CheckpointError("it was not written by fastopt.save")
    check_text(packed.nbytes)
    return arrays, read_object(decoded(packed.tobytes()), read_string)


def parts(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the content of each part of an archive, none of which is compressed."""
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > size:
                raise ValueError("its parts claim more bytes than the file has")
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                    raise ValueError(f"its part {member.filename!r:.80} is compressed")
                yield member.filename, archive.read(member)
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(f"its ZIP archive is damaged: {type(error).__name__}") from error


def read_npy(data: bytes) -> Array:
    """Return the array of an .npy file; it must have the form that :func:`write_npz` writes."""
    found = NPY.match(data)
    if found is None or len(found["header"]) != int.from_bytes(found["length"], "little"):
        raise ValueError(f"it has an array with the header {data[:80]!r}, as fastopt.save writes none")
    dtype = np.dtype(found["dtype"].decode())
    shape = [int(size) for size in found["shape"].replace(b",", b" ").split()]
    count = math.prod(shape)
    if name_of(dtype) not in DTYPES or not dtype.isnative or count * dtype.itemsize != len(data) - found.end():
        raise ValueError(f"it has an array of {dtype} and shape {shape!r:.80} in {len(data)} bytes")
    if math.prod(size or 1 for size in shape) >= MAX_ELEMENTS or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"it has an array of shape {shape!r:.80}")
    array: Array = np.frombuffer(data, dtype, offset=found.end()).reshape(shape).copy()
    return array
