"""Checkpoints: one file with parameters, optimizer state and what else a run needs, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import secrets
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import IO, Any, NamedTuple

import numpy as np

from .arrays.dtypes import Array
from .arrays.memory import described
from .core import state_dict as state
from .core.optimizer import Optimizer
from .core.results import LoadResult
from .packing import DTYPES, Packer, check_key, unpack

#: The version of what is written; files of a newer one are refused.
FORMAT_VERSION = 1

#: The entries of a file's metadata.
METADATA = ("format", "format_version", "digest", "content")

#: The name of the metadata in an .npz file.
NPZ_METADATA = "metadata"

#: The longest header that is read, as in safetensors itself.
MAX_HEADER = 100_000_000


class CheckpointError(ValueError):
    """A file that is no whole checkpoint, or one of a newer format."""


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes
    ----------
    params : array or structure of arrays
        In the structure in which they were saved.
    optimizer : dict or None
        For :meth:`fastopt.Optimizer.load_state_dict`.
    extra : dict
        As it was given to :func:`save`.

    Examples
    --------
    >>> import fastopt, numpy as np
    >>> fastopt.Checkpoint({"W": np.ones(2)}, None, {"epoch": 3}).extra
    {'epoch': 3}
    """

    params: Any
    optimizer: dict[str, Any] | None
    extra: dict[str, Any]

    def restore(self, opt: Optimizer, strict: bool = True) -> LoadResult:
        """Write the saved parameters into those of an optimizer, in place, and load the state that goes with them.

        Parameters
        ----------
        opt : Optimizer
            Of the class that was saved.
        strict : bool, default True
            Whether the names, shapes and dtypes must be the same. False: load what fits, for instance the lower layers
            of a model that has a new head.

        Returns
        -------
        LoadResult
            As :meth:`fastopt.Optimizer.load_state_dict`; parameters are called ``"params.<name>"``.

        Raises
        ------
        TypeError, ValueError
            As :meth:`fastopt.Optimizer.load_state_dict`, also for parameters. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np, fastopt, tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
        >>> opt = fastopt.Adam({"W": np.ones(2)})
        >>> info = opt.step({"W": np.ones(2)})
        >>> fastopt.save(path, opt)
        >>> params = {"W": np.zeros(2)}
        >>> other = fastopt.Adam(params)
        >>> fastopt.load(path).restore(other)
        LoadResult(missing=[], unexpected=[])
        >>> params["W"], other.step_count
        (array([0.999, 0.999]), 1)
        """
        misfits, pairs = state.planned_params(opt, self.params)
        if self.optimizer is None:
            plan, result = None, state.settled(opt, [], misfits, strict)
        else:
            plan, result = state.prepared(opt, self.optimizer, strict, misfits)
        for array, value in pairs:
            opt._arrays.write(array, value)
        if plan is not None:
            state.carry_out(opt, plan)
        loaded = plan.entries if plan is not None else {}
        opt._follow_params([name for name in opt._names if name not in loaded])
        return result


