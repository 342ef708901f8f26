"""The metadata of a checkpoint file: its format, its version, and a digest of everything in the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..arrays.dtypes import Array, name_of
from .bounds import check_lists, check_text

#: The version of new files; files of a later version are refused.
FORMAT_VERSION = 2

#: The elements of an array that have a digest of their own. Processes that share an array cut it at multiples of it.
BLOCK = 4096

#: The names of the entries.
ENTRIES = ("format", "format_version", "digest", "content")


class CheckpointError(ValueError):
    """Raised for a file that is not a complete checkpoint, or has a newer format."""


class Form(Protocol):
    """The form of an array in a file: an array has one itself."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> Any: ...


def metadata_of(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return the metadata of a file with this content and these arrays.

    Raises
    ------
    ValueError
        If the content is beyond a bound.
    """
    metadata = without_digest(content, len(arrays))
    metadata["digest"] = digest(metadata, arrays)
    return metadata


def without_digest(content: Mapping[str, Any], arrays: int) -> dict[str, str]:
    """Return the metadata of a file with this content and this many arrays, but the digest.

    Raises
    ------
    ValueError
        If the content is beyond a bound.
    """
    text = json.dumps(content)
    check_text(len(text))
    check_lists(text, arrays)
    return {"format": "fastopt", "format_version": str(FORMAT_VERSION), "content": text}


def digest(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    """Return the digest of a file."""

    def of_array(key: str) -> Any:
        data = arrays[key].reshape(-1)
        return data.view(np.uint8).data if metadata["format_version"] == "1" else digests_of_blocks(data)

    return digest_of(metadata, arrays, of_array)


def digest_of(metadata: Mapping[str, str], forms: Mapping[str, Form], of_array: Callable[[str], Any]) -> str:
    """Return the SHA-256 of the content and of every array's name, dtype, shape and content.

    ``of_array`` returns what stands for the content: the bytes themselves in version 1, since then
    :func:`digests_of_blocks`.
    """
    sha = hashlib.sha256()
    sha.update(json.dumps([metadata[name] for name in ENTRIES if name != "digest"]).encode())
    for key in sorted(forms):
        sha.update(json.dumps([key, name_of(forms[key].dtype), forms[key].shape]).encode())
        sha.update(of_array(key))
    return sha.hexdigest()


def digests_of_blocks(data: npt.NDArray[Any]) -> bytes:
    """Return the SHA-256 of each block of a contiguous array without axes but one, one after the other."""
    content, step = data.view(np.uint8).data, BLOCK * data.itemsize
    return b"".join([hashlib.sha256(content[k : k + step]).digest() for k in range(0, len(content), step)])


def check_metadata(metadata: Mapping[str, str] | None, arrays: Mapping[str, Array]) -> None:
    """Raise unless this is the metadata of these arrays, in a known version.

    Raises
    ------
    CheckpointError, ValueError
        As :func:`checked_metadata`.
    """
    metadata = checked_metadata(metadata)
    check_digest(metadata, digest(metadata, arrays))


def check_digest(metadata: Mapping[str, str], found: str) -> None:
    """Raise unless the digest of a file is the one that was found."""
    if metadata["digest"] != found:
        raise ValueError("its digest is not that of its content, so it was changed since it was written")


def checked_metadata(metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the metadata of a file in a known version.

    Raises
    ------
    CheckpointError
        If another program wrote the file, or a newer fastopt.
    ValueError
        If the file is damaged.
    """
    if metadata is None or metadata.get("format") != "fastopt":
        raise CheckpointError("it was not written by fastopt.save")
    if sorted(metadata) != sorted(ENTRIES):
        raise ValueError(f"its metadata has the entries {list(metadata)!r:.200}; expected {list(ENTRIES)}")
    version = metadata["format_version"]
    if not re.fullmatch("[1-9][0-9]*", version):
        raise CheckpointError(
            f"its format version is {version!r:.80}; expected a whole number of at least 1: use an earlier checkpoint"
        )
    if len(version) > 9 or int(version) > FORMAT_VERSION:  # int() refuses thousands of digits
        raise CheckpointError(
            f"it is of format version {version:.80}; this fastopt reads up to {FORMAT_VERSION}: use a newer fastopt"
        )
    return metadata
