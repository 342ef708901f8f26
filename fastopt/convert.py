"""Optimizer states from and to ``torch.optim``, so that a run can move to torch and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import optimizers
from .arithmetic.powers import power
from .arrays.dtypes import FLOAT32, FLOAT64, Array
from .arrays.memory import described
from .core import state_dict
from .core.groups import NO_OPTIONS
from .core.optimizer import Optimizer
from .core.option_set import OPTIMIZER
from .core.turns import Kind
from .optimizers.nadam import momentum_product
from .options.group_by import Grouped, check_unique
from .options.ranges import STEPS, Group, plain
from .options.values import value_at

__all__ = ["from_torch", "to_torch"]


def __dir__() -> list[str]:
    return __all__


class Counterpart(NamedTuple):
    """An optimizer that fastopt and torch share.

    ``options`` have the same name and meaning in both; ``slots`` gives torch's name of each slot.
    """

    name: str
    options: tuple[str, ...]
    slots: Mapping[str, str]
    #: Further entries of torch's groups, which distinguish two of its optimizers.
    more: Mapping[str, Any] = {}
    #: torch's names of options that have another one here.
    renamed: Mapping[str, str] = {}
    #: Whether torch counts the steps of each array, and by which type.
    counts: Callable[[float], Any] | None = float
    #: Whether torch's optimizer can ascend.
    has_maximize: bool = True
    #: The options that are no numbers.
    choices: tuple[str, ...] = ()
    #: Numbers that torch keeps for each array, given the options of its group and its step count.
    numbers: Callable[[Group, int], Mapping[str, float]] = lambda group, step: {}

    def theirs(self) -> set[str]:
        """Return the names of the options in torch's groups."""
        return {*(self.renamed.get(name, name) for name in self.options), *self.more}


def product_of_momenta(group: Group, step: int) -> Mapping[str, float]:
    """Return what torch's NAdam keeps."""
    return {"mu_product": momentum_product(group["betas"][0], group["momentum_decay"], step)}


def rate_and_weight(group: Group, step: int) -> Mapping[str, float]:
    """Return what torch's ASGD keeps: both are those of the next step."""
    eta = group["lr"] / power(1.0 + group["lambd"] * group["lr"] * step, group["alpha"])
    return {"eta": eta, "mu": 1.0 / max(1.0, step - group["t0"])}


ADAM = ("lr", "betas", "eps", "weight_decay", "amsgrad")
ADAM_SLOTS = {"m": "exp_avg", "v": "exp_avg_sq", "v_max": "max_exp_avg_sq"}
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
DECOUPLED = {"decoupled": "decoupled_weight_decay"}

COUNTERPARTS = (
    Counterpart(
        "SGD", ("lr", "momentum", "dampening", "weight_decay", "nesterov"), {"b": "momentum_buffer"}, counts=None
    ),
    Counterpart("Adagrad", ("lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"), {"sum": "sum"}),
    Counterpart(
        "RMSprop",
        ("lr", "alpha", "eps", "weight_decay", "momentum", "centered"),
        {"v": "square_avg", "m": "grad_avg", "b": "momentum_buffer"},
    ),
    Counterpart("Adam", ADAM, ADAM_SLOTS, {"decoupled_weight_decay": False}),
    Counterpart("AdamW", ADAM, ADAM_SLOTS, {"decoupled_weight_decay": True}),
    Counterpart("SparseAdam", ("lr", "betas", "eps"), MOMENTS, counts=int),
    Counterpart("Adadelta", ("lr", "rho", "eps", "weight_decay"), {"v": "square_avg", "u": "acc_delta"}),
    Counterpart("Adamax", ("lr", "betas", "eps", "weight_decay"), {"m": "exp_avg", "u": "exp_inf"}),
    Counterpart(
        "NAdam",
        ("lr", "betas", "eps", "weight_decay", "momentum_decay", "decoupled"),
        MOMENTS,
        renamed=DECOUPLED,
        numbers=product_of_momenta,
    ),
    Counterpart("RAdam", ("lr", "betas", "eps", "weight_decay", "decoupled"), MOMENTS, renamed=DECOUPLED),
    Counterpart("Rprop", ("lr", "etas", "step_sizes"), {"last": "prev", "step_size": "step_size"}),
    Counterpart("ASGD", ("lr", "lambd", "alpha", "t0", "weight_decay"), {"ax": "ax"}, numbers=rate_and_weight),
    Counterpart(
        "Adafactor",
        ("lr", "beta2_decay", "eps", "d", "weight_decay"),
        {"row_var": "row_var", "col_var": "col_var", "variance": "variance"},
    ),
    Counterpart(
        "Muon",
        ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"),
        {"b": "momentum_buffer"},
        counts=None,
        has_maximize=False,
        choices=("adjust_lr_fn",),
    ),
)

