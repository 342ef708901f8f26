"""The base of all optimizers: check everything, count, compute the scalars once, make one call to the backend."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import attrgetter, is_
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from . import backends, rules
from .arrays import Array, address
from .backends import Hyper, Table
from .clip import clip_factor, total_norm
from .groups import Grouped, matching
from .hyperparameters import RANGES, Allowed, Group, check, differ, is_scheduled, plain, value_at
from .rules import Rule
from .sparse import Rows, RowSparse, RowSparseTable, check_row_sparse
from .structure import Branch, is_container

#: It counts as 0 in every sum with a number that matters.
LEAST_POSITIVE = math.ulp(0.0)


class LoadResult(NamedTuple):
    """What :meth:`Optimizer.load_state_dict` did not load.

    Attributes
    ----------
    missing : list of str
        What the optimizer has, and the saved state has not in this form.
    unexpected : list of str
        What the saved state has, and the optimizer has not in this form.

    Examples
    --------
    >>> import fastopt
    >>> fastopt.LoadResult(missing=["head.new"], unexpected=[]).missing
    ['head.new']
    """

    missing: list[str]
    unexpected: list[str]


class StepInfo(NamedTuple):
    """What a step did.

    Attributes
    ----------
    applied : bool
        Whether the parameters were updated.
    grad_norm : float or None
        The global norm of the gradients before ``clip_global_norm`` clipped them; None without it. With the ``cuda``
        backend it is fetched when it is first used (``float(info.grad_norm)``), so that the step need not wait.
    lr : float
        The learning rate of the first group in this step.
    step : int
        The number of this step, from 1.

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


class Settled(NamedTuple):
    """A group as it was when its values were last checked, and what follows from them."""

    values: Group
    rule: Rule
    scheduled: tuple[str, ...]
    clips_arrays: bool


