"""A callback of minimize that shows a bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..options.ranges import Range, as_number
from .results import MinimizeState

TOTAL = Range(0, optional=True, whole=True)


class Progress:
    """A callback that shows iterations, loss and gradient on one line; :func:`progress` makes it."""

    def __init__(self, total: int | None = None, **options: Any) -> None:
        self.total, self.options = total, options
        self.tqdm = bar_class()
        self.bar: Any = None

    def __call__(self, state: MinimizeState) -> None:
        """Show a state. One with a status is the last."""
        if self.bar is None:
            self.bar = self.tqdm(total=self.total, **({"unit": "it", "dynamic_ncols": True} | self.options))
        numbers = f"loss {state.loss:.6g}, gradient {state.grad_norm:.2e}, {state.evaluations} evaluations"
        self.bar.set_postfix_str(numbers, refresh=False)
        self.bar.update(state.iterations - self.bar.n)
        if state.status is not None:
            self.close()

    def close(self) -> None:
        """End the line of the bar; a further state begins another one."""
        bar, self.bar = self.bar, None
        if bar is not None:
            bar.close()

    @contextmanager
    def of_run(self, total: int | None) -> Iterator[None]:
        """Show the iterations of one run, of so many at most, and end the line with it."""
        before = self.total
        self.close()
        self.total = total if before is None else before
        try:
            yield
        finally:
            self.close()
            self.total = before


def progress(total: int | None = None, **options: Any) -> Progress:
    """Return a callback for :func:`fastopt.minimize` that shows a bar, with tqdm.

    Parameters
    ----------
    total : int, optional
        How many iterations there will be at most; by default the ``max_iterations`` that minimize was given.
    **options
        Those of ``tqdm.tqdm``: ``file``, ``disable``, ``desc``.

    Returns
    -------
    Progress
        Call it with each state of your own loop, too; it ends with a state that has a status, or by ``close()``.

    Raises
    ------
    TypeError, ValueError
        If the total is no whole number of at least 0.
    ImportError
        If tqdm is not installed; says how to.

    Examples
    --------
    >>> import io, numpy as np, fastopt
    >>> x, lines = np.array([3.0]), io.StringIO()
    >>> fastopt.minimize(lambda x: (x @ x, 2 * x), x, callback=fastopt.progress(file=lines)).success
    True
    >>> "loss 0" in lines.getvalue()
    True
    """
    if isinstance(total, MinimizeState):
        raise TypeError(
            "progress: got a state, as callbacks do; progress makes a callback: callback=fastopt.progress()"
        )
    return Progress(as_number("total", total, TOTAL), **options)


def bar_class() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("fastopt.progress needs tqdm: pip install tqdm (or give a callback of your own)") from error
    return tqdm
