"""The base of the drivers, and the helpers that they share."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from ..core.optimizer import Optimizer

T = TypeVar("T")


class LRScheduler:
    """The base of the drivers.

    Parameters
    ----------
    optimizer : Optimizer
    last_epoch : int, default -1
        The number of the last step of an earlier run, to continue it without a ``state_dict``. -1 starts from the
        beginning.

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
    """

    #: The attributes that are functions, or lists of functions. These are not saved.
    functions: ClassVar[tuple[str, ...]] = ()

    #: Whether a rate never depends on the one before it.
    is_absolute: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Have a class that overrides ``schedule`` alone follow it: the ``rates`` of its base know another one."""
        super().__init_subclass__(**options)
        if place_of(cls, "schedule") < place_of(cls, "rates"):
            cls.rates = LRScheduler.rates  # type: ignore[method-assign]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer)
        known = initial_lrs(optimizer)
        for k, group in enumerate(optimizer.param_groups):
            if k not in known and last_epoch != -1:
                raise ValueError(
                    f"last_epoch={last_epoch}: the rate that param_groups[{k}] began with is not known; load the "
                    "optimizer's state_dict first, or begin with last_epoch=-1"
                )
            known.setdefault(k, group["lr"])
        self.optimizer = optimizer
        self.base_lrs = [known[k] for k in range(len(optimizer.param_groups))]
        self.last_epoch = last_epoch + 1
        self._last_lr: list[float] = read_lrs(optimizer)
        for k in range(len(self.base_lrs)):
            self.schedule(k)  # raises for an argument out of its range
        lrs = self.next_lrs(self._last_lr, self.last_epoch)
        if not is_resumed(optimizer):
            self.write(lrs, self.last_epoch)

    def schedule(self, k: int) -> Callable[[int], float]:
        """Return the schedule of group number ``k``; subclasses define this."""
        raise NotImplementedError

    def rates(self, epoch: int) -> list[float]:
        """Return the value of each group's schedule. Where groups share a part of it, a subclass computes that once."""
        return [self.schedule(k)(epoch) for k in range(len(self.base_lrs))]

    def next_lrs(self, lrs: list[float], epoch: int) -> list[float]:
        """Return the rates that follow ``lrs``."""
        now = self.rates(epoch)
        if self.is_absolute:
            return now
        before = self.rates(epoch - 1) if epoch > 0 else self.base_lrs
        moves = zip(lrs, before, now, strict=True)
        # Nearly always a rate is still the one that was written last.
        return [after if lr == start != after else self.move(lr, start, after) for lr, start, after in moves]

    def move(self, lr: float, before: float, now: float) -> float:
        """Return the rate that follows ``lr`` when the schedule goes from ``before`` to ``now``."""
        if now == before:
            return lr
        return now if lr == before or before == 0 else lr * (now / before)

    def write(self, lrs: Sequence[float], epoch: int) -> None:
        """Write the rates of step number ``epoch`` into the groups."""
        self.last_epoch = epoch
        write_lrs(self.optimizer, lrs)
        self._last_lr = list(lrs)

    def begin(self) -> None:
        """Make step 0 from the present rates of the groups."""
        self.write(self.next_lrs(read_lrs(self.optimizer), 0), 0)

    def restart(self) -> None:
        """Make step 0, whatever the rates are."""
        self.write(self.rates(0), 0)

    def step(self, epoch: int | None = None) -> None:
        """Write the next rates into the groups; call it after ``optimizer.step``.

        Parameters
        ----------
        epoch : int or None, default None
            The step to jump to, independently of the steps so far. None: the next.

        Raises
        ------
        ValueError
            If groups were added since the driver was built.
        """
        lrs = read_lrs(self.optimizer)
        if len(lrs) != len(self.base_lrs):
            raise ValueError(
                f"{type(self).__name__}: it was built for {len(self.base_lrs)} groups, now there are {len(lrs)}; "
                "build it after add_param_group"
            )
        if epoch is None:
            epoch = self.last_epoch + 1
            self.write(self.next_lrs(lrs, epoch), epoch)
        else:
            self.write(self.rates(epoch), epoch)

    def get_last_lr(self) -> list[float]:
        """Return the rate that was last written into each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Return everything except the optimizer, as plain Python.

        As in torch, functions are not saved, and a callable object is saved as its ``__dict__``.
        """
        saved = {name: value for name, value in vars(self).items() if name != "optimizer"}
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
        self.load_attributes(state_dict)

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
        if len(state_dict["_last_lr"]) != len(self._last_lr):
            raise ValueError(
                f"state_dict: it is for {len(state_dict['_last_lr'])} groups, the optimizer has {len(self._last_lr)}"
            )

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


def initial_lrs(optimizer: Optimizer) -> dict[int, float]:
    """Return the initial rate of each group, by the group's number. The optimizer saves it."""
    return optimizer.parts.groups.initial_lrs


def is_resumed(optimizer: Optimizer) -> bool:
    """Return whether the rates were just loaded, together with the initial ones."""
    return optimizer.parts.groups.resumed_at == optimizer.step_count


def read_lrs(optimizer: Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


def write_lrs(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = lr


def place_of(cls: type, name: str) -> int:
    """Return how many classes Python asks for a method before the one that defines it."""
    return next(place for place, each in enumerate(cls.__mro__) if name in vars(each))


def per_group(name: str, optimizer: Optimizer, value: T | Sequence[T]) -> list[T]:
    """Return one value for each group."""
    check_optimizer(optimizer)
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * count  # type: ignore[list-item]
    if len(value) != count:
        raise ValueError(f"{name}: expected one for each of the {count} groups, got {len(value)}")
    return list(value)


def check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"expected an optimizer of fastopt, got {type(optimizer).__name__}")
    for k, group in enumerate(optimizer.param_groups):
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
