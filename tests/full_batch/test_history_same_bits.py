"""A history has the same bits in both backends, for every instruction set and number of threads."""

from __future__ import annotations

import math
from typing import Any

import history_runs
import numpy as np
import pytest
from cases import ISAS, needs_native

import fastopt
from fastopt.backends.choosing import host_backend
from fastopt.backends.native import library
from fastopt.backends.numpy import history as numpy_history

pytestmark = pytest.mark.usefixtures("restored")

LENGTHS = [1, 15, 16, 17, 0, 1023, 1025, 4095, 4096, 4097, 2 * 4096 + 3]
SHORT = [1, 2, 17, 300]
every_dtypes = pytest.mark.parametrize("dtypes", [["float32"], ["float64"], ["float32", "float64"]], ids="-".join)
every_bounds = pytest.mark.parametrize(
    "bounds", [history_runs.no_bounds, history_runs.some_bounds], ids=["free", "box"]
)


@needs_native
@every_dtypes
@every_bounds
def test_native_is_numpy_for_every_isa_and_number_of_threads(dtypes: list[str], bounds: Any) -> None:
    wanted = history_runs.run(LENGTHS, dtypes, "numpy", bounds=bounds)
    for isa in ISAS:
        library.use_isa(isa)
        for count in (1, 2, 3, 7):
            fastopt.set_num_threads(count)
            assert history_runs.run(LENGTHS, dtypes, "native", bounds=bounds) == wanted, (isa, count)


@needs_native
@every_bounds
@pytest.mark.parametrize(
    "sizes",
    [[1, 2, 3, 5, 8, 20], pytest.param([4, 6, 7, 9, 10, 15, 16, 17, 33], marks=pytest.mark.exhaustive)],
    ids=len,
)
def test_native_is_numpy_for_every_size(sizes: list[int], bounds: Any) -> None:
    for size in sizes:
        options: dict[str, Any] = {"size": size, "bounds": bounds, "iterations": size + 3}
        wanted = history_runs.run(SHORT, ["float64", "float32"], "numpy", **options)
        for isa in ISAS:
            library.use_isa(isa)
            assert history_runs.run(SHORT, ["float64", "float32"], "native", **options) == wanted, (isa, size)


@needs_native
@every_dtypes
@every_bounds
@pytest.mark.parametrize("grad_dtypes", [("float64",), ("float16", "float32")], ids="-".join)
def test_gradients_of_other_dtypes(dtypes: list[str], bounds: Any, grad_dtypes: tuple[str, ...]) -> None:
    options: dict[str, Any] = {"bounds": bounds, "grad_dtypes": grad_dtypes}
    assert history_runs.run(SHORT, dtypes, "native", **options) == history_runs.run(SHORT, dtypes, "numpy", **options)


@needs_native
@every_dtypes
@every_bounds
def test_special_values(dtypes: list[str], bounds: Any) -> None:
    """Trials with gradients that are not finite, denormal or huge are rejected, and leave no trace."""
    specials = (math.nan, math.inf, -math.inf, 5e-324, 1e-42, -0.0, 3e38)
    options: dict[str, Any] = {"bounds": bounds, "grad_dtypes": ("float64",), "specials": specials}
    assert history_runs.run(LENGTHS, dtypes, "native", **options) == history_runs.run(
        LENGTHS, dtypes, "numpy", **options
    )


@every_bounds
def test_threads_change_no_bit_in_numpy(monkeypatch: pytest.MonkeyPatch, bounds: Any) -> None:
    monkeypatch.setattr(numpy_history, "WORK_OF_A_THREAD", 1)
    monkeypatch.setattr(numpy_history, "BATCH", 1)
    results = []
    for count in (1, 3):
        fastopt.set_num_threads(count)
        results.append(history_runs.run(LENGTHS, ["float32", "float64"], "numpy", bounds=bounds))
    monkeypatch.undo()
    results.append(history_runs.run(LENGTHS, ["float32", "float64"], "numpy", bounds=bounds))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_place_of_the_ring_changes_no_bit(backend: str) -> None:
    """Pairs that were dropped before leave no trace, wherever the first pair after them is."""
    ends = []
    for before in range(6):
        x = np.linspace(-1, 1, 5000)
        chosen = host_backend(backend)
        table = chosen.table([x], [()])
        history = chosen.history(table, 4)

        def advance(start: float, iterations: int, x: Any = x, table: Any = table, history: Any = history) -> None:
            history.forget()
            x[:] = np.linspace(start, 1, 5000)
            scales = np.linspace(1, 9, 5000)
            table.set_grads([scales * x])
            history.begin()
            for _ in range(iterations):
                history.direct(0.1)
                table.set_grads([scales * x])
                history.read()
                assert history.accept()

        advance(0.5, before)
        advance(-1.0, 7)
        ends.append(x.tobytes())
    assert ends == ends[:1] * 6
