"""The step on the CPU for parameters on another device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..arrays.dtypes import Array
from ..core import optimizer as core
from ..core.params_in_state import check_own_values
from ..options.ranges import Group
from .copies import version_of
from .gradients import row_sparse
from .groups import Names
from .memory import as_array, as_arrays, check_dtype
from .optimizer import Optimizer, is_named

#: The options that are about memory of the device, which a step here does not see.
REFUSED = {
    "zero_grads": "call opt.zero_grad(); the gradients are on the device",
    "copy_to": "half-precision parameters get their copy by themselves",
    "stochastic_rounding": "the parameters of the step are float32",
}


class Host:
    """The memory of one parameter on the CPU, in pages that CUDA can copy from and to while the program goes on.

    Attributes
    ----------
    master : tensor
        The parameter that the step changes: float32, or float64.
    copy : tensor or None
        The master in the parameter's half precision, which the step writes in the same pass.
    grad : tensor or None
        The last gradient.
    """

    def __init__(self, param: Any) -> None:
        self.is_pinned = bool(param.is_cuda)
        is_half = param.dtype in (torch.float16, torch.bfloat16)
        self.master = self.empty(param.shape, torch.float32 if is_half else param.dtype).copy_(param.detach())
        self.copy = self.empty(param.shape, param.dtype) if is_half else None
        self.grad: Any = None

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self.is_pinned)

    @property
    def result(self) -> Any:
        """The values that the parameter gets."""
        return self.master if self.copy is None else self.copy

    def fetch(self, grad: Any) -> Array | Any:
        """Begin to copy a gradient from the device; return the array that it will be in."""
        if grad.layout is not torch.strided:
            return row_sparse(grad.cpu())
        if self.grad is None or self.grad.dtype is not grad.dtype:
            self.grad = self.empty(grad.shape, grad.dtype)
        self.grad.copy_(grad.detach(), non_blocking=True)
        return as_array(self.grad)


class Offload(Optimizer):
    """An optimizer whose parameters and gradients are on another device: state, masters and step are on the CPU.

    The device then needs memory for parameters and gradients alone. A step copies the gradients to the CPU, updates
    float32 masters there, and copies the parameters back; for half-precision parameters in half precision, which the
    step writes in the same pass.

    Parameters
    ----------
    params : iterable of tensor, of (name, tensor), or of dict
        As ``torch.optim`` takes them, on any devices: float32, float64, float16 or bfloat16.
    optimizer : type
        The class of the optimizer, :class:`fastopt.AdamW` or ``fastopt.torch.AdamW``, say.
    *arguments, **options
        Its options, such as ``state_dtype="uint8"``, without ``copy_to``, ``zero_grads`` and ``stochastic_rounding``.

    Attributes
    ----------
    inner : fastopt.Optimizer
        The optimizer of the masters.
    info : fastopt.StepInfo or None
        The result of the last step.

    Raises
    ------
    TypeError, ValueError
        As :class:`Optimizer`.

    Notes
    -----
    The state is on the CPU too: ``opt.state[p]["exp_avg"]``, and ``"master"`` for parameters in half precision. Values
    written into a parameter are taken over by the next step, but for those written through ``p.data``, which torch does
    not count: then call :meth:`reload_params`.

    On CUDA the memory on the CPU is pinned. All gradients are copied before the program waits, once; the parameters are
    copied back while it goes on.

    Examples
    --------
    >>> import torch, fastopt.torch
    >>> weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float16))
    >>> opt = fastopt.torch.Offload([weight], fastopt.torch.SGD, lr=0.25)
    >>> weight.sum().backward()
    >>> opt.step()
    >>> weight.tolist(), opt.state[weight]["master"].dtype
    ([0.75, 0.75, 0.75], torch.float32)
    """

    optimizer: type[core.Optimizer]  # type: ignore[misc]  # each instance has its own
    names: Names  # type: ignore[misc]

    def __init__(self, params: Any, optimizer: Any, *arguments: Any, **options: Any) -> None:
        for name, advice in REFUSED.items():
            if options.get(name):
                raise ValueError(f"{name}={options[name]!r:.80}: Offload does not take it: {advice}")
        self.set_class(getattr(optimizer, "optimizer", optimizer))
        super().__init__(params, *arguments, **options)

    def set_class(self, optimizer: Any) -> None:
        if not (isinstance(optimizer, type) and issubclass(optimizer, core.Optimizer)):
            raise TypeError(
                f"optimizer: expected a class of fastopt.optimizers or of fastopt.torch, got {optimizer!r:.80}; give "
                "fastopt.torch.AdamW, say"
            )
        self.optimizer, self.names = optimizer, Names(optimizer)
        self.hosts: dict[Any, Host] = {}

    # --- parameters ---------------------------------------------------------------------------------------------------

    def arrays_of(self, keys: Sequence[str], params: Sequence[Any]) -> list[Array]:
        for key, param in zip(keys, params, strict=True):
            check_dtype(f"params: {key!r}", param)
            if param not in self.hosts:
                self.hosts[param] = Host(param)
        return [as_array(self.hosts[param].master) for param in params]

    def order_of(self, param: Any) -> None:
        """Return None: masters are in C order, whatever the parameter's."""

    def keywords(self) -> Group:
        copies = [self.hosts[param].copy for param in self.params]
        if all(copy is None for copy in copies):
            return super().keywords()
        arrays = as_arrays(copies)
        keys = self.keys_of(self.param_groups)
        named = dict(zip(keys, arrays, strict=True)) if is_named(self.param_groups) else arrays
        return {**super().keywords(), "copy_to": named}

    def extend(self, param_group: Group) -> None:
        check_own_values(self.inner.parts, "add_param_group")
        inner = self.new_inner()
        inner.load_state_dict(self.inner.state_dict(), strict=False)
        self.take(inner)

    def follow(self) -> None:
        super().follow()
        self.versions = list(map(version_of, self.params))

    def reload_params(self) -> None:
        """Take over what was written into the parameters: the masters get their values."""
        self.wait()
        for name, param in zip(self.keys, self.params, strict=True):
            host = self.hosts[param]
            if param.shape != host.master.shape or param.dtype != host.result.dtype:
                raise ValueError(f"params: {name!r} has another shape or dtype than before; build a new optimizer")
            # The master has more digits than its own rounded values.
            if not torch.equal(param.detach().to("cpu"), host.result):
                host.master.copy_(param.detach())
                self.inner.reload_params(name)
        self.follow()

    # --- the step -----------------------------------------------------------------------------------------------------

    def change_params(self, scale: float | None) -> None:
        params = self.params
        if list(map(version_of, params)) != self.versions or self.have_moved(params):
            self.reload_params()
        self.written.take(self.param_groups, self.inner)
        grads = self.copies_of_gradients(params)
        named = dict(zip(self.keys, grads, strict=True)) if self.is_named else grads
        self.info = self.inner.step(named, grad_scale=scale)
        self.send([param for param, grad in zip(params, grads, strict=True) if grad is not None])

    def copies_of_gradients(self, params: Sequence[Any]) -> list[Any]:
        """Return the gradients in arrays on the CPU."""
        grads = [None if param.grad is None else self.hosts[param].fetch(param.grad) for param in params]
        self.wait()
        return grads

    def wait(self) -> None:
        """Wait for all copies from and to the devices."""
        for device in {param.device for param in self.params}:
            if device.type != "cpu":
                torch.accelerator.synchronize(device)

    def send(self, params: Sequence[Any]) -> None:
        """Begin to copy the values of these parameters' masters to the device."""
        with torch.no_grad():
            for param in params:
                param.copy_(self.hosts[param].result, non_blocking=True)
        self.versions = list(map(version_of, self.params))

    # --- averages -----------------------------------------------------------------------------------------------------

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged parameters into the parameters, and back: :meth:`fastopt.Optimizer.averaged`."""
        self.wait()
        try:
            with self.inner.averaged():
                self.send(self.params)
                self.wait()
                yield
        finally:
            self.send(self.params)

    def __getattr__(self, name: str) -> Any:
        """Return ``train`` and ``eval`` of Schedule-Free; other optimizers have none."""
        if name not in ("train", "eval") or not hasattr(self.optimizer, name):
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

        def call() -> None:
            self.wait()
            getattr(self.inner, name)()
            self.send(self.params)

        return call

    # --- the state ----------------------------------------------------------------------------------------------------

    def further_entries(self, i: int) -> dict[str, Any]:
        host = self.hosts[self.params[i]]
        return {} if host.copy is None else {"master": host.master}

    def take_further_entries(self, states: Sequence[Mapping[str, Any]]) -> None:
        hosts = [self.hosts[param] for param in self.params]
        masters = [state.get("master") for state in states]
        for name, host, master in zip(self.keys, hosts, masters, strict=True):
            if master is not None and master.shape != host.master.shape:
                raise ValueError(f"state_dict: the master of {name!r} has shape {tuple(master.shape)}")
        self.wait()
        for host, master in zip(hosts, masters, strict=True):
            if master is not None and host.copy is not None:
                host.master.copy_(master)
                host.copy.copy_(master)

    def take(self, inner: core.Optimizer) -> None:
        super().take(inner)
        # So that the next step looks whether the parameters have the masters' values.
        self.versions = [-1] * len(self.keys)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizer": self.optimizer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.set_class(state.pop("optimizer"))
        super().__setstate__(state)
