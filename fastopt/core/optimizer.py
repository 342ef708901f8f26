"""The face of all optimizers: what a user calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn

from ..arrays.dtypes import Array
from ..backends import choosing
from ..options.common import StepOptions
from ..options.group_by import Grouped, is_group
from ..options.loss_scale import DynamicLossScale
from ..options.ranges import Group
from .entries import Entries
from .gradients import Gradients
from .groups import Groups
from .hooks import Hooks
from .parameters import Parameters
from .parts import Parts
from .progress import Progress
from .results import LoadResult, StepInfo
from .slots import Slots
from .step import Step
from .whole_options import WholeOptions
from .workspace import Workspace


class Optimizer(Hooks):
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
        The optimizer's own options. These mean the same wherever they occur: ``lr``, the learning rate, at least 0;
        ``weight_decay``, at least 0 (see ``decoupled``); ``betas``, the decay rates of running means, each from 0 to
        below 1; ``momentum``, at least 0; ``eps``, at least 0, which keeps a denominator away from 0. Narrower ranges
        stand in the optimizer's own docstring.
    decoupled : bool
        False: ``weight_decay`` is L2, ``g += weight_decay * p`` before the rule. True: it is decoupled,
        ``p *= 1 - lr * weight_decay`` before the rule. Each optimizer has its own default, beside its ``weight_decay``.
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
        self.defaults: Group = dict(
            **options,
            decoupled=decoupled,
            maximize=maximize,
            clip_value=clip_value,
            clip_norm=clip_norm,
            l1=l1,
            prox_l1=prox_l1,
            max_norm=max_norm,
            max_norm_axis=max_norm_axis,
        )
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
        groups = Groups(type(self).__name__, self.defaults, self.ranges, self.refused)
        for name, value in (self.defaults | self.pass_options._asdict()).items():
            groups.check(name, value)
        self.pass_options.check_together()
        grouped = params if isinstance(params, Grouped) else None
        if grouped is not None:
            params = grouped.params
        self._asked_backend = backend
        self._is_averaged = False
        #: The parts, for the modules around the optimizer.
        self.parts = Parts(
            choosing.named(choosing.choice(backend)),
            self.pass_options,
            WholeOptions(clip_global_norm, grad_scale, seed, nonfinite),
            Parameters(params),
            groups,
            Slots(self.pass_options),
            Progress(self.numbers),
        )
        if grouped is not None:
            self._add(grouped.params, grouped.options, grouped.group_of)
        else:
            for group in params if self.parts.parameters.is_grouped else [{"params": params}]:
                self.add_param_group(group)
        if copy_to is not None:
            groups.check_allowed({"copy_to": copy_to})
            self.parts.parameters.take_copies(copy_to, self.parts.backend)

    def new_slot(self, group: Group, slot: str, param: Array) -> Array:
        """Return a slot of an array as it is before the array's first step."""
        ops = self.parts.backend.ops
        values: Array = ops.slot_like(param, self.initial_slot(group, slot), ops.compute_dtype(param.dtype))
        return values

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse what copy and pickle would do: the copy would update arrays that nobody else has."""
        raise TypeError(
            f"{type(self).__name__}: an optimizer can't be copied or pickled, since it changes your own arrays; copy "
            "these, build an optimizer for them and other.load_state_dict(opt.state_dict()), or use fastopt.save "
            "and fastopt.load"
        )

    @property
    def backend(self) -> str:
        """Where steps run: ``"native"`` or ``"numpy"``; ``"cuda"`` for arrays on a GPU."""
        return self.parts.backend.name

    @property
    def params(self) -> Any:
        """The parameters in their structure (lists for tuples): the very arrays that the optimizer was given."""
        return self.parts.parameters.given()

    @property
    def param_groups(self) -> list[Group]:
        """The groups with their options; writing an option takes effect in the next step."""
        return self.parts.groups.param_groups

    @param_groups.setter
    def param_groups(self, param_groups: list[Group]) -> None:
        self.parts.groups.param_groups = param_groups

    @property
    def state(self) -> Entries[Entries[Array]]:
        """For the name of each array: its slots, and ``"step"``, how many steps were applied to it."""
        self.parts.progress.undo_skipped_step()
        return self.parts.slots.entries

    @property
    def state_bytes(self) -> int:
        """How many bytes the state takes: slots (made by the first step) and step counts."""
        return sum(array.nbytes for slots in self.state.values() for array in slots.values())

    @property
    def step_count(self) -> int:
        """How many steps were applied."""
        return self.parts.progress.step_count

    @step_count.setter
    def step_count(self, count: int) -> None:
        self.parts.progress.undo_skipped_step()
        self.parts.progress.counts[0, 0] = count

    @property
    def accumulated_calls(self) -> int:
        """Calls since the last applied step."""
        return self.parts.progress.accumulated_calls

    @accumulated_calls.setter
    def accumulated_calls(self, count: int) -> None:
        self.parts.progress.counts[1, 0] = count

    @property
    def clip_global_norm(self) -> float | None:
        """The greatest norm of all gradients together."""
        return self.parts.whole.clip_global_norm

    @clip_global_norm.setter
    def clip_global_norm(self, clip_global_norm: float | None) -> None:
        self.parts.whole.clip_global_norm = clip_global_norm

    @property
    def seed(self) -> int:
        """The seed of the random numbers for rounding."""
        return self.parts.whole.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.parts.whole.seed = seed

    @property
    def grad_scale(self) -> float | DynamicLossScale:
        """The number that the loss was multiplied by, above 0, or the object that finds it."""
        return self.parts.whole.grad_scale

    @grad_scale.setter
    def grad_scale(self, grad_scale: float | DynamicLossScale) -> None:
        self.parts.whole.grad_scale = grad_scale

    @property
    def frozen(self) -> list[str]:
        """The names of the arrays that :meth:`freeze` has taken out, in the order of the parameters."""
        parameters = self.parts.parameters
        return [name for name in parameters.names if name in parameters.frozen]

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
        options = {name: value for name, value in group.items() if name != "params"}
        self._add(group["params"], [options], None)

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
        return self.parts.parameters.freeze(pattern)

    def unfreeze(self, pattern: str = "*") -> list[str]:
        """Update these arrays again: the opposite of :meth:`freeze`, with its argument, result and error."""
        return self.parts.parameters.unfreeze(pattern)

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
        from . import state_dict

        return state_dict.of(self)

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
        from . import state_dict as loading

        plan, result = loading.plan(self, state_dict, strict, [])
        loading.carry_out(self, plan)
        return result

    @property
    def ema(self) -> Any:
        """The averaged parameters in the parameters' structure (lists for tuples); the next step changes them in place.

        Raises
        ------
        ValueError
            If the optimizer has neither ``ema_decay`` nor ``polyak=True``.
        """
        return self.parts.parameters.structure(self._averages("ema"))

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
        ops, parameters = self.parts.backend.ops, self.parts.parameters
        targets = [
            (array, average)
            for param, copy, average in zip(parameters.arrays, parameters.copies, averages, strict=True)
            for array in (param, copy)
            if array is not None
        ]
        before = [ops.on_host(array) for array, _ in targets]
        self._is_averaged = True
        try:
            for array, average in targets:
                ops.write_rounded(array, average)
            yield
        finally:
            for (array, _), values in zip(targets, before, strict=True):
                ops.write(array, values)
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
        self.parts.progress.undo_skipped_step()
        return self.parts.slots.values(name, slot, self.parts.backend, self.non_negative)

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
        parts = self.parts
        parts.progress.undo_skipped_step()
        scale = parts.whole.scale_of(grad_scale)
        return Step(self, parts, self.ready(), scale).run(grads, stream)

    def ready(self) -> Workspace:
        """Return the table and what belongs to it, made again where a group's rule or the arrays have changed.

        Slots that an array has not yet had stay out of the state until ``parts.slots.commit()``.

        Raises
        ------
        TypeError, ValueError
            If anything that was written into the groups or the parameters' containers is not as it must be.
        """
        parts = self.parts
        parts.parameters.check_in_place()
        if parts.whole.clip_global_norm is not None:
            parts.groups.check("clip_global_norm", parts.whole.clip_global_norm)
        parts.groups.refresh(self.rule)
        if parts.workspace is None or parts.slots.pending or parts.groups.rules_changed:
            parts.workspace = None
            parts.workspace = self._new_workspace()
            parts.groups.rules_changed = False
        return parts.workspace

    def _new_workspace(self) -> Workspace:
        parts = self.parts
        backend, parameters, slots = parts.backend, parts.parameters, parts.slots
        slots.prepare(parameters, parts.groups.checked, parts.progress, backend, self)
        in_order = backend.ops.in_memory_order
        written = slots.written(parameters.extents) if backend.on_host else parameters.extents
        table = backend.table(
            [in_order(memory.computed) for memory in slots.memory],
            [list(map(in_order, memory.slots)) for memory in slots.memory],
            [memory.extras for memory in slots.memory],
            rules=[group.rule for group in parts.groups.checked],
            counts=parts.progress.counts,
        )
        workspace = Workspace(
            backend,
            table,
            Gradients(backend.ops, parameters.names, parameters.arrays, written, parts.options.zero_grads),
            slots.memory,
            backend.writeable_check(parameters.arrays, parameters.dtypes),
            type(self).update is Hooks.update,
        )
        self.prepare(workspace)
        return workspace

    def _add(self, params: Any, groups: Sequence[Group], group_of: Mapping[str, int] | None) -> None:
        """Add arrays, and groups of options.

        ``group_of`` gives for the name of each array its group among these; None: there is one group.
        """
        parts = self.parts
        branch = parts.parameters.branch(params)
        parts.progress.undo_skipped_step()
        parts.groups.check_known(groups)
        names = list(branch.names())
        if not parts.parameters.arrays:
            parts.backend = choosing.backend_for(self._asked_backend, names, list(branch.arrays()))
            if not (parts.backend.on_host or self.runs_on_gpu):
                raise ValueError(
                    f"{type(self).__name__}: expected NumPy arrays, got arrays on a GPU, where it can't run yet"
                )
        parts.groups.check_allowed(self.pass_options._asdict())
        addition = parts.parameters.addition(branch, parts.backend, self.check_param)
        numbers = [0 if group_of is None else group_of[name] for name in names]
        members = [
            tuple(array for array, number in zip(addition.given, numbers, strict=True) if number == k)
            for k in range(len(groups))
        ]
        checked = parts.groups.addition(groups, members, self.rule)
        first = len(parts.groups.param_groups)
        parts.groups.add(groups, checked)
        parts.parameters.add(addition, [first + number for number in numbers])
        parts.progress.add(len(names))
        parts.slots.add(parts.parameters, parts.progress, parts.backend, self.measured)
        parts.workspace = None

    def _averages(self, what: str) -> list[Array]:
        if not self.pass_options.averages:
            raise ValueError(f"{what}: this optimizer keeps no average; build it with ema_decay= or polyak=True")
        if self.parts.workspace is None or self.parts.slots.pending:
            self.ready()
            self.parts.slots.commit()
        return [self.state[name]["ema"] for name in self.parts.parameters.names]
