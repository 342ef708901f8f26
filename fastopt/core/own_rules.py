"""Optimizers of one's own, made of a rule: :func:`optimizer`."""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeAlias

from ..arithmetic.recording import RecordedRule, item_name, places, record
from ..arithmetic.symbols import misuse, misuse_in
from ..options.ranges import Allowed, Group, Schedulable, in_double, plain
from ..options.values import value_at
from .attributes import Absent
from .hooks import same_from
from .optimizer import Optimizer
from .own_rule_checks import (
    PARAM,
    check_count,
    check_function,
    check_options,
    check_read,
    check_scalars,
    check_slot_names,
    checked_first_values,
    checked_non_negative,
    checked_numbers,
)

#: The numbers of a step, by name: a function of the options and of the array's step, from 1.
Scalars: TypeAlias = Callable[[Any, int], Mapping[str, float]]

READ_ALREADY = "the step applies weight decay before the rule; declare an option of another name to do more with it"


class RuleOptimizer(Optimizer):
    """The base of the optimizers that :func:`optimizer` makes."""

    recorded_rule: ClassVar[RecordedRule]
    first_values: ClassVar[Mapping[str, float]]

    if TYPE_CHECKING:
        # Each class has an __init__ of its own, which names its options.
        def __init__(self, params: Any, *options: Any, **more: Any) -> None: ...

    def rule(self, group: Group) -> RecordedRule:
        return self.recorded_rule

    def initial_slot(self, group: Group, slot: str) -> float:
        return self.first_values.get(slot, 0.0)


def optimizer(
    *positional: NoReturn,
    non_negative: Iterable[str] = (),
    slots: Mapping[str, float | str] | None = None,
    scalars: Scalars | None = None,
    decoupled: bool = False,
    **options: Schedulable | tuple[Schedulable, ...],
) -> Callable[[Callable[..., Any]], type[RuleOptimizer]]:
    """Make an optimizer of a rule: a function of its numbers, the parameter, the gradient and each slot.

    The rule returns the new values of the parameter and of each slot. What comes out is a class like all optimizers of
    fastopt, named as the function: it takes groups, schedules and every option of a step, and has checkpoints, on each
    backend with the same bits.

    Parameters
    ----------
    **options : float, schedule, or tuple of these
        The options with their defaults, ``lr`` among them. Those that all optimizers know have their ranges: ``lr``,
        ``betas``, ``momentum``, ``eps``, ``eps_root``, ``weight_decay``. All others are finite numbers, or schedules.
        ``weight_decay`` (0) is added if it is not there.
    non_negative : iterable of str, default ()
        The slots that are never negative: ``state_dtype="uint8"`` stores them by the map of roots.
    slots : dict, optional
        What a slot begins with: a number, or ``"param"`` for a copy of the parameter, which stays in the compute dtype.
        Others begin with 0.
    scalars : callable, optional
        ``scalars(h, t)`` returns further numbers of a step by name, given the options as ``h.lr`` and the array's step
        from 1. They are computed in double precision and rounded once.
    decoupled : bool, default False
        Whether weight decay is decoupled unless the user says otherwise.
    *positional
        None: options are given by name.

    Returns
    -------
    callable
        Makes the class of a function ``(h, p, g, *slots)``. ``h`` has the options and the scalars, rounded to the
        compute dtype.

    Raises
    ------
    TypeError
        If the rule is not arithmetic on all elements at once, or an argument is wrong. It begins with the file and
        line. The rule is called once, when the class is made.

    Notes
    -----
    The operations are ``+ - * /``, ``x**2`` (which is ``x * x``), ``x**0.5`` (the root), ``abs``, comparisons,
    ``& | ^ ~`` of comparisons, and from :mod:`fastopt.rules` (or NumPy) ``sqrt``, ``absolute``, ``sign``, ``maximum``,
    ``minimum`` and ``where``. They run in the compute dtype in the order written. Numbers in the text, and Python's
    numbers from outside, are rounded to it once. ``p -= x`` gives a new value. The class attribute ``recorded_rule`` is
    the rule as a function; called on plain arrays, ``h`` included, it gives the same bits.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt.rules import maximum, sqrt, where
    >>> @fastopt.optimizer(lr=1e-3, beta=0.9, keep=0.99, eps=1e-8, non_negative=("v",))
    ... def Lamprey(h, p, g, m, v):
    ...     m = h.beta * m + (1 - h.beta) * g
    ...     v = maximum(h.keep * v, g**2)
    ...     p = p - h.lr * where(m * g > 0, m, 0.5 * m) / (sqrt(v) + h.eps)
    ...     return p, m, v
    >>> theta = np.array([1.0, -1.0])
    >>> opt = Lamprey(theta, lr=0.1, clip_global_norm=1.0, ema_decay=0.9)
    >>> info = opt.step(np.array([3.0, -4.0]))
    >>> theta
    array([ 0.99, -0.99])
    >>> list(opt.state["0"])
    ['step', 'ema', 'm', 'v']
    """
    if positional:
        raise misuse("the options are given by name: @fastopt.optimizer(lr=1e-3, ...)")
    if not isinstance(decoupled, bool):
        raise misuse(f"decoupled={decoupled!r:.80}: expected True or False")
    options = {**options, "weight_decay": options.get("weight_decay", 0.0)}
    ranges = check_options(options)
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}

    def make(function: Callable[..., Any]) -> type[RuleOptimizer]:
        check_function(function)
        names = list(inspect.signature(function, follow_wrapped=False).parameters)[3:]
        check_slot_names(function, names)
        never_negative = checked_non_negative(non_negative, names)
        first_values = checked_first_values(slots, names, never_negative)
        signature = signature_of(options)
        rule, hyper = rule_and_hyper(function, options, ranges, scalars)
        own = {
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "__doc__": function.__doc__,
            "__init__": constructor(signature, decoupled),
            "Scalars": rule.scalars,
            "recorded_rule": rule,
            "hyper": hyper,
            "ranges": ranges,
            "non_negative": never_negative,
            "first_values": {slot: value for slot, value in first_values.items() if value != PARAM},
            "copied": frozenset(slot for slot, value in first_values.items() if value == PARAM),
        }
        absent = {name: Absent(name) for name in options if not hasattr(RuleOptimizer, name)}
        return type(function.__name__, (RuleOptimizer,), absent | own)

    return make


