"""The results that the methods of an optimizer return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np


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
    ``"skip_above"``, ``"grad_scale"``, ``"seed"``, ``"frozen"`` (the names), ``"step_count"``. Equal schedules are no
    change.

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


class StepFields(NamedTuple):
    """The tuple that a :class:`StepInfo` is."""

    applied: bool
    grad_norm: float | None
    lr: float
    step: int


class StepInfo(StepFields):
    """The result of a step.

    Attributes
    ----------
    applied : bool
        Whether the parameters were updated.
    grad_norm : float or None
        The global norm of the gradients before ``clip_global_norm`` clipped them; None without it and ``skip_above``,
        and in a call that only accumulates. The ``cuda`` backend fetches it when it is first used
        (``float(info.grad_norm)``), so that the step need not wait.
    lr : float
        The learning rate of the first group in this step.
    step : int
        How many steps were applied: the number of this one, from 1, if it was.

    Notes
    -----
    The result is this tuple of four where it is unpacked, compared or printed. It has three more attributes:

    ``lrs`` (tuple of float)
        The learning rate of every group in this step, in the order of ``param_groups``.
    ``norms`` (dict or None)
        The norm of each array's gradient, by the array's name, where the step has read norms: the parts of
        ``grad_norm`` (after ``grad_scale``, ``clip_value`` and ``clip_norm``), or with ``clip_norm`` alone the norms
        before it clipped them. Arrays without a gradient are left out. None where no norms were read: nothing is
        computed for this dict.
    ``skipped`` (str or None)
        The option by which the step was skipped, ``"nonfinite"`` or ``"skip_above"``; else None.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> opt = fastopt.SGD({"W": np.zeros(2), "b": np.zeros(1)}, lr=0.1, clip_global_norm=1.0)
    >>> info = opt.step({"W": np.array([3.0, 4.0]), "b": np.array([12.0])})
    >>> info
    StepInfo(applied=True, grad_norm=13.0, lr=0.1, step=1)
    >>> info.norms, info.lrs, info.skipped
    ({'W': 5.0, 'b': 12.0}, (0.1,), None)

    With a limit of infinity the norms are measured, and nothing is clipped:

    >>> opt.clip_global_norm = np.inf
    >>> opt.step({"W": np.array([3.0, 4.0])}).norms
    {'W': 5.0}

    A step whose norm is far above the usual ones does more harm than good:

    >>> opt.skip_above = 100.0
    >>> info = opt.step({"W": np.array([3e8, 4e8])})
    >>> info.applied, info.skipped, info.grad_norm, opt.skipped_steps
    (False, 'skip_above', 500000000.0, 1)
    """

    #: The names of all arrays, and their norms in double precision, -1 for those without a gradient; or a function that
    #: fetches these. A planned step sets it too (csrc/python/plan.c), and ``lrs`` where there are several groups.
    norms_read: tuple[Sequence[str], Any] | None = None
    #: Fetches ``skipped`` from a GPU.
    find_skipped: Callable[[], str | None] | None = None

    @cached_property
    def lrs(self) -> tuple[float, ...]:
        return (self.lr,)

    @cached_property
    def norms(self) -> dict[str, float] | None:
        if self.norms_read is None:
            return None
        names, numbers = self.norms_read
        norms = np.frombuffer(numbers() if callable(numbers) else numbers).tolist()
        # Names of arrays that were added since come last.
        return {name: norm for name, norm in zip(names, norms, strict=False) if norm != -1}

    @cached_property
    def skipped(self) -> str | None:
        return None if self.find_skipped is None else self.find_skipped()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes by their values, and not how they are found."""
        return type(self), tuple(self), {name: getattr(self, name) for name in ("lrs", "norms", "skipped")}


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