def save(
    path: str | os.PathLike[str],
    opt: Optimizer | None = None,
    *,
    params: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint. A process that is killed at any moment leaves the old file or the new one, never half of one.

    Parameters
    ----------
    path : path
        Ending in ``.npz``: NumPy's format, which has no bfloat16 or 8-bit floats. Otherwise: safetensors, which needs
        the extra ``checkpoint``.
    opt : Optimizer or None, default None
        Its state is saved.
    params : array or structure of arrays, default None
        None: the optimizer's parameters.
    extra : dict, optional
        Anything made of None, bool, int, float, str, list, tuple, dict, NumPy arrays and NumPy's random generators:
        an lr_scheduler's or a stopper's ``state_dict()``, the generator that shuffles the data, the epoch.

    Raises
    ------
    TypeError
        For what a checkpoint can't hold; for an ``extra`` that is no dict.
    ImportError
        If safetensors is missing.
    OSError
        If the file can't be written. The old one is as it was.

    Notes
    -----
    The data is written to a temporary file in the same folder and reaches the disk before that takes the place of the
    old file. A process that is killed meanwhile leaves the temporary file: ``.<name>.<random>.tmp``.

    Nothing is pickled. A schedule is saved as its name and arguments; of a function only the name is saved, and
    loading takes the function of the optimizer that it loads into.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
    >>> opt = fastopt.SGD({"W": np.ones(2)})
    >>> fastopt.save(path, opt, extra={"epoch": 3, "rng": np.random.default_rng(0)})
    >>> fastopt.load(path).extra["epoch"]
    3
    """
    if opt is not None and params is None:
        params = opt._root.rebuilt(iter(opt._params)) if not opt._is_single else opt._params[0]
    if not isinstance(extra, (Mapping, NoneType)):
        raise TypeError(f"extra is {described(extra)}; expected a dict: extra={{'name': value}}")
    packer = Packer()
    content = {
        "params": packer.pack(params, ("params",)),
        "optimizer": packer.pack(None if opt is None else state.of(opt, copy=False), ()),
        "extra": packer.pack({} if extra is None else dict(extra), ("extra",)),
    }
    metadata = {"format": "fastopt", "format_version": str(FORMAT_VERSION), "content": json.dumps(content)}
    metadata["digest"] = digest(metadata, packer.arrays)
    target = Path(os.path.realpath(path))
    write = write_npz if target.suffix == ".npz" else safetensors_writer()
    replace_file(target, lambda temporary: write(temporary, packer.arrays, metadata))


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, and check that every bit of it is as it was written.

    Parameters
    ----------
    path : path
        Written by :func:`save`, in either format.

    Returns
    -------
    Checkpoint
        ``params`` in the structure in which they were saved; ``optimizer`` for ``load_state_dict``; ``extra``.

    Raises
    ------
    CheckpointError
        For anything that is no whole checkpoint: truncated, changed by as little as a bit, hostile, or of a newer
        format. It is a ValueError.
    ImportError
        If ml_dtypes is missing, for bfloat16 and 8-bit floats.
    OSError
        If there is no such file, or it can't be read.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "run.npz"
    >>> fastopt.save(path, params=[np.ones(2), {"b": np.zeros(1)}])
    >>> fastopt.load(path).params
    [array([1., 1.]), {'b': array([0.])}]
    >>> size = path.write_bytes(path.read_bytes()[:-1])
    >>> fastopt.load(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fastopt.checkpoint.CheckpointError: ...run.npz: it is no whole checkpoint: ...
    """
    with open(path, "rb") as file:
        is_npz = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        try:
            arrays, metadata = read_npz(file) if is_npz else read_safetensors(file)
            check_metadata(metadata, arrays)
            content = json.loads(metadata["content"])
            remaining = dict(arrays)
            checkpoint = Checkpoint(**{name: unpack(content[name], remaining) for name in Checkpoint._fields})
            if remaining or set(content) != set(Checkpoint._fields):
                raise ValueError(f"nothing refers to the arrays {list(remaining)}")
            if not isinstance(checkpoint.extra, dict) or not isinstance(checkpoint.optimizer, (dict, NoneType)):
                raise ValueError("its 'extra' is no dict, or its 'optimizer' neither a dict nor None")
            return checkpoint
        except ImportError:
            raise
        except CheckpointError as error:
            raise CheckpointError(f"{os.fspath(path)}: {error}") from error
        except Exception as error:  # whatever NumPy, zipfile, json and safetensors make of a broken file
            told = str(error) or type(error).__name__
            raise CheckpointError(
                f"{os.fspath(path)}: it is no whole checkpoint: {told:.300}; use an earlier one"
            ) from error


def digest(metadata: Mapping[str, str], arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 of the content and of every array with its name, dtype and shape."""
    sha = hashlib.sha256()
    sha.update(json.dumps([metadata[name] for name in METADATA if name != "digest"]).encode())
    for key in sorted(arrays):
        array = arrays[key]
        sha.update(json.dumps([key, array.dtype.name, array.shape]).encode())
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def check_metadata(metadata: Any, arrays: Mapping[str, Array]) -> None:
    if not isinstance(metadata, dict) or metadata.get("format") != "fastopt":
        raise CheckpointError("it was not written by fastopt.save")
    if sorted(metadata) != sorted(METADATA) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"expected the metadata {METADATA}, got {list(metadata)}")
    version = metadata["format_version"]
    if not re.fullmatch("[1-9][0-9]*", version):
        raise CheckpointError(
            f"its format version is {version!r:.80}; expected a whole number of at least 1: use an earlier checkpoint"
        )
    if len(version) > 9 or int(version) > FORMAT_VERSION:  # Python does not read numbers of any length
        raise CheckpointError(
            f"it is of format version {version:.80}; this fastopt reads up to {FORMAT_VERSION}: use a newer fastopt"
        )
    if not secrets.compare_digest(metadata["digest"].encode(), digest(metadata, arrays).encode()):
        raise ValueError("its digest is not that of its content, so it was changed since it was written")


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Replace a file at once."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        # That of the old file, else what the umask gave; safetensors makes files that only their owner can read.
        mode = (target if target.exists() else temporary).stat().st_mode & 0o7777
        write(temporary)
        os.chmod(temporary, mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def safetensors_writer() -> Callable[[Path, Mapping[str, Array], Mapping[str, str]], None]:
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ImportError(
            "saving this needs safetensors: pip install 'fastopt[checkpoint]', or save to a path ending in .npz"
        ) from error

    def write(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
        save_file(dict(arrays), path, metadata=dict(metadata))

    return write


def read_safetensors(file: IO[bytes]) -> tuple[dict[str, Array], Any]:
    """Read a safetensors file, after a check that its arrays fill it, each byte once."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise ValueError(f"it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > min(size - 8, MAX_HEADER):
        raise ValueError(f"its header claims {length} bytes, and the file has {size}")
    header = json.loads(file.read(length), object_pairs_hook=unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no dict")
    metadata = header.pop("__metadata__", None)
    arrays = {}
    for key, (dtype, shape, begin, end) in checked_entries(header, size - 8 - length).items():
        file.seek(8 + length + begin)
        arrays[key] = np.frombuffer(bytearray(file.read(end - begin)), dtype).reshape(shape)
    return arrays, metadata


def checked_entries(header: Mapping[str, Any], size: int) -> dict[str, tuple[np.dtype[Any], list[int], int, int]]:
    """Return the dtype, the shape and the place of each array of a safetensors header, which fill ``size`` bytes."""
    found = {}
    for key, entry in header.items():
        check_key(key)
        told = f"its header says of {key!r:.80}: {entry!r:.80}"
        if (
            set(entry) != {"dtype", "shape", "data_offsets"}
            or len(entry["data_offsets"]) != 2
            or len(entry["shape"]) > 64
        ):
            raise ValueError(told)
        begin, end = entry["data_offsets"]
        if not all(type(number) is int and 0 <= number < 2**62 for number in (*entry["shape"], begin, end)):
            raise ValueError(told)
        dtype = dtype_of(entry["dtype"])
        if end - begin != math.prod(entry["shape"]) * dtype.itemsize:
            raise ValueError(told)
        found[key] = (dtype, entry["shape"], begin, end)
    reached = 0
    for begin, end in sorted((begin, end) for _, _, begin, end in found.values()):
        if begin != reached:
            raise ValueError(f"its arrays overlap or leave a gap at byte {reached}")
        reached = end
    if reached != size:
        raise ValueError(f"its arrays end at byte {reached} of {size}")
    return found


def is_extension(name: str) -> bool:
    """Return whether a dtype of this name is one of ml_dtypes, which NumPy's own formats forget."""
    return name.startswith(("bfloat", "float8"))


def dtype_of(code: str) -> np.dtype[Any]:
    """Return the dtype that safetensors calls so, which NumPy has or ml_dtypes."""
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
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header has a name twice")
    return found


def write_npz(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    unknown = {key: array.dtype.name for key, array in arrays.items() if is_extension(array.dtype.name)}
    if unknown:
        raise TypeError(f".npz files can't hold {unknown}; save as safetensors (the extra 'checkpoint')")
    told = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez(file, **{NPZ_METADATA: told, **arrays})  # type: ignore[arg-type]  # takes the names for allow_pickle


def read_npz(file: IO[bytes]) -> tuple[dict[str, Array], Any]:
    """Read the arrays of an .npz file, none of them larger than its part of the file."""
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
    if NPZ_METADATA not in arrays:
        raise CheckpointError("it was not written by fastopt.save")
    return arrays, json.loads(arrays.pop(NPZ_METADATA).tobytes())


def read_npy(data: bytes) -> Array:
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("it has an array in a version of the .npy format that fastopt.save does not write")
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.name not in DTYPES or not dtype.isnative or is_fortran:
        raise ValueError(f"it has an array of {dtype}, fortran_order={is_fortran}, as fastopt.save does not write")
    array: Array = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape).copy()
    return array
