"""Replacing a file atomically: at any moment there is the old file or the new one."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..arrays.memory import described
from .rights import give, rights_of

#: The name of a temporary file. It is short, so that it fits where the name of the file itself just fits.
TEMPORARY = ".fastopt-{}.tmp"


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let each OSError name the path that the user gave."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), os.fspath(path)) from error


def check_path(path: Any, advice: str) -> None:
    """Raise if something is no path.

    Raises
    ------
    TypeError
        With the advice, what to write instead.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"expected the path of a file, got one {described(path)}; {advice}")


def checked_ending(path: str | os.PathLike[str]) -> str:
    """Return the ending of the file that a path leads to.

    Raises
    ------
    ValueError
        If it names another format than the two, such as ".pt".
    """
    with naming(path):  # the folder in which this process is may have been removed
        ending = Path(os.path.realpath(path)).suffix
    if ending not in (".npz", ".safetensors") and ending[1:2].isalpha():
        raise ValueError(
            f"save: {os.fspath(path)!r} ends in {ending!r}; expected '.npz' (NumPy's format) or '.safetensors', or no "
            "ending for the latter"
        )
    return ending


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise if a path leads to something that is no file, such as a folder, a pipe or a device.

    Raises
    ------
    OSError
        Also if there is nothing, or a loop of links.
    """
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind):
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, "not a regular file; give the path of a file", os.fspath(path))


def replace_file(path: str | os.PathLike[str], write: Callable[[IO[bytes]], None]) -> None:
    """Let ``write`` fill a temporary file in the same folder, then move it to the path once it is on disk.

    Raises
    ------
    OSError
        With the path. The old file is unchanged then.
    """
    with naming(path):
        target = Path(os.path.realpath(path))
        with suppress(FileNotFoundError):
            check_regular(target)
        if not target.parent.exists():
            raise FileNotFoundError(errno.ENOENT, "there is no such folder; make it first", os.fspath(path))
        temporary = target.with_name(TEMPORARY.format(secrets.token_hex(8)))
        try:
            fill(temporary, target, write)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    if hasattr(os, "O_DIRECTORY"):
        with suppress(OSError):  # the new file is in its place, also where a folder can't be opened or synchronised
            sync_folder(target.parent)


def fill(temporary: Path, target: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Write a temporary file to disk, and give it the rights of the target."""
    rights = None
    with suppress(FileNotFoundError):
        rights = rights_of(target)
    # A new file has the rights that any new file has in this folder; it is empty until only its owner can open it.
    with open(temporary, "xb", opener=partial(os.open, mode=0o666 if rights is None else 0o600)) as file:
        rights = rights or rights_of(file.fileno())
        if hasattr(os, "fchown"):
            with suppress(PermissionError):  # of a file system without rights
                os.fchmod(file.fileno(), 0o600)
        write(file)
        file.flush()
        if hasattr(os, "fchown"):
            give(file.fileno(), rights)
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Let the new entry of a folder reach the disk too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
