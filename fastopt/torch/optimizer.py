"""The base of all optimizers of tensors: torch's optimizer outside, fastopt's inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch.optim.optimizer import Optimizer as TorchOptimizer

from ..arrays.dtypes import Array
from ..core import optimizer as core
from ..core.results import StepInfo
from ..options.group_by import Grouped
from ..options.ranges import Group
from . import hooks
from .copies import Copies
from .gradients import Gradients
from .groups import Names, Written
from .live_state import State, refuse
from .memory import Order, as_array, as_arrays, as_tensor, check_param, order_of
from .state_dict import load, state_of

#: Counts a change of each tensor of a list; the public function looks at the list's type first, which takes longer.
increment_version: Callable[[Sequence[Any]], None] = torch._C._increment_version


class Optimizer(TorchOptimizer):  # type: ignore[misc]  # torch's types are not read
    """The base of all optimizers of :mod:`fastopt.torch`: a ``torch.optim.Optimizer`` whose step is fastopt's.

    Parameters
    ----------
    params : iterable of tensor, of (name, tensor), or of dict
        As ``torch.optim`` takes them, on the CPU: float32, float64, float16 or bfloat16. float16 and bfloat16 get a
        float32 master in the state.
    *arguments, **options
        Those of the optimizer of the same name in :mod:`fastopt`, in its order, and all common ones. A structure in
        ``bounds`` and ``copy_to`` is a list with an entry for each parameter, of tensors. ``foreach`` and ``fused``
        have no effect; ``decoupled_weight_decay``, where torch has it, is ``decoupled``.

    Attributes
    ----------
    inner : fastopt.Optimizer
        The optimizer that makes the steps, over NumPy arrays in the tensors' memory. It has what torch has no name for:
        ``inner.averaged()``, ``inner.ema``, ``inner.clip_global_norm``, ``inner.flush()``.
    info : fastopt.StepInfo or None
        The result of the last step.
    optimizer : type
        The class of ``inner``.

    Raises
    ------
    TypeError, ValueError
        For tensors that can't be changed in place, and options out of their ranges.

    Notes
    -----
    A parameter without a gradient is skipped. Assigning ``p.data`` is noticed: the state goes on with the new tensor.
    torch's ``GradScaler`` divides the gradients before a step. Those in float16 it refuses to divide: of parameters in
    float16 the step does it, so that gradients stay as they were, and a step with one that is not finite is skipped.
    Where the state holds copies of parameters (masters of half precision, Schedule-Free's ``z``), values written into a
    parameter are taken over by the next step, but for those written through ``p.data``, which torch does not count:
    then call ``inner.reload_params()``.

    Examples
    --------
    >>> import torch, fastopt.torch
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data.fill_(1.0)
    tensor([[1., 1.]])
    >>> opt = fastopt.torch.SGD(model.parameters(), lr=0.5, clip_global_norm=1.0)
    >>> model(torch.tensor([3.0, 4.0])).sum().backward()
    >>> opt.step()
    >>> model.weight.detach(), opt.info.grad_norm
    (tensor([[0.7000, 0.6000]]), 5.0)
    """

    optimizer: ClassVar[type[core.Optimizer]]
    names: ClassVar[Names]

    info: StepInfo | None = None
    #: During a step that torch's GradScaler makes: whether a gradient is not finite; ``grad_scale`` is the scale then.
    found_inf: Any = None

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        defaults, self.whole_options = self.names.split(arguments, options)
        super().__init__(params, defaults)
        self.build()

    # --- parameters ---------------------------------------------------------------------------------------------------

    @property
    def params(self) -> Sequence[Any]:
        """The tensors of all groups, in order."""
        return list(chain.from_iterable(group["params"] for group in self.param_groups))

    def build(self) -> None:
        """Make ``inner`` for the groups as they are, without a state."""
        self.take(self.new_inner())

    def new_inner(self, options: list[Group] | None = None) -> core.Optimizer:
        """Return a new optimizer of the parameters' arrays, with these options of the groups, or those they have."""
        groups = self.param_groups
        options = list(map(self.names.options, groups)) if options is None else options
        keys = self.keys_of(groups)
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise ValueError(
                f"params: {len(twice)} names occur twice, such as {twice[0]!r}; give each its own, or none"
            )
        arrays = self.arrays_of(keys, list(chain.from_iterable(group["params"] for group in groups)))
        group_of = dict(zip(keys, (k for k, group in enumerate(groups) for _ in group["params"]), strict=True))
        params = dict(zip(keys, arrays, strict=True)) if is_named(groups) else arrays
        grouped = Grouped(params, options, group_of)
        return self.optimizer(grouped, **self.keywords())

    def keywords(self) -> Group:
        """Return the options of the whole of ``inner``."""
        orders = list(map(self.order_of, self.params))
        return {name: as_arrays(value, orders) for name, value in self.whole_options.items()}

    def take(self, inner: core.Optimizer) -> None:
        """Make steps with this optimizer from now on."""
        self.inner = inner
        self.follow()

    def follow(self) -> None:
        """Note where the parameters are, and what their groups hold."""
        params, self.keys = self.params, self.inner.parts.parameters.names
        self.numbers = {param: i for i, param in enumerate(params)}
        self.copies = Copies(self.inner)
        self.is_named = is_named(self.param_groups)
        self.forms, self.places = list(map(form_of, params)), list(map(place_of, params))
        self.orders = list(map(self.order_of, params))
        parts = self.inner.parts
        self.written = Written(self.names, self.param_groups, parts.backend)
        names = self.keys if self.is_named else None
        self.gradients = Gradients(parts.backend, names, params, parts.parameters.arrays, self.orders)

    def keys_of(self, groups: Iterable[Group], first: int = 0) -> list[str]:
        """Return the name of each parameter of these groups in ``inner``; unnamed ones are counted from ``first``."""
        groups = list(groups)
        if is_named(groups):
            return [name for group in groups for name in group["param_names"]]
        return [str(first + i) for i in range(sum(len(group["params"]) for group in groups))]

    def arrays_of(self, keys: Sequence[str], params: Sequence[Any]) -> list[Array]:
        """Return the arrays that ``inner`` changes for these parameters."""
        arrays = []
        for key, param in zip(keys, params, strict=True):
            where = f"params: {key!r}"
            check_param(where, param)
            order = order_of(where, param)
            if order is not None and self.optimizer.slot_shape is not core.Optimizer.slot_shape:
                raise ValueError(
                    f"{where} has the strides {param.stride()}, and {self.optimizer.__name__} computes by rows and "
                    "columns; write p.data = p.data.contiguous() before you build the optimizer"
                )
            arrays.append(as_array(param, order))
        return arrays

    def order_of(self, param: Any) -> Order:
        return order_of("params", param)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group, as torch does: a dict with the key ``"params"`` and options of its own."""
        self.names.check_group(param_group)
        param_group = {self.names.theirs(name): value for name, value in param_group.items()}
        super().add_param_group(param_group)
        if not hasattr(self, "inner"):
            return
        try:
            self.written.take(self.param_groups[:-1], self.inner)
            self.extend(param_group)
        except BaseException:
            self.param_groups.pop()
            raise

    def extend(self, param_group: Group) -> None:
        """Go on with the parameters of a new group too."""
        keys, params = self.keys_of([param_group], len(self.keys)), param_group["params"]
        arrays = self.arrays_of(keys, params)
        named = dict(zip(keys, arrays, strict=True)) if self.is_named else arrays
        versions = self.copies.versions
        self.inner.add_param_group({"params": named, **self.names.options(param_group)})
        self.follow()
        self.copies.versions[: len(versions)] = versions

    def have_moved(self, params: Sequence[Any]) -> bool:
        """Return whether ``p.data`` was assigned: the elements are elsewhere, or in another order."""
        return list(map(place_of, params)) != self.places

    def rebuild(self) -> None:
        """Go on with the memory that the parameters have now, with the same state.

        Raises
        ------
        ValueError
            If there are other parameters than before, or other shapes or dtypes.
        """
        if list(map(form_of, self.params)) != self.forms:
            raise ValueError(
                "params: the parameters are no longer those that the optimizer was given, or have another shape or "
                "dtype; use add_param_group, or build a new optimizer"
            )
        before = [as_tensor(*each) for each in zip(self.inner.parts.parameters.arrays, self.orders, strict=True)]
        load(self, state_of(self))
        if self.copies.are_there:
            for name, param, values in zip(self.keys, self.params, before, strict=True):
                if not torch.equal(param, values):
                    self.inner.reload_params(name)

    # --- the step -----------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step with the gradients of the parameters.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the loss and its gradients first.

        Returns
        -------
        object
            What ``closure`` returns; None without one. ``opt.info`` is the result of the step.
        """
        if not hooks.are_due(self):
            return self.make_step(closure)
        return hooks.step_with_hooks(self) if closure is None else hooks.step_with_hooks(self, closure)

    #: torch shall not wrap it: the wrapper takes longer than a small step.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether torch's GradScaler leaves dividing the gradients to the step: it refuses to divide float16."""
        return any(param.dtype is torch.float16 for param in self.params)

    def scale_of_loss(self) -> float | None:
        """Return what the gradients are to be divided by, from torch's GradScaler; None if they have been divided."""
        scale = getattr(self, "grad_scale", None)
        own = self.inner.grad_scale
        return None if scale is None else scale.item() * (own if isinstance(own, float) else 1.0)

    def make_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        if self.found_inf is None:
            self.change_params(None)
        elif not self.found_inf.item():
            self.change_params(self.scale_of_loss())
        return loss

    def change_params(self, scale: float | None) -> None:
        """Make the step with the gradients that the parameters have; ``scale`` is that of GradScaler."""
        groups = self.param_groups
        params = groups[0]["params"] if len(groups) == 1 else self.params
        found = self.gradients.move(params)
        if found is None:
            if self.have_moved(params):
                self.rebuild()
            found = self.gradients.one_by_one(params)
        tensors, arrays = found  # the tensors are kept for the whole step, which reads their memory
        self.written.take(groups, self.inner)
        if self.copies.are_there:
            self.copies.follow(params)
        is_each = arrays is self.gradients.arrays
        grads = self.gradients.all if is_each else self.gradients.structure(arrays)
        self.info = info = self.inner.step(grads, grad_scale=scale)
        if info.applied:
            changed = params if is_each else [p for p, grad in zip(params, tensors, strict=True) if grad is not None]
            # So that a backward pass through a graph with the old values is an error.
            increment_version(changed)
        if self.copies.are_there:
            self.copies.note(params)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set the gradients to None, or to zero."""
        if hooks.is_recorded() or not set_to_none:
            super().zero_grad(set_to_none)
            return
        for param in self.params:
            param.grad = None

    # --- the state ----------------------------------------------------------------------------------------------------

    def further_entries(self, i: int) -> dict[str, Any]:
        """Return entries of the state of parameter number ``i`` that are not ``inner``'s."""
        return {}

    def take_further_entries(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Take such entries of a state that is loaded, one for each parameter."""

    @property
    def state(self) -> Any:
        """For each parameter with a step, its state as tensors in the memory of ``inner``'s, by torch's names."""
        return State(self)

    @state.setter
    def state(self, state: Any) -> None:
        if hasattr(self, "inner"):
            refuse()

    def state_dict(self) -> dict[str, Any]:
        """Return the state in torch's form: torch's optimizer of this name loads it.

        Returns
        -------
        dict
            ``"state"`` and ``"param_groups"`` as torch has them, and ``"fastopt"`` with the rest. The tensors are those
            of the state, as in torch.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        saved = state_of(self)
        for hook in self._optimizer_state_dict_post_hooks.values():
            answer = hook(self, saved)
            saved = saved if answer is None else answer
        return saved

    def load_state_dict(self, state_dict: Any) -> None:
        """Load the state of this optimizer, or of torch's optimizer of the same name.

        Options that torch lacks keep their values then. Everything is checked before it is loaded.

        Raises
        ------
        TypeError, ValueError
            If it does not fit. Nothing has changed then.
        """
        saved = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            answer = hook(self, saved)
            saved = saved if answer is None else answer
        load(self, saved)
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "defaults": self.defaults,
            "param_groups": self.param_groups,
            "whole_options": self.whole_options,
            "saved": state_of(self),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("saved")
        super().__setstate__(state)
        self.build()
        load(self, saved)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """Return what a closure returns, which finds gradients; None if there is none."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def place_of(param: Any) -> tuple[Any, ...]:
    return param.data_ptr(), param.shape, param.stride()


def form_of(param: Any) -> tuple[Any, Any]:
    return param.shape, param.dtype


def is_named(groups: Sequence[Group]) -> bool:
    """Return whether the parameters of these groups came with names."""
    return "param_names" in groups[0]
