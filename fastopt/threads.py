"""How many threads the native backend uses. The one place that reads ``FASTOPT_NUM_THREADS``."""

from __future__ import annotations

import operator
import os


def positive(source: str, value: str | int) -> int:
    try:
        number = int(value) if isinstance(value, str) else operator.index(value)
    except (ValueError, TypeError):
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{source}{value}: expected a whole number of threads, 1 or more")
    return min(number, 1024)


#: 0: as many as OpenMP would take, which threadpoolctl and OMP_NUM_THREADS can limit. None: not read yet.
asked_for: int | None = None


def wanted() -> int:
    """Return the number that was asked for, 0 for as many as OpenMP would take."""
    global asked_for
    if asked_for is None:
        text = os.environ.get("FASTOPT_NUM_THREADS")
        asked_for = positive("FASTOPT_NUM_THREADS=", text) if text else 0
    return asked_for


def set_num_threads(n: int) -> None:
    """Set the number of threads of the native backend, for the whole process; it changes no bit of any result.

    Parameters
    ----------
    n : int
        1 or more. The default is ``FASTOPT_NUM_THREADS``, or what OpenMP would take.

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
    """Return how many threads the native backend uses at most (small steps run on one).

    Examples
    --------
    >>> import fastopt
    >>> fastopt.get_num_threads() >= 1
    True
    """
    return wanted() or default()


def default() -> int:
    from .backends import native

    return native.default_threads() if native.missing is None else 1
