"""The results that the methods of an optimizer return."""

from __future__ import annotations

from typing import NamedTuple


class LoadResult(NamedTuple):
    """The parts that :meth:`Optimizer.load_state_dict` did not load.

    Attributes
    ----------
    missing : list of str
        The parts of the optimizer that the saved state lacks in this form.
    unexpected : list of str
        The parts of the saved state that the optimizer lacks in this form.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.LoadResult(missing=["head.new"], unexpected=[]).missing
    ['head.new']
    """

    missing: list[str]
    unexpected: list[str]


class StepInfo(NamedTuple):
    """The result of a step.

    Attributes
    ----------
    applied : bool
        Whether the parameters were updated.
    grad_norm : float or None
        The global norm of the gradients before ``clip_global_norm`` clipped them; None without it. The ``cuda`` backend
        fetches it when it is first used (``float(info.grad_norm)``), so that the step need not wait.
    lr : float
        The learning rate of the first group in this step.
    step : int
        How many steps were applied: the number of this one, from 1, if it was.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD(np.zeros(2), lr=0.1, clip_global_norm=1.0)
    >>> opt.step(np.array([3.0, 4.0]))
    StepInfo(applied=True, grad_norm=5.0, lr=0.1, step=1)
    """

    applied: bool
    grad_norm: float | None
    lr: float
    step: int


class Misfit(NamedTuple):
    """A part of a saved state, or of the optimizer, that the other lacks in this form."""

    path: str
    missing: bool
    unexpected: bool
    text: str


def missing(path: str) -> Misfit:
    return Misfit(path, True, False, f"missing: {path}")


def unexpected(path: str) -> Misfit:
    return Misfit(path, False, True, f"unexpected: {path}")
