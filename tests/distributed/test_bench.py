"""``python -m bench --group distributed``: its contenders make the same steps, and each group has rows."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from on_ranks import TIMEOUT, environment, mpiexec, on_ranks
from places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is in the source tree alone")

GROUPS = {
    "distributed-model": ["measured", "predicted", "measured, all-reduce", "predicted, all-reduce"],
    "distributed-memory": ["state of a rank", "of one process", "buffers of a rank"],
}


def steps_of(comm: Any, contender: str) -> list[np.ndarray]:
    """Return the parameters of a contender after three steps."""
    sys.path.insert(0, str(ROOT))
    ranks, case, rules, shapes = (
        importlib.import_module(f"bench.{name}") for name in ("ranks", "case", "rules", "shapes")
    )
    made: list[list[np.ndarray]] = []

    class Case(case.Case):  # type: ignore[misc, name-defined]
        """One that keeps the arrays it makes; gradients have a seed."""

        def arrays(self, seed: int = 0) -> list[np.ndarray]:
            found: list[np.ndarray] = super().arrays(seed)
            if seed == 0:
                made.append(found)
            return found

    more = {"in_buckets": False} if "torch" in contender else {}
    new_case = Case(rules.RULES["adam"], shapes.ArraySet([(70, 90), (90,)]), 1)
    step = ranks.BUILD["distributed"][contender](comm, new_case, **more)
    for _ in range(3):
        step()
    if "torch" in contender:
        importlib.import_module("torch.distributed").destroy_process_group()
    # Home-made loops make the arrays for the sums in the same way, after the parameters.
    return made[0]


@pytest.mark.parametrize("contender", ["all-reduce, fastopt", "all-reduce, naive NumPy", "torch ZeRO, gloo"])
def test_contenders_make_the_same_steps(contender: str) -> None:
    if contender.startswith("torch"):
        pytest.importorskip("torch", reason="torch is a peer: pip install 'fastopt[peers]'")
    ours, theirs = (on_ranks(2, steps_of, each) for each in ("fastopt", contender))
    for params in [*ours[1:], *theirs]:
        for p, like in zip(params, ours[0], strict=True):
            np.testing.assert_allclose(p, like, rtol=0, atol=2e-6)
    start = importlib.import_module("bench.case").fill(np.empty((70, 90), np.float32), 0)
    assert np.abs(ours[0][0] - start).max() > 1e-3


@pytest.mark.parametrize(
    "group", [pytest.param("distributed-model", marks=pytest.mark.exhaustive), "distributed-memory"]
)
def test_groups_have_rows(group: str, tmp_path: Path) -> None:
    mpiexec()
    report = tmp_path / "results.md"
    command = [sys.executable, "-m", "bench", "--quick", "--group", group, "--only", "0.1M", "--out", str(report)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, encoding="utf-8", timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr
    cells = [line.strip("| ").split(" | ") for line in report.read_text(encoding="utf-8").splitlines() if "|" in line]
    header, _, *rows = cells
    rows = [row for row in rows if row[0] != "median"]
    assert [row[0] for row in rows] == [f"MLP, 6 arrays, 0.1M; {ranks}" for ranks in ("1 rank", "2 ranks", "4 ranks")]
    for row in rows:
        found = dict(zip(header, row, strict=True))
        assert all(float(found[name].replace(",", "")) >= 0 for name in GROUPS[group])
