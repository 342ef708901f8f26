"""The file that a save replaces: its rights, what it may be, a full disk, kills, and several savers."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ENVIRONMENT, every_kind, write
from tiers import exhaustive

import fastopt
from fastopt.checkpoint import files, rights

resource = pytest.importorskip("resource", reason="needs POSIX")

ROOT, NOBODY = 0, 65534

TEMPORARY = re.compile(r"[.]fastopt-[0-9a-f]{16}[.]tmp")

#: The tags of entries in an access control list.
OWNER, USER, GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20

NOBODY_ELSE = 0xFFFFFFFF


def access_list(*entries: tuple[int, int, int]) -> bytes:
    """Return the extended attribute of these entries: tag, rights, user."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


#: User 1234 may read and write, and the group may not; the mode's bits of the group are those of the mask.
PRIVATE = access_list(
    (OWNER, 6, NOBODY_ELSE), (USER, 6, 1234), (GROUP, 0, NOBODY_ELSE), (MASK, 6, NOBODY_ELSE), (OTHERS, 0, NOBODY_ELSE)
)


def set_list(path: Path, content: bytes, name: str = rights.ACCESS_LIST) -> None:
    try:
        os.setxattr(path, name, content)
    except (AttributeError, OSError):
        pytest.skip("needs a file system with access control lists")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def list_of(path: Path) -> bytes | None:
    return rights.rights_of(path).access_list


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let each write beyond this size of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@every_kind
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_only_the_owner_can_read_what_is_not_complete(
    tmp_path: Path, kind: str, mask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def give(file: int, its: rights.Rights) -> None:
        found.append(stat.S_IMODE(os.fstat(file).st_mode))
        rights.give(file, its)

    opened = []

    def open_file(path: Any, flags: int, mode: int = 0o777) -> int:
        opened.append(mode)
        return real_open(path, flags, mode)

    real_open = os.open
    monkeypatch.setattr(files, "give", give)
    monkeypatch.setattr(os, "open", open_file)
    path = tmp_path / kind
    with umask(mask):
        fastopt.save(path, extra={"n": 1})
        assert mode_of(path) == 0o666 & ~mask
        for mode in (0o600, 0o640, 0o444, 0o666):
            path.chmod(mode)
            opened.clear()
            fastopt.save(path, extra={"n": mode})
            assert mode_of(path) == mode
            assert opened[0] == 0o600
    assert found == [0o600] * 5
    assert os.listdir(tmp_path) == [kind]


@every_kind
def test_access_lists(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, kind, extra={"n": 1})
    set_list(path, PRIVATE)
    fastopt.save(path, extra={"n": 2})
    assert (mode_of(path), list_of(path)) == (0o660, PRIVATE)

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "no lists")

    with monkeypatch.context() as patched:
        patched.setattr(os, "setxattr", fail)
        fastopt.save(path, extra={"n": 3})
    assert (mode_of(path), list_of(path)) == (0o600, None), "the mask became the group's right"


def test_the_access_list_of_a_folder(tmp_path: Path) -> None:
    """A new file gets it, as any new file does; a file that has none stays so."""
    plain = write(tmp_path, "plain.npz", extra={})
    plain.chmod(0o640)
    set_list(tmp_path, PRIVATE, "system.posix_acl_default")
    (tmp_path / "any").touch()
    new = write(tmp_path, "new.npz", extra={})
    assert (mode_of(new), list_of(new)) == (mode_of(tmp_path / "any"), list_of(tmp_path / "any"))
    assert list_of(new) is not None
    fastopt.save(plain, extra={})
    assert (mode_of(plain), list_of(plain)) == (0o640, None)


@pytest.mark.parametrize("may_set_group", [False, True])
def test_another_owner(tmp_path: Path, may_set_group: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that this process can't set gets the rights of all others."""
    path = write(tmp_path, extra={})
    path.chmod(0o664)
    tried = []

    def fchown(file: int, owner: int, group: int) -> None:
        tried.append((owner, group))
        if owner != -1 or not may_set_group:
            raise PermissionError(errno.EPERM, "not yours")

    owner = path.stat()
    monkeypatch.setattr(os, "fchown", fchown)
    fastopt.save(path, extra={})
    assert mode_of(path) == (0o664 if may_set_group else 0o644)
    assert tried == [(owner.st_uid, owner.st_gid), (-1, owner.st_gid)]


@pytest.mark.skipif(os.geteuid() != ROOT, reason="needs root")
def test_root_keeps_the_owner(tmp_path: Path) -> None:
    path = write(tmp_path, extra={})
    os.chown(path, 1234, 2345)
    fastopt.save(path, extra={"n": 1})
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


NO_FILES: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "socket": a_socket,
    "device": lambda path: path.symlink_to(os.devnull),
    "link to a folder": lambda path: path.symlink_to(path.parent),
    "loop": lambda path: path.symlink_to(path.name),
}


