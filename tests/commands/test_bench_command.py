"""``python -m fastopt bench``: its tables, its picture, its errors. What it measures is asserted nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt.commands import bench

NUMBER = r"(\d+(?:\.\d+)?)"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastopt", "bench", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )


def row(label: str, printed: str) -> list[float]:
    """Return the numbers in the only row of a label."""
    rows = re.findall(rf"^{re.escape(label)} +{NUMBER} +{NUMBER} +{NUMBER} +{NUMBER}$", printed, re.MULTILINE)
    assert len(rows) == 1, f"{len(rows)} rows for {label} in:\n{printed}"
    return [float(number) for number in rows[0]]


def check_tables(printed: str) -> None:
    for name in fastopt.optimizers.__all__:
        micros, bytes_per_element, *_ = row(name, printed)
        assert micros > 0
        assert bytes_per_element >= 12
    assert row("SGD", printed)[1] == 12
    assert row("Adam", printed)[1] == 28
    for precision in bench.PRECISIONS:
        if not re.search(rf"^{re.escape(precision.name)}: left out, .+$", printed, re.MULTILINE):
            row(precision.name, printed)
    assert row("float32", printed)[1] == 28
    assert row("float64", printed)[1] == 56
    assert row("float16 gradients", printed)[1] == 26


def test_tables_and_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib")
    picture = tmp_path / "bench.png"
    done = run("--quick", "--elements", "20000", "--threads", "1", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    backend = fastopt.info()["backend"]
    assert re.match(rf"backend {backend}, instruction set [^,]+, threads 1; .*numpy {np.__version__}", done.stdout)
    assert re.search(rf"^memory limit: {NUMBER} GB/s", done.stdout, re.MULTILINE)
    check_tables(done.stdout)
    assert done.stdout.endswith(f"\npicture: {picture}\n")
    from matplotlib.image import imread

    pixels = imread(picture)
    assert min(pixels.shape[:2]) > 500
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10, "there are no lines"


def test_numpy_backend_is_named() -> None:
    done = run("--quick", "--elements", "2000", FASTOPT_BACKEND="numpy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("backend numpy, instruction set NumPy's own, threads 1; ")
    check_tables(done.stdout)


def test_what_is_not_there_is_left_out_with_a_reason() -> None:
    absent = bench.Precision("of tomorrow", "float32", "float32", {"no_such_option": 1})
    taken, left_out = bench.available([bench.FLOAT32, absent])
    assert taken == [bench.FLOAT32]
    assert len(left_out) == 1
    assert re.fullmatch("of tomorrow: left out, .*no_such_option.*", left_out[0])


def test_without_ml_dtypes_bfloat16_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    taken, left_out = bench.available(bench.PRECISIONS)
    assert "bfloat16 gradients" not in [precision.name for precision in taken]
    for what in ("gradients", "slots"):
        assert f"bfloat16 {what}: left out, ml_dtypes is not installed" in left_out


def test_without_tqdm_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    jobs = [bench.Job("SGD", fastopt.SGD, bench.FLOAT32, [(1,)])]
    assert bench.progress(jobs) is jobs


def test_missing_matplotlib_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; from fastopt.commands.bench import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--plot", str(tmp_path / "bench.png")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "the picture needs matplotlib: pip install 'fastopt[plot]'\n"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--threads", "0"], "--threads must be at least 1, not 0"),
        (["--threads", "two"], "argument --threads: invalid int value: 'two'"),
        (["--elements", "1000"], "--elements must be at least 1024, not 1000"),
        (["--plot", "no/such/folder/bench.png"], "--plot: there is no folder no/such/folder"),
        (["--plot", "bench.txt"], "--plot: bench.txt ends in none of "),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
    ids=str,
)
def test_wrong_arguments_leave_with_usage(wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "bench.txt" in wrong and find_spec("matplotlib") is None:
        pytest.skip("only matplotlib knows its formats")
    with pytest.raises(SystemExit, match="2"):
        bench.main(wrong)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: python -m fastopt bench")
    assert message in printed.err


def test_command_is_listed_and_not_imported_before_it_is_used() -> None:
    code = "import sys, fastopt; fastopt.SGD; print('fastopt.commands.bench' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8").stdout == "False\n"
    done = subprocess.run([sys.executable, "-m", "fastopt", "--help"], capture_output=True, encoding="utf-8")
    assert re.search(r"^  bench +\S", done.stdout, re.MULTILINE)
