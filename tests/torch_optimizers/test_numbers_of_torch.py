"""fastopt.torch beside torch.optim: the same numbers over 50 steps, in parameters and in the state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

import fastopt.torch  # noqa: E402

STEPS = 50

SHAPES = [(), (7,), (33, 17), (3, 2, 5, 4)]

Peer = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    """Have torch keep its scalars (ASGD's eta, NAdam's product) in double precision, as fastopt does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(rng: np.random.Generator, dtype: Any, shapes: list[tuple[int, ...]]) -> list[Any]:
    return [torch.nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype)) for shape in shapes]


def some_missing(grads: list[Any], step: int) -> list[Any]:
    """Leave out a gradient in the first step, and two in the middle."""
    return [None if step in (0, 20, 21) and i == step % len(grads) else grad for i, grad in enumerate(grads)]


def check_in_float64(ours: Peer, theirs: Peer, shapes: list[tuple[int, ...]], seed: int = 0) -> None:
    """Within 1e-12 after each of 50 steps, relative to the largest value that the element has had."""
    rng = np.random.default_rng(seed)
    params = parameters(rng, torch.float64, shapes)
    peers = [torch.nn.Parameter(param.detach().clone()) for param in params]
    opt, peer = ours(params), theirs(peers)
    largest = [param.detach().abs() for param in params]
    for step in range(STEPS):
        grads = some_missing([torch.tensor(np.array(rng.normal(size=shape))) for shape in shapes], step)
        for param, other, grad in zip(params, peers, grads, strict=True):
            param.grad, other.grad = grad, None if grad is None else grad.clone()
        opt.step()
        peer.step()
        for i, (param, other) in enumerate(zip(params, peers, strict=True)):
            largest[i] = torch.maximum(largest[i], other.detach().abs())
            assert ((param - other).abs() <= 1e-12 * largest[i]).all()


def check_in_float32(ours: Peer, theirs: Peer, shapes: list[tuple[int, ...]], seed: int = 0, size: float = 1.0) -> None:
    """Each of 50 steps, from torch's parameters and state, within 8 ulp of the largest value the element has had.

    As for arrays of NumPy, in tests/optimizers/test_values_of_torch.py, which says why. The gradients are of this size,
    and keep away from 0 also where L2 is added to them.
    """
    rng = np.random.default_rng(seed)
    params = parameters(rng, torch.float32, shapes)
    peers = [torch.nn.Parameter(param.detach().clone()) for param in params]
    opt, peer = ours(params), theirs(peers)
    largest: dict[Any, Any] = {(i, "p"): param.detach().abs() for i, param in enumerate(params)}
    for step in range(STEPS):
        grads = [size * rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape) for shape in shapes]
        grads = some_missing([torch.tensor(np.array(grad, np.float32)) for grad in grads], step)
        for param, other, grad in zip(params, peers, grads, strict=True):
            param.grad, other.grad = grad, None if grad is None else grad.clone()
        opt.step()
        peer.step()
        states = opt.state
        for i, (param, other) in enumerate(zip(params, peers, strict=True)):
            if grads[i] is None:
                continue
            state = states[param]
            pairs = {name: (state[name], theirs) for name, theirs in peer.state[other].items() if name in state}
            pairs["p"] = param.detach(), other.detach()
            for name, (ours_now, theirs_now) in pairs.items():
                if name == "step":
                    assert int(ours_now) == int(theirs_now)
                    continue
                key = i, name
                before = largest[i, "p"] if name == "ax" else largest.get(key, theirs_now.abs())
                largest[key] = torch.maximum(before, theirs_now.abs())
                spacing = torch.from_numpy(np.asarray(np.spacing(largest[key].numpy())))
                assert ((ours_now - theirs_now).abs() <= 8 * spacing).all(), name
                ours_now.copy_(theirs_now)


#: With the learning rate in the buffer, that is torch's times the rate: for arrays alone.
WITH_TORCH = [case for case in CASES if case.torch is not None and not case.options.get("lr_in_momentum")]


