"""How many threads a step uses at most. The one place that reads ``FASTOPT_NUM_THREADS``."""

from __future__ import annotations

import operator
import os

#: What the pool in csrc/parallel.c holds.
MOST = 256


def positive(source: str, value: str | int) -> int:
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{source}{value}: expected a whole number of threads, 1 or more")
    return min(number, MOST)


#: None: not read yet.
asked_for: int | None = None


def wanted() -> int:
    """Return the number of threads that a large step is to have."""
    global asked_for
    if asked_for is None:
        asked_for = default()
    return asked_for


def default() -> int:
    """Return what the environment asks for, else the number of cores that this process may run on."""
    value = os.environ.get("FASTOPT_NUM_THREADS")
    if value:
        return positive("FASTOPT_NUM_THREADS=", value)
    # OpenMP's variable may be a list, a number for each level of nesting; what is wrong in it is OpenMP's to tell.
    for_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if for_openmp.isdecimal() and int(for_openmp) > 0:
        return min(int(for_openmp), MOST)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST)


def set_num_threads(n: int) -> None:
    """Set the number of threads of the native backend and the NumPy fallback, for the whole process.

    It changes no bit of any result.

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
    global asked_for
    asked_for = positive("set_num_threads: ", n)


def get_num_threads() -> int:
    """Return how many threads a step uses at most (small steps run on one).

    Examples
    --------
    >>> import fastopt
    >>> fastopt.get_num_threads() >= 1
    True
    """
    return wanted()
