"""The file of a checkpoint: its mode, what a failed save and a killed process leave."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import ENVIRONMENT, KINDS, every_kind, write

import fastopt


@every_kind
def test_modes_links_and_leftovers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    before = os.umask(0o027)
    try:
        fastopt.save(path, extra={"n": 1})
    finally:
        os.umask(before)
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        link = tmp_path / f"link-{kind}"
        link.symlink_to(path)
        fastopt.save(link, extra={"n": 2})
        assert link.is_symlink()
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
        assert fastopt.load(path).extra == {"n": 2}
        link.unlink()
    assert os.listdir(tmp_path) == [kind]


@every_kind
def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, kind, extra={"n": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        fastopt.save(path, extra={"n": 2})
    assert fastopt.load(path).extra == {"n": 1}
    assert os.listdir(tmp_path) == [kind]
    with pytest.raises(FileNotFoundError):
        fastopt.save(tmp_path / "missing" / kind, extra={})
    with pytest.raises(FileNotFoundError):
        fastopt.load(tmp_path / "missing")


SAVE_FOREVER = """
import sys, numpy as np, fastopt
path, n = sys.argv[1], 0
params = [np.zeros(300_000), np.zeros((7, 5), np.float32)]
opt = fastopt.Adam(params)
print("ready", flush=True)
while True:
    n += 1
    for param in params:
        param[...] = n
    fastopt.save(path, opt, extra={"n": n})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.long)])
def test_killed_while_saving(tmp_path: Path, count: int) -> None:
    """Kills at any moment of a loop that saves: the file is there whenever it was, and always whole."""
    kills, rng = 0, np.random.default_rng(5)
    processes: list[tuple[Path, subprocess.Popen[str]]] = []
    try:
        for start in range(0, count, 10):
            processes = []
            for number in range(start, start + 10):
                path = tmp_path / f"{number}{Path(KINDS[number % len(KINDS)]).suffix}"
                fastopt.save(path, extra={"n": 0}, params=[np.zeros(1)])
                command = [sys.executable, "-c", SAVE_FOREVER, str(path)]
                processes.append((path, subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)))
            for path, process in processes:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(rng.uniform(0, 0.02))
                process.kill()
                process.communicate()
                assert process.returncode == -signal.SIGKILL
                loaded = fastopt.load(path)
                assert all((param == loaded.extra["n"]).all() for param in loaded.params)
                kills += 1
                path.unlink()
    finally:
        for _, process in processes:
            if process.returncode is None:
                process.kill()
                process.communicate()
    assert kills == count
    assert len(os.listdir(tmp_path)) >= 5 * (count // 100), "too few kills hit a file that was being written"


@pytest.mark.parametrize("extra", [0, "epoch", [], [("epoch", 3)]])
def test_extra_is_a_dict(tmp_path: Path, extra: Any) -> None:
    with pytest.raises(TypeError, match=r"extra is of type \w+; expected a dict: extra={'name': value}"):
        fastopt.save(tmp_path / "run.npz", extra=extra)
    assert os.listdir(tmp_path) == []


@every_kind
@pytest.mark.parametrize("params", [None, {}, [], (), {"body": {}, "head": []}, {"W": None}], ids=str)
@pytest.mark.parametrize("has_optimizer", [False, True])
def test_nothing_to_save(tmp_path: Path, kind: str, params: Any, has_optimizer: bool) -> None:
    path = write(tmp_path, kind, extra={"n": 1})
    opt = fastopt.SGD(np.ones(1)) if has_optimizer else None
    if params is None and has_optimizer:
        fastopt.save(path, opt, params=params)
        assert fastopt.load(path).params.tolist() == [1]
        return
    message = (
        "save: there is nothing to save; give an" if params is None else "params=.*: expected an array or a structure"
    )
    with pytest.raises(ValueError, match=message):
        fastopt.save(path, opt, params=params)
    assert fastopt.load(path).extra == {"n": 1}
    assert os.listdir(tmp_path) == [kind]


@pytest.mark.parametrize("name", ["run.pt", "run.pkl", "run.ckpt", "run.npy", "run.h5", "run.NPZ", "a.npz.bak"])
def test_unknown_endings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(ValueError, match=r"expected '\.npz' .* or '\.safetensors', or no ending") as raised:
        fastopt.save(path, extra={"n": 1})
    assert str(path) in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run.npz", "run.safetensors", "run", ".hidden", "epoch.10", "run-v1.5", "a.pt.npz"])
def test_known_endings(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    fastopt.save(path, extra={"n": 1})
    assert fastopt.load(path).extra == {"n": 1}
    assert (path.read_bytes()[:4] == b"PK\x03\x04") == name.endswith(".npz")


@pytest.mark.parametrize("name", ["nodir/x.npz", "no/dir/x.safetensors", "nodir/x"])
def test_a_folder_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no such folder; make it first") as raised:
        fastopt.save(name, extra={"n": 1})
    assert raised.value.filename == name
    assert name in str(raised.value)
    Path(name).parent.mkdir(parents=True)
    fastopt.save(name, extra={"n": 1})
