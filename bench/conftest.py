"""Options of the pytest-benchmark suite."""

import pytest

from bench.threads import set_threads


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=2, help="threads of every contender (default: 2)")
    parser.addoption("--quick", action="store_true", help="only arrays up to a million elements")


def pytest_configure(config: pytest.Config) -> None:
    set_threads(config.getoption("--threads"))
    config.addinivalue_line("filterwarnings", "ignore")  # the peers' own warnings are not what is tested here