@pytest.mark.by_turns("case")
@pytest.mark.parametrize("check", [check_in_float64, check_in_float32])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("case", WITH_TORCH, ids=str)
def test_numbers_of_torch(case: Case, check: Callable[..., None], seed: int) -> None:
    assert case.torch is not None
    name, options = case.torch
    ours = getattr(fastopt.torch, case.optimizer.__name__)
    # By torch's own names of options where they differ.
    given = options if case.optimizer.__name__ == name else case.options
    check(partial(ours, **given), partial(getattr(torch.optim, name), **options), SHAPES, seed)


# --- torch's own table ------------------------------------------------------------------------------------------------


def rows_of_torch() -> list[tuple[str, dict[str, Any]]]:
    """Return each optimizer with each combination of options in the table of torch's own tests."""
    pytest.importorskip("expecttest", reason="the table of torch's tests needs it: pip install 'fastopt[peers]'")
    from torch.testing._internal.common_optimizers import optim_db

    rows = [(info.name, each.kwargs) for info in optim_db for each in info.optim_inputs_func("cpu")]
    assert len(rows) > 80
    return rows


#: Those of torch's optimizers that compute each element by itself, or by its row and column.
ELEMENTWISE = sorted({case.torch[0] for case in WITH_TORCH if case.torch})


@pytest.mark.exhaustive
def test_the_table_of_torch_has_the_same_optimizers() -> None:
    assert {name for name, _ in rows_of_torch()} == {*ELEMENTWISE, "LBFGS", "Muon", "SparseAdam"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("check", [check_in_float64, partial(check_in_float32, size=8.0)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_table_of_torch(name: str, check: Callable[..., None]) -> None:
    ours, theirs = getattr(fastopt.torch, name), getattr(torch.optim, name)
    for options in [options for each, options in rows_of_torch() if each == name]:
        check(partial(ours, **options), partial(theirs, **options), SHAPES)


@pytest.mark.exhaustive
def test_table_of_torch_for_matrices() -> None:
    """torch's Muon computes its matrix products in bfloat16: half a percent apart from the exact ones."""
    rows = [options for name, options in rows_of_torch() if name == "Muon"]
    assert rows
    for options in rows:
        rng = np.random.default_rng(0)
        params = parameters(rng, torch.float32, [(8, 6), (5, 5), (3, 9)])
        peers = [torch.nn.Parameter(param.detach().clone()) for param in params]
        start = [param.detach().clone() for param in params]
        opt, peer = fastopt.torch.Muon(params, **options), torch.optim.Muon(peers, **options)
        for _ in range(10):
            for param, other in zip(params, peers, strict=True):
                param.grad = torch.tensor(rng.normal(size=param.shape), dtype=torch.float32)
                other.grad = param.grad.clone()
            opt.step()
            peer.step()
        for param, other, before in zip(params, peers, start, strict=True):
            assert (param - other).norm() < 0.05 * (other - before).norm()


def rows_of_embedding(rng: np.random.Generator, dtype: Any) -> Any:
    """Return a gradient of some rows of a table, one of them there twice."""
    rows = torch.tensor(rng.permutation(np.array([1, 4, 4, 9])))[None]
    values = torch.tensor(rng.normal(size=(4, 3)), dtype=dtype)
    return torch.sparse_coo_tensor(rows, values, (11, 3), check_invariants=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("SparseAdam", {}), ("SparseAdam", {"lr": 0.1, "maximize": True}), ("SGD", {"lr": 0.1}), ("Adagrad", {"lr": 0.1})],
)
def test_sparse_gradients(name: str, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    (table,) = parameters(rng, torch.float64, [(11, 3)])
    other = torch.nn.Parameter(table.detach().clone())
    opt, peer = getattr(fastopt.torch, name)([table], **options), getattr(torch.optim, name)([other], **options)
    for _ in range(STEPS):
        table.grad = rows_of_embedding(rng, torch.float64)
        other.grad = table.grad.clone()
        opt.step()
        with torch.sparse.check_sparse_tensor_invariants():  # torch warns unless it is told whether to check
            peer.step()
        assert ((table - other).abs() <= 1e-12).all()


@pytest.mark.exhaustive
def test_table_of_torch_for_sparse_gradients() -> None:
    rows = [options for name, options in rows_of_torch() if name == "SparseAdam"]
    assert rows
    for options in rows:
        test_sparse_gradients("SparseAdam", options)
