"""Import time of fastopt and its peers, above an interpreter's start, and the wheel's size."""

import importlib.util
import subprocess

import pytest

from bench import install


@pytest.mark.parametrize("name", ["nothing", *install.PACKAGES])
def test_import(benchmark, name: str) -> None:
    if name != "nothing" and not importlib.util.find_spec(name):
        pytest.skip(f"{name} is not installed")
    benchmark.group = "import"
    statement = "pass" if name == "nothing" else f"import {name}"
    benchmark.pedantic(install.start_python, (statement,), rounds=5, warmup_rounds=1)


def test_wheel_size(benchmark) -> None:
    benchmark.group = "wheel"
    try:
        size = benchmark.pedantic(install.wheel_size, rounds=1)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no wheel could be built here: {error.stderr.decode()[-300:]}")
    benchmark.extra_info["KB"] = round(size / 1e3)
