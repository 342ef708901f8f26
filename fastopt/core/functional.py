"""An optimizer as pure functions: optax's protocol, ``init`` and ``update``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from ..arrays.advice import library_of
from ..arrays.dtypes import Array
from ..arrays.memory import described, shown
from ..arrays.others import JAX, as_numpy
from ..arrays.structure import is_container
from ..options.loss_scale import DynamicLossScale
from .averages import with_own_values
from .optimizer import Optimizer
from .progress import SKIPS

#: The counts and arrays of an optimizer, nested in dicts.
State: TypeAlias = dict[str, Any]

#: The form of a count.
SCALAR = np.zeros((), np.int64)


def functional(optimizer: Callable[..., Optimizer], *arguments: Any, **options: Any) -> Functional:
    """Return an optimizer as pure functions, for code that is written to optax's protocol.

    ``state = tx.init(params)``, then ``updates, state = tx.update(grads, state, params)`` and
    ``params = optax.apply_updates(params, updates)``. Neither the parameters nor gradients nor the state that it is
    given change.

    Parameters
    ----------
    optimizer : type or callable
        A class of fastopt, or a function that makes an optimizer of parameters, such as
        ``lambda params: fastopt.SGD(fastopt.group_by(params, {...}))``.
    *arguments, **options
        What it takes after the parameters.

    Returns
    -------
    Functional
        ``init(params)``, ``update(grads, state, params)``, ``apply(grads, state, params)``, which returns parameters
        instead of updates, and ``optimizer(params, state)``, which goes on as an optimizer that changes arrays in
        place. The pair of init and update where a sequence is expected.

    Raises
    ------
    TypeError, ValueError
        From ``init``, if the optimizer can't be built so, or has an option that changes other arrays (``zero_grads``,
        ``copy_to``) or a DynamicLossScale. And for values that JAX traces, which are no arrays yet.

    Notes
    -----
    Parameters and gradients are NumPy arrays or those of JAX in the memory of the host, in dicts, lists and (named)
    tuples. Updates, parameters and states are NumPy arrays in the same structure. A state is plain data, a dict of
    dicts of arrays: ``jax.tree.map`` and ``optax.chain`` take it. A new state has the dtypes of the old one.

    ``apply`` has the bits of the optimizer's own step. An update is the difference of the new and the old parameter,
    rounded once. The sum of both is the new parameter if they have one sign and neither is more than twice the other,
    or the old one is 0. Else it may differ, by no more than the resolution of the larger of the two.

    A structure without arrays, such as ``optax.multi_transform`` makes for a label that no parameter has, has an empty
    state, and nothing to update.

    The numbers are computed in arrays that are made once and kept, as large as parameters and state, so that one call
    waits for another.

    Source: the protocol of optax, https://optax.readthedocs.io/en/latest/api/transformations.html

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> tx = fastopt.functional(fastopt.SGD, lr=0.5, momentum=0.5)
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> state = tx.init(params)
    >>> updates, state = tx.update({"w": np.array([1.0, -1.0])}, state, params)
    >>> updates, params["w"]
    ({'w': array([-0.5,  0.5])}, array([1., 2.]))
    >>> state["arrays"]["w"]
    {'step': array(1), 'b': array([ 1., -1.])}
    """
    if not callable(optimizer):
        name = type(optimizer).__name__ if isinstance(optimizer, Optimizer) else "fastopt.Adam"
        raise TypeError(
            "functional: expected a class of fastopt or a function that makes an optimizer of parameters, got "
            f"{described(optimizer)}; write functional({name}, ...), with its options"
        )
    return Functional(partial(made, optimizer, arguments, options))


def made(
    optimizer: Callable[..., Optimizer], arguments: tuple[Any, ...], options: Mapping[str, Any], params: Any
) -> Any:
    return optimizer(params, *arguments, **options)


class Functional:
    """The pure functions of an optimizer; see :func:`fastopt.functional`."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        #: Where numbers are computed: arrays of the form of the parameters that were given last.
        self._workplace: Workplace | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Functional, (self._make,)  # what it computes in is no part of it

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def init(self, params: Any) -> State:
        """Return the state before the first step."""
        with self._lock:
            self._workplace = workplace = Workplace(self._make, params)
            return {"counts": {}, "arrays": {}} if workplace.opt is None else state_of(workplace.opt)

    def update(self, grads: Any, state: State, params: Any = None, **extra: Any) -> tuple[Any, State]:
        """Return what to add to the parameters in a step, and the state after it. ``extra`` is ignored."""
        with self._lock:
            workplace, new_state = self._step(grads, state, params)
            pairs = zip(workplace.arrays, leaves("params", params), strict=True)
            return rebuilt(params, (np.asarray(new - old) for new, old in pairs)), new_state

    def apply(self, grads: Any, state: State, params: Any) -> tuple[Any, State]:
        """Return the parameters after a step, with the bits of the optimizer's own step, and the state after it."""
        with self._lock:
            workplace, new_state = self._step(grads, state, params)
            return rebuilt(params, (array.copy() for array in workplace.arrays)), new_state

    def optimizer(self, params: Any, state: State) -> Optimizer:
        """Return an optimizer that goes on from here in place. It has copies of the parameters, ``params`` of it."""
        opt = Workplace(self._make, params).opt or self._make(params)
        load(opt, state)
        return opt

    def _step(self, grads: Any, state: State, params: Any) -> tuple[Workplace, State]:
        if params is None:
            raise TypeError("params=None: expected the parameters; call update(grads, state, params)")
        workplace = self._workplace
        if workplace is None or not workplace.take(params):
            self._workplace = workplace = Workplace(self._make, params)
        for leaf in raw_leaves(grads):
            refuse_traced("grads", leaf)
        if workplace.opt is None:
            return workplace, state
        load(workplace.opt, state)
        workplace.opt.step(grads)
        return workplace, cast_like(state_of(workplace.opt), state)