def signature_of(options: Mapping[str, Any]) -> inspect.Signature:
    """Return the signature of the constructor of an optimizer with these options."""
    kinds = inspect.Parameter
    return inspect.Signature(
        [
            *(kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in ("self", "params")),
            *(kinds(name, kinds.POSITIONAL_OR_KEYWORD, default=default) for name, default in options.items()),
            kinds("common", kinds.VAR_KEYWORD),
        ]
    )


def constructor(signature: inspect.Signature, decoupled: bool) -> Callable[..., None]:
    """Return the ``__init__`` with this signature."""

    def __init__(self: RuleOptimizer, *given: Any, **named: Any) -> None:
        try:
            bound = signature.bind(self, *given, **named)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}() {error}") from None
        bound.apply_defaults()
        _, params, *values = bound.args
        common = {"decoupled": decoupled, **bound.arguments["common"]}
        names = list(signature.parameters)[2:-1]
        Optimizer.__init__(self, params, dict(zip(names, values, strict=True)), **common)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def rule_and_hyper(
    function: Callable[..., Any], options: Mapping[str, Any], ranges: Mapping[str, Allowed], scalars: Scalars | None
) -> tuple[RecordedRule, Callable[..., Any]]:
    """Return the recorded rule of a function, and the hook that returns its scalars."""
    known = {name: len(value) if isinstance(value, (tuple, list)) else None for name, value in options.items()}
    refused = {"weight_decay": READ_ALREADY}
    del known["weight_decay"]
    if scalars is None:
        rule, read = record(function, known, refused)
        check_read(function, "options", known, read)
        check_count(function, rule.scalars._fields)
        return rule, same_from(1)(options_alone(rule, known))
    Options: Any = namedtuple("Options", list(options))  # type: ignore[misc]
    defaults = [in_double(plain(value_at(value, 0)), ranges[name]) for name, value in options.items()]
    further = check_scalars(scalars, Options(*defaults))
    rule, read = record(function, {**known, **dict.fromkeys(further)}, refused)
    check_read(function, "scalars", further, read)
    check_count(function, rule.scalars._fields)
    return rule, with_scalars(rule, known, Options, scalars, further)


Hyper: TypeAlias = Callable[[RuleOptimizer, Group, int], Any]


def options_alone(rule: RecordedRule, known: Mapping[str, int | None]) -> Hyper:
    """Return the hook of a rule that reads options alone."""
    scalars_of, options_of = rule.scalars._make, reader(rule, known)

    def hyper(self: RuleOptimizer, group: Group, step: int) -> Any:
        return scalars_of(options_of(group))

    return hyper


def with_scalars(
    rule: RecordedRule, known: Mapping[str, int | None], options: Any, scalars: Scalars, further: Sequence[str]
) -> Hyper:
    """Return the hook of a rule that reads further numbers of a step, whose fields come behind those of options."""
    scalars_of, options_of, numbers_of = rule.scalars._make, reader(rule, known), reader(rule, dict.fromkeys(further))
    all_options, expected = itemgetter(*options._fields), dict.fromkeys(further).keys()

    def hyper(self: RuleOptimizer, group: Group, step: int) -> Any:
        # In each step, also where it is planned: so what is right is found so in few calls.
        numbers = scalars(options._make(all_options(group)), step)
        if type(numbers) is not dict or set(map(type, numbers.values())) != {float}:
            numbers = checked_numbers(scalars, numbers)
        if numbers.keys() != expected:
            raise misuse_in(
                scalars, f"scalars returns {list(numbers)} at step {step}; expected {further}, as at step 1"
            )
        return scalars_of((*options_of(group), *numbers_of(numbers)))

    return hyper


def reader(rule: RecordedRule, known: Mapping[str, int | None]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Return a function of numbers by name that returns those of them that are scalars of a rule."""
    items = {item_name(name, k): (name, k) for name, count in known.items() for k in places(count)}
    sources = [items[field] for field in rule.scalars._fields if field in items]
    names = [name for name, k in sources if k is None]
    if len(names) < len(sources):
        return lambda numbers: tuple([numbers[name] if k is None else numbers[name][k] for name, k in sources])
    if len(names) < 2:
        return lambda numbers: tuple([numbers[name] for name in names])
    return itemgetter(*names)