@every_kind
@pytest.mark.parametrize("what", NO_FILES)
def test_what_is_no_file(kind: str, what: str) -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose name is too long for a socket
        path = Path(folder) / kind
        NO_FILES[what](path)
        before = os.lstat(path)
        for use in (lambda: fastopt.save(path, extra={}), lambda: fastopt.load(path)):
            with pytest.raises(OSError, match="Too many levels" if what == "loop" else "not a regular file; give") as e:
                use()
            assert e.value.filename == str(path)
            assert e.value.errno is not None
        assert os.lstat(path) == before
        assert os.listdir(folder) == [kind]


@every_kind
def test_a_link_to_no_file_makes_it(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"link-{kind}").symlink_to(kind)
    fastopt.save(tmp_path / f"link-{kind}", extra={"n": 1})
    assert (tmp_path / f"link-{kind}").is_symlink()
    assert not (tmp_path / kind).is_symlink()
    assert fastopt.load(tmp_path / kind).extra == {"n": 1}


def test_a_current_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        fastopt.save("run.npz", extra={})
    assert caught.value.filename == "run.npz"


@every_kind
def test_an_old_file_that_is_removed_meanwhile(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / kind
    fastopt.save(path, extra={"a": 1})

    def rights_of(file: int | Path) -> rights.Rights:
        path.unlink(missing_ok=True)
        return rights.rights_of(file)

    monkeypatch.setattr(files, "rights_of", rights_of)
    fastopt.save(path, extra={"a": 2})
    assert fastopt.load(path).extra == {"a": 2}


@every_kind
def test_names_of_any_length(tmp_path: Path, kind: str) -> None:
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    for length in (most - 22, most):
        write(tmp_path, "x" * (length - len(kind)) + kind, extra={})
    path = tmp_path / ("x" * (most + 1 - len(kind)) + kind)
    with pytest.raises(OSError, match="File name too long") as caught:
        fastopt.save(path, extra={})
    assert (caught.value.errno, caught.value.filename) == (errno.ENAMETOOLONG, str(path))
    assert len(os.listdir(tmp_path)) == 2


@every_kind
def test_errors_name_the_path_that_was_given(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    for path, error in [(f"nodir/{kind}", FileNotFoundError), (f"file/{kind}", NotADirectoryError)]:
        with pytest.raises(error, match=f"'{path}'"):
            fastopt.save(path, extra={})
    with pytest.raises(OSError, match="not a regular file; give the path of a file: ''"):
        fastopt.save("", extra={})
    assert os.listdir() == ["file"]


@every_kind
def test_a_folder_that_can_only_be_read(kind: str) -> None:
    """Nobody else may write there; root becomes another user for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), kind, extra={"n": 1})
        path.chmod(0o644)
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == ROOT:
            os.seteuid(NOBODY)
        try:
            with pytest.raises(PermissionError) as caught:
                fastopt.save(path, extra={"n": 2})
            assert (caught.value.errno, caught.value.filename) == (errno.EACCES, str(path))
            assert fastopt.load(path).extra == {"n": 1}
        finally:
            if user == ROOT:
                os.seteuid(ROOT)
            os.chmod(folder, 0o755)
        assert os.listdir(folder) == [kind]


def test_a_folder_that_cannot_be_listed() -> None:
    """It can't be opened, and so not be synchronised; but the file is there."""
    with tempfile.TemporaryDirectory() as folder:
        user = os.geteuid()
        os.chmod(folder, 0o333)
        if user == ROOT:
            os.chmod(folder, 0o733)
            os.seteuid(NOBODY)
        try:
            fastopt.save(Path(folder) / "run.npz", extra={"n": 1})
            assert fastopt.load(Path(folder) / "run.npz").extra == {"n": 1}
        finally:
            if user == ROOT:
                os.seteuid(ROOT)
            os.chmod(folder, 0o755)


CONTENT: dict[str, Any] = {"params": {"W": np.arange(40.0), "b": np.ones(3, np.float32)}, "extra": {"n": 2}}


@every_kind
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=exhaustive)])
def test_a_full_disk_at_any_size(tmp_path: Path, kind: str, step: int) -> None:
    size = write(tmp_path, kind, **CONTENT).stat().st_size
    path = write(tmp_path, kind, extra={"n": 1})
    before = path.read_bytes()
    for limit in range(0, size, step):
        with largest_file(limit), pytest.raises(OSError, match="File too large") as caught:
            fastopt.save(path, **CONTENT)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        assert os.listdir(tmp_path) == [kind]
    assert path.read_bytes() == before
    with largest_file(size):
        fastopt.save(path, **CONTENT)
    assert fastopt.load(path).extra == {"n": 2}


