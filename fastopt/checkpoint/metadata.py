"""The metadata of a checkpoint file: its format, its version, and a digest of everything in the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.dtypes import Array
from .bounds import check_lists, check_text

#: The version of new files; files of a later version are refused.
FORMAT_VERSION = 1

#: The names of the entries.
ENTRIES = ("format", "format_version", "digest", "content")


class CheckpointError(ValueError):
    """Raised for a file that is not a complete checkpoint, or has a newer format."""


def metadata_of(content: Mapping[str, Any], arrays: Mapping[str, Array]) -> dict[str, str]:
    """Return the metadata of a file with this content and these arrays.

    Raises
    ------
    ValueError
        If the content is beyond a bound.
    """
    text = json.dumps(content)
    check_text(len(text))
    check_lists(text, len(arrays))
    metadata = {"format": "fastopt", "format_version": str(FORMAT_VERSION), "content": text}
    metadata["digest"] = digest(metadata, arrays)
    return metadata


def digest(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of the content and of every array with its name, dtype and shape."""
    sha = hashlib.sha256()
    sha.update(json.dumps([metadata[name] for name in ENTRIES if name != "digest"]).encode())
    for key in sorted(arrays):
        array = arrays[key]
        sha.update(json.dumps([key, array.dtype.name, array.shape]).encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def check_metadata(metadata: Mapping[str, str] | None, arrays: Mapping[str, Array]) -> None:
    """Raise unless this is the metadata of these arrays, in a known version.

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
    if metadata["digest"] != digest(metadata, arrays):
        raise ValueError("its digest is not that of its content, so it was changed since it was written")