class Workplace:
    """An optimizer of copies of parameters; None for a structure without arrays, such as that of an unused label."""

    def __init__(self, make: Callable[[Any], Any], params: Any) -> None:
        self.arrays = [array.copy() for array in leaves("params", params)]
        self.structure = rebuilt(params, iter(self.arrays))
        is_empty = is_container(params) and not self.arrays
        self.opt = None if is_empty else ready_optimizer(make(self.structure))

    def take(self, params: Any) -> bool:
        """Write the values of parameters into the copies, and return True; False if they have another form."""
        given = list(leaves("params", params))
        if not (is_alike(self.structure, params) and list(map(form_of, given)) == list(map(form_of, self.arrays))):
            return False
        for own, array in zip(self.arrays, given, strict=True):
            own[...] = array
        return True


def ready_optimizer(opt: Any) -> Optimizer:
    """Return an optimizer for a pure function, with all of its slots."""
    if not isinstance(opt, Optimizer):
        raise TypeError(f"functional: expected one of fastopt's optimizers, got {described(opt)}")
    refuse_options(opt)
    opt.ready()
    opt.parts.slots.commit()
    return opt


def refuse_options(opt: Optimizer) -> None:
    if opt.pass_options.zero_grads:
        raise ValueError("zero_grads=True: the gradients of a pure function do not change; leave it out")
    if any(array is not None for array in opt.parts.parameters.copies):
        raise ValueError("copy_to: a pure function changes no array; convert the parameters that apply returns")
    if isinstance(opt.grad_scale, DynamicLossScale):
        raise ValueError("grad_scale: expected a number, since a state has no place for a DynamicLossScale")


# --- Structures -------------------------------------------------------------------------------------------------------


def raw_leaves(structure: Any) -> Iterator[Any]:
    """Yield what is neither a container nor None, in order."""
    if is_container(structure):
        for child in structure.values() if isinstance(structure, Mapping) else structure:
            yield from raw_leaves(child)
    elif structure is not None:
        yield structure


def leaves(where: str, structure: Any) -> Iterator[Array]:
    """Yield the arrays of a structure, as NumPy arrays in the same memory where that can be."""
    for leaf in raw_leaves(structure):
        yield on_host(where, leaf)


def on_host(where: str, value: Any) -> Array:
    refuse_traced(where, value)
    return np.asarray(as_numpy(where, value))


def rebuilt(structure: Any, new: Iterator[Any]) -> Any:
    """Return these leaves in containers of the same types."""
    if isinstance(structure, Mapping):
        children = {key: rebuilt(child, new) for key, child in structure.items()}
        if type(structure) is dict:
            return children
        if isinstance(structure, MutableMapping):  # such as a defaultdict, which takes more than its items
            copied = copy(structure)
            copied.update(children)
            return copied
        return type(structure)(children)  # type: ignore[call-arg]
    if is_container(structure):
        items = [rebuilt(child, new) for child in structure]
        return structure._make(items) if hasattr(structure, "_make") else type(structure)(items)
    return None if structure is None else next(new)