#: Entries of torch's groups that select its implementation.
RUNTIME_ENTRIES: Mapping[str, Any] = {"foreach": None, "capturable": False, "differentiable": False, "fused": None}
#: Entries of torch's groups that its learning-rate schedulers add.
SCHEDULER_ENTRIES = ("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum")


def from_torch(sd: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the state of a torch optimizer in the form that :meth:`fastopt.Optimizer.load_state_dict` takes.

    Parameters
    ----------
    sd : dict
        The ``state_dict()`` of an optimizer of torch that fastopt has too, with float32 or float64 tensors.
    names : sequence of str
        The name in fastopt of each of its parameters, in torch's order: ``list(opt.state)`` if both orders agree.

    Returns
    -------
    dict
        Options are converted too; those torch lacks get their defaults. torch's SGD and Muon do not count steps, so an
        array with a momentum buffer gets the count 1.

    Raises
    ------
    TypeError, ValueError
        If ``sd`` is not the state of one of these optimizers, or ``names`` do not fit it.

    Examples
    --------
    >>> import fastopt
    >>> sd = {
    ...     "state": {0: {"momentum_buffer": np.ones(2)}},
    ...     "param_groups": [
    ...         {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0]}
    ...     ],
    ... }
    >>> opt = fastopt.SGD({"W": np.ones(2)})
    >>> opt.load_state_dict(from_torch(sd, ["W"]))
    LoadResult(missing=[], unexpected=[])
    >>> opt.param_groups[0]["momentum"], opt.state["W"]["b"]
    (0.9, array([1., 1.]))
    """
    check_arguments(sd, names)
    indices = [index for group in sd["param_groups"] for index in group["params"]]
    if isinstance(names, str) or len(names) != len(indices):
        raise ValueError(f"from_torch: expected {len(indices)} names, one for each parameter in torch's order")
    check_unique("names", names)
    name_of = dict(zip(indices, names, strict=True))
    found = [counterpart_of(group) for group in sd["param_groups"]]
    if len({row.name for row in found}) != 1:
        raise ValueError(f"from_torch: expected groups of one optimizer, got {[row.name for row in found]}")
    counterpart = found[0]

    slots = {index: as_slots(counterpart, index, sd["state"].get(index, {})) for index in indices}
    params = {name_of[index]: like_slots(slots[index]) for index in indices}
    group_of = {name_of[index]: k for k, group in enumerate(sd["param_groups"]) for index in group["params"]}
    grouped = Grouped(params, [as_options(counterpart, group) for group in sd["param_groups"]], group_of)
    opt: Optimizer = getattr(optimizers, counterpart.name)(grouped)
    saved = state_dict.of(opt)
    for index, name in name_of.items():
        steps = as_number(sd["state"].get(index, {}).get("step", 1 if slots[index] else 0))
        group = opt.param_groups[group_of[name]]
        if not (STEPS.holds(steps) and steps == int(steps)):
            raise ValueError(f"from_torch: the step of parameter {index} is {steps}; expected {STEPS}")
        missing = [slot for slot in opt.slot_names(opt.rule(group), params[name]) if slot not in slots[index]]
        if steps and missing:
            lacking = [counterpart.slots[slot] for slot in missing]
            raise ValueError(f"from_torch: the state of parameter {index} has no {lacking}")
        # An array that made no step may have no slots in torch; it keeps those of the new optimizer.
        saved["state"][name] = {**(saved["state"][name] if steps else {}), **slots[index], "step": np.array(int(steps))}
    for k, group in enumerate(sd["param_groups"]):
        if "initial_lr" in group:
            saved["param_groups"][k]["initial_lr"] = as_number(group["initial_lr"])
    saved["step_count"] = max(int(entries["step"]) for entries in saved["state"].values())
    return saved


def to_torch(opt: Optimizer, part: str | None = None) -> dict[str, Any]:
    """Return the state of an optimizer in the form that torch's optimizer of the same name loads.

    Parameters
    ----------
    opt : an optimizer that torch has too; or a Combined
        SGD, Adagrad, RMSprop, Adam, AdamW, SparseAdam, Adadelta, Adamax, NAdam, RAdam, Rprop, ASGD, Adafactor or Muon.
        A scheduled option is converted to its value at the next step.
    part : str, optional
        For a :class:`fastopt.Combined`: the name of the class whose groups to convert, since torch has an optimizer for
        each.

    Returns
    -------
    dict
        For ``load_state_dict`` there. The tensors are copies; the parameters are in the order of ``opt.param_groups``.

    Raises
    ------
    TypeError, ValueError
        If torch lacks the optimizer or an option that is in use.
    ImportError
        If torch is missing.

    Examples
    --------
    >>> import fastopt
    >>> opt = fastopt.Adam({"W": np.ones(2)})
    >>> info = opt.step({"W": np.ones(2)})
    >>> sd = to_torch(opt)  # doctest: +SKIP
    >>> sd["state"][0]["exp_avg"]  # doctest: +SKIP
    tensor([0.1000, 0.1000], dtype=torch.float64)
    """
    if not isinstance(opt, Optimizer):
        raise TypeError(f"to_torch: expected a first-order optimizer of fastopt, got {type(opt).__name__}")
    classes = [type(opt.of_group(group)).__name__ for group in opt.param_groups]
    if part not in (*classes, None) or (part is None and len(set(opt.each())) > 1):
        raise ValueError(
            f"to_torch: part={part!r}: expected the class of one of the groups, one of {sorted({*classes})}"
        )
    name = part or classes[0]
    counterpart = next((row for row in COUNTERPARTS if row.name == name), None)
    if counterpart is None:
        raise ValueError(
            f"to_torch: torch has no {name} with this state; there are {', '.join(row.name for row in COUNTERPARTS)}"
        )
    groups = [k for k, its in enumerate(classes) if its == name]
    return opt.parts.turns.run("to_torch", Kind.READER, converted, opt, counterpart, groups)


def converted(opt: Optimizer, counterpart: Counterpart, numbers: Sequence[int]) -> dict[str, Any]:
    """Return the state of the groups of these numbers as that of their counterpart."""
    check_expressible(opt, counterpart, numbers)
    import torch

    saved = opt.saving().state()
    states: dict[int, dict[str, Any]] = {}
    groups = []
    index = 0
    for k in numbers:
        group = saved["param_groups"][k]
        values = {name: value_at(plain(opt.param_groups[k][name]), opt.step_count) for name in counterpart.options}
        options = {counterpart.renamed.get(name, name): value for name, value in values.items()}
        options |= {**RUNTIME_ENTRIES, **counterpart.more}
        if counterpart.has_maximize:
            options["maximize"] = opt.param_groups[k]["maximize"]
        if "initial_lr" in group:
            options["initial_lr"] = group["initial_lr"]
        groups.append({**options, "params": list(range(index, index + len(group["params"])))})
        hooks, rule = opt.of_group(opt.param_groups[k]), opt.rule(opt.param_groups[k])
        for name, param in zip(group["params"], opt.param_groups[k]["params"], strict=True):
            entries, slots = saved["state"][name], hooks.slot_names(rule, param)
            if entries["step"] and (slots or counterpart.counts):
                tensors = {
                    counterpart.slots[slot]: torch.from_numpy(np.array(entries[slot], order="C")) for slot in slots
                }
                steps = int(entries["step"])
                further = {their: torch.tensor(value) for their, value in counterpart.numbers(values, steps).items()}
                states[index] = {**count_entry(counterpart, steps), **further, **tensors}
            index += 1
    return {"state": states, "param_groups": groups}


def check_arguments(sd: Any, names: Any) -> None:
    """Raise unless these are the state of an optimizer of torch, and names.

    Raises
    ------
    TypeError
        Says what to write.
    """
    if isinstance(sd, Optimizer):
        advice = "to_torch(opt) goes the other way"
    elif hasattr(sd, "state_dict"):
        advice = "give its state_dict()"
    elif isinstance(names, Mapping) and "param_groups" in names:
        advice = "the state comes first: from_torch(sd, names)"
    else:
        advice = "torch_opt.state_dict(), not the model's"
    if not isinstance(sd, Mapping) or not {"state", "param_groups"} <= set(sd):
        raise TypeError(
            f"from_torch: expected the state_dict() of an optimizer of torch, got one {described(sd)}; {advice}"
        )
    if isinstance(names, Optimizer):
        raise TypeError("from_torch: expected names, got an optimizer; write from_torch(sd, list(opt.state))")
    if isinstance(names, Mapping) or not isinstance(names, Sequence):
        raise TypeError(f"from_torch: expected a list of names, got one {described(names)}; write list(opt.state)")


def count_entry(counterpart: Counterpart, steps: int) -> dict[str, Any]:
    """Return the entry in which torch counts the steps of an array."""
    import torch

    if counterpart.counts is None:
        return {}
    return {"step": steps if counterpart.counts is int else torch.tensor(counterpart.counts(steps))}


def like_slots(slots: Mapping[str, Array]) -> Array:
    """Return an array of the shape and dtype of the parameter that has these slots; of any if it has none yet."""
    if not slots:
        return np.zeros((1, 1))
    shape = np.broadcast_shapes(*(slot.shape for slot in slots.values()))
    return np.zeros(shape, next(iter(slots.values())).dtype)


def counterpart_of(group: Mapping[str, Any]) -> Counterpart:
    """Return the optimizer with the options of one of torch's groups.

    Raises
    ------
    ValueError
        If no optimizer has them.
    """
    options = set(group).difference(RUNTIME_ENTRIES, SCHEDULER_ENTRIES, ("params", "param_names", "maximize"))
    for row in COUNTERPARTS:
        if options == row.theirs() and all(group[name] == value for name, value in row.more.items()):
            return row
    raise ValueError(
        f"from_torch: no optimizer here has the options {sorted(options)}; there are "
        f"{', '.join(row.name for row in COUNTERPARTS)}"
    )


def as_options(counterpart: Counterpart, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one of torch's groups as plain numbers."""
    options = {name: group[counterpart.renamed.get(name, name)] for name in counterpart.options}
    for name, value in options.items():
        if isinstance(value, (tuple, list)):
            options[name] = tuple(None if item is None else as_number(item) for item in value)
        elif not isinstance(value, bool) and name not in counterpart.choices:
            options[name] = as_number(value)
    return {**options, "maximize": bool(group.get("maximize", False))}


