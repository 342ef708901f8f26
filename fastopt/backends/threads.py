"""The number of threads of a step. The one place that reads ``FASTOPT_NUM_THREADS``."""

from __future__ import annotations

import os

from ..options.ranges import COUNT, as_number
from . import cores

#: The size of the pool in csrc/parallel.c.
MAX_THREADS = 256


def thread_count(source: str, value: str | int) -> int:
    try:
        number: int = as_number(source, int(value) if isinstance(value, str) else value, COUNT)
    except (ValueError, TypeError):
        raise ValueError(f"{source}{value}: expected a whole number of threads, 1 or more") from None
    return min(number, MAX_THREADS)


#: The number of threads of a large step; None until the first step or question, which finds the default.
setting: int | None = None


def default() -> int:
    """Return the number of the environment, else the number of cores that this process may use."""
    return from_environment() or min(cores.usable(), MAX_THREADS)


def from_environment() -> int | None:
    """Return the number of ``FASTOPT_NUM_THREADS``, else of ``OMP_NUM_THREADS``; None if neither is set.

    Raises
    ------
    ValueError
        If ``FASTOPT_NUM_THREADS`` is not a whole number of 1 or more.
    """
    value = os.environ.get("FASTOPT_NUM_THREADS")
    if value:
        return thread_count("FASTOPT_NUM_THREADS=", value)
    # OpenMP's variable may be a list: a number for each level of nesting. OpenMP reports mistakes in it. Programs with
    # several processes set it for their workers, so that these do not take each other's cores: joblib, for example.
    for_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if for_openmp.isdecimal() and int(for_openmp) > 0:
        return min(int(for_openmp), MAX_THREADS)
    return None


def set_num_threads(n: int) -> None:
    """Set the number of threads of the native backend and the NumPy fallback, for the whole process.

    The number changes no bit of any result.

    Parameters
    ----------
    n : int
        1 or more. The default is ``FASTOPT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of cores that the
        process may use: those it may run on (affinity, ``PYTHON_CPU_COUNT``), or fewer if a container or another
        control group of Linux limits its time on them.

    Raises
    ------
    ValueError
        If ``n`` is not a whole number of 1 or more.

    Examples
    --------
    >>> import fastopt
    >>> before = fastopt.get_num_threads()
    >>> fastopt.set_num_threads(1)
    >>> fastopt.get_num_threads()
    1
    >>> fastopt.set_num_threads(before)
    """
    global setting
    setting = thread_count("set_num_threads: ", n)


def get_num_threads() -> int:
    """Return how many threads a large step uses; small steps run on one.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.get_num_threads() >= 1
    True
    """
    global setting
    if setting is None:
        setting = default()
    return setting
