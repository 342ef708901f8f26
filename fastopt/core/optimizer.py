"""The base of all optimizers: check everything, count, compute the scalars once, make one call to the backend."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, NoReturn, cast

import numpy as np
import numpy.typing as npt

from ..arithmetic import averages, dither, halves, quantize, rules
from ..arithmetic.rules import Rule
from ..arrays.dtypes import FLOAT32, FLOAT64, Array
from ..arrays.memory import Extents
from ..arrays.structure import Branch, is_container
from ..backends import choosing
from ..backends.table import CLEAR, FINISH, UPDATE, WHOLE_PASS, ArrayExtras, HyperRow, Table
from ..clip import clip_factor, total_norm
from ..options.common import PLAIN_OPTIONS, StepOptions, is_plain
from ..options.group_by import Grouped, matching
from ..options.loss_scale import DynamicLossScale
from ..options.ranges import RANGES, Allowed, Group, Range, check, plain
from ..options.values import differ, is_scheduled, value_at
from . import max_norm, storage
from .entries import Entries, entries_of
from .gradients import Gradients
from .interrupts import uninterrupted
from .results import LoadResult, StepInfo
from .row_sparse import NOT_BY_ROWS, RowSparseTable

if TYPE_CHECKING:
    from ..backends.cuda.table import CudaTable
    from ..backends.native.table import NativeTable

#: It counts as 0 in every sum with a number that matters.
LEAST_POSITIVE = math.ulp(0.0)


class Settled(NamedTuple):
    """A group as it was when its values were last checked, and what follows from them."""

    values: Group
    #: By which True is told from 1.0.
    types: list[type]
    rule: Rule
    scheduled: tuple[str, ...]
    clips_arrays: bool
    holds_norms: bool


#: How an array's calls are counted, and the dtype of 8-bit slots.
COUNT = np.zeros((), np.int64)
CODE = np.dtype(np.uint8)


class Optimizer:
    """The base of all optimizers: parameters, groups, state, and the step.

    A subclass names its options in its ``__init__``, its ``rule`` for a group (whose arguments are its slots), and
    ``hyper``, the rule's scalars for a group and a step count. The keywords below are those that all optimizers take.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64, updated in place. float16 and bfloat16 (of ml_dtypes) too: they get a float32 master in the
        state, are computed in float32 and written to the nearest in the same pass. A group's options can be given in a
        dict with the key ``"params"``.
    options : dict
        The optimizer's own options.
    decoupled : bool
        Whether ``weight_decay`` shrinks the parameters by ``1 - lr * weight_decay`` before the step, instead of
        L2.
    maximize : bool, default False
        Whether to go up the gradient.
    clip_value, clip_norm, clip_global_norm : float, optional
        At least 0: the greatest magnitude of an element, norm of an array, and norm of all gradients; in this order.
    l1 : float, default 0.0
        At least 0: ``g += l1 * sign(p)``, whether or not weight decay is decoupled (0 where p is NaN).
    prox_l1 : float, default 0.0
        At least 0: after the rule ``p = sign(p) * max(abs(p) - lr * prox_l1, 0)``, which makes exact zeros.
    max_norm : float, optional
        At least 0: after the step each unit's incoming weights whose norm is above are multiplied by
        ``max_norm / norm``. Arrays of fewer than two dimensions (biases) are left alone. Not for bfloat16 without
        master. The norms are added in double precision in a fixed order, with the same bits on every machine.
    max_norm_axis : int or tuple of int, default 0
        The axes of a unit's incoming weights: 0 for ``x @ W``, 1 for ``W @ x``, (1, 2, 3) for convolutions
        (out, in, height, width).
    nonfinite : {"propagate", "skip", "raise"}, default "propagate"
        What to do about a gradient that has something infinite or NaN (after ``grad_scale``, before clipping). "skip":
        no parameter, slot or counter changes, ``StepInfo.applied`` is False. "raise": ValueError with the name of the
        first such array; nothing changes. On a GPU "skip" does not wait: ``applied`` and ``step`` of the StepInfo are
        fetched when they are used, at the latest by the next step, which needs the counters (with ``accumulate_steps``
        or a DynamicLossScale by the step itself). "raise" waits until the gradients were read.
    grad_scale : float or DynamicLossScale, default 1.0
        Above 0: what the loss was multiplied by; gradients are multiplied by ``1 / grad_scale``. A
        :class:`fastopt.DynamicLossScale` needs ``nonfinite="skip"``, and is updated by each step.
    zero_grads : bool, default False
        Whether the gradient arrays are cleared in the same pass, as they are used up: also by a step that is skipped,
        not by one that raises. They must be writeable then, and share no memory.
    accumulate_steps : int, default 1
        Gradients are added up over so many calls of :meth:`step` in ``state[name]["accumulated"]``, and the last
        applies their mean; the others return ``applied=False``. None counts as 0, unless an array had no gradient in
        any of the calls: it is skipped then. With ``nonfinite`` each call checks its own gradients, and a bad call does
        not count.
    ema_decay : float, optional
        From 0 to below 1: keep ``ema += (1 - ema_decay) * (p - ema)`` in ``state[name]["ema"]``, from the parameters at
        the first step on. See :attr:`ema` and :meth:`averaged`.
    ema_bias_correction : bool, default False
        Whether the weight is ``(1 - ema_decay) / (1 - ema_decay**t)`` instead: the parameters before the first step
        then do not count.
    polyak : bool, default False
        Whether ``ema`` is the arithmetic mean of the parameters after the steps from number ``polyak_start`` on; before
        it, the parameters. Not with ``ema_decay``.
    polyak_start : int, default 1
        At least 1; counted by array.
    copy_to : array or structure of arrays, optional
        float16 or bfloat16 arrays in the structure of the (float32) parameters, None for no copy: the parameters are
        written there too, at once and in every step's pass, to the nearest.
    state_dtype : {"bfloat16", "uint8"}, optional
        Store slots in fewer bits, as :mod:`fastopt.quantize` says of uint8 (``state[name]["m_scale"]`` holds the
        scales). They are rounded up or down so that their mean is kept. For parameters that are computed in float32.
        Some optimizers leave some slots as they are, and say so.
    stochastic_rounding : bool, default False
        Whether bfloat16 parameters do without a master: they are rounded up or down so that their mean is kept.
    seed : int, default 0
        At least 0; of the random numbers for rounding, which depend on it, the array, its step and the element alone
        (where the gradient is row-sparse, on its place among the rows named).
    backend : str, optional
        "native" or "numpy"; of arrays on a GPU "cuda", which they choose by themselves.

    Attributes
    ----------
    param_groups : list of dict
        The groups with their options; writing an option takes effect in the next step.
    state : dict
        For the name of each array: its slots, and ``"step"``, how many steps were applied to it (0-d int64). The
        slots are made by the first step; write into them, ``opt.state["W"]["m"][...] = values``: replacing one is an
        error.
    step_count : int
        How many steps were applied.
    backend : str
        Where steps run: ``"native"`` or ``"numpy"``; ``"cuda"`` for arrays on a GPU.
    clip_global_norm : float or None
        The greatest norm of all gradients together.
    pass_options : StepOptions
        The options from ``nonfinite`` on that belong to the optimizer as a whole.
    accumulated_calls : int
        Calls since the last applied step.
    seed : int
        Of the random numbers for rounding.
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
    Ctrl-C during a step is handled when the step is whole and counted. What the handlers of other signals raise can
    come between the arrays, or between a change and its count, in steps of more than one native call: those of the
    NumPy fallback, of optimizers that need numbers of whole arrays, with ``max_norm`` or a row-sparse gradient.

    ``params`` may also be what :func:`fastopt.group_by` returns. ``lr``, ``weight_decay``, ``momentum`` and each of
    ``betas`` may be a schedule: a function of the step, from 0, such as those of :mod:`fastopt.schedules`.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta, grad = np.ones(2, np.float32), np.float32([1, -1])
    >>> opt = fastopt.SGD(theta, lr=0.5, ema_decay=0.5, zero_grads=True, clip_global_norm=10.0)
    >>> opt.step(grad)
    StepInfo(applied=True, grad_norm=1.4142135623730951, lr=0.5, step=1)
    >>> theta, grad, opt.ema
    (array([0.5, 1.5], dtype=float32), array([0., 0.], dtype=float32), array([0.75, 1.25], dtype=float32))

    A rule of :mod:`fastopt.rules` becomes an optimizer by its options and scalars. (Of your own rules, which the NumPy
    backend runs, all numbers must be among the scalars: ``h.beta * m``, not ``0.9 * m`` or ``g**2``.)

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

    #: The slots that are never negative: what 8 bits store by the root map.
    non_negative: ClassVar[frozenset[str]] = frozenset({"v", "v_max", "sum", "u", "s"})

    #: The slots that ``state_dtype`` leaves in the dtype that is computed in: they must be right to the last bit.
    exact: ClassVar[frozenset[str]] = frozenset()

    #: The options around the rule that this optimizer does not take, and why.
    refused: ClassVar[Mapping[str, str]] = {}

    #: Whether the CUDA backend does all that a step does.
    runs_on_gpu: ClassVar[bool] = True

    #: The options that differ for arrays with a :class:`fastopt.RowSparse` gradient; None: such gradients are refused.
    row_sparse_options: ClassVar[Mapping[str, Any] | None] = None

    #: Whether a step leaves arrays alike that were alike in all that their row depends on.
    rows_stay: ClassVar[bool] = True

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
        l1: float = 0.0,
        prox_l1: float = 0.0,
        max_norm: float | None = None,
        max_norm_axis: int | tuple[int, ...] = 0,
        nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
        grad_scale: float | DynamicLossScale = 1.0,
        zero_grads: bool = False,
        accumulate_steps: int = 1,
        ema_decay: float | None = None,
        ema_bias_correction: bool = False,
        polyak: bool = False,
        polyak_start: int = 1,
        copy_to: Any = None,
        state_dtype: Literal["bfloat16", "uint8"] | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str | None = None,
    ) -> None:
        self.defaults: Group = {
            **options,
            "decoupled": decoupled,
            "maximize": maximize,
            "clip_value": clip_value,
            "clip_norm": clip_norm,
            "l1": l1,
            "prox_l1": prox_l1,
            "max_norm": max_norm,
            "max_norm_axis": max_norm_axis,
        }
        self.pass_options = StepOptions(
            nonfinite,
            zero_grads,
            accumulate_steps,
            ema_decay,
            ema_bias_correction,
            polyak,
            polyak_start,
            state_dtype,
            stochastic_rounding,
        )
        for name, value in (self.defaults | self.pass_options._asdict()).items():
            self._check_option(name, value)
        if polyak and ema_decay is not None:
            raise ValueError("polyak=True, ema_decay: expected one of the two averages, got both")
        if (ema_bias_correction and ema_decay is None) or (polyak_start != 1 and not polyak):
            raise ValueError(
                "ema_bias_correction needs ema_decay, and polyak_start needs polyak=True: expected those too"
            )
        self._check_option("clip_global_norm", clip_global_norm)
        self.clip_global_norm = clip_global_norm
        self._check_option("seed", seed)
        self.seed = seed
        self.grad_scale = grad_scale
        self._scale = 1.0
        self._asked_backend = backend
        self.backend = choosing.choice(backend)
        self.param_groups: list[Group] = []
        self._state: Entries[Entries[Array]] = Entries("state", "opt.state[name][slot][...]")
        #: Whether the last step was applied, which a GPU has yet to tell, and the counts before it.
        self._unsettled: tuple[Any, list[npt.NDArray[Any]]] | None = None
        #: Of the step that runs: whether it is to be skipped, or what a GPU will tell of it.
        self._found_nonfinite = False
        self._verdict: Any = None

        self._names: list[str] = []
        self._params: list[Array] = []
        self._dtypes: list[np.dtype[Any]] = []
        self._copies: list[Array | None] = []
        self._group_of: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        #: In the first row how many steps were applied, and to each array; in the second how many calls have
        #: accumulated since, and for each array.
        self._counts: npt.NDArray[np.int64] = np.zeros((2, 1), np.int64)
        self._steps = self._counts[0, 1:]
        self._settled: list[Settled] = []
        self._rows: list[tuple[int, int]] = []
        self._table: Table | None = None
        #: Slots of the table that are not in the state yet: a step that raises must not put them there.
        self._new_slots: list[tuple[str, str, Array]] = []
        self._is_averaged = False
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
        if copy_to is not None:
            self._take_copies(copy_to)

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
        dtype = self._arrays.compute_dtype(param.dtype)
        slot_array: Array = self._arrays.slot_like(param, self.initial_slot(group, slot), dtype)
        return slot_array

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse what copy and pickle would do: the copy would update arrays that nobody else has."""
        raise TypeError(
            f"{type(self).__name__}: an optimizer can't be copied or pickled, since it changes your own arrays; copy "
            "these, build an optimizer for them and other.load_state_dict(opt.state_dict()), or use fastopt.save "
            "and fastopt.load"
        )

    @property
    def state(self) -> Entries[Entries[Array]]:
        """For the name of each array: its slots, and ``"step"``, how many steps were applied to it."""
        self._settle_count()
        return self._state

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

        Notes
        -----
        The numbers of the state, such as ``opt.state["W"]["step"]``, are other arrays afterwards: look them up again.
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
        from . import state_dict as state

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
        from . import state_dict as state

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
        self._settle_count()
        for options in groups:
            unknown = [name for name in options if name not in self.defaults]
            if unknown:
                raise ValueError(f"param group: no option is called {unknown}; the options are {list(self.defaults)}")
        names, arrays = list(addition.names()), list(addition.arrays())
        if not self._params:
            self.backend = choosing.choice_for(self._asked_backend, names, arrays)
            self._arrays = choosing.arrays_of(self.backend)
            if self.backend == "cuda" and not self.runs_on_gpu:
                raise ValueError(
                    f"{type(self).__name__}: expected NumPy arrays, got arrays on a GPU, where it can't run yet"
                )
        self._refuse(self.pass_options._asdict())
        given = tuple(arrays)
        arrays = [self._checked_param(name, array) for name, array in zip(names, arrays, strict=True)]
        if not arrays:
            raise ValueError("params: there is no array in this structure; give at least one")
        counts = Counter([*self._names, *names])
        taken = [name for name, count in counts.items() if count > 1]
        if taken:
            raise ValueError(f"params: the names {taken} are there more than once; rename them")
        held = [copy for copy in self._copies if copy is not None]
        extents = self._arrays.extents(self._names + names + ["copy_to"] * len(held), self._params + arrays + held)
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
        self._extents: Extents = extents
        self._root.merge(addition)
        for options, one in zip(groups, settled, strict=True):
            self.param_groups.append({"params": one.values["params"], **self.defaults, **options})
            self._settled.append(one)
        self._note_settled()
        self._names += names
        self._params += arrays
        self._dtypes += [array.dtype for array in arrays]
        self._copies += [None] * len(arrays)
        self._group_of = np.concatenate([self._group_of, np.array([first + group_of[name] for name in names], int)])
        self._counts = np.concatenate([self._counts, np.zeros((2, len(arrays)), np.int64)], axis=1)
        self._steps = self._counts[0, 1:]
        for i, name in enumerate(self._names):
            entries = self.state.setdefault(name, entries_of(name))
            entries.keep("step", self._count_of(i, 0))
            if "accumulated_calls" in entries:
                entries.keep("accumulated_calls", self._count_of(i, 1))
        self._table = None

    def _count_of(self, i: int, row: int) -> Array:
        """Return the count of array number ``i`` in a row of the counts, as part of these."""
        return self._counts[row, 1 + i : 2 + i].reshape(())

    @property
    def step_count(self) -> int:
        """How many steps were applied."""
        self._settle_count()
        return self._counts.item(0)

    @step_count.setter
    def step_count(self, count: int) -> None:
        self._settle_count()
        self._counts[0, 0] = count

    @property
    def accumulated_calls(self) -> int:
        """Calls since the last applied step."""
        return self._counts.item(1, 0)

    @accumulated_calls.setter
    def accumulated_calls(self, count: int) -> None:
        self._counts[1, 0] = count

    @property
    def grad_scale(self) -> float | DynamicLossScale:
        """What the loss was multiplied by: a number above 0, or what decides it by the steps."""
        return self._grad_scale

    @grad_scale.setter
    def grad_scale(self, grad_scale: float | DynamicLossScale) -> None:
        if not isinstance(grad_scale, DynamicLossScale):
            check_scale(grad_scale)
        elif self.pass_options.nonfinite != "skip":
            raise ValueError(
                f'grad_scale=DynamicLossScale: expected nonfinite="skip", got {self.pass_options.nonfinite!r}; '
                "the scale is found by steps that are skipped"
            )
        self._grad_scale = grad_scale
        self._dynamic_scale = grad_scale if isinstance(grad_scale, DynamicLossScale) else None

    @property
    def ema(self) -> Any:
        """The averaged parameters in the parameters' structure (lists for tuples); the next step changes them in place.

        Raises
        ------
        ValueError
            If the optimizer has neither ``ema_decay`` nor ``polyak=True``.
        """
        averages = self._averages("ema")
        return averages[0] if self._is_single else self._root.rebuilt(iter(averages))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged parameters into the parameter arrays (and their copies), and back.

        On leaving, also by an exception, the arrays have the bits that they had.

        Raises
        ------
        ValueError
            If there is no average, or in a step or another ``averaged()`` inside.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> theta = np.array([4.0])
        >>> opt = fastopt.SGD(theta, lr=1.0, polyak=True)
        >>> for _ in range(2):
        ...     info = opt.step(np.array([1.0]))
        >>> with opt.averaged():
        ...     print(theta)
        [2.5]
        >>> theta
        array([2.])
        """
        averages = self._averages("averaged()")
        if self._is_averaged:
            raise ValueError("averaged(): the parameters are the averaged ones already")
        targets = [
            (array, average)
            for param, copy, average in zip(self._params, self._copies, averages, strict=True)
            for array in (param, copy)
            if array is not None
        ]
        kept = [self._arrays.on_host(array) for array, _ in targets]
        self._is_averaged = True
        try:
            for array, average in targets:
                self._arrays.write_rounded(array, average)
            yield
        finally:
            for (array, _), values in zip(targets, kept, strict=True):
                self._arrays.write(array, values)
            self._is_averaged = False

    def slot(self, name: str, slot: str) -> Array:
        """Return a slot's values in the dtype that is computed in, however it is stored; a copy where it is converted.

        Of arrays on a GPU it is there too; what is converted goes by way of the host.

        Parameters
        ----------
        name : str
            Of the array.
        slot : str
            Such as ``"m"``.

        Raises
        ------
        KeyError
            If there is no such slot (before the first step there is none).

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.ones(5000, np.float32), momentum=0.9, state_dtype="uint8")
        >>> info = opt.step(np.full(5000, 2.0))
        >>> opt.state["0"]["b"].dtype, opt.slot("0", "b")[:2].round(3)
        (dtype('uint8'), array([2., 2.], dtype=float32))
        """
        state = self.state[name]
        stored: Array = state[slot]
        if stored.dtype == self._arrays.compute_dtype(stored.dtype):
            return stored
        its = [entry for entry in (slot, storage.scale_name(slot)) if entry in state]
        on_host = {entry: self._arrays.on_host(state[entry], copy=False) for entry in its}
        values: Array = self._arrays.to_device_of(stored, storage.read_slot(on_host, slot, self.non_negative))
        return values

    def step(self, grads: Any, *, grad_scale: float | None = None, stream: Any = None) -> StepInfo:
        """Apply one step: change the parameters in place.

        Parameters
        ----------
        grads : array or structure of arrays
            The structure of the parameters, with arrays of any float dtype. None, or a missing key of a dict, skips an
            array: no update, its slots and its own step count untouched. Until the next call the optimizer keeps a
            reference to these arrays.
        grad_scale : float, optional
            Instead of the optimizer's, for this step.
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
        if self._is_averaged:
            raise ValueError("step: the parameters are the averaged ones; leave averaged() first")
        options = self.pass_options
        self._settle_count()
        self._scale = self._scale_of(grad_scale)
        table = self._ready_table()
        if stream is not None or self.backend == "cuda":
            choosing.set_stream(self.backend, table, stream)
        is_last = options.accumulate_steps == 1 or self.accumulated_calls + 1 >= options.accumulate_steps
        self._take_grads(table, grads, is_last)
        if self.backend != "cuda":
            self._refuse_changed_params()
        groups = [self._values(k) for k in range(len(self._settled))]
        touched: Mapping[int, Array] = {}
        if self._gradients.sparse:
            table = touching = self._with_touched_rows(table, groups)
            touched = touching.params
        units = self._units(touched) if self._holds_norms else []
        hyper_rows = self._hyper_rows(groups)
        grad_norm = self._read_grads(table, hyper_rows, is_last)
        before = [] if self._verdict is None else [array.copy() for array in self._progress()]
        if self._found_nonfinite:
            if options.zero_grads:
                for grad in self._gradients.clearable:
                    self._arrays.clear(grad)
        else:
            if self._new_slots:
                self._keep_new_slots()
            if is_last:
                self._apply(table, groups, hyper_rows, units)
            else:
                self._accumulate(table, hyper_rows)
        if options.zero_grads:
            for grad in self._gradients.converted:
                self._arrays.clear(grad)
        if self._verdict is not None:
            self._unsettled = self._verdict, before
            if self._dynamic_scale is None and options.accumulate_steps == 1:
                step_count = int(before[0][0, 0])
                step = self._verdict.then(lambda applied: step_count + applied)
                return StepInfo(self._verdict, grad_norm, groups[0]["lr"], step)
            self._settle_count()
            self._found_nonfinite = not self._verdict
        applied = is_last and not self._found_nonfinite
        if self._dynamic_scale is not None and (applied or self._found_nonfinite):
            self._dynamic_scale.update(applied)
        return StepInfo(applied, grad_norm, groups[0]["lr"], self.step_count)

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

    def _refuse(self, options: Mapping[str, Any]) -> None:
        """Raise if one of these options asks for what is not done here.

        Raises
        ------
        ValueError
            Says which.
        """
        for name, value in options.items():
            if is_plain(name, value):
                continue
            if name in self.refused:
                raise ValueError(
                    f"{name}={value!r:.80}: {type(self).__name__} does not take it: {self.refused[name]}; leave it out"
                )

    def _check_option(self, name: str, value: Any, where: str = "") -> None:
        if name == "max_norm_axis":
            for each in value if isinstance(value, (tuple, list)) else (value,):
                check(f"{where}{name}", each, Range(-math.inf, whole=True))
        else:
            check(f"{where}{name}", value, self.ranges.get(name, RANGES.get(name)))

    def _settle(self, options: Group, k: int) -> Settled:
        """Check the values of group number ``k``, and derive what follows from them."""
        for name, value in options.items():
            if name != "params":
                self._check_option(name, value, f"param_groups[{k}]: " if k else "")
        values = {name: value if name == "params" else plain(value) for name, value in options.items()}
        self._refuse({name: values[name] for name in PLAIN_OPTIONS if name in values})
        scheduled = tuple(name for name, value in values.items() if name != "params" and is_scheduled(value))
        return Settled(
            values,
            list(map(type, options.values())),
            self.rule(values),
            scheduled,
            values["clip_norm"] is not None,
            values["max_norm"] is not None,
        )

    def _note_settled(self) -> None:
        """Keep what a step asks of all groups together."""
        self._clips_arrays = any(settled.clips_arrays for settled in self._settled)
        self._holds_norms = any(settled.holds_norms for settled in self._settled)

    def _ready_table(self) -> Table:
        """Return the table of arrays, made anew where a group's rule or the arrays have changed."""
        replaced = self._root.replaced()
        if replaced is not None:
            raise ValueError(
                f"params: {replaced!r} is no longer the object that the optimizer was given; change arrays in place "
                "(params[...][...] = value), or build a new optimizer"
            )
        if self.clip_global_norm is not None:
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
            if differ(group, settled.values) or list(map(type, group.values())) != settled.types:
                if group.keys() != settled.values.keys():
                    raise ValueError(
                        f"param_groups[{k}]: expected the options {list(settled.values)}, not {list(group)}"
                    )
                self._settled[k] = self._settle(group, k)
                self._note_settled()
                if self._settled[k].rule is not settled.rule:
                    self._table = None
        if self._table is None or self._new_slots:
            self._table = self._new_table()
            self._gradients.extents = self._written()
        return self._table

    def _written(self) -> Extents:
        """Return the runs of memory that a step writes, which no gradient may overlap."""
        if self.backend == "cuda":
            return self._extents
        entries = [(name, slot, array) for name, its in self.state.items() for slot, array in its.items()]
        state = {f"state[{name!r}][{slot!r}]": array for name, slot, array in [*entries, *self._new_slots]}
        return self._extents.with_arrays(state)

    def _new_table(self) -> Table:
        self._new_slots = []
        self._slots: list[list[Array]] = []
        self._extras: list[ArrayExtras] = []
        self._computed: list[Array] = []
        options = self.pass_options
        members = zip(self._names, self._params, self._copies, self._group_of, strict=True)
        for i, (name, param, copy, k) in enumerate(members):
            computed = param
            has_master = not (options.stochastic_rounding and self._arrays.is_bfloat16(param.dtype))
            if self._arrays.is_half(param.dtype) and has_master:
                computed = self._kept(name, "master", param, FLOAT32, partial(self._arrays.to_compute_dtype, param))
                copy = param
            elif self._arrays.compute_dtype(param.dtype) == FLOAT64 and options.state_dtype is not None:
                raise ValueError(
                    f"state_dtype={options.state_dtype!r}: {name!r} is float64; expected parameters that are computed "
                    "in float32, or leave state_dtype out"
                )
            dtype = self._arrays.compute_dtype(param.dtype)
            average = accumulated = None
            if options.averages:
                average = self._arrays.in_memory_order(
                    self._kept(name, "ema", computed, dtype, partial(self._arrays.to_compute_dtype, computed))
                )
            if options.accumulate_steps > 1:
                make = partial(self._arrays.slot_like, computed, 0.0, dtype)
                accumulated = self._arrays.in_memory_order(self._kept(name, "accumulated", computed, dtype, make))
                self._kept(name, "accumulated_calls", COUNT, COUNT.dtype, partial(self._count_of, i, 1))
            settled = self._settled[k]
            slot_names = self.slot_names(settled.rule, computed)
            held = [self._slot(name, computed, settled.values, slot) for slot in slot_names]
            self._slots.append([array for array, _ in held])
            target = None if copy is None else self._arrays.in_memory_order(copy)
            self._extras.append(ArrayExtras(average, accumulated, target, [scaled for _, scaled in held]))
            self._computed.append(computed)
        self._row_workspace: dict[tuple[int, int], Array] = {}
        self._is_dithered = options.state_dtype is not None or options.stochastic_rounding
        self._gradients = Gradients(
            self._arrays, self._names, self._params, self._extents, self._refuse_beside_rows, options.zero_grads
        )
        self._last_history = b""
        self._are_writeable = choosing.writeable_check(self.backend, self._params, self._dtypes)
        self._array_clip_is_set = False
        params = [self._arrays.in_memory_order(computed) for computed in self._computed]
        slots = [[self._arrays.in_memory_order(slot) for slot in its] for its in self._slots]
        table = choosing.table_class(self.backend)(params, slots, self._extras)
        self._is_one_call = self.backend == "native" and type(self)._run is Optimizer._run
        if self.backend == "native":
            native = cast("NativeTable", table)
            native.check_rules([settled.rule for settled in self._settled])
            native.use_counts(self._counts)
        return table

    def _slot(
        self, name: str, computed: Array, group: Group, slot: str
    ) -> tuple[Array, tuple[quantize.Map, Array] | None]:
        """Return a slot of the state, checked, or a new one where there is none yet; with its map and scales if any."""
        value = self.initial_slot(group, slot)
        state_dtype = None if slot in self.exact else self.pass_options.state_dtype
        stored_in = storage.slot_storage(state_dtype, computed.size)
        if stored_in is None:
            dtype = self._arrays.compute_dtype(computed.dtype)
            return self._kept(name, slot, computed, dtype, partial(self.new_slot, group, slot, computed)), None
        if stored_in == "bfloat16":
            dtype = halves.bfloat16()
            make = partial(self._arrays.slot_like, computed, value, dtype)
            return self._kept(name, slot, computed, dtype, make), None
        map = storage.map_of(slot in self.non_negative)
        code, scale = storage.constant(value, map)
        codes = self._kept(name, slot, computed, CODE, partial(self._arrays.slot_like, computed, code, CODE))
        new = self._arrays.scales(-(-computed.size // quantize.BLOCK), scale, computed)
        scales = self._kept(name, storage.scale_name(slot), new, FLOAT32, lambda: new)
        return codes, (map, self._arrays.in_memory_order(scales))

    def _kept(self, name: str, slot: str, like: Array, dtype: np.dtype[Any], make: Callable[[], Array]) -> Array:
        """Return an array of the state, checked, or one that ``make`` made where there is none yet."""
        if slot in self.state[name]:
            self._arrays.check_slot(f"state[{name!r}][{slot!r}]", self.state[name][slot], like, dtype)
            return self.state[name][slot]
        values = make()
        self._new_slots.append((name, slot, values))
        return values

    def _keep_new_slots(self) -> None:
        for name, slot, values in self._new_slots:
            self.state[name].keep(slot, values)
        self._new_slots = []

    def _take_grads(self, table: Table, grads: Any, is_last: bool) -> None:
        """Check the gradients, hand them to the table, and number the rows of those that have one."""
        leaves = [grads] if self._is_single else self._root.leaves(self._ungrouped(grads), "grads")
        if is_last and self.pass_options.accumulate_steps > 1:
            leaves = self._filled(leaves)
        if self._frozen:
            leaves = [None if name in self._frozen else leaf for name, leaf in zip(self._names, leaves, strict=True)]
        # First: an interrupt from here on has the rows numbered anew.
        last, self._last_history = self._last_history, b""
        has_changed = self._gradients.take(table, leaves)
        history = self._history()
        if has_changed or history != last:
            self._number_rows(table)
        self._last_history = history

    def _refuse_changed_params(self) -> None:
        """Raise if a parameter was given another dtype, or one that is to be changed was made read-only."""
        if self._are_writeable():
            return
        present = self._gradients.present
        for name, param, dtype, is_present in zip(self._names, self._params, self._dtypes, present, strict=True):
            if param.dtype != dtype:
                raise ValueError(
                    f"params: {name!r} was an array of {dtype} when the optimizer was built, and is one of "
                    f"{param.dtype} now; set its dtype back, or build a new optimizer"
                )
            if is_present and not param.flags.writeable:
                raise ValueError(
                    f"params: {name!r} was made read-only after the optimizer was built, and is to be updated in "
                    "place; make it writeable, or keep it as it is: opt.freeze"
                )

    def _ungrouped(self, grads: Any) -> Any:
        """Take the gradients out of a list of dicts with the key 'params', where the parameters were given so."""
        if self._is_grouped and isinstance(grads, (list, tuple)):
            return [grad["params"] if is_group(grad) and len(grad) == 1 else grad for grad in grads]
        return grads

    def _refuse_beside_rows(self, i: int) -> None:
        """Raise if this optimizer, or an option, can't do with a row-sparse gradient of array number ``i``."""
        if self.row_sparse_options is None:
            raise TypeError(
                f"grads: {self._names[i]!r} is row-sparse, which {type(self).__name__} does not take (SGD, Adagrad, "
                "Adam, AdamW and SparseAdam do); give a dense gradient"
            )
        if self.backend == "cuda":
            raise TypeError(
                f"grads: {self._names[i]!r} is row-sparse, which is not done on a GPU yet; give a dense one"
            )
        name, param, options = self._names[i], self._params[i], self.pass_options
        group = self._settled[self._group_of[i]].values
        holds_norms = group["max_norm"] is not None and param.ndim > 1
        asked = {
            "ema_decay": options.ema_decay is not None,
            "polyak": options.polyak,
            "accumulate_steps": options.accumulate_steps > 1,
            "state_dtype": any(scaled is not None for scaled in self._extras[i].scales),
            "max_norm": holds_norms and 0 in max_norm.axes_of(name, param.ndim, group["max_norm_axis"]),
        }
        for option, is_asked in asked.items():
            if is_asked:
                raise ValueError(
                    f"grads: {name!r} is row-sparse, which is not done with {option}: {NOT_BY_ROWS[option]}; or give a "
                    "dense gradient"
                )

    def _with_touched_rows(self, table: Table, groups: Sequence[Group]) -> RowSparseTable:
        """Return the table with copies of the rows that this step's row-sparse gradients touch."""
        sparse = self._gradients.sparse
        scalars = [
            self.hyper({**groups[self._group_of[i]], **(self.row_sparse_options or {})}, int(self._steps[i]) + 1)
            for i in sparse
        ]
        params, slots = [self._computed[i] for i in sparse], [self._slots[i] for i in sparse]
        targets = [self._extras[i].copy for i in sparse]
        return RowSparseTable(table, sparse, params, slots, targets, scalars, self._row_workspace)

    def _filled(self, leaves: list[Any]) -> list[Any]:
        """Give zeros to the arrays that have no gradient in the last of the accumulated calls, but had one before."""
        return [
            self._arrays.slot_like(param, 0.0, self._arrays.compute_dtype(param.dtype))
            if leaf is None and self.state[name].get("accumulated_calls", 0) > 0
            else leaf
            for name, param, leaf in zip(self._names, self._params, leaves, strict=True)
        ]

    def _number_rows(self, table: Table) -> None:
        """Give the arrays that agree in group, step count and what else decides it a common row of hyperparameters."""
        present = self._gradients.present
        row_of = self._group_of[present]
        for values in (self._steps, *self._apart()):
            found, place = np.unique(values[present], return_inverse=True)
            _, first, row_of = np.unique(row_of * found.size + place, return_index=True, return_inverse=True)
        table.row_numbers[present] = row_of
        #: The first array of each row.
        self._first_of_rows: list[int] = np.flatnonzero(present)[first].tolist()
        self._rows = [(int(self._group_of[i]), int(self._steps[i])) for i in self._first_of_rows]

    def _apart(self) -> Sequence[npt.NDArray[Any]]:
        """Return what tells the rows of arrays apart besides group and step count, by array."""
        return []

    def _settle_count(self) -> None:
        """Take the last step out of the counters if a GPU skipped it; waits until that is known."""
        if self._unsettled is None:
            return
        verdict, before = self._unsettled
        self._unsettled = None
        if not verdict:
            for array, values in zip(self._progress(), before, strict=True):
                array[...] = values
            self._last_history = b""

    def _progress(self) -> list[npt.NDArray[Any]]:
        """Return the arrays of NumPy in which a step counts."""
        return [self._counts]

    def _history(self) -> bytes:
        """Return what the rows of arrays depend on besides their groups."""
        return b"".join(values.tobytes() for values in (self._steps, *self._apart()))

    def _accumulate(self, table: Table, hyper_rows: list[HyperRow]) -> None:
        """Add the gradients to those of earlier calls, and count the call."""
        hyper_rows = [hyper._replace(mean=0.0) for hyper in hyper_rows]
        if self.backend == "native":
            cast("NativeTable", table).accumulate(hyper_rows, is_counted=True)
        else:
            uninterrupted(partial(table.accumulate, hyper_rows), partial(self._count, 1))

    def _apply(
        self,
        table: Table,
        groups: Sequence[Group],
        hyper_rows: list[HyperRow],
        units: list[max_norm.Held],
    ) -> None:
        """Change the parameters and slots, and count the step."""
        if self.accumulated_calls:
            for i in np.flatnonzero((self._counts[1, 1:] > 0) & ~self._gradients.present):  # frozen on the way
                if self._verdict is None or self._verdict:
                    self._arrays.clear(self.state[self._names[i]]["accumulated"])
        if self._is_one_call and not units and not self._gradients.sparse:
            cast("NativeTable", table).step(hyper_rows, is_counted=True)
        elif units:
            uninterrupted(partial(self._step_with_units, table, groups, hyper_rows, units), partial(self._count, 0))
        else:
            uninterrupted(partial(self._run, table, groups, hyper_rows), partial(self._count, 0))
        # In this order: an interrupt in between has the rows numbered anew, instead of left one step behind.
        self._rows = [(group, step + 1) for group, step in self._rows]
        if self.rows_stay:
            self._last_history = self._history()

    def _count(self, row: int) -> None:
        """Count a call in this row of the counts, as csrc/fastopt.h says: at once, without a place for an interrupt."""
        if row == 0 and self._gradients.are_all_present and not self.accumulated_calls:
            self._counts[0] += 1
            return
        counts = self._counts.copy()
        counts[row, 0] += 1
        counts[row, 1:] += self._gradients.present
        if row == 0:
            counts[1] = 0
        self._counts[...] = counts

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

    def _hyper(self, group: Group, rule: Rule, step: int) -> HyperRow:
        lr, weight_decay, clip_value = group["lr"], group["weight_decay"], group["clip_value"]
        decoupled, options = group["decoupled"], self.pass_options
        sign, mean = -1.0 if group["maximize"] else 1.0, 0.0
        if options.accumulate_steps > 1:
            sign, mean = 1.0, sign / options.accumulate_steps
        weight = 1.0
        if options.polyak:
            weight = averages.polyak_weight(options.polyak_start, step)
        elif options.ema_decay is not None:
            weight = averages.ema_weight(options.ema_decay, options.ema_bias_correction, step)
        return HyperRow(
            rule,
            sign / self._scale,
            math.inf if clip_value is None else clip_value,
            1.0,
            0.0 if decoupled else weight_decay,
            1.0 - lr * weight_decay if decoupled else 1.0,
            self.hyper(group, step),
            mean,
            group["l1"],
            max(lr * group["prox_l1"], 0.0),  # SWATS may find a negative lr, by which nothing shrinks
            weight,
            dither.step_key(self.seed, step) if self._is_dithered else 0,
            WHOLE_PASS,
            options.zero_grads,
        )

    def _hyper_rows(self, groups: Sequence[Group]) -> list[HyperRow]:
        """Return the rows of hyperparameters of this step, from the groups' values in it."""
        return [self._hyper(groups[group], self._settled[group].rule, step + 1) for group, step in self._rows]

    def _run(self, table: Table, groups: Sequence[Group], hyper_rows: list[HyperRow]) -> None:
        """Change the parameters and slots."""
        table.step(hyper_rows)

    def _scale_of(self, grad_scale: float | None) -> float:
        """Return what the loss was multiplied by in this step."""
        if grad_scale is None:
            return self._grad_scale if self._dynamic_scale is None else self._dynamic_scale.scale  # type: ignore[return-value]
        if self._dynamic_scale is not None:
            raise ValueError(
                "step: grad_scale was given, but the optimizer has a DynamicLossScale; give one of the two"
            )
        check_scale(grad_scale)
        return grad_scale

    def _read_grads(self, table: Table, hyper_rows: list[HyperRow], is_last: bool) -> float | None:
        """Look for what is not finite, and set the clip factors of the arrays and of all together, if asked for.

        Return the global norm if it is clipped. ``_found_nonfinite`` tells whether the step is to be skipped.
        """
        self._found_nonfinite = False
        self._verdict = None
        if self.backend == "cuda":
            return self._read_on_device(table, hyper_rows, is_last)
        if self._array_clip_is_set:
            table.array_clip[:] = 1
            self._array_clip_is_set = False
        is_counted = self.pass_options.nonfinite == "propagate"
        if is_last and self._clips_arrays:
            norms = np.sqrt(self._squares(table, hyper_rows, is_counted))
            is_counted = True
            max_norms = [settled.values["clip_norm"] for settled in self._settled]
            limits = np.array([math.inf if max_norm is None else max_norm for max_norm in max_norms])[self._group_of]
            with np.errstate(all="ignore"):
                factors = np.where(limits < math.inf, clip_factor(norms, limits), 1.0)
            self._array_clip_is_set = True  # first: an interrupt in between has them cleared in the next step
            table.array_clip[:] = factors
        if is_last and self.clip_global_norm is not None:
            norm = total_norm(self._squares(table, hyper_rows, is_counted))
            factor = float(clip_factor(norm, float(self.clip_global_norm)))
            hyper_rows[:] = [hyper._replace(global_clip=factor) for hyper in hyper_rows]
            return norm
        if not is_counted:
            self._squares(table, hyper_rows, is_counted)
        return None

    def _read_on_device(self, table: Any, hyper_rows: list[HyperRow], is_last: bool) -> float | None:
        """Do the same without waiting, but to raise: ``_verdict`` is what will tell whether the step was done."""
        max_norms = [settled.values["clip_norm"] if is_last else None for settled in self._settled]
        global_limit = self.clip_global_norm if is_last else None
        nonfinite = self.pass_options.nonfinite
        norm = choosing.read_on_device(
            table, hyper_rows, max_norms, self._group_of, global_limit, nonfinite != "propagate"
        )
        if nonfinite == "raise":
            self._act_on_nonfinite(table.nonfinite_counts().astype(np.int64))
        elif nonfinite == "skip":
            self._verdict = table.verdict()
        return norm

    def _squares(self, table: Table, hyper_rows: list[HyperRow], is_counted: bool) -> npt.NDArray[np.float64]:
        """Return the gradients' sums of squares; count what is not finite on the way unless that was done."""
        sums = table.sum_products(hyper_rows, "clipped_grad", "clipped_grad", not is_counted)
        if not is_counted:
            self._act_on_nonfinite(table.nonfinite)
        return sums

    def _act_on_nonfinite(self, counts: npt.NDArray[np.int64]) -> None:
        bad = np.flatnonzero(counts)
        self._found_nonfinite = bad.size > 0
        if self._found_nonfinite and self.pass_options.nonfinite == "raise":
            raise ValueError(
                f"grads: {self._names[bad[0]]!r} has {counts[bad[0]]} elements that are infinite or NaN, and "
                'nonfinite="raise"; nothing was changed'
            )

    def _units(self, touched: Mapping[int, Array]) -> list[max_norm.Held]:
        """Return the arrays, or their touched rows, whose units' norms are held in this step."""
        groups = [settled.values for settled in self._settled]
        units = []
        for i in np.flatnonzero(self._gradients.present):
            group, computed = groups[self._group_of[i]], touched.get(int(i), self._computed[i])
            if group["max_norm"] is None or computed.ndim < 2:
                continue
            if self._arrays.is_half(computed.dtype):
                raise ValueError(
                    f"max_norm: {self._names[i]!r} is bfloat16 without a master; expected stochastic_rounding=False"
                )
            axes = max_norm.axes_of(self._names[i], computed.ndim, group["max_norm_axis"])
            units.append(max_norm.Held(int(i), computed, group["max_norm"], axes))
        return units

    def _step_with_units(
        self,
        table: Table,
        groups: Sequence[Group],
        hyper_rows: list[HyperRow],
        units: list[max_norm.Held],
    ) -> None:
        """Step, hold the units' norms, then average and copy what came of it."""
        is_held = [self._settled[group].values["max_norm"] is not None for group, _ in self._rows]
        stages = [(UPDATE | CLEAR, FINISH) if held else (WHOLE_PASS, 0) for held in is_held]
        first_rows = [hyper._replace(stages=first) for hyper, (first, _) in zip(hyper_rows, stages, strict=True)]
        self._run(table, groups, first_rows)
        if self.backend == "cuda":
            cast("CudaTable", table).hold_norms(first_rows, units)
        else:
            add = choosing.adder(self.backend)
            for each in units:
                max_norm.hold(each.weights, each.limit, each.axes, add)
        table.step([hyper._replace(stages=then) for hyper, (_, then) in zip(hyper_rows, stages, strict=True)])

    def _take_copies(self, copy_to: Any) -> None:
        """Check where copies of the parameters are to be written, and write them for the first time."""
        self._refuse({"copy_to": copy_to})
        leaves = [copy_to] if self._is_single else self._root.leaves(self._ungrouped(copy_to), "copy_to")
        leaves = [
            None if copy is None else self._arrays.checked_copy(name, copy, param)
            for name, copy, param in zip(self._names, leaves, self._params, strict=True)
        ]
        held = [(f"copy_to: {name}", copy) for name, copy in zip(self._names, leaves, strict=True) if copy is not None]
        names, copies = [name for name, _ in held], [copy for _, copy in held]
        self._extents = self._arrays.extents(self._names + names, self._params + copies)
        self._copies = leaves
        for copy, param in zip(leaves, self._params, strict=True):
            if copy is not None:
                self._arrays.write_rounded(copy, param)

    def _follow_params(self, names: Sequence[str]) -> None:
        """Bring the copies to what was written into the parameters, and the masters of these arrays."""
        for name, param, copy in zip(self._names, self._params, self._copies, strict=True):
            if copy is not None:
                self._arrays.write_rounded(copy, param)
            if name in names and "master" in self.state[name]:
                self.state[name].drop("master")
                self._table = None

    def _averages(self, what: str) -> list[Array]:
        if not self.pass_options.averages:
            raise ValueError(f"{what}: this optimizer keeps no average; build it with ema_decay= or polyak=True")
        if self._table is None or self._new_slots:
            self._ready_table()
            self._keep_new_slots()
        return [self.state[name]["ema"] for name in self._names]


def check_scale(grad_scale: Any) -> None:
    check("grad_scale", grad_scale, Range(0.0))
    if grad_scale == 0:
        raise ValueError(f"grad_scale={grad_scale!r}: expected a number above 0, or a DynamicLossScale")


def is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value