def as_slots(counterpart: Counterpart, index: Any, entries: Mapping[str, Any]) -> dict[str, Array]:
    """Return copies of the slots of one of torch's parameters as NumPy arrays."""
    found = {}
    for slot, name in counterpart.slots.items():
        value = entries.get(name)
        if value is None:
            continue
        array = np.array(value.detach().cpu().numpy() if hasattr(value, "detach") else value, order="C")
        if array.dtype not in (FLOAT32, FLOAT64):
            raise TypeError(f"from_torch: {name!r} of parameter {index} is {array.dtype}; expected float32 or float64")
        found[slot] = array
    return found


def as_number(value: Any) -> float:
    """Return a number; torch may keep it in a tensor."""
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise TypeError(f"from_torch: expected a number, got one {described(value)}")
    return number


def check_expressible(opt: Optimizer, counterpart: Counterpart, numbers: Sequence[int]) -> None:
    """Raise if an option that torch lacks is in use, in the groups of these numbers or the whole.

    Raises
    ------
    ValueError
        Names the option.
    """
    # A sharded optimizer has the name of the class that it is made of.
    kinds: Sequence[Any] = type(opt.of_group(opt.param_groups[numbers[0]])).__mro__
    optimizer = [kind for kind in kinds if kind.__name__ == counterpart.name][-1]
    fresh: Optimizer = optimizer(np.zeros((1, 1)))
    common = [*counterpart.options, *NO_OPTIONS, OPTIMIZER]
    if counterpart.has_maximize:
        common.append("maximize")
    for k in numbers:
        for name, value in opt.param_groups[k].items():
            is_common = name in common and value != "corrected"  # of amsgrad
            if not is_common and value != fresh.param_groups[0][name]:
                raise ValueError(
                    f"to_torch: torch's {counterpart.name} has no {name}={value!r} (param_groups[{k}]); set it to "
                    f"{fresh.param_groups[0][name]!r} first"
                )
    for name, value in opt.pass_options._asdict().items():
        if value != getattr(fresh.pass_options, name):
            raise ValueError(f"to_torch: torch's {counterpart.name} has no {name}={value!r}")
    parameters, is_half = opt.parts.parameters, opt.parts.backend.ops.is_half
    for name, param, k in zip(parameters.names, parameters.arrays, parameters.group_of, strict=True):
        if k in numbers and is_half(param.dtype):
            raise ValueError(
                f"to_torch: {name!r} is {param.dtype}, and torch's {counterpart.name} has no float32 master of it; use "
                "float32 parameters"
            )
    for name in state_dict.WHOLE_OPTIONS:
        if getattr(opt, name) != getattr(fresh, name):
            raise ValueError(
                f"to_torch: torch's {counterpart.name} has no {name}={getattr(opt, name)!r}; set it to "
                f"{getattr(fresh, name)!r} first, and do it in torch's training loop"
            )
