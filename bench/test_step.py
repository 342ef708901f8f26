"""Every group, set of arrays and contender as a pytest-benchmark test.

pytest-benchmark runs one contender after the other; `python -m bench` interleaves them and is what to quote.
"""

import contextlib

import pytest

from bench.groups import GROUPS
from bench.harness import busy_machine, limited_blas, ready, reason


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # Not those of several processes. each_thread_count: a process has one number of threads; run it again with another.
    cases = [
        pytest.param(name, label, contender, id=f"{name}-{label}-{contender}")
        for name, group in GROUPS.items()
        if not (group.each_thread_count or group.on_ranks)
        for label in group.cases(metafunc.config.getoption("--quick"), 1)
        for contender in group.contenders
    ]
    metafunc.parametrize(("name", "label", "contender"), cases)


def test_step(benchmark, pytestconfig: pytest.Config, name: str, label: str, contender: str) -> None:
    group = GROUPS[name]
    case = group.cases(False, pytestconfig.getoption("--threads"))[label]
    try:
        stepper = ready(group.contenders[contender], case)
    except Exception as error:  # a peer that is missing or can't do it
        pytest.skip(reason(error))
    benchmark.group = f"{name}: {label}"
    benchmark.name = contender
    rounds = max(5, min(200, (1 << 30) // case.bytes_moved))
    with busy_machine() if group.busy else contextlib.nullcontext(), limited_blas(case.blas_threads):
        benchmark.pedantic(stepper.step, setup=stepper.prepare, rounds=rounds, warmup_rounds=1)
    if benchmark.stats:  # None under --benchmark-disable
        gigabytes_per_second = case.bytes_moved / benchmark.stats.stats.median / 1e9
        benchmark.extra_info |= {"bytes_moved": case.bytes_moved, "GB/s": round(gigabytes_per_second, 2)}
