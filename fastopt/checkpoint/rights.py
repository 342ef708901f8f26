"""The rights of a file that replaces another one. Where they can't be the same, they are fewer."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

#: The extended attribute that holds a file's access control list, on Linux.
ACCESS_LIST = "system.posix_acl_access"


class Rights(NamedTuple):
    """The owner of a file, and who may read and write it."""

    owner: int
    group: int
    #: In a file with an access list, the bits of the group are the most that the list may give.
    mode: int
    access_list: bytes | None


def rights_of(file: int | Path) -> Rights:
    """Return the rights of a file."""
    status = os.stat(file)
    access_list = None
    if hasattr(os, "getxattr"):
        with suppress(OSError):  # there is no list, or the file system has none
            access_list = os.getxattr(file, ACCESS_LIST)
    return Rights(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), access_list)


def give(file: int, rights: Rights) -> None:
    """Give an open file these rights. The owner and the group stay where this process can't set them.

    Another group, and a group without its access list, get the rights of all others.
    """
    fits = has_owner(file, rights.owner, rights.group) or has_owner(file, -1, rights.group)
    fits = fits and has_access_list(file, rights.access_list)
    mode = rights.mode if fits else (rights.mode & 0o707) | (rights.mode & 0o007) << 3
    with suppress(PermissionError):  # of a file system without rights
        os.fchmod(file, mode)


def has_owner(file: int, owner: int, group: int) -> bool:
    """Set the owner and the group of an open file; return whether this process can."""
    try:
        os.fchown(file, owner, group)
    except OSError:
        return False
    return True


def has_access_list(file: int, access_list: bytes | None) -> bool:
    """Set the access list of an open file, or remove the one that it has from its folder; return whether it worked."""
    if not hasattr(os, "setxattr"):
        return access_list is None
    try:
        if access_list is not None:
            os.setxattr(file, ACCESS_LIST, access_list)
        elif rights_of(file).access_list is not None:
            os.removexattr(file, ACCESS_LIST)
    except OSError:
        return False
    return True
