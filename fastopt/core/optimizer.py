"""The face of all optimizers: what a user calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..arrays.dtypes import Array
from ..backends import choosing
from ..options.bounds import split
from ..options.common import StepOptions
from ..options.group_by import Grouped, is_group
from ..options.loss_scale import DynamicLossScale
from ..options.names import check_keywords
from ..options.ranges import Group, Schedulable
from .adding import add, check_rounding, rules_of
from .attributes import Attributes
from .entries import Entries
from .groups import Groups
from .hooks import is_default
from .option_set import OptionSet
from .parameter_methods import ParameterMethods
from .parameters import Parameters
from .part_steps import HOOKS_ALONE, check_no_whole_options
from .parts import Parts, part
from .plans import can_plan
from .progress import Progress
from .results import LoadResult, StepInfo
from .slots import Slots
from .turns import Turns, change, reader
from .whole_options import WholeOptions
from .whole_step import flush, planned_step, whole_step
from .workspace import Workspace, make_workspace


class Optimizer(Attributes, ParameterMethods):
    """The base of all optimizers: parameters, groups, state, and the step.

    A subclass lists its options in ``__init__`` and defines two hooks: ``rule`` returns the rule of a group, whose
    arguments are the slots, and ``hyper`` returns the rule's scalars for a group and a step count.
    :class:`fastopt.core.hooks.Hooks` describes all hooks.

    Parameters
    ----------
    params : array or structure of arrays
        float32 or float64 arrays, updated in place. float16 and bfloat16 (of ml_dtypes) arrays get a float32 master in
        the state; they are computed in float32 and rounded to nearest in the same pass. After the first step
        :meth:`reload_params` takes over what you write into them. None is passed over, such as the bias of a layer that
        has none. A group is a dict with the key ``"params"`` and options of its own. The result of
        :func:`fastopt.group_by` is accepted too.
    options : dict
        The optimizer's own options. These mean the same wherever they occur: ``lr``, the learning rate, at least 0;
        ``weight_decay``, at least 0 (see ``decoupled``); ``betas``, the decay rates of running means, each from 0 to
        below 1; ``momentum``, at least 0; ``eps``, at least 0, which keeps a denominator away from 0. Narrower ranges
        stand in the optimizer's own docstring.
    <common options>
    **unknown
        Any other keyword is a TypeError that says what was probably meant.

    Attributes
    ----------
    defaults : dict
        Each option of a group, with the value for groups that do not set it.
    parts : Parts
        The optimizer's parts, for the modules of fastopt around it.

    Raises
    ------
    TypeError, ValueError
        For parameters that can't be updated in place, and options out of their ranges.
    RuntimeError
        For a backend that can't be had here; says why.

    Notes
    -----
    ``lr``, ``weight_decay``, ``momentum`` and each of ``betas`` may be a schedule: a function of the step, from 0, such
    as those of :mod:`fastopt.schedules`. Wherever a number is taken, so is a scalar of JAX or torch, or an array of
    shape ``()``: by its value at that moment, as a Python number.

    Several threads may use one optimizer. Whatever changes it (``step``, ``load_state_dict``, ``restore``,
    ``add_param_group``, ``set``, ``freeze``, ``unfreeze``, ``reload_params``, Schedule-Free's ``train`` and ``eval``,
    writing ``step_count``, ``accumulated_calls``) is a RuntimeError, at once, if another change is running, in another
    thread or around the call (a schedule, a hook, a signal handler). Whatever reads its values (``save``,
    ``state_dict``, ``slot``, ``ema``, ``to_torch``, entering and leaving ``averaged()`` and ``lookahead()``) waits for
    the change of another thread, and a change waits for it; around the call a change is a RuntimeError here too, since
    it can't be waited for. A signal handler that should save sets a flag; save after the step. All else may be called
    and written at any moment: options take effect in the next step, and arrays are the very ones that steps change. In
    a process that was forked while another thread changed an optimizer, all these calls of that optimizer are a
    RuntimeError.

    ``pickle`` and ``copy.deepcopy`` take an optimizer together with its arrays: ``pickle.dumps((model, opt))``, or an
    object that has both among its attributes. It then changes the arrays of the copy. One that comes back alone is a
    TypeError where it is first used. (joblib makes another array of each mention of one: there the optimizer and the
    model need the same dict or list of arrays.) A function as an option must be one that pickle finds by its name.

    Ctrl-C during a step is handled when the step is complete and counted. An exception from the handler of another
    signal can come between two arrays, or between a change and its count, if the step needs more than one native call.
    Such steps are those of the NumPy fallback, of optimizers that need numbers of whole arrays, and with
    ``max_weight_norm`` or a row-sparse gradient. A handler may step other optimizers.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta, grad = np.ones(2, np.float32), np.float32([1, -1])
    >>> opt = fastopt.SGD(theta, lr=0.5, ema_decay=0.5, zero_grads=True, clip_global_norm=10.0)
    >>> opt.step(grad)
    StepInfo(applied=True, grad_norm=1.4142135623730951, lr=0.5, step=1)
    >>> theta, grad, opt.ema
    (array([0.5, 1.5], dtype=float32), array([0., 0.], dtype=float32), array([0.75, 1.25], dtype=float32))

    Bounds are numbers, or structures like the parameters. Cautious decay leaves out what the step moves away from 0.

    >>> params = {"a": np.array([0.2, -0.5]), "b": np.array([2.0, 2.0])}
    >>> options = {"weight_decay": 0.25, "decoupled": True, "cautious_decay": True}
    >>> opt = fastopt.SGD(params, lr=0.5, bounds=({"a": np.array([-1.0, 0.0])}, 2.25), **options)
    >>> info = opt.step({"a": np.zeros(2), "b": np.array([1.0, -1.0])})
    >>> params
    {'a': array([0.175, 0.   ]), 'b': array([1.25, 2.25])}

    :func:`fastopt.optimizer` makes an optimizer of a rule of your own. A class of your own gives a rule, also one of
    :mod:`fastopt.rules`, other options and scalars.

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
        cautious_decay: bool = False,
        maximize: bool = False,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        clip_global_norm: float | None = None,
        skip_above: float | None = None,
        l1: float = 0.0,
        prox_l1: float = 0.0,
        max_weight_norm: float | None = None,
        max_weight_norm_axis: int | tuple[int, ...] = 0,
        bounds: Any = None,
        nonfinite: Literal["propagate", "skip", "raise"] = "propagate",
        nonfinite_limit: int | None = None,
        grad_scale: float | DynamicLossScale = 1.0,
        zero_grads: bool = False,
        accumulate_steps: int = 1,
        ema_decay: Schedulable | None = None,
        ema_start: Literal["before", "after", "zero"] = "before",
        ema_bias_correction: bool = False,
        polyak: bool = False,
        polyak_start: int = 1,
        copy_to: Any = None,
        state_dtype: Literal["bfloat16", "uint8"] | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        backend: str | None = None,
        **unknown: Any,
    ) -> None:
        check_keywords(type(self).__name__, unknown, options)
        numbers, structures = split(bounds)
        self.defaults: Group = options | dict(
            decoupled=decoupled,
            cautious_decay=cautious_decay,
            maximize=maximize,
            clip_value=clip_value,
            clip_norm=clip_norm,
            l1=l1,
            prox_l1=prox_l1,
            max_weight_norm=max_weight_norm,
            max_weight_norm_axis=max_weight_norm_axis,
            bounds=numbers,
        )
        calls = nonfinite, nonfinite_limit, zero_grads, accumulate_steps
        averages = ema_decay, ema_start, ema_bias_correction, polyak, polyak_start
        pass_options = StepOptions._make([*calls, *averages, state_dtype, stochastic_rounding])
        option_set = self.option_set = OptionSet(type(self).__name__, self.defaults, self.ranges, self.refused)
        self.defaults.update({name: option_set.check(name, value) for name, value in self.defaults.items()})
        pass_options = StepOptions(*(option_set.check(*option) for option in pass_options._asdict().items()))
        pass_options.check_together()
        whole = WholeOptions(clip_global_norm, skip_above, grad_scale, seed, nonfinite)
        if params is HOOKS_ALONE:
            others = {"copy_to": copy_to, "backend": backend, "bounds": structures}
            check_no_whole_options(type(self).__name__, pass_options, whole, others)
            return
        grouped, params = (params, params.params) if isinstance(params, Grouped) else (None, params)
        self._asked_backend = backend
        self.parts = self.make_parts(params, pass_options, whole, backend)
        if grouped is not None:
            add(self, self.parts, grouped.params, grouped.options, grouped.group_of, backend)
        else:
            for group in params if self.parts.parameters.is_grouped else [{"params": params}]:
                self.add_param_group(group)
        check_rounding(self.parts)
        if copy_to is not None:
            for group in self.parts.groups.checked:
                group.option_set.check_allowed({"copy_to": copy_to})
            self.parts.parameters.take_copies(copy_to, self.parts.backend)
        if structures is not None:
            for group in self.parts.groups.checked:
                group.option_set.check_allowed({"bounds": bounds})
            self.parts.parameters.take_bounds(structures, self.parts.groups.bounds, self.parts.backend)

    def make_parts(self, params: Any, options: StepOptions, whole: WholeOptions, backend: str | None) -> Parts:
        """Return the parts of an optimizer of such parameters, without arrays."""
        chosen = choosing.named(choosing.choice(backend))
        slots, progress = Slots(options, Optimizer.new_slot), Progress(max(len(its.numbers) for its in self.each()))
        return Parts(chosen, chosen, options, whole, Parameters(params), Groups(), slots, progress, Turns())

    def new_slot(self, group: Group, slot: str, param: Array) -> Array:
        """Return a slot of an array as it is before the array's first step."""
        ops = self.parts.backend.ops
        values: Array = ops.slot_like(param, self.initial_slot(group, slot), ops.compute_dtype(param.dtype))
        if slot in self.copied:
            ops.write(values, ops.on_host(param, copy=False))
        return values

    @property
    def backend(self) -> str:
        """Where steps run: "native"; "numpy", also for rules of one's own without llvmlite; on GPUs "cuda"."""
        return self.parts.backend.name

    @property
    def pass_options(self) -> StepOptions:
        """The options of the whole optimizer that are fixed when it is built."""
        return self.parts.options

    param_groups: list[Group] = part(
        "groups.param_groups", "The groups with their options; writing an option takes effect in the next step."
    )
    lr: Any = part("groups.lr", "The learning rate or schedule of all groups; a list if they differ. Writing sets all.")
    step_count: int = part(
        "progress.step_count", "How many steps were applied, from 0 to 2**62 when set.", is_change=True
    )
    planned_steps: int = part("turns.planned_steps", "How many steps were one call, being like the one before.")
    accumulated_calls: int = part("progress.accumulated_calls", "Calls since the last applied step.", is_change=True)
    clip_global_norm: float | None = part("whole.clip_global_norm", "The greatest norm of all gradients together.")
    skip_above: float | None = part("whole.skip_above", "A step whose global norm is above this is skipped.")
    skipped_steps: int = part("progress.skipped_steps", "How many steps ``nonfinite`` and ``skip_above`` skipped.")
    seed: int = part("whole.seed", "The seed of the random numbers for rounding.")
    grad_scale: float | DynamicLossScale = part(
        "whole.grad_scale", "The number that the loss was multiplied by, above 0, or the object that finds it."
    )

    @property
    def state(self) -> Entries[Entries[Array]]:
        """For the name of each array: its slots, and ``"step"``, how many steps were applied to it (0-d int64).

        The first step makes the slots. Write into them, ``opt.state["W"]["m"][...] = values``; to replace one is an
        error. An array's own first step copies it into ``"master"``, ``"ema"`` and Schedule-Free's ``"z"``.
        """
        self.parts.progress.undo_skipped_step()
        return self.parts.slots.entries

    @property
    def state_bytes(self) -> int:
        """How many bytes the state takes: slots (made by the first step) and step counts."""
        # Copies, since a step of another thread may make slots meanwhile.
        return sum(array.nbytes for slots in list(self.state.values()) for array in list(slots.values()))

    @change
    def add_param_group(self, group: Group) -> None:
        """Add arrays, with options of their own.

        Parameters
        ----------
        group : dict
            ``"params"`` is one array or a structure of arrays; the other entries are options for these arrays. In the
            gradients they come after the present arrays: new keys of a dict, new entries of a list.

        Raises
        ------
        TypeError, ValueError
            As the constructor raises; also for a name that is taken.
        RuntimeError
            If another change of this optimizer is running, as for :meth:`step`.

        Notes
        -----
        The numbers of the state, such as ``opt.state["W"]["step"]``, are new arrays afterwards: look them up again.
        """
        if not is_group(group):
            raise TypeError(f"param group: expected a dict with the key 'params', got {group!r:.80}")
        options = {name: value for name, value in group.items() if name != "params"}
        add(self, self.parts, group["params"], [options], None, self._asked_backend)

    @reader
    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, besides the parameters, as plain Python and copies of arrays.

        Returns
        -------
        dict
            ``"optimizer"`` (the class's name), ``"step_count"``, ``"options"`` (those of the whole optimizer),
            ``"param_groups"`` (as the attribute, with the names of the arrays as ``"params"``; ``"initial_lr"`` if an
            lr_scheduler drives it), ``"frozen"`` (names), ``"state"`` (for the name of each array: its slots and
            ``"step"``), ``"extra"``. A schedule is saved as its class and arguments, a function as its name only.

        Raises
        ------
        RuntimeError
            If a step is running around this call (a schedule, a signal handler). One of another thread is waited for,
            so that all values are of the same step.

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

    @change
    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, *, state: bool = True, options: bool = True
    ) -> LoadResult:
        """Go on from a saved state: slots, step counts, options, schedules. Everything is checked before it is loaded.

        Parameters
        ----------
        state_dict : dict
            From :meth:`state_dict` of an optimizer of the same class, with arrays of the same names in any order. It is
            not changed, and its arrays are copied.
        strict : bool, default True
            Whether each array must have its state there, and each state its array. False: load the parts that fit, and
            return the rest. An array's state fits as a whole or not at all; a group's options fit if its arrays have
            the same names. The step count is always loaded.
        state, options : bool, default True
            ``state=False``: load the options alone. ``options=False``: keep this optimizer's options (of the groups and
            the whole), its frozen arrays and the rates that an lr_scheduler began with; a DynamicLossScale goes on, and
            so does an lr_scheduler whose own state is loaded.

        Returns
        -------
        LoadResult
            The parts that do not fit; none if ``strict``. Its ``options`` says which options changed.

        Raises
        ------
        TypeError, ValueError
            If it is not such a dict, comes from another class, or (if ``strict``) does not fit: one error with every
            mismatch. Nothing changes then.
        RuntimeError
            If another change of this optimizer is running, as for :meth:`step`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD({"W": np.ones(2)}, lr=0.1, momentum=0.9)
        >>> info = opt.step({"W": np.ones(2)})
        >>> other = fastopt.SGD({"W": np.ones(2)}, lr=0.5, momentum=0.9)
        >>> other.load_state_dict(opt.state_dict()).options
        {'lr': (0.5, 0.1), 'step_count': (0, 1)}
        """
        from . import state_dict as loading

        return loading.load(self, state_dict, strict, state, options)

    @reader
    def slot(self, name: str, slot: str) -> Array:
        """Return a slot's values in the compute dtype, however it is stored; a copy if it is converted.

        The slot of an array on a GPU is on the GPU too; a conversion goes through the host.

        Parameters
        ----------
        name, slot : str
            The names of the array and of its slot, such as ``"m"``.

        Raises
        ------
        KeyError
            If there is no such slot. The first step makes them.
        RuntimeError
            As for :meth:`state_dict`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> opt = fastopt.SGD(np.ones(5000, np.float32), momentum=0.9, state_dtype="uint8")
        >>> info = opt.step(np.full(5000, 2.0))
        >>> opt.state["0"]["b"].dtype, opt.slot("0", "b")[:2].round(3)
        (dtype('uint8'), array([2., 2.], dtype=float32))
        """
        parts = self.parts
        parts.progress.undo_skipped_step()
        return parts.slots.values(name, slot, parts.backend, self.of_group(parts.options_of(name)).non_negative)

    def step(self, grads: Any, *, grad_scale: float | None = None, stream: Any = None) -> StepInfo:
        """Apply one step: change the parameters in place.

        Parameters
        ----------
        grads : array or structure of arrays
            The structure of the parameters, with arrays of any float dtype. None, or a missing key of a dict, skips an
            array: it is not updated, and its slots and its own step count do not change. Arrays of JAX, torch and
            autograd, and all with ``__array__`` or ``__dlpack__``, are read where they lie in the host's memory.
        grad_scale : float, optional
            Instead of the optimizer's, for this step.
        stream : CUDA stream, optional
            For arrays on a GPU: the stream of torch, CuPy or Numba (or its handle) to run in. Default: the stream that
            the gradients' ``__cuda_array_interface__`` names, else the legacy default stream. If torch works in
            another stream, name it here.

        Returns
        -------
        StepInfo

        Raises
        ------
        TypeError, ValueError
            If any argument, option or array is wrong. Nothing has changed then.
        RuntimeError
            If another change of this optimizer is running, in another thread or around this call: :class:`Optimizer`
            lists the changes. The step waits for a reader in another thread, such as :func:`fastopt.save`.
        """
        workspace = self.parts.workspace
        plan = None if workspace is None else workspace.planning.plan
        if plan is not None and grad_scale is None and stream is None:
            info: StepInfo | None = plan.run(plan.address, self, grads) or planned_step(self, plan, grads)
            if info is not None:
                return info
        return whole_step(self, grads, grad_scale, stream)

    def flush(self, *, stream: Any = None) -> StepInfo:
        """Apply an incomplete accumulation, at the end of an epoch, say: the mean over the calls so far.

        It is the step that ``accumulate_steps`` of so many calls makes, with schedules, clipping, ``nonfinite`` and the
        rest. The next call of :meth:`step` begins a new accumulation. ``stream`` is as in :meth:`step`.

        Returns
        -------
        StepInfo
            With ``applied=False`` if there is nothing to apply; nothing is done then.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            As :meth:`step`.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> theta = np.zeros(1)
        >>> opt = fastopt.SGD(theta, lr=1.0, accumulate_steps=4)
        >>> infos = [opt.step(np.array([grad])) for grad in (1.0, 3.0)]
        >>> opt.flush()
        StepInfo(applied=True, grad_norm=None, lr=1.0, step=1)
        >>> theta, opt.flush().applied
        (array([-2.]), False)
        """
        return flush(self, stream)

    def ready(self) -> Workspace:
        """Check the groups and the parameters' containers, and return the table with all that belongs to it.

        New slots stay out of the state until ``parts.slots.commit()``.
        """
        parts = self.parts
        parts.parameters.check_in_place()
        parts.whole.check()
        parts.groups.refresh(self.rule)
        workspace = parts.workspace
        if workspace is None or parts.slots.pending or parts.groups.rules_changed:
            parts.forget_workspace()
            rules = rules_of(self, parts.groups.checked)
            parts.backend = choosing.backend_of_rules(self._asked_backend, parts.chosen, rules)
            parts.slots.prepare(parts.parameters, parts.groups.checked, parts.progress, parts.backend, self)
            is_one_call = all(is_default(hooks, "update") for hooks in self.each())
            workspace = make_workspace(parts.backend, parts.parameters, parts.slots, parts.progress, is_one_call)
            self.prepare(workspace)
            workspace.planning.is_possible = can_plan(self, parts)
            parts.workspace = workspace
            parts.groups.rules_changed = False
        if workspace.bounds.pairs is not parts.groups.bounds:
            workspace.take_bounds(parts.parameters.number_bounds(parts.groups.bounds))
        workspace.check_layouts()
        return workspace
