"""The results that the methods of an optimizer return."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Misfits(NamedTuple):
    """The pair that a :class:`LoadResult` is."""

    missing: list[str]
    unexpected: list[str]


class LoadResult(Misfits):
    """The parts that :meth:`Optimizer.load_state_dict` did not load, and the options that it changed.

    Attributes
    ----------
    missing : list of str
        The parts of the optimizer that the saved state lacks in this form.
    unexpected : list of str
        The parts of the saved state that the optimizer lacks in this form.

    Notes
    -----
    The result is this pair where it is unpacked, compared, printed or pickled. It has one more attribute, ``options``:
    ``{option: (old, new)}`` for each option that the load changed. An option that changed in all groups alike is called
    by its name, such as ``"lr"``; ``"param_groups[1].lr"`` is that of one group. There are also ``"clip_global_norm"``,
    ``"grad_scale"``, ``"seed"``, ``"frozen"`` (the names) and ``"step_count"``. Equal schedules are no change.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> saved = fastopt.SGD([np.ones(2)], lr=0.1, clip_global_norm=1.0).state_dict()
    >>> result = fastopt.SGD([np.ones(2)], lr=0.5, clip_global_norm=1.0).load_state_dict(saved)
    >>> result
    LoadResult(missing=[], unexpected=[])
    >>> result.options
    {'lr': (0.5, 0.1)}
    """

    options: Mapping[str, tuple[Any, Any]] = MappingProxyType({})

    def __reduce__(self) -> tuple[type[LoadResult], tuple[list[str], list[str]]]:
        """Pickle the pair alone: an option may be a function that can't be pickled."""
        return type(self), (self.missing, self.unexpected)


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
