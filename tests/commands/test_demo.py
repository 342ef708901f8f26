"""The demo: its network's gradients, its naive optimizers, and the command itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiers import exhaustive

from fastopt import schedules
from fastopt.commands.demo import REQUIRED, main, mlp, naive
from fastopt.commands.demo.methods import METHODS, Method

SIZES = (5, 7, 6, 3)


@pytest.fixture
def needs_packages() -> None:
    for name in REQUIRED:
        pytest.importorskip(name, reason=f"the demo needs {name}: pip install 'fastopt[demo]'")


def batch(rng: np.random.Generator, rows: int = 8) -> tuple[mlp.Floats, mlp.Labels]:
    return rng.normal(size=(rows, SIZES[0])), rng.integers(SIZES[-1], size=rows)


def test_gradient_is_that_of_central_differences() -> None:
    rng = np.random.default_rng(0)
    params = mlp.init(rng, SIZES, np.float64)
    x, labels = batch(rng)
    _, grads = mlp.loss_and_grads(params, x, labels)
    h = 1e-6
    for layer, arrays in params.items():
        for name, p in arrays.items():
            numeric = np.empty_like(p)
            for i in np.ndindex(p.shape):
                kept = p[i]
                p[i] = kept + h
                above, _ = mlp.loss_and_grads(params, x, labels)
                p[i] = kept - h
                below, _ = mlp.loss_and_grads(params, x, labels)
                p[i] = kept
                numeric[i] = (above - below) / (2 * h)
            np.testing.assert_allclose(grads[layer][name], numeric, rtol=1e-6, atol=1e-9, err_msg=f"{layer}.{name}")


def test_loss_of_huge_logits_is_finite() -> None:
    params = {"out": {"W": np.array([[1e4, -1e4]]), "b": np.zeros(2)}}
    loss, grads = mlp.loss_and_grads(params, np.ones((1, 1)), np.array([0]))
    assert loss == 0
    np.testing.assert_array_equal(grads["out"]["W"], 0)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label)
def test_naive_updates_are_those_of_fastopt(method: Method) -> None:
    ours, theirs = (mlp.init(np.random.default_rng(0), SIZES, np.float64) for _ in range(2))
    options = {"lr": schedules.warmup_cosine(method.peak_lr, warmup=2, total=5), **method.options}
    opt = method.optimizer(ours, **options)
    textbook = naive.Optimizer(method.rule, theirs, **options)
    rng = np.random.default_rng(1)
    for _ in range(5):
        _, grads = mlp.loss_and_grads(ours, *batch(rng))
        opt.step(grads)
        textbook.step(grads)
    for layer, arrays in ours.items():
        for name, p in arrays.items():
            np.testing.assert_allclose(p, theirs[layer][name], rtol=1e-12, err_msg=f"{layer}.{name}")


@pytest.mark.usefixtures("needs_packages")
@pytest.mark.parametrize("label", ["Adam", pytest.param("SGD momentum", marks=exhaustive)])
def test_ten_epochs_reach_96_percent(label: str) -> None:
    from fastopt.commands.demo import train

    method = next(method for method in METHODS if method.label == label)
    run = train.train(method, train.load(), epochs=10, seed=0, on_epoch=lambda: None)
    assert run.accuracies[-1] >= 0.96
    assert run.losses[-1] < run.losses[0] / 10


def run_demo(out: Path, *arguments: str, **environment: str) -> str:
    """Run the command and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fastopt", "demo", "--quick", *arguments, "--out", str(out)],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def accuracies(printed: str) -> dict[str, str]:
    """Return the test accuracy in the table's row of each optimizer."""
    found = {}
    for method in METHODS:
        row = re.search(rf"^{method.label} +\S+ +(\d+\.\d\d%) +(\d+|never) .*µs.*µs", printed, re.MULTILINE)
        assert row is not None, f"no row for {method.label} in:\n{printed}"
        found[method.label] = row[1]
    return found


@pytest.mark.usefixtures("needs_packages")
@pytest.mark.parametrize("arguments", [["--epochs", "1"], pytest.param([], marks=pytest.mark.long)], ids=str)
def test_command_prints_the_same_accuracies_on_every_backend(tmp_path: Path, arguments: list[str]) -> None:
    picture = tmp_path / "demo.png"
    first = run_demo(picture, *arguments)
    assert picture.read_bytes().startswith(b"\x89PNG")
    on_numpy = run_demo(picture, *arguments, FASTOPT_BACKEND="numpy")
    assert "backend numpy" in on_numpy
    assert accuracies(on_numpy) == accuracies(first)


@pytest.mark.long
@pytest.mark.usefixtures("needs_packages")
def test_command_prints_the_same_accuracies_every_time(tmp_path: Path) -> None:
    picture = tmp_path / "demo.png"
    assert accuracies(run_demo(picture)) == accuracies(run_demo(picture))


def test_missing_package_is_one_line() -> None:
    code = "import sys; sys.modules['sklearn'] = None; from fastopt.commands.demo import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert re.fullmatch(r"the demo needs .*sklearn.*: pip install 'fastopt\[demo\]'\n", done.stderr)


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--out", "no/such/folder/demo.png"]])
def test_wrong_arguments_leave_with_usage(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert "usage: python -m fastopt demo" in capsys.readouterr().err
