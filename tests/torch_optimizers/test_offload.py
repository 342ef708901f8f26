"""Offload: the parameters are on "the device", which here is other memory of the CPU."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

import tensor_runs  # noqa: E402
from tensor_runs import train  # noqa: E402

import fastopt.torch  # noqa: E402

SHAPES = [(3, 4), (5,), (), (2, 3, 2, 3)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> Any:
    if request.param is torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    return request.param


def parameters(dtype: Any) -> list[Any]:
    params = tensor_runs.parameters(SHAPES, dtype)
    params[3].data = params[3].data.to(memory_format=torch.channels_last)
    return params


def assert_same_bits(ours: list[Any], others: list[Any]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9, "clip_global_norm": 1.0}], ids=str)
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Lion", "ScheduleFreeAdamW"])
def test_the_bits_of_a_step_in_place(name: str, options: dict[str, Any], dtype: Any) -> None:
    kind = getattr(fastopt.torch, name)
    options = {key: value for key, value in options.items() if key not in kind.optimizer.refused}
    here, there = parameters(dtype), parameters(dtype)
    opt, offload = kind(here, lr=0.1, **options), fastopt.torch.Offload(there, kind, lr=0.1, **options)
    train(here, opt, 0, 5)
    train(there, offload, 0, 5)
    assert_same_bits(here, there)
    assert offload.info == opt.info
    for param, other in zip(here, there, strict=True):
        ours, theirs = opt.state[param], offload.state[other]
        assert {*ours} == {*theirs}
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_the_device_holds_no_state(dtype: Any) -> None:
    params = parameters(dtype)
    opt = fastopt.torch.Offload(params, fastopt.Adam, lr=0.1, state_dtype=None)
    train(params, opt, 0, 1)
    for param in params:
        for value in opt.state[param].values():
            assert value.untyped_storage().data_ptr() != param.untyped_storage().data_ptr()


def test_compressed_state() -> None:
    weight = torch.nn.Parameter(torch.randn(5000, dtype=torch.float16))
    opt = fastopt.torch.Offload([weight], fastopt.torch.AdamW, state_dtype="uint8")
    weight.grad = torch.randn(5000, dtype=torch.float16)
    opt.step()
    assert opt.state[weight]["m"].dtype is torch.uint8


def test_frozen_and_missing_gradients() -> None:
    params = parameters(torch.float32)
    opt = fastopt.torch.Offload(params, fastopt.torch.SGD, lr=0.1)
    start = [param.detach().clone() for param in params]
    train(params[:2], opt, 0, 2)
    assert_same_bits(params[2:], start[2:])
    assert not torch.equal(params[0], start[0])
    before = params[0].detach().clone()
    params[0].requires_grad_(False).grad = None
    opt.step()
    assert torch.equal(params[0], before)


def test_resuming_and_copies(dtype: Any) -> None:
    params, others = parameters(dtype), parameters(dtype)
    opt = fastopt.torch.Offload(params, fastopt.torch.Adam, lr=0.1)
    train(params, opt, 0, 5)
    resumed = fastopt.torch.Offload(others, fastopt.torch.Adam, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
    with torch.no_grad():
        for param, other in zip(params, others, strict=True):
            other.copy_(param)
    copied, its = copy.deepcopy((params, opt))
    pickled, that = pickle.loads(pickle.dumps((params, opt)))
    train(params, opt, 5, 10)
    for group, each in ((others, resumed), (copied, its), (pickled, that)):
        train(group, each, 5, 10)
        assert_same_bits(params, group)


def test_states_go_from_and_to_the_optimizer_in_place(dtype: Any) -> None:
    params, others = parameters(dtype), parameters(dtype)
    opt = fastopt.torch.Offload(params, fastopt.torch.Adam, lr=0.1)
    train(params, opt, 0, 5)
    with torch.no_grad():
        for param, other in zip(params, others, strict=True):
            other.copy_(param)
    here = fastopt.torch.Adam(others)
    here.load_state_dict(opt.state_dict())
    train(params, opt, 5, 8)
    train(others, here, 5, 8)
    assert_same_bits(params, others)


def test_values_written_into_parameters(dtype: Any) -> None:
    params = parameters(dtype)
    opt = fastopt.torch.Offload(params, fastopt.torch.SGD, lr=0.5)
    train(params, opt, 0, 3)
    with torch.no_grad():
        params[0].fill_(4.0)
    params[1].data = torch.full((5,), 3.0, dtype=dtype)
    for param in params:
        param.grad = torch.full_like(param, 2.0)
    opt.step()
    assert (params[0] == 3).all()
    assert (params[1] == 2).all()
    params[0].data.fill_(4.0)
    opt.reload_params()
    opt.step()
    assert (params[0] == 3).all()
    params[1].data = torch.zeros(7, dtype=dtype)
    with pytest.raises(ValueError, match="'1' has another shape or dtype than before"):
        opt.step()


def test_added_groups_names_and_schedulers() -> None:
    here, there = parameters(torch.float16), parameters(torch.float16)
    opts = []
    for params, build in ((here, fastopt.torch.Adam), (there, None)):
        named = [(f"layer.{i}", param) for i, param in enumerate(params)]
        opt = fastopt.torch.Offload(named[:2], fastopt.torch.Adam) if build is None else build(named[:2])
        scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)
        train(params[:2], opt, 0, 3)
        opt.add_param_group({"params": named[2:], "lr": 0.1})
        opts.append(opt)
        train(params, opt, 3, 5)
        scheduler.step()
        train(params, opt, 5, 6)
    assert_same_bits(here, there)
    assert opts[0].info == opts[1].info
    assert opts[0].info.lrs == (0.9 * 1e-3, 0.9 * 0.1)


def test_averages_and_schedule_free(dtype: Any) -> None:
    here, there = parameters(dtype), parameters(dtype)
    opt = fastopt.torch.AdamW(here, ema_decay=0.5)
    offload = fastopt.torch.Offload(there, fastopt.torch.AdamW, ema_decay=0.5)
    train(here, opt, 0, 3)
    train(there, offload, 0, 3)
    with opt.inner.averaged(), offload.averaged():
        assert_same_bits(here, there)
    assert_same_bits(here, there)
    train(here, opt, 3, 5)
    train(there, offload, 3, 5)
    assert_same_bits(here, there)
    assert not hasattr(offload, "eval")
    free = fastopt.torch.Offload(there, fastopt.torch.ScheduleFreeSGD, lr=0.1)
    other = fastopt.torch.ScheduleFreeSGD(here, lr=0.1)
    for params, each in ((here, other), (there, free)):
        train(params, each, 5, 8)
        each.eval()
    assert_same_bits(here, there)
    for params, each in ((here, other), (there, free)):
        each.train()
        train(params, each, 8, 10)
    assert_same_bits(here, there)


def test_rows() -> None:
    nets = []
    for offloads in (False, True):
        torch.manual_seed(0)
        net = torch.nn.Embedding(9, 3, sparse=True)
        kind = fastopt.torch.SGD
        opt = fastopt.torch.Offload(net.parameters(), kind, lr=0.1) if offloads else kind(net.parameters(), lr=0.1)
        with torch.sparse.check_sparse_tensor_invariants():
            net(torch.tensor([[3, 1], [2, 1]])).square().sum().backward()
        opt.step()
        nets.append(net)
    assert_same_bits([nets[0].weight], [nets[1].weight])


def test_scaler_closure_and_hooks() -> None:
    params = parameters(torch.float32)
    opt = fastopt.torch.Offload(params, fastopt.torch.SGD, lr=0.1)
    calls: list[Any] = []
    opt.register_step_post_hook(lambda opt, args, kwargs: calls.append(opt.info.step))

    def closure() -> Any:
        opt.zero_grad()
        loss = params[0].square().sum()
        loss.backward()
        return loss

    assert opt.step(closure) > 0
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    opt.zero_grad()
    scaler.scale(params[0].square().sum()).backward()
    scaler.step(opt)
    scaler.update()
    assert calls == [1, 2]


def test_what_offload_refuses() -> None:
    params = parameters(torch.float32)
    for options in ({"zero_grads": True}, {"copy_to": params}, {"stochastic_rounding": True}):
        with pytest.raises(ValueError, match="Offload does not take it"):
            fastopt.torch.Offload(params, fastopt.torch.SGD, **options)
    with pytest.raises(TypeError, match=r"expected a class of fastopt\.optimizers or of"):
        fastopt.torch.Offload(params, torch.optim.SGD)
    with pytest.raises(TypeError, match=r"has dtype torch\.int64"):
        fastopt.torch.Offload([torch.zeros(2, dtype=torch.int64)], fastopt.torch.SGD)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_default_device_and_data_in_another_order(dtype: Any) -> None:
    param = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2).to(dtype))
    param.grad = torch.ones_like(param)
    with torch.device("meta"):
        opt = fastopt.torch.Offload([param], fastopt.torch.SGD, lr=1.0)
        opt.step()
        saved = opt.state_dict()
    opt.load_state_dict(saved)
    param.data = param.data.t()
    opt.step()
    assert param.tolist() == [[-2.0, 0.0], [-1.0, 1.0]]
