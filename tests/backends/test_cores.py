"""The limits of control groups, read from folders made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastopt.backends import cores

V2 = "0::/jobs/one\n"
V1 = "9:memory:/jobs\n4:cpu,cpuacct:/jobs/one\n3:cpuset:/\n1:name=systemd:/user:1\n"
GROUPS = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        # No groups, no limit, files that can't be understood.
        ({}, []),
        ({"proc/self/cgroup": V2}, []),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "max 100000\n"}, []),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": ""}, []),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "100000"}, []),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "100000 0\n"}, []),
        ({"proc/self/cgroup": "nonsense\n::/\n\n4\n", f"{GROUPS}/cpu.max": "100000 100000\n"}, []),
        # Version 2: rounded up, at least 1.
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "200000 100000\n"}, [2]),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "200001 100000\n"}, [3]),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/one/cpu.max": "1000 100000\n"}, [1]),
        # Groups around it; another group's limit is none of this process's.
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/cpu.max": "100000 50000\n"}, [2]),
        ({"proc/self/cgroup": V2, f"{GROUPS}/cpu.max": "300000 100000\n"}, [3]),
        ({"proc/self/cgroup": V2, f"{GROUPS}/jobs/two/cpu.max": "100000 100000\n"}, []),
        (
            {
                "proc/self/cgroup": V2,
                f"{GROUPS}/jobs/one/cpu.max": "400000 100000\n",
                f"{GROUPS}/jobs/cpu.max": "200000 100000\n",
            },
            [2, 4],
        ),
        # Version 2 beside version 1.
        ({"proc/self/cgroup": V2 + V1, f"{GROUPS}/unified/jobs/one/cpu.max": "200000 100000\n"}, [2]),
        # Version 1, whose folder has the name of all its controllers or of one.
        (
            {
                "proc/self/cgroup": V1,
                f"{GROUPS}/cpu,cpuacct/jobs/one/cpu.cfs_quota_us": "250000\n",
                f"{GROUPS}/cpu,cpuacct/jobs/one/cpu.cfs_period_us": "100000\n",
            },
            [3],
        ),
        (
            {
                "proc/self/cgroup": V1,
                f"{GROUPS}/cpu/cpu.cfs_quota_us": "50000\n",
                f"{GROUPS}/cpu/cpu.cfs_period_us": "50000\n",
            },
            [1],
        ),
        (
            {
                "proc/self/cgroup": V1,
                f"{GROUPS}/cpu/jobs/one/cpu.cfs_quota_us": "-1\n",
                f"{GROUPS}/cpu/jobs/one/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
        ({"proc/self/cgroup": V1, f"{GROUPS}/cpu/jobs/one/cpu.cfs_quota_us": "100000\n"}, []),
        # A container that sees its own group as the root, though its path is that outside.
        ({"proc/self/cgroup": "0::/docker/abc\n", f"{GROUPS}/cpu.max": "100000 100000\n"}, [1]),
        ({"proc/self/cgroup": "0::/../../elsewhere\n", f"{GROUPS}/cpu.max": "100000 100000\n"}, [1]),
    ],
)
def test_limits_of_control_groups(tmp_path: Path, files: dict[str, str], limits: list[int]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(cores.limits(tmp_path)) == limits
    assert cores.usable(tmp_path) == min([cores.allowed(), *limits])


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"0::/\xff\n")
    assert cores.usable(tmp_path) == cores.allowed()
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup/cpu.max").mkdir(parents=True)
    assert cores.usable(tmp_path) == cores.allowed()