def is_alike(first: Any, second: Any) -> bool:
    """Return whether two structures have the same keys and the same leaves."""
    if isinstance(first, Mapping):
        return (
            isinstance(second, Mapping)
            and list(first) == list(second)
            and all(is_alike(first[key], second[key]) for key in first)
        )
    if is_container(first):
        return (
            is_container(second)
            and not isinstance(second, Mapping)
            and len(first) == len(second)
            and all(map(is_alike, first, second))
        )
    return not is_container(second) and (first is None) == (second is None)


def form_of(array: Array) -> tuple[Any, ...]:
    return array.shape, array.dtype


def refuse_traced(where: str, value: Any) -> None:
    """Raise if JAX traces a value: it is no array yet."""
    if library_of(value) in JAX and any(kind.__name__ == "Tracer" for kind in type(value).__mro__):
        raise TypeError(
            f"{where}: a value that JAX traces has no numbers yet; call update outside of jax.jit, with what the "
            "jitted function returns, or in it through jax.pure_callback (docs/hosts/optax.rst)"
        )


# --- States -----------------------------------------------------------------------------------------------------------


def state_of(opt: Optimizer) -> State:
    """Return the counts, and copies of the arrays, of an optimizer's state."""
    progress, arrays = opt.parts.progress, with_own_values(opt.parts)
    counts = {"step_count": progress.step_count, "accumulated_calls": progress.accumulated_calls}
    counts |= dict(zip(SKIPS, progress.skips.tolist(), strict=True))
    return {
        "counts": {name: np.array(count, np.int64) for name, count in counts.items()},
        "arrays": {
            name: {entry: np.array(array) for entry, array in arrays[name].items()}
            for name in opt.parts.parameters.names
        },
    }


def cast_like(new: State, old: State) -> State:
    """Return a new state with the dtypes of the old one, which JAX may have narrowed."""
    return {
        name: cast_like(value, old[name])
        if isinstance(value, dict)
        else value.astype(getattr(old[name], "dtype", value.dtype), copy=False)
        for name, value in new.items()
    }


def load(opt: Optimizer, state: State) -> None:
    """Write a state into an optimizer whose slots have been made.

    Raises
    ------
    TypeError, ValueError
        If it is not a state of such parameters and options.
    """
    targets: State = {"counts": dict.fromkeys(("step_count", "accumulated_calls", *SKIPS), SCALAR), "arrays": opt.state}
    values = state_for(("state",), state, targets)
    for name, entries in opt.state.items():
        for entry, array in entries.items():
            array[...] = values["arrays"][name][entry]
    counts = {name: value.item() for name, value in values["counts"].items()}
    opt.step_count, opt.accumulated_calls = counts["step_count"], counts["accumulated_calls"]
    opt.parts.progress.skips[...] = [counts[name] for name in SKIPS]


def state_for(path: tuple[str, ...], state: Any, targets: Mapping[str, Any]) -> State:
    """Return a state, or a part of it, as NumPy arrays of the shapes of these targets."""
    where = ".".join(path)
    if not isinstance(state, Mapping) or state.keys() != targets.keys():
        found = list(state) if isinstance(state, Mapping) else described(state)
        raise TypeError(
            f"{where}: expected a dict with the keys {list(targets)}, got {found}; give what init or update has "
            "returned for such parameters"
        )
    values: State = {}
    for name, target in targets.items():
        if isinstance(target, Mapping):
            values[name] = state_for((*path, name), state[name], target)
            continue
        value = values[name] = on_host(f"{where}.{name}", state[name])
        if value.shape != target.shape:
            raise ValueError(
                f"{where}.{name} has shape {value.shape}; expected {target.shape}; give what init or update has "
                "returned for such parameters"
            )
        if not np.can_cast(value.dtype, target.dtype, "same_kind"):
            raise TypeError(f"{where}.{name} has dtype {value.dtype}; expected {target.dtype}")
        if target.dtype.kind == "i" and (value < 0).any():
            raise ValueError(f"{where}.{name}={shown(value)}: expected a count of at least 0")
    return values
