"""Helpers for a training loop: when to stop, and which parameters to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .arrays.dtypes import Array
from .arrays.memory import described
from .arrays.structure import branch_of, is_container
from .core.params_in_state import check_own_values, reload
from .core.representation import arguments
from .core.turns import Kind
from .options.ranges import COUNT, NON_NEGATIVE, STEPS, Choice, Range, as_number, check

if TYPE_CHECKING:
    from .core.optimizer import Optimizer

__all__ = ["EarlyStopping", "SnapshotEnsemble"]


def __dir__() -> list[str]:
    return __all__


MODES = Choice("min", "max")


class Saveable:
    """The base of the two: it saves and loads their attributes, except a schedule."""

    #: The whole numbers among them.
    counts: ClassVar[Mapping[str, Range]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return all attributes except a schedule, for the ``extra`` of :func:`fastopt.save`. Nothing is copied."""
        return {name: value for name, value in vars(self).items() if name != "schedule"}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises
        ------
        TypeError, ValueError
            If :meth:`state_dict` did not return this, or a count is out of its range. Nothing is changed then.
        """
        own = self.state_dict()
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(own):
            raise ValueError(f"state_dict: expected that of a {type(self).__name__}, with the entries {list(own)}")
        for name, allowed in self.counts.items():
            check(f"state_dict: {name}", state_dict[name], allowed)
        for name, value in state_dict.items():
            setattr(self, name, list(value) if isinstance(value, list) else value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(arguments(self.shown(), type(self)))})"

    def shown(self) -> dict[str, Any]:
        """Return the attributes that ``repr`` shows."""
        raise NotImplementedError


class EarlyStopping(Saveable):
    """Stop when a metric no longer improves, and go back to the best parameters.

    Parameters
    ----------
    patience : int
        The number of updates without an improvement after which to stop; at least 1.
    min_delta : float, default 0.0
        An improvement must beat the best metric by more than this; at least 0.
    mode : {"min", "max"}
        Whether lower or higher is better.

    Attributes
    ----------
    best : float or None
        The best metric; None before the first one that is not NaN.
    best_update : int or None
        The index of the update with the best metric, from 0.
    best_params : structure of arrays or None
        A copy of the parameters at that update.
    updates, waited : int
        The number of updates, and the number since the best one.
    stopped : bool
        Whether ``patience`` updates have passed since the best one.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Source: Prechelt, Early Stopping - But When? (1998).

    Examples
    --------
    >>> import numpy as np
    >>> params = {"W": np.zeros(1)}
    >>> stopping = EarlyStopping(patience=2)
    >>> for loss in (3.0, 2.0, 2.5, 2.2, 1.0):
    ...     params["W"] += 1
    ...     if stopping.update(loss, params):
    ...         break
    >>> stopping.restore(params)
    >>> stopping.best, params["W"]
    (2.0, array([2.]))
    """

    counts: ClassVar[Mapping[str, Range]] = {
        "patience": COUNT,
        "best_update": STEPS._replace(optional=True),
        "updates": STEPS,
        "waited": STEPS,
    }

    def __init__(self, patience: int, min_delta: float = 0.0, mode: str = "min") -> None:
        self.patience = count("patience", patience)
        self.min_delta = as_number("min_delta", min_delta, NON_NEGATIVE)
        check("mode", mode, MODES)
        self.mode = mode
        self.best: float | None = None
        self.best_update: int | None = None
        self.best_params: Any = None
        self.updates = 0
        self.waited = 0

    def shown(self) -> dict[str, Any]:
        attributes = vars(self) | {"stopped": self.stopped}
        return {name: value for name, value in attributes.items() if name != "best_params"}

    @property
    def stopped(self) -> bool:
        return self.waited >= self.patience

    def update(self, metric: float, params: Any) -> bool:
        """Record a metric, and copy the parameters if it is the best.

        Parameters
        ----------
        metric : float
            The metric of this update. NaN never improves.
        params : array or structure of arrays
            The parameters with this metric; inside :meth:`fastopt.Optimizer.averaged` these are the averages. No
            other thread may step meanwhile.

        Returns
        -------
        bool
            Whether to stop.
        """
        check_is_params("update", params, "stopping.update(metric, opt.params)")
        metric = metric_of(metric, "stopping.update(metric, params)")
        sign = 1.0 if self.mode == "max" else -1.0
        is_better = not math.isnan(metric) and (self.best is None or sign * metric > sign * self.best + self.min_delta)
        if is_better:
            if self.best_params is None:
                self.best_params = copied(params)
            else:
                copy_into(self.best_params, params)
            self.best = metric
            self.best_update = self.updates
        self.waited = 0 if is_better else self.waited + 1
        self.updates += 1
        return self.stopped

    def restore(self, params: Any, opt: Optimizer | None = None) -> None:
        """Write the best parameters into these arrays.

        Parameters
        ----------
        params : array or structure of arrays
        opt : Optimizer, optional
            The optimizer that continues with these parameters, if one does. It takes them over, as
            :meth:`fastopt.Optimizer.reload_params` says; otherwise the next step would overwrite float16 and bfloat16
            parameters from their masters.

        Raises
        ------
        TypeError, ValueError
            If there are no best parameters yet, if names, shapes or dtypes differ, if the arrays are not the
            optimizer's, or inside :meth:`fastopt.Optimizer.averaged`. Nothing is changed then.
        RuntimeError
            If another change of the optimizer is running, as for :meth:`fastopt.Optimizer.step`.
        """
        check_is_params("restore", params, "stopping.restore(opt.params, opt)")
        if opt is not None and not hasattr(opt, "parts"):
            raise TypeError(f"restore: expected an optimizer, got one {described(opt)}; leave it out, or give yours")
        if self.best_params is None:
            raise ValueError("restore: there are no best parameters before the first update with a metric")
        if opt is None:
            copy_into(params, self.best_params)
        else:
            opt.parts.turns.run("restore", Kind.CHANGE, restore_into, opt, params, self.best_params)


def restore_into(opt: Optimizer, params: Any, best: Any) -> None:
    """Write parameters into those of an optimizer, which takes them over."""
    names = names_in(opt, params)
    check_own_values(opt.parts, "restore")
    copy_into(params, best)
    reload(opt, opt.parts, names)


class SnapshotEnsemble(Saveable):
    """Keep several snapshots of a model from one run, and average their predictions or parameters.

    Parameters
    ----------
    size : int
        The number of snapshots to keep; at least 1.
    mode : {"min", "max"}
        Whether to keep the snapshots with the lowest or the highest metric.
    schedule : schedule or None, default None
        The schedule of the learning rate, such as :class:`fastopt.schedules.cosine_restarts`. If given, the ensemble
        keeps the snapshots at the ends of its last cycles instead: after the steps at which it rises.

    Attributes
    ----------
    snapshots : list of structures of arrays
        Copies of the parameters: the best first, or with a schedule the oldest first.
    metrics : list of float
        The metric of each snapshot, or with a schedule its step.

    Raises
    ------
    TypeError, ValueError
        If an argument is out of its range.

    Notes
    -----
    Source: Huang et al., Snapshot Ensembles: Train 1, Get M for Free (2017), arXiv 1704.00109.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> rates = fastopt.schedules.cosine_restarts(0.1, T_0=3)
    >>> params, ensemble = [np.zeros(1)], SnapshotEnsemble(2, schedule=rates)
    >>> for step in range(1, 10):
    ...     params[0] += 1
    ...     is_kept = ensemble.update(params, step=step)
    >>> ensemble.metrics, ensemble.average_params()
    ([6, 9], [array([7.5])])
    >>> ensemble.average_predictions(lambda params: params[0] ** 2)
    array([58.5])
    """

    counts: ClassVar[Mapping[str, Range]] = {"size": COUNT}

    def __init__(self, size: int, mode: str = "min", schedule: Callable[[int], float] | None = None) -> None:
        self.size = count("size", size)
        check("mode", mode, MODES)
        if schedule is not None and not callable(schedule):
            raise TypeError(f"schedule={schedule!r}: expected a schedule, or None")
        self.mode = mode
        self.schedule = schedule
        self.snapshots: list[Any] = []
        self.metrics: list[float] = []

    def shown(self) -> dict[str, Any]:
        return vars(self) | {"snapshots": len(self.snapshots)}

    def update(self, params: Any, metric: float | None = None, *, step: int | None = None) -> bool:
        """Keep a copy of the parameters, if they are good enough.

        Parameters
        ----------
        params : array or structure of arrays
            Inside :meth:`fastopt.Optimizer.averaged` these are the averages. No other thread may step meanwhile.
        metric : float, without a schedule
            The metric of these parameters. NaN is never kept.
        step : int, with a schedule
            The number of steps made: ``opt.step_count``.

        Returns
        -------
        bool
            Whether a copy was kept.

        Raises
        ------
        TypeError
            If ``metric``, or with a schedule ``step``, is missing.
        """
        check_is_params("update", params, "ensemble.update(opt.params, metric)")
        if self.schedule is not None:
            if step is None:
                raise TypeError("update: with a schedule, give step=opt.step_count")
            if step < 1 or self.schedule(step) <= self.schedule(step - 1):
                return False
            place, key = len(self.metrics), float(step)
            survivors = slice(-self.size, None)
        else:
            if metric is None:
                raise TypeError("update: without a schedule, give the metric")
            key = metric_of(metric, "ensemble.update(params, metric)")
            sign = 1.0 if self.mode == "max" else -1.0
            place = sum(sign * other >= sign * key for other in self.metrics)
            if math.isnan(key) or place >= self.size:
                return False
            survivors = slice(0, self.size)
        self.metrics.insert(place, int(key) if self.schedule is not None else key)
        self.snapshots.insert(place, copied(params))
        self.metrics = self.metrics[survivors]
        self.snapshots = self.snapshots[survivors]
        return True

    def average_params(self) -> Any:
        """Return the mean of the snapshots, in their structure and dtypes, computed in double precision.

        If you write it into the parameters of an optimizer, :meth:`fastopt.Optimizer.reload_params` takes it over.

        Raises
        ------
        ValueError
            If there is no snapshot.
        """
        self._check_filled()
        columns = zip(*(arrays_of(snapshot) for snapshot in self.snapshots), strict=True)
        means = [mean(list(column)) for column in columns]
        return rebuilt_like(self.snapshots[0], means)

    def average_predictions(self, predict: Callable[[Any], Array]) -> Array:
        """Return the mean of ``predict(params)`` over the snapshots.

        Raises
        ------
        ValueError
            If there is no snapshot.
        """
        self._check_filled()
        return mean([np.asarray(predict(snapshot)) for snapshot in self.snapshots])

    def _check_filled(self) -> None:
        if not self.snapshots:
            raise ValueError("there is no snapshot yet: update() has kept none")


def check_is_params(where: str, params: Any, advice: str) -> None:
    """Raise if something is no structure of arrays.

    Raises
    ------
    TypeError
        Says what to write.
    """
    if hasattr(params, "param_groups"):
        raise TypeError(f"{where}: expected the parameters, got an optimizer; write {advice}")
    if not (is_container(params) or hasattr(params, "shape")):
        raise TypeError(
            f"{where}: expected an array or a structure of arrays, got one {described(params)}; write {advice}"
        )


def metric_of(metric: Any, advice: str) -> float:
    """Return a metric as a number.

    Raises
    ------
    TypeError
        If it is none; says what to write.
    """
    if is_container(metric) or getattr(metric, "shape", ()) != ():
        raise TypeError(f"update: expected a number as the metric, got one {described(metric)}; write {advice}")
    return float(metric)


def count(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError(f"{name}={value!r}: expected {COUNT}")
    number: int = as_number(name, value, COUNT)
    return number


def names_in(opt: Optimizer, params: Any) -> list[str]:
    """Return the optimizer's names of these arrays.

    Raises
    ------
    ValueError
        If one is not a parameter of the optimizer.
    """
    name_of = {
        id(param): name
        for k, group in enumerate(opt.parts.groups.checked)
        for name, param in zip(opt.parts.parameters.members(k), group.values["params"], strict=True)
    }
    branch = branch_of(params)
    unknown = [name for name, array in zip(branch.names(), branch.arrays(), strict=True) if id(array) not in name_of]
    if unknown:
        raise ValueError(f"restore: {unknown} are not parameters of this optimizer; give the one that updates them")
    return [name_of[id(array)] for array in branch.arrays()]


def arrays_of(params: Any) -> list[Array]:
    return [np.asarray(array) for array in branch_of(params).arrays()]


def rebuilt_like(params: Any, arrays: list[Array]) -> Any:
    return branch_of(params).rebuilt(iter(arrays)) if is_container(params) else arrays[0]


def copied(params: Any) -> Any:
    return rebuilt_like(params, [array.copy(order="K") for array in arrays_of(params)])


def copy_into(target: Any, source: Any) -> None:
    """Write the arrays of one structure into those of another.

    Raises
    ------
    ValueError
        If the names, shapes or dtypes differ. Nothing is changed then.
    """
    ours = dict(zip(branch_of(target).names(), arrays_of(target), strict=True))
    theirs = dict(zip(branch_of(source).names(), arrays_of(source), strict=True))
    forms = [{name: (array.shape, array.dtype) for name, array in each.items()} for each in (ours, theirs)]
    if forms[0] != forms[1]:
        differing = sorted(name for name in {*ours, *theirs} if forms[0].get(name) != forms[1].get(name))
        raise ValueError(f"these are not the same parameters: {differing} differ in name, shape or dtype")
    for name, array in ours.items():
        array[...] = theirs[name]


def mean(arrays: list[Array]) -> Array:
    """Return the mean of arrays, in the dtype of the first."""
    total: Array = sum(arrays, np.zeros(arrays[0].shape))
    return (total / len(arrays)).astype(arrays[0].dtype)
