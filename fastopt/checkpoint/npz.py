"""NumPy's format, .npz: a ZIP archive of .npy files, without compression or pickles."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from ..arrays.dtypes import Array
from .metadata import CheckpointError
from .packing import DTYPES, check_key, is_extension

#: The name of the metadata's array.
METADATA_KEY = "metadata"


def write_npz(file: IO[bytes], arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write arrays and metadata to a file.

    Raises
    ------
    TypeError
        If the format can't hold one of the arrays.
    """
    unknown = {key: array.dtype.name for key, array in arrays.items() if is_extension(array.dtype.name)}
    if unknown:
        raise TypeError(f".npz files can't hold {unknown}; save as safetensors (the extra 'checkpoint')")
    packed = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
    with zipfile.ZipFile(file, "w") as archive:
        for key, array in {METADATA_KEY: packed, **arrays}.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, array, allow_pickle=False)


def read_npz(file: IO[bytes]) -> tuple[dict[str, Array], Any]:
    """Return the arrays and the metadata of a file, after a check that no array is larger than its part of the file."""
    size = os.fstat(file.fileno()).st_size
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("its parts claim more bytes than the file has")
        for member in members:
            key = member.filename.removesuffix(".npy")
            check_key(key)
            if key in arrays or key == member.filename or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"its part {member.filename!r:.80} is not as fastopt.save writes it")
            arrays[key] = read_npy(archive.read(member))
    if METADATA_KEY not in arrays:
        raise CheckpointError("it was not written by fastopt.save")
    return arrays, json.loads(arrays.pop(METADATA_KEY).tobytes())


def read_npy(data: bytes) -> Array:
    """Return the array of an .npy file; it must have the form that :func:`write_npz` writes."""
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it has an array in a version of the .npy format that fastopt.save does not write")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.name not in DTYPES or not dtype.isnative or is_fortran:
        raise ValueError(f"it has an array of {dtype}, fortran_order={is_fortran}, as fastopt.save does not write")
    array: Array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
    return array