@every_kind
@pytest.mark.parametrize("call", ["open", "fchmod", "fsync", "replace"])
def test_a_call_that_fails(tmp_path: Path, kind: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, kind, extra={"n": 1})

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(OSError, match="No space left on device") as caught:
            fastopt.save(path, extra={"n": 2})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert fastopt.load(path).extra == {"n": 1}
    assert os.listdir(tmp_path) == [kind]


KILL_AT_EACH_LINE = """
import os, pathlib, signal, stat, sys
import numpy as np, fastopt

names = tuple(os.path.join("checkpoint", name) for name in ("files.py", "rights.py", "npz.py", "safetensors.py"))
os.fsync = lambda file: None  # it is for the end of power

def save_and_die(path, line):
    left = line
    def trace(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename.endswith(names):
            left -= event == "line"
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return trace
    sys.settrace(trace)
    fastopt.save(path, params=[np.full(100, 2.0)], extra={"n": 2})
    sys.settrace(None)
    os._exit(0)

path, is_new = pathlib.Path(sys.argv[1]), sys.argv[2] == "new"
line, was_killed, found = 0, True, []
fastopt.save(path, extra={})  # imports all that it needs
while was_killed:
    line += 1
    path.unlink(missing_ok=True)
    if not is_new:
        fastopt.save(path, params=[np.full(100, 1.0)], extra={"n": 1})
        path.chmod(0o600)
    child = os.fork()
    if child == 0:
        save_and_die(path, line)
    was_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    n = 0
    if path.exists():
        loaded = fastopt.load(path)
        n = loaded.extra["n"]
        assert (loaded.params[0] == n).all()
    left = [left for left in path.parent.iterdir() if left != path]
    for each in left:
        status = each.stat()
        assert status.st_size == 0 or stat.S_IMODE(status.st_mode) == 0o600 or n == 0, each
        each.unlink()
    found.append((n, *(each.name for each in left)))
for each in found:
    print(*each)
"""


@every_kind
@pytest.mark.parametrize("is_new", [False, True])
def test_killed_at_any_line(tmp_path: Path, kind: str, is_new: bool) -> None:
    """The old file or the new one, and at most one temporary file, which only its owner can read."""
    command = [sys.executable, "-c", KILL_AT_EACH_LINE, str(tmp_path / kind), "new" if is_new else "old"]
    done = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    found = [line.split() for line in done.stdout.splitlines()]
    numbers = [int(number) for number, *_ in found]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0 if is_new else 1, 2}
    left = [names for _, *names in found if names]
    assert len(left) > 20
    assert all(len(names) == 1 and TEMPORARY.fullmatch(names[0]) for names in left)


SAVE_MANY = """
import os, sys, numpy as np, fastopt
os.fsync = lambda file: None
number = int(sys.argv[2])
for n in range(int(sys.argv[3])):
    fastopt.save(sys.argv[1], params=[np.full(20_000, 1000.0 * number + n)], extra={"n": 1000 * number + n})
"""


@exhaustive
@every_kind
def test_savers_beside_each_other(tmp_path: Path, kind: str) -> None:
    """Each load finds the file of one of them, and the last one stays."""
    path = write(tmp_path, kind, params=[np.zeros(1)], extra={"n": 0})
    command = [sys.executable, "-c", SAVE_MANY, str(path)]
    savers = [subprocess.Popen([*command, str(number), "100"], env=ENVIRONMENT) for number in (1, 2, 3)]
    seen = set()
    try:
        while any(saver.poll() is None for saver in savers):
            loaded = fastopt.load(path)
            assert (loaded.params[0] == loaded.extra["n"]).all()
            seen.add(loaded.extra["n"] // 1000)
    finally:
        for saver in savers:
            saver.kill()
            saver.wait()
    assert [saver.returncode for saver in savers] == [0, 0, 0]
    assert len(seen) > 1
    assert fastopt.load(path).extra["n"] % 1000 == 99
    assert os.listdir(tmp_path) == [kind]