class Optimizer:
    """The base of all optimizers: parameters, groups, state, and the step.

    A subclass names its options in its ``__init__``, its ``rule`` for a group (whose arguments are its slots), and
    ``hyper``, the rule's scalars for a group and a step count. The keywords below are those that all optimizers take.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, of C or Fortran order, updated in place: one array, a list, tuple or dict, nested mixes of
        these, or a list of groups ``{"params": ..., option: value, ...}``.
    options : dict
        The subclass's own options with their values.
    decoupled : bool, default False (AdamW: True)
        Whether ``weight_decay`` shrinks the parameters by ``1 - lr * weight_decay`` before the rule, instead of adding
        ``weight_decay * p`` to the gradient.
    maximize : bool, default False
        Whether to go up the gradient.
    clip_value : float, optional
        Each element of a gradient is clamped to ``[-clip_value, clip_value]``. At least 0.
    clip_norm : float, optional
        Each array's gradient is then scaled to a norm of at most this. At least 0.
    clip_global_norm : float, optional
        All gradients together are then scaled to a norm of at most this. At least 0.
    backend : {"native", "numpy"}, optional
        Where steps run; by default what ``FASTOPT_BACKEND`` says, or native where it is.

    Attributes
    ----------
    param_groups : list of dict
        The groups with their options; writing an option takes effect in the next step.
    state : dict
        For the name of each array: its slots, and ``"step"``, how many steps were applied to it (0-d int64). The
        slots are made by the first step; write into them, ``opt.state["W"]["m"][...] = values``.
    step_count : int
        How many steps were made.
    backend : str
        Where steps run: ``"native"`` or ``"numpy"``; ``"cuda"`` for arrays on a GPU.
    clip_global_norm : float or None
        The greatest norm of all gradients together.
    frozen : list of str
        The names of the arrays that steps pass over.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.
    RuntimeError
        For a backend that can't be had here; says why.

    Notes
    -----
    ``params`` may also be what :func:`fastopt.group_by` returns. ``lr``, ``weight_decay``, ``momentum`` and each of
    ``betas`` may be a schedule: a function of the step, from 0, such as those of :mod:`fastopt.schedules`.

    Examples
    --------
    A rule of :mod:`fastopt.rules` becomes an optimizer by its options and scalars:

    >>> import numpy as np, fastopt
    >>> class SignlessSGD(fastopt.Optimizer):
    ...     def __init__(self, params, lr=0.1, **common):
    ...         super().__init__(params, {"lr": lr, "weight_decay": 0.0}, **common)
    ...
    ...     def rule(self, group):
    ...         return fastopt.rules.sgd
    ...
    ...     def hyper(self, group, step):
    ...         return fastopt.rules.SGDScalars(group["lr"])
    >>> theta = np.array([1.0])
    >>> SignlessSGD(theta).step(np.array([2.0])).lr
    0.1
    >>> theta
    array([0.8])
    """

    #: The ranges of the options that are this optimizer's own.
    ranges: ClassVar[Mapping[str, Allowed]] = {}

    #: Whether all that a step does is in the rule, which the CUDA backend compiles.
    runs_on_gpu: ClassVar[bool] = True

    #: The options that differ for arrays with a :class:`fastopt.RowSparse` gradient; None: such gradients are refused.
    row_sparse_options: ClassVar[Mapping[str, Any] | None] = None

    #: Rules that a step runs besides that of :meth:`rule`; their slots are the first of its slots.
    further_rules: ClassVar[Sequence[Rule]] = ()

    def __init__(
        self,
        params: Any,
        options: Group,
        *,
        decoupled: bool = False,
        maximize: bool = False,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        clip_global_norm: float | None = None,
        backend: str | None = None,
    ) -> None:
        self.defaults: Group = {
            **options,
            "decoupled": decoupled,
            "maximize": maximize,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
        }
        for name, value in self.defaults.items():
            self._check_option(name, value)
        self._check_option("clip_global_norm", clip_global_norm)
        self.clip_global_norm = clip_global_norm
        self._asked_backend = backend
        self.backend = backends.choice(backend)
        self.param_groups: list[Group] = []
        self.state: dict[str, dict[str, Array]] = {}
        self.step_count = 0

        self._names: list[str] = []
        self._params: list[Array] = []
        self._group_of: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._steps: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._settled: list[Settled] = []
        self._rows: list[tuple[int, int]] = []
        self._table: Table | None = None
        #: Slots of the table that are not in the state yet: a step that raises must not put them there.
        self._new_slots: list[tuple[str, str, Array]] = []
        self._frozen: set[str] = set()
        #: The learning rate that each group's lr_scheduler began with, by the group's number.
        self._initial_lrs: dict[int, float] = {}
        #: The step count that was loaded, together with initial learning rates, by load_state_dict.
        self._resumed_at: int | None = None

        grouped = params if isinstance(params, Grouped) else None
        if grouped is not None:
            params = grouped.params
        self._is_single = not is_container(params)
        self._is_grouped = isinstance(params, (list, tuple)) and any(is_group(item) for item in params)
        self._root = Branch({} if isinstance(params, Mapping) else [])
        if grouped is not None:
            self._add(self._addition(params), grouped.options, grouped.group_of)
        else:
            for group in params if self._is_grouped else [{"params": params}]:
                self.add_param_group(group)

    def rule(self, group: Group) -> Rule:
        """Return the rule of a group, one of :mod:`fastopt.rules`."""
        raise NotImplementedError

    def hyper(self, group: Group, step: int) -> tuple[float, ...]:
        """Return the rule's scalars, in double precision, for arrays of which this is step number ``step``, from 1."""
        raise NotImplementedError

    def initial_slot(self, group: Group, slot: str) -> float:
        """Return what a slot is filled with before the first step."""
        return 0.0

    def slot_names(self, rule: Rule, param: Array) -> tuple[str, ...]:
        """Return the names of the slots of an array whose group has this rule."""
        return rules.slots(rule)

    def new_slot(self, group: Group, slot: str, param: Array) -> Array:
        """Return a slot of an array as it is before the array's first step."""
        slot_array: Array = self._arrays.slot_like(param, self.initial_slot(group, slot))
        return slot_array

    @property
    def state_bytes(self) -> int:
        """How many bytes the state takes: slots (made by the first step) and step counts."""
        return sum(array.nbytes for slots in self.state.values() for array in slots.values())

    def add_param_group(self, group: Group) -> None:
        """Add arrays, with options of their own.

        Parameters
        ----------
        group : dict
            ``"params"``: one array or a structure of arrays; any option of the optimizer, for these arrays. In the
            gradients their place is behind the arrays so far: new keys of a dict, new entries of a list.

        Raises
        ------
        TypeError, ValueError
            As the optimizer's constructor does; also for a name that is taken.
        """
        if not is_group(group):
            raise TypeError(f"param group: expected a dict with the key 'params', got {group!r:.80}")
        addition = self._addition(group["params"])
        options = {name: value for name, value in group.items() if name != "params"}
        self._add(addition, [options], dict.fromkeys(addition.names(), 0))

    @property
    def frozen(self) -> list[str]:
        """The names of the arrays that :meth:`freeze` has taken out, in the order of the parameters."""
        return [name for name in self._names if name in self._frozen]

    def freeze(self, pattern: str) -> list[str]:
        """Skip these arrays from now on, whatever their gradient: no update, their slots and step counts untouched.

        Parameters
        ----------
        pattern : str
            A name, or a glob pattern: ``*`` is any text (dots too), ``?`` one character, ``[ab]`` one of these.

        Returns
        -------
        list of str
            The names that match.

        Raises
        ------
        ValueError
            If there is none.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> params = {"body": {"W": np.ones(1), "b": np.ones(1)}, "head": {"W": np.ones(1)}}
        >>> opt = fastopt.SGD(params, lr=0.5)
        >>> opt.freeze("body.*")
        ['body.W', 'body.b']
        >>> info = opt.step({"body": {"W": np.ones(1), "b": np.ones(1)}, "head": {"W": np.ones(1)}})
        >>> params["body"]["W"], params["head"]["W"]
        (array([1.]), array([0.5]))
        """
        names = matching(pattern, self._names)
        self._frozen.update(names)
        return names

    def unfreeze(self, pattern: str = "*") -> list[str]:
        """Update these arrays again: the opposite of :meth:`freeze`, with its argument, result and error."""
        names = matching(pattern, self._names)
        self._frozen.difference_update(names)
        return names

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, besides the parameters, as plain Python and copies of arrays.

        Returns
        -------
        dict
            ``"optimizer"`` (the class's name), ``"step_count"``, ``"options"`` (those of the whole optimizer),
            ``"param_groups"`` (as the attribute, with the names of the arrays as ``"params"``; ``"initial_lr"`` if an
            lr_scheduler drives it), ``"frozen"`` (names), ``"state"`` (for the name of each array: its slots and
            ``"step"``), ``"extra"``. A schedule is a dict with its class and arguments; of a function that a schedule
            calls only the name is kept.

        Raises
        ------
        TypeError, ValueError
            As a step does, for options that are not as they must be.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD({"W": np.ones(2)}, lr=fastopt.schedules.constant(0.1), momentum=0.9)
        >>> saved = opt.state_dict()
        >>> saved["param_groups"][0]["lr"]
        {'schedule': 'constant', 'arguments': {'value': 0.1}}
        >>> saved["state"]["W"]
        {'step': array(0), 'b': array([0., 0.])}
        """
        from . import state

        return state.of(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> LoadResult:
        """Go on from a saved state: slots, step counts, options, schedules. Everything is checked before it is loaded.

        Parameters
        ----------
        state_dict : dict
            From :meth:`state_dict` of an optimizer of the same class. It is not changed, and its arrays are copied.
        strict : bool, default True
            Whether each array must have its state there, and each state its array. False: load what fits (an array's
            state fits as a whole or not at all; a group's options fit where its arrays have the same names) and
            return the rest. The step count is always loaded.

        Returns
        -------
        LoadResult
            ``missing``: what this optimizer has and ``state_dict`` has not in this form; ``unexpected``: the opposite.
            Both are empty where ``strict``.

        Raises
        ------
        TypeError, ValueError
            If it is no such dict, is of another class, or (where ``strict``) does not fit: one error with every
            mismatch. Nothing is changed then.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD({"W": np.ones(2)}, lr=0.1, momentum=0.9)
        >>> info = opt.step({"W": np.ones(2)})
        >>> other = fastopt.SGD({"W": np.ones(2)}, momentum=0.9)
        >>> other.load_state_dict(opt.state_dict())
        LoadResult(missing=[], unexpected=[])
        >>> other.step_count, other.param_groups[0]["lr"]
        (1, 0.1)
        """
        from . import state

        return state.load(self, state_dict, strict)

    def _extra_state(self) -> dict[str, Any]:
        """Return what else this optimizer needs to go on, as plain Python and arrays."""
        return {}

    def _check_extra_state(self, extra: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with such a dict, for people."""
        wanted = list(self._extra_state())
        return [] if sorted(extra) == sorted(wanted) else [f"extra: expected the entries {wanted}, got {list(extra)}"]

    def _load_extra_state(self, extra: Mapping[str, Any]) -> None:
        """Take over a dict that :meth:`_check_extra_state` found nothing wrong with."""

    def _add(self, addition: Branch, groups: Sequence[Group], group_of: Mapping[str, int]) -> None:
        """Add arrays, and groups of options; ``group_of`` gives the group among these for the name of each array."""
        for options in groups:
            unknown = [name for name in options if name not in self.defaults]
            if unknown:
                raise ValueError(f"param group: no option is called {unknown}; the options are {list(self.defaults)}")
        names, arrays = list(addition.names()), list(addition.arrays())
        if not self._params:
            self.backend = backends.choice_for(self._asked_backend, names, arrays)
            self._arrays = backends.arrays_of(self.backend)
            if self.backend == "cuda" and not self.runs_on_gpu:
                raise ValueError(
                    f"{type(self).__name__}: expected NumPy arrays, got arrays on a GPU, where it can't run yet"
                )
        given = tuple(arrays)
        arrays = [self._checked_param(name, array) for name, array in zip(names, arrays, strict=True)]
        if not arrays:
            raise ValueError("params: there is no array in this structure; give at least one")
        counts = Counter([*self._names, *names])
        taken = [name for name, count in counts.items() if count > 1]
        if taken:
            raise ValueError(f"params: the names {taken} are there more than once; rename them")
        extents = self._arrays.extents(self._names + names, self._params + arrays)
        first = len(self.param_groups)
        members = [
            tuple(array for name, array in zip(names, given, strict=True) if group_of[name] == k)
            for k in range(len(groups))
        ]
        settled = [
            self._settle({"params": member, **self.defaults, **options}, first + k)
            for k, (member, options) in enumerate(zip(members, groups, strict=True))
        ]

        self._is_single = self._is_single and not self._params
        self._extents = extents
        self._root.merge(addition)
        for options, one in zip(groups, settled, strict=True):
            self.param_groups.append({"params": one.values["params"], **self.defaults, **options})
            self._settled.append(one)
        self._names += names
        self._params += arrays
        self._group_of = np.concatenate([self._group_of, np.array([first + group_of[name] for name in names], int)])
        self._steps = np.concatenate([self._steps, np.zeros(len(arrays), np.int64)])
        for i, name in enumerate(self._names):
            self.state.setdefault(name, {})["step"] = self._steps[i : i + 1].reshape(())
        self._are_c_ordered = self.backend != "cuda" and all(param.flags.c_contiguous for param in self._params)
        self._table = None

    def step(self, grads: Any, *, stream: Any = None) -> StepInfo:
        """Apply one step: change the parameters in place.

        Parameters
        ----------
        grads : array or structure of arrays
            The structure of the parameters, with arrays of any float dtype. None, or a missing key of a dict, skips an
            array: no update, its slots and its own step count untouched. Until the next call the optimizer keeps a
            reference to these arrays.
        stream : CUDA stream, optional
            Of arrays on a GPU: the stream of torch, CuPy or Numba (or its handle) to run in. Default: the stream that
            the gradients' ``__cuda_array_interface__`` names, else the legacy default stream; work that torch does in
            another stream must be named here.

        Returns
        -------
        StepInfo
            What was done.

        Raises
        ------
        TypeError, ValueError
            If anything is not as it must be; then nothing was changed.
        """
        table = self._ready_table()
        if stream is not None or self.backend == "cuda":
            backends.set_stream(self.backend, table, stream)
        self._take_grads(table, grads)
        groups = [self._values(k) for k in range(len(self._settled))]
        if self._sparse:
            table = self._with_touched_rows(table, groups)
        hypers = self._hypers(groups)
        grad_norm = self._clip(table, hypers)
        self._run(table, groups, hypers)
        if self._new_slots:
            self._keep_new_slots()
        self._count()
        return StepInfo(True, grad_norm, groups[0]["lr"], self.step_count)

    def _addition(self, params: Any) -> Branch:
        """Return new parameters as a branch that can be merged into the root."""
        if self._root.is_dict:
            if not isinstance(params, Mapping):
                raise TypeError(
                    f"param group: expected a dict of new names, since the parameters are a dict, got "
                    f"{type(params).__name__}"
                )
            taken = [key for key in params if key in self._root.keys]
            if taken:
                raise ValueError(f"param group: the names {taken} are there already; give the arrays new names")
            return Branch(params)
        is_entries = isinstance(params, (list, tuple)) and not self._is_grouped
        return Branch(params if is_entries else [params], offset=len(self._root.keys))

    def _checked_param(self, name: str, array: Any) -> Any:
        return self._arrays.checked_param(name, array)

    def _check_option(self, name: str, value: Any, where: str = "") -> None:
        check(f"{where}{name}", value, self.ranges.get(name, RANGES.get(name)))

    def _settle(self, options: Group, k: int) -> Settled:
        """Check the values of group number ``k``, and derive what follows from them."""
        for name, value in options.items():
            if name != "params":
                self._check_option(name, value, f"param_groups[{k}]: " if k else "")
        values = {name: value if name == "params" else plain(value) for name, value in options.items()}
        scheduled = tuple(name for name, value in values.items() if name != "params" and is_scheduled(value))
        return Settled(values, self.rule(values), scheduled, values["clip_norm"] is not None)

    def _ready_table(self) -> Table:
        """Return the table of arrays, made anew where a group's rule or the arrays have changed."""
        replaced = self._root.replaced()
        if replaced is not None:
            raise ValueError(
                f"params: {replaced!r} is no longer the object that the optimizer was given; change arrays in place "
                "(params[...][...] = value), or build a new optimizer"
            )
        self._check_option("clip_global_norm", self.clip_global_norm)
        if len(self.param_groups) != len(self._settled):
            raise ValueError(
                f"param_groups: expected {len(self._settled)} groups, got {len(self.param_groups)}; use "
                "add_param_group, or build a new optimizer"
            )
        for k, group in enumerate(self.param_groups):
            settled = self._settled[k]
            if group.get("params") is not settled.values["params"]:
                raise ValueError(
                    f"param_groups[{k}]: 'params' was replaced; use add_param_group, or build a new optimizer"
                )
            if differ(group, settled.values):
                if group.keys() != settled.values.keys():
                    raise ValueError(
                        f"param_groups[{k}]: expected the options {list(settled.values)}, not {list(group)}"
                    )
                self._settled[k] = self._settle(group, k)
                if self._settled[k].rule is not settled.rule:
                    self._table = None
        if self._table is None or self._new_slots:
            self._table = self._new_table()
        return self._table

    def _new_table(self) -> Table:
        self._new_slots = []
        self._slots = [
            [self._slot(name, param, k, slot) for slot in rules.slots(self._settled[k].rule)]
            for name, param, k in zip(self._names, self._params, self._group_of, strict=True)
        ]
        self._last_grads: list[Any] | None = None
        self._last_kinds: list[Any] = []
        #: Where gradients of the last kinds were found clear of all parameters; new ones often come to old places.
        self._disjoint: set[bytes] = set()
        self._last_steps = b""
        self._present = np.zeros(len(self._params), bool)
        self._are_all_present = False
        self._sparse: dict[int, Rows] = {}
        self._array_clip_is_set = False
        slots = [[self._arrays.in_memory_order(slot) for slot in its] for its in self._slots]
        return backends.table_class(self.backend)([self._arrays.in_memory_order(p) for p in self._params], slots)

    def _slot(self, name: str, param: Array, k: int, slot: str) -> Array:
        """Return a slot of the state, checked, or a new one where there is none yet."""
        if slot in self.state[name]:
            self._arrays.check_slot(f"state[{name!r}][{slot!r}]", self.state[name][slot], param)
            return self.state[name][slot]
        values: Array = self.new_slot(self._settled[k].values, slot, param)
        self._new_slots.append((name, slot, values))
        return values

    def _keep_new_slots(self) -> None:
        for name, slot, values in self._new_slots:
            self.state[name][slot] = values
        self._new_slots = []

    def _take_grads(self, table: Table, grads: Any) -> None:
        """Check the gradients and hand them to the table, unless they are the very arrays of the last step."""
        leaves = [grads] if self._is_single else self._root.leaves(self._ungrouped(grads), "grads")
        if self._frozen:
            leaves = [None if name in self._frozen else leaf for name, leaf in zip(self._names, leaves, strict=True)]
        if self._last_grads is None or not all(map(is_, leaves, self._last_grads)) or not table.is_current():
            self._last_grads = None
            are_callers = True
            if not (self._are_like_last(leaves) and self._hand_over(table, leaves)):
                self._last_kinds = []
                are_callers = self._check_grads(table, leaves)
            # A converted copy would miss what the caller writes into the array before the next step.
            self._last_grads = leaves if are_callers else None
        if self._steps.tobytes() != self._last_steps:
            self._number_rows(table)

    def _ungrouped(self, grads: Any) -> Any:
        """Take the gradients out of a list of dicts with the key 'params', where the parameters were given so."""
        if self._is_grouped and isinstance(grads, (list, tuple)):
            return [grad["params"] if is_group(grad) and len(grad) == 1 else grad for grad in grads]
        return grads

    def _check_grads(self, table: Table, leaves: list[Any]) -> bool:
        """Check each gradient and hand them over; return whether all of them are the caller's own memory."""
        sparse = {i: self._rows_of(i, grad) for i, grad in enumerate(leaves) if isinstance(grad, RowSparse)}
        checked = [
            (None, i not in sparse)
            if grad is None or i in sparse
            else self._arrays.grad_in_memory_order(name, grad, param)
            for i, (name, grad, param) in enumerate(zip(self._names, leaves, self._params, strict=True))
        ]
        grads = [grad for grad, _ in checked]
        are_callers = all(is_callers for _, is_callers in checked)
        self._disjoint.clear()
        self._grad_sizes = np.array([0 if grad is None else grad.nbytes for grad in grads], np.intp)
        self._hand_over(table, grads)
        self._sparse = sparse
        present = np.array([grad is not None for grad in leaves])
        if not np.array_equal(present, self._present):
            self._present = present
            self._are_all_present = bool(present.all())
            self._last_steps = b""
        self._last_kinds = (
            list(map(kind, leaves)) if are_callers and self._are_c_ordered and self._are_all_present else []
        )
        return are_callers

    def _rows_of(self, i: int, grad: RowSparse) -> Rows:
        """Check the row-sparse gradient of array number ``i``."""
        if self.row_sparse_options is None:
            raise TypeError(
                f"grads: {self._names[i]!r} is row-sparse, which {type(self).__name__} does not take (SGD, Adagrad, "
                "Adam, AdamW and SparseAdam do); give a dense gradient"
            )
        if self.backend == "cuda":
            raise TypeError(
                f"grads: {self._names[i]!r} is row-sparse, which is not done on a GPU yet; give a dense one"
            )
        rows = check_row_sparse(self._names[i], grad, self._params[i])
        sizes = np.array([rows.values.nbytes], np.intp)
        self._refuse_overlap([i], np.array([address(rows.values)], np.uintp), sizes)
        return rows

    def _with_touched_rows(self, table: Table, groups: Sequence[Group]) -> RowSparseTable:
        """Return the table with copies of the rows that this step's row-sparse gradients touch."""
        arrays: list[list[Array]] = []
        scalars: list[tuple[float, ...]] = []
        for i in self._sparse:
            arrays.append([self._params[i], *self._slots[i]])
            scalars.append(
                self.hyper({**groups[self._group_of[i]], **(self.row_sparse_options or {})}, int(self._steps[i]) + 1)
            )
        return RowSparseTable(table, self._sparse, arrays, scalars)

    def _are_like_last(self, leaves: list[Any]) -> bool:
        """Tell whether all gradients are arrays of the dtypes and shapes of those that were checked last."""
        return set(map(type, leaves)) == {np.ndarray} and list(map(kind, leaves)) == self._last_kinds

    def _hand_over(self, table: Table, grads: Sequence[Array | None]) -> bool:
        """Give the gradients to the table unless they overlap a parameter; return whether they can be read as is."""
        if not table.set_grads(grads):
            return False
        starts = table.grad_addresses()
        seen = starts.tobytes()
        if seen in self._disjoint:
            return True
        self._refuse_overlap(range(len(grads)), starts, self._grad_sizes)
        if (starts % 8).any() and not all(grad is None or grad.flags.aligned for grad in grads):
            return False
        if len(self._disjoint) == MOST_PLACES:
            self._disjoint.clear()
        self._disjoint.add(seen)
        return True

    def _refuse_overlap(
        self, places: Sequence[int], starts: npt.NDArray[np.uintp], sizes: npt.NDArray[np.intp]
    ) -> None:
        """Raise if the gradient of one of these arrays, which begins at ``starts``, overlaps a parameter."""
        overlap = self._extents.overlapped(starts, sizes)
        if overlap is not None:
            raise ValueError(
                f"grads: {self._names[places[overlap[0]]]!r} overlaps the memory of the parameter {overlap[1]!r}, "
                "which is changed while it is read; give a copy"
            )

    def _number_rows(self, table: Table) -> None:
        """Give the arrays that agree in group and step count a common row of hyperparameters."""
        keys = np.stack([self._group_of, self._steps])[:, self._present]
        rows, inverse = np.unique(keys, axis=1, return_inverse=True)
        table.rows[self._present] = inverse.reshape(-1)
        self._rows = [(int(group), int(step)) for group, step in rows.T]

    def _count(self) -> None:
        self.step_count += 1
        if self._are_all_present:
            self._steps += 1
        else:
            self._steps[self._present] += 1
        self._last_steps = self._steps.tobytes()
        self._rows = [(group, step + 1) for group, step in self._rows]

    def _values(self, k: int) -> Group:
        """Return the options of a group in this step: schedules are evaluated."""
        settled = self._settled[k]
        if not settled.scheduled:
            return settled.values
        values = dict(settled.values)
        for name in settled.scheduled:
            value = value_at(values[name], self.step_count)
            where = f"param_groups[{k}]: the schedule at step {self.step_count}: "
            if is_scheduled(value):
                raise TypeError(f"{where}{name}={value!r}: expected a number (call it first, to make a schedule?)")
            self._check_option(name, value, where)
            values[name] = plain(value)
        if values.get("momentum") == 0 and "momentum" in settled.scheduled:
            # By momentum == 0 a rule without a buffer is told; a schedule that passes through 0 keeps its buffer.
            values["momentum"] = LEAST_POSITIVE
        return values

    def _hyper(self, group: Group, rule: Rule, step: int) -> Hyper:
        lr, weight_decay, clip_value = group["lr"], group["weight_decay"], group["clip_value"]
        decoupled = group["decoupled"]
        return Hyper(
            rule,
            -1.0 if group["maximize"] else 1.0,
            math.inf if clip_value is None else clip_value,
            1.0,
            0.0 if decoupled else weight_decay,
            1.0 - lr * weight_decay if decoupled else 1.0,
            self.hyper(group, step),
        )

    def _hypers(self, groups: Sequence[Group]) -> list[Hyper]:
        """Return the rows of hyperparameters of this step, from the groups' values in it."""
        return [self._hyper(groups[group], self._settled[group].rule, step + 1) for group, step in self._rows]

    def _run(self, table: Table, groups: Sequence[Group], hypers: list[Hyper]) -> None:
        """Change the parameters and slots."""
        table.step(hypers)

    def _clip(self, table: Table, hypers: list[Hyper]) -> float | None:
        """Set the clip factors of the arrays and of all together; return the global norm if it is clipped."""
        if self.backend == "cuda":
            max_norms = [settled.values["clip_norm"] for settled in self._settled]
            return backends.clip_on_device(table, hypers, max_norms, self._group_of, self.clip_global_norm)
        if any(settled.clips_arrays for settled in self._settled):
            table.array_clip[:] = 1
            norms = np.sqrt(table.sum_products(hypers, "clipped_grad", "clipped_grad"))
            max_norms = [settled.values["clip_norm"] for settled in self._settled]
            limits = np.array([math.inf if max_norm is None else max_norm for max_norm in max_norms])[self._group_of]
            table.array_clip[:] = np.where(limits < math.inf, clip_factor(norms, limits), 1.0)
            self._array_clip_is_set = True
        elif self._array_clip_is_set:
            table.array_clip[:] = 1
            self._array_clip_is_set = False
        if self.clip_global_norm is None:
            return None
        norm = total_norm(table.sum_products(hypers, "clipped_grad", "clipped_grad"))
        factor = float(clip_factor(norm, self.clip_global_norm))
        hypers[:] = [hyper._replace(global_clip=factor) for hyper in hypers]
        return norm


def is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value


MOST_PLACES = 8

#: What a gradient is checked for, but that it is contiguous.
kind = attrgetter("dtype", "shape")
