"""The number of threads of a step. The one place that reads ``FASTOPT_NUM_THREADS``."""

from __future__ import annotations

import os

from ..options.ranges import COUNT, as_number

#: The size of the pool in csrc/parallel.c.
MAX_THREADS = 256


def thread_count(source: str, value: str | int) -> int:
    try:
        number: int = as_number(source, int(value) if isinstance(value, str) else value, COUNT)
    except (ValueError, TypeError):
        raise ValueError(f"{source}{value}: expected a whole number of threads, 1 or more") from None
    return min(number, MAX_THREADS)


#: The number of threads of a large step; None: not read from the environment yet.
setting: int | None = None


def default() -> int:
    """Return the number that the environment gives, else the number of cores that this process may run on."""
    value = os.environ.get("FASTOPT_NUM_THREADS")
    if value:
        return thread_count("FASTOPT_NUM_THREADS=", value)
    # OpenMP's variable may be a list: a number for each level of nesting. OpenMP reports mistakes in it.
    for_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if for_openmp.isdecimal() and int(for_openmp) > 0:
        return min(int(for_openmp), MAX_THREADS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MAX_THREADS)


def set_num_threads(n: int) -> None:
    """Set the number of threads of the native backend and the NumPy fallback, for the whole process.

    The number changes no bit of any result.

    Parameters
    ----------
    n : int
        1 or more. The default is ``FASTOPT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of cores.

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
