"""How many cores this process may use. Control groups are how Linux and containers limit its time on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable(root: Path = Path("/")) -> int:
    """Return how many cores this process may run on, or how many its control groups give it the time of, if less."""
    return min([allowed(), *limits(root)])


def allowed() -> int:
    """Return how many cores this process may run on."""
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1  # PYTHON_CPU_COUNT, else the affinity
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits(root: Path) -> Iterator[int]:
    """Return the limit of each control group that this process is in, its own or one around it, in cores.

    ``root`` is the folder with ``proc`` and ``sys``. A file that can't be read is no limit.
    """
    for line in text(root / "proc/self/cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if line.startswith("0::"):  # version 2, alone or beside version 1
            mounts, names = {"", "unified"}, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mounts, names = {controllers, "cpu"}, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        group = PurePosixPath("/", path)
        for folder in (group, *group.parents):
            for mount in mounts:
                yield from limit(root / "sys/fs/cgroup" / mount / folder.relative_to("/"), names)


def limit(folder: Path, names: list[str]) -> Iterator[int]:
    """Return the cores whose time a control group has, rounded up; nothing if it has no limit.

    Files of these names have the time in each period, and the period.
    """
    try:
        quota, period = map(int, " ".join(text(folder / name) for name in names).split())
    except ValueError:  # "max", or no file
        return
    if quota > 0 and period > 0:
        yield -(-quota // period)


def text(file: Path) -> str:
    """Return what stands in a file; nothing if it can't be read."""
    try:
        return file.read_text()
    except (OSError, ValueError):
        return ""
