"""The base of the drivers, and the helpers that they share."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, TypeVar

from ..arrays.texts import brief
from ..core.optimizer import Optimizer
from ..core.pickling import follow
from ..core.representation import arguments
from ..options.ranges import ANY_NUMBER, INDEX, NON_NEGATIVE, Range, as_option, check
from .resuming import Rewrite, building, revoke, rewrite_if_options_are_kept, unchanged_if_it_fails

T = TypeVar("T")

#: The attributes of a driver that only matter while it lives.
NOT_SAVED = frozenset(
    {
        "optimizer",
        "takes_groups",
        "_members",
        "_written",
        "_rewrites",
        "_lrs_before_load",
        "_is_initial",
        "_get_lr_called_within_step",
    }
)

#: The attributes that ``repr`` leaves out, or has last.
NOT_SHOWN = frozenset({"optimizer", "takes_groups", "base_lrs", "last_epoch", "default_min_lr"})


class LRScheduler:
    """The base of the drivers.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int, default -1
        The number of the last step of an earlier run, to continue it without a ``state_dict``. Building makes the step
        after it. -1 starts from the beginning.

    Attributes
    ----------
    last_epoch : int
        The number of the last step.
    base_lrs : list of float
        The initial rate of each group.

    Raises
    ------
    TypeError
        If ``optimizer`` is not an optimizer, or the ``lr`` of a group is already a schedule.
    ValueError
        If ``last_epoch`` is not -1 and the initial rate of a group is not known.

    Notes
    -----
    The initial rate of a group is ``group["initial_lr"]``. The first driver of a group writes it, unless it is there;
    the optimizer saves it.

    A driver goes on from the rates in the groups. With ``last_epoch=scheduler.last_epoch - 1``, on the optimizer of
    another ``scheduler``, these are the rates of its first step already, and stay. (torch's StepLR, MultiStepLR and
    ConstantLR would apply a factor that is due at this step again; here they do so if the rates are other ones.)

    A subclass defines ``get_lr``, as in torch, and may use ``self.base_lrs``, ``self.last_epoch`` and
    ``self.optimizer.param_groups`` there.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> class Halved(LRScheduler):
    ...     def get_lr(self):
    ...         return [lr * 0.5**self.last_epoch for lr in self.base_lrs]
    >>> scheduler = Halved(fastopt.SGD(np.ones(2), lr=1.0))
    >>> scheduler.step(), scheduler.step(), scheduler.get_last_lr()
    (None, None, [0.25])
    """

    #: The attributes that are functions, or lists of functions. These are not saved.
    functions: ClassVar[tuple[str, ...]] = ()

    #: The attributes that are lists of one value for each group; and those of them that are rates.
    of_groups: ClassVar[frozenset[str]] = frozenset({"base_lrs"})
    rates_of_groups: ClassVar[frozenset[str]] = frozenset({"base_lrs"})

    #: Whether a rate never depends on the one before it.
    is_absolute: ClassVar[bool] = False

    #: The epochs that :meth:`step` can jump to.
    epochs: ClassVar[Range] = INDEX

    #: Whether the driver goes on with groups that are added later: their rates are multiplied like the others.
    takes_groups: bool = False

    #: Whether a driver that is built with ``last_epoch`` finds the rate of its first step in the groups.
    finds_rate: ClassVar[bool] = False

    #: Whether the rates come from a ``get_lr`` or ``step`` of a subclass, instead of a schedule.
    computes_lr: ClassVar[bool] = False

    #: As in torch: whether the driver is being built, and whether ``get_lr`` is called by a step.
    _is_initial = _get_lr_called_within_step = False

    #: The record of building the driver on a loaded optimizer.
    _rewrites: Sequence[Rewrite] = ()

    #: The rates that it had written when its state was loaded.
    _lrs_before_load: Sequence[float] = ()

    def __setstate__(self, attributes: Mapping[str, Any]) -> None:
        vars(self).update(attributes)
        follow(self.optimizer, self)

    def __repr__(self) -> str:
        own = {name: value for name, value in vars(self).items() if not (name.startswith("_") or name in NOT_SHOWN)}
        shown = [*arguments(own | self.shown_members(), type(self)), f"last_epoch={self.last_epoch}"]
        return f"{type(self).__name__}({', '.join([*shown, f'lr={brief(self._last_lr)}'])})"

    def shown_members(self) -> dict[str, Any]:
        """Return what ``repr`` shows of the drivers that this one combines."""
        return {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Have a class that overrides ``schedule`` alone follow it: the ``rates`` of its base know another one."""
        super().__init_subclass__(**options)
        if place_of(cls, "schedule") < place_of(cls, "rates"):
            cls.rates = LRScheduler.rates  # type: ignore[method-assign]
            cls.takes_groups = False
        cls.computes_lr = place_of(cls, "get_lr") <= place_of(cls, "schedule")

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        self.optimizer = optimizer
        with building(optimizer) as self._rewrites:
            self._last_lr: list[float] = read_lrs(optimizer) if last_epoch != -1 else self.start()
            set_initial_lrs(optimizer, self._last_lr, last_epoch)
            self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
            if self.computes_lr:
                self.make_first_step(last_epoch)
            else:
                for k in range(len(self.base_lrs)):
                    self.schedule(k)  # raises for an argument out of its range
                self.write(self.first_lrs(self._last_lr, last_epoch + 1), last_epoch + 1)
        optimizer.parts.groups.followers.add(self)

    def start(self) -> list[float]:
        """Return the rates that a new driver begins with: those of the groups."""
        return [number_of(f"param_groups[{k}]: lr", lr) for k, lr in enumerate(read_lrs(self.optimizer))]

    def make_first_step(self, last_epoch: int) -> None:
        """Make the step after ``last_epoch`` by :meth:`step`, as torch does it."""
        self.last_epoch, self._step_count, self._is_initial = last_epoch, 0, True
        try:
            self.step()
        finally:
            del self._is_initial

    def schedule(self, k: int) -> Callable[[int], float]:
        """Return the schedule of group number ``k``; subclasses define this, or :meth:`get_lr`."""
        raise NotImplementedError

    def get_lr(self) -> list[float]:
        """Return the rate of each group at step ``self.last_epoch``; a subclass may define this, as in torch.

        :meth:`step` has counted the step and calls this, with the rates of the step before in the groups. To read the
        rates, use :meth:`get_last_lr`.
        """
        if self._is_initial:
            return self.first_lrs(read_lrs(self.optimizer), self.last_epoch)
        return self.lrs_at(self.last_epoch)

    def rates(self, epoch: int) -> list[float]:
        """Return the value of each group's schedule. Where groups share a part of it, a subclass computes that once."""
        return [self.schedule(k)(epoch) for k in range(len(self.base_lrs))]

    def first_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        """Return the rates of the step that building makes."""
        if epoch == 0 or self.is_absolute:
            return self.next_lrs(lrs, epoch)
        if self.finds_rate:
            return lrs
        # The groups may have the rates of this step already, or those of the step before.
        steps = zip(lrs, self.rates(epoch), self.next_lrs(lrs, epoch), strict=True)
        return [lr if lr == now else after for lr, now, after in steps]

    def next_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        """Return the rates that follow ``lrs``, of the groups that the driver was built for."""
        now = self.rates(epoch)
        if self.is_absolute:
            return now
        before = self.rates(epoch - 1) if epoch > 0 else self.base_lrs
        if now == before and all(now):
            return lrs  # the same objects, so that a planned step sees at once that nothing has changed
        # Nearly always the rates are still those that were written last.
        if lrs == before:
            return now
        moves = zip(lrs, before, now, strict=True)
        if not all(before):
            return [self.move(lr, start, after, epoch) for lr, start, after in moves]
        return [after if lr == start else lr * (after / start) for lr, start, after in moves]

    def move(self, lr: float, before: float, now: float, epoch: int) -> float:
        """Return the rate that follows ``lr`` when the schedule goes from ``before``, which may be 0, to ``now``."""
        if now == before:
            return lr if now or not lr else self.lrs_of_new_groups([lr], epoch)[0]
        return now if lr == before or before == 0 else lr * (now / before)

    def lrs_of_new_groups(self, lrs: list[float], epoch: int) -> list[float]:
        """Return the rates that follow ``lrs`` in groups without a base rate, or with one of 0."""
        unit = copy(self)
        unit.base_lrs = [1.0]
        before, now = (unit.rates(epoch - 1)[0] if epoch > 0 else 1.0), unit.rates(epoch)[0]
        return lrs if now == before or before == 0 else [lr * (now / before) for lr in lrs]

    def lrs_at(self, epoch: int) -> list[float]:
        """Return the rates that follow those of all groups, with groups that were added since the driver was built."""
        groups, count = self.optimizer.parts.groups.param_groups, len(self.base_lrs)
        if len(groups) != count and not self.takes_groups:
            raise ValueError(new_groups_text(self, len(groups)))
        if self.is_absolute:
            return self.next_lrs([], epoch)
        lrs = read_lrs(self.optimizer)
        if len(lrs) == count:
            return self.next_lrs(lrs, epoch)
        return self.next_lrs(lrs[:count], epoch) + self.lrs_of_new_groups(lrs[count:], epoch)

    def in_range(self, rates: Callable[[int], list[float]], epoch: int) -> list[float]:
        """Return the rates of step number ``epoch``, or raise if one is too large for a float."""
        try:
            return rates(epoch)
        except OverflowError as error:
            name = type(self).__name__
            raise ValueError(
                f"{name}: the rate of step {epoch} is too large for a float; choose arguments with which it grows less"
            ) from error

    def write(self, lrs: Sequence[float], epoch: int) -> None:
        """Write the rates of step number ``epoch`` into the groups."""
        groups = self.optimizer.parts.groups
        groups.end_loading()
        self.last_epoch = epoch
        # A function may return any library's numbers.
        self._last_lr = [lr if type(lr) is float else as_option(lr) for lr in lrs]
        for group, lr in zip(groups.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    def follow(self, source: int, group: int, ratio: float) -> None:
        """Go on with a group that :meth:`fastopt.Optimizer.set` made of a part of group ``source``, or changed."""
        count = len(self.base_lrs)
        if source >= count or group > count:
            return  # the driver does not know that group, which was added
        for name in sorted(self.of_groups & vars(self).keys()):
            values = list(getattr(self, name))
            value = values[source] * ratio if name in self.rates_of_groups and ratio != 1 else values[source]
            setattr(self, name, [*values[:group], value, *values[group + 1 :]])
        self._last_lr = [*self._last_lr[:group], read_lrs(self.optimizer)[group], *self._last_lr[group + 1 :]]

    def begin(self) -> None:
        """Make step 0 from the present rates of the groups."""
        if self.computes_lr:
            self.make_first_step(-1)
        else:
            self.write(self.in_range(self.lrs_at, 0), 0)

    def restart(self) -> None:
        """Make step 0, whatever the rates are."""
        self.jump(0)

    def jump(self, epoch: int) -> None:
        """Make step number ``epoch``, whatever the steps so far."""
        count = len(self.optimizer.param_groups)
        closed_form = getattr(self, "_get_closed_form_lr", None)
        if self.computes_lr and (closed_form or not self.takes_groups):
            self.compute(epoch, closed_form or self.get_lr)
        elif count != len(self.base_lrs):
            raise ValueError(new_groups_text(self, count))
        else:
            self.write(self.in_range(self.rates, epoch), epoch)

    def compute(self, epoch: int, function: Callable[[], list[float]], steps: int = 0) -> None:
        """Make step number ``epoch`` with the rates of a function that reads it as ``self.last_epoch``."""
        with unchanged_if_it_fails(self.optimizer, [self]):
            self._step_count += steps
            self.last_epoch, self._get_lr_called_within_step = epoch, True
            lrs = function()
            del self._get_lr_called_within_step
            count = len(self.optimizer.param_groups)
            if len(lrs) != count:
                name = type(self).__name__
                raise ValueError(f"{name}.get_lr: expected a rate for each of the {count} groups, got {lrs!r:.80}")
            self.write(lrs, epoch)

    def step(self, epoch: int | None = None) -> None:
        """Write the next rates into the groups; call it after ``optimizer.step``. If it raises, nothing has changed.

        Parameters
        ----------
        epoch : int or None, default None
            The step to jump to, independently of the steps so far. None: the next.

        Raises
        ------
        TypeError
            If the ``lr`` of a group has become a schedule.
        ValueError
            If groups were added since the driver was built, and it can't go on with them: a rate of theirs would
            depend on the one that they began with, or on an argument for each group.
        """
        check_no_schedule(self.optimizer)
        if epoch is not None:
            self.jump(check("epoch", epoch, ANY_NUMBER if self.computes_lr else self.epochs))
        elif self.computes_lr:
            self.compute(self.last_epoch + 1, self.get_lr, steps=1)
        else:
            epoch = self.last_epoch + 1
            self.write(self.in_range(self.lrs_at, epoch), epoch)

    def get_last_lr(self) -> list[float]:
        """Return the rate that was last written into each group."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the optimizer, as plain Python.

        As in torch, functions are not saved, and a callable object is saved as its ``__dict__``.
        """
        saved = {name: value for name, value in vars(self).items() if name not in NOT_SAVED}
        for name in self.functions:
            saved[name] = each(lambda fn: None if is_function(fn) else dict(vars(fn)), saved[name])
        copied: dict[str, Any] = each(lambda value: value, saved)
        return copied

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved state. The optimizer has its own ``load_state_dict``.

        Raises
        ------
        TypeError, ValueError
            If this is not the state of such a driver. Nothing is changed then.
        """
        self.check_state_dict(state_dict)
        self._lrs_before_load = self._last_lr
        self.load_attributes(state_dict)
        revoke(self.optimizer, [record for driver in self.drivers() for record in driver._rewrites])
        rewrite_if_options_are_kept(self.optimizer, self.rewrite)

    def rewrite(self) -> None:
        """Write the rates of the loaded state, except where another hand wrote one before it was loaded."""
        for group, old, lr in zip(self.optimizer.param_groups, self._lrs_before_load, self._last_lr, strict=False):
            if group["lr"] is old:
                group["lr"] = lr

    def drivers(self) -> list[LRScheduler]:
        """Return this driver, and its members if it combines others."""
        return [self]

    def options_to_write(self) -> list[str]:
        """Return the options that the driver may write."""
        return ["lr", *momentums_of(self.optimizer)] if self.computes_lr else ["lr"]

    def check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Raise unless this is the state of such a driver."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a dict from state_dict(), got {type(state_dict).__name__}")
        entries = list(self.state_dict())
        if sorted(state_dict) != sorted(entries):
            raise ValueError(
                f"state_dict: expected that of a {type(self).__name__}, with the entries {entries}, got "
                f"{list(state_dict)}"
            )
        there, here = len(state_dict["_last_lr"]), len(self.optimizer.param_groups)
        if there > here or (there < here and not (self.takes_groups or self.computes_lr)):
            raise ValueError(f"state_dict: it is for {there} groups, the optimizer has {here}")
        for name in self.functions:
            ours, saved = getattr(self, name), state_dict[name]
            if isinstance(ours, list) and len(saved) != len(ours):
                raise ValueError(f"state_dict: expected {len(ours)} {name}, got {len(saved)}")

    def load_attributes(self, state_dict: Mapping[str, Any]) -> None:
        """Set all attributes from a checked state."""
        for name, value in state_dict.items():
            if name not in self.functions:
                setattr(self, name, each(lambda item: item, value))
        for name in self.functions:
            ours, saved = getattr(self, name), state_dict[name]
            for fn, values in zip(ours, saved, strict=True) if isinstance(ours, list) else [(ours, saved)]:
                if values is not None and fn is not None:
                    vars(fn).update(values)


def set_initial_lrs(optimizer: Optimizer, lrs: Sequence[float], last_epoch: int) -> None:
    """Have each group keep the rate that it begins with as ``initial_lr``, unless it has one."""
    for k, (group, lr) in enumerate(zip(optimizer.param_groups, lrs, strict=True)):
        if "initial_lr" not in group and last_epoch != -1:
            raise ValueError(
                f"last_epoch={last_epoch}: the rate that param_groups[{k}] began with is not known; load the "
                'optimizer\'s state_dict first, write group["initial_lr"], or begin with last_epoch=-1'
            )
        group["initial_lr"] = number_of(f"param_groups[{k}]: initial_lr", group.get("initial_lr", lr))


def number_of(where: str, value: Any, allowed: Range = NON_NEGATIVE) -> Any:
    """Return a number, by default of at least 0, that nobody can change in place."""
    return check(where, value, allowed)


def new_groups_text(driver: LRScheduler, count: int) -> str:
    """Return the text of the error that groups were added."""
    return (
        f"{type(driver).__name__}: it was built for {len(driver.base_lrs)} groups, now there are {count}; build it "
        "after add_param_group"
    )


def read_lrs(optimizer: Optimizer) -> list[float]:
    return [as_option(group["lr"]) for group in optimizer.parts.groups.param_groups]


def momentums_of(optimizer: Optimizer) -> list[str]:
    """Return the options that a cycle of the momentum may write."""
    return [name for name in ("momentum", "betas") if name in optimizer.defaults]


def place_of(cls: type, name: str) -> int:
    """Return how many classes Python asks for a method before the one that defines it."""
    return next(place for place, each in enumerate(cls.__mro__) if name in vars(each))


def per_group(name: str, optimizer: Optimizer, value: T | Sequence[T], allowed: Range | None = None) -> list[T]:
    """Return one value for each group; numbers are checked if ``allowed`` is given."""
    check_optimizer(optimizer)
    count = len(optimizer.param_groups)
    values = list(map(as_option, value)) if isinstance(value, (list, tuple)) else [as_option(value)] * count
    if len(values) != count:
        raise ValueError(f"{name}: expected one for each of the {count} groups, got {len(values)}")
    if allowed is not None:
        for k, item in enumerate(values):
            check(f"{name}[{k}]" if isinstance(value, (list, tuple)) else name, item, allowed)
    return values


def check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected a first-order optimizer of fastopt, got {type(optimizer).__name__}")
    check_no_schedule(optimizer)


def check_no_schedule(optimizer: Optimizer) -> None:
    for k, group in enumerate(optimizer.parts.groups.param_groups):
        if callable(group["lr"]):
            raise TypeError(f"param_groups[{k}]: lr={group['lr']!r} is a schedule already; give a number to drive it")


def each(convert: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of nested lists and dicts, with their items converted."""
    if isinstance(value, list):
        return [each(convert, item) for item in value]
    if isinstance(value, dict):
        return {key: each(convert, item) for key, item in value.items()}
    return convert(value)


def is_function(value: Any) -> bool:
    return value is None or isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type))
