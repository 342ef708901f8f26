"""Which tensors can be parameters and gradients, and what is noticed that happens to them."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

import fastopt.torch  # noqa: E402

#: Results of torch in half precision differ by a few of its roundings.
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12, torch.float16: 1e-2, torch.bfloat16: 1e-1}


def with_gradients(params: list[Any], seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    for param in params:
        grad = torch.randn(param.shape, generator=generator, dtype=torch.float32).to(param.dtype)
        param.grad = torch.empty_like(param).copy_(grad)  # in the parameter's order of memory
    return params


def trained(kind: Any, params: list[Any], steps: int = 10, **options: Any) -> Any:
    opt = kind(params, **options)
    for step in range(steps):
        with_gradients(params, step)
        opt.step()
    return opt


def start(*shapes: tuple[int, ...], dtype: Any = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def assert_close(ours: list[Any], theirs: list[Any], tolerance: float = 1e-6) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_dtypes(dtype: Any) -> None:
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    ours, theirs = start((3, 4), (5,), (), (0, 2), dtype=dtype), start((3, 4), (5,), (), (0, 2), dtype=dtype)
    opt = trained(fastopt.torch.Adam, ours, lr=0.1)
    trained(torch.optim.Adam, theirs, lr=0.1)
    assert_close(ours, theirs, TOLERANCE[dtype])
    state = opt.state[ours[0]]
    assert state["exp_avg"].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    if dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(state["master"].to(dtype), ours[0])


def test_different_dtypes_in_one_step() -> None:
    params = [*start((3,)), *start((2, 2), dtype=torch.float64), *start((4,), dtype=torch.float16)]
    others = [torch.nn.Parameter(param.detach().clone()) for param in params]
    trained(fastopt.torch.SGD, params, lr=0.1, momentum=0.9)
    trained(torch.optim.SGD, others, lr=0.1, momentum=0.9)
    assert_close(params[:2], others[:2])
    assert_close(params[2:], others[2:], 1e-2)


def channels_last(params: list[Any]) -> list[Any]:
    params[0].data = params[0].data.to(memory_format=torch.channels_last)
    params[1].data = params[1].data.t().contiguous().t()
    params[2].data = params[2].data.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    return params


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LAMB"])
def test_orders_of_memory(name: str) -> None:
    shapes = (4, 3, 2, 5), (3, 4), (2, 3, 4)
    ours, plain = channels_last(start(*shapes)), start(*shapes)
    options = {"lr": 0.1, "momentum": 0.9} if name == "SGD" else {"lr": 0.1}
    opt = trained(getattr(fastopt.torch, name), ours, **options)
    trained(getattr(fastopt.torch, name), plain, **options)
    assert_close(ours, plain)
    slot = "momentum_buffer" if name == "SGD" else "exp_avg" if name == "AdamW" else "m"
    assert opt.state[ours[0]][slot].stride() == ours[0].stride()
    # Gradients in another order than their parameters.
    for params in (ours, plain):
        with_gradients(params, 20)
        for param in params:
            param.grad = param.grad.contiguous()
    opt.step()
    assert opt.info.applied
    again = channels_last(start(*shapes))
    other = getattr(fastopt.torch, name)(again, **options)
    other.load_state_dict(opt.state_dict())
    for one, its in zip(ours, again, strict=True):
        for key, value in opt.state[one].items():
            assert torch.equal(value, other.state[its][key])


def test_bounds_and_copies_of_channels_last() -> None:
    (weight,) = start((4, 3, 2, 5))
    weight.data = weight.data.to(memory_format=torch.channels_last)
    low = torch.randn(4, 3, 2, 5)
    rounded = torch.empty_like(weight, dtype=torch.float16)
    opt = fastopt.torch.SGD([weight], lr=100.0, bounds=([low], None), copy_to=[rounded])
    weight.grad = torch.ones_like(weight)
    opt.step()
    assert torch.equal(weight, low)
    assert torch.equal(rounded, low.half())


def test_torch_loads_the_state_of_channels_last() -> None:
    shapes = (4, 3, 2, 5), (3, 4), (2, 3, 4)
    ours = channels_last(start(*shapes))
    opt = trained(fastopt.torch.Adam, ours)
    theirs = channels_last(start(*shapes))
    for one, other in zip(ours, theirs, strict=True):
        other.data.copy_(one.data)
    peer = torch.optim.Adam(theirs)
    peer.load_state_dict(copy.deepcopy(opt.state_dict()))  # torch would go on with the very tensors
    for step in range(5):
        with_gradients(ours, step)
        with_gradients(theirs, step)
        opt.step()
        peer.step()
    assert_close(ours, theirs)
    opt.load_state_dict(peer.state_dict())
    assert torch.equal(opt.state[ours[0]]["exp_avg"], peer.state[theirs[0]]["exp_avg"])


def test_memory_that_is_no_run_is_an_error() -> None:
    strided = torch.nn.Parameter(torch.zeros(4, 4)[:, ::2])
    with pytest.raises(ValueError, match=r"'0' is not one run of memory .*; write p.data = p.data.contiguous\(\)"):
        fastopt.torch.SGD([strided])
    last = torch.nn.Parameter(torch.zeros(4, 3, 2, 5).to(memory_format=torch.channels_last))
    with pytest.raises(ValueError, match="Adafactor computes by rows and columns"):
        fastopt.torch.Adafactor([last])


def test_what_can_be_no_parameter() -> None:
    with pytest.raises(
        TypeError, match=r"on the device 'meta'; expected a tensor on the CPU: use fastopt.torch.Offload"
    ):
        fastopt.torch.SGD([torch.nn.Parameter(torch.zeros(2, device="meta"))])
    with pytest.raises(TypeError, match="expected one of torch"):
        fastopt.torch.SGD([torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    with pytest.raises(TypeError, match="iterable of Tensors or dicts"):
        fastopt.torch.SGD(torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(ValueError, match="empty parameter list"):
        fastopt.torch.SGD([])
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="more than one parameter group"):
        fastopt.torch.SGD([{"params": [weight]}, {"params": [weight]}])
    with (
        pytest.warns(UserWarning, match="duplicate parameters"),
        pytest.raises(ValueError, match="'0' and '1' share memory"),
    ):
        fastopt.torch.SGD([weight, weight])
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        fastopt.torch.SGD([weight * 2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_assigned_data_is_noticed(dtype: Any) -> None:
    ours, theirs = start((3, 4), (5,), dtype=dtype), start((3, 4), (5,), dtype=dtype)
    opts = trained(fastopt.torch.Adam, ours, lr=0.1), trained(torch.optim.Adam, theirs, lr=0.1)
    opts[0].param_groups[0]["lr"] = opts[1].param_groups[0]["lr"] = 0.05
    for params, opt in zip((ours, theirs), opts, strict=True):
        params[0].data = torch.full((3, 4), 2.0, dtype=dtype)
        for step in range(3):
            with_gradients(params, step)
            opt.step()
    assert_close(ours, theirs, TOLERANCE[dtype])
    assert opts[0].info.step == 13
    assert opts[0].info.lr == 0.05
    with_gradients(ours, 0)
    ours[0].grad = None
    ours[0].data = torch.zeros(3)
    with pytest.raises(ValueError, match="no longer those that the optimizer was given"):
        opts[0].step()


@pytest.mark.parametrize("name", ["Adam", "ScheduleFreeAdamW"])
def test_a_model_that_is_converted_to_channels_last_goes_on(name: str) -> None:
    ours, plain = start((4, 3, 2, 5), (3,)), start((4, 3, 2, 5), (3,))
    kind = getattr(fastopt.torch, name)
    opts = trained(kind, ours, lr=0.1), trained(kind, plain, lr=0.1)
    ours[0].data = ours[0].data.to(memory_format=torch.channels_last)
    for params, opt in zip((ours, plain), opts, strict=True):
        for step in range(3):
            with_gradients(params, step)
            opt.step()
    assert_close(ours, plain)
    assert opts[0].info == opts[1].info
    assert opts[0].state[ours[0]]["exp_avg_sq" if name == "Adam" else "z"].stride() == ours[0].stride()


def test_parameters_put_into_a_group_by_hand_are_noticed() -> None:
    params = start((3,), (2,))
    opt = trained(fastopt.torch.SGD, params)
    opt.param_groups[0]["params"].append(start((4,))[0])
    with pytest.raises(ValueError, match=r"no longer those that the optimizer was given.*add_param_group"):
        opt.step()
    opt.param_groups[0]["params"].pop()
    opt.step()
    opt.param_groups.append({"params": start((4,)), "lr": 0.1})
    with pytest.raises(ValueError, match="no longer those that the optimizer was given"):
        opt.step()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_values_written_into_half_precision_reach_the_master(dtype: Any) -> None:
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    params = start((3,), (2,), dtype=dtype)
    opt = trained(fastopt.torch.SGD, params, lr=0.5)
    master = opt.state[params[1]]["master"].clone()
    with torch.no_grad():
        params[0].fill_(4.0)
    for param in params:
        param.grad = torch.zeros_like(param)
    params[0].grad.fill_(2.0)
    opt.step()
    assert params[0].tolist() == [3.0, 3.0, 3.0]
    assert torch.equal(opt.state[params[1]]["master"], master)
    # What torch counts as a change, but is none, leaves the digits of the master.
    with torch.no_grad():
        params[1].mul_(1.0)
    opt.step()
    assert torch.equal(opt.state[params[1]]["master"], master)


def test_values_written_into_parameters_of_schedule_free() -> None:
    (weight,) = start((3,))
    opt = trained(fastopt.torch.ScheduleFreeSGD, [weight], lr=0.1)
    with torch.no_grad():
        weight.fill_(1.0)
    weight.grad = torch.zeros(3)
    opt.step()
    assert weight.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_gradients_that_a_step_must_not_take_as_they_are() -> None:
    weight, other = start((3, 2)), start((3, 2))
    opts = fastopt.torch.SGD(weight, lr=0.5), torch.optim.SGD(other, lr=0.5)
    for step in range(20):
        with_gradients(weight, step)
        other[0].grad = weight[0].grad.clone()
        if step % 3 == 1:
            weight[0].grad = weight[0].grad.t().contiguous().t()
        if step % 3 == 2:
            weight[0].grad = torch.cat([weight[0].grad, torch.zeros(3, 2)], 1)[:, :2]
            weight[0].grad.requires_grad_()
        for opt in opts:
            opt.step()
        assert torch.equal(weight[0], other[0])
    weight[0].grad = torch.zeros(3, 2)
    weight[0].grad.data = torch.zeros(3)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        opts[0].step()
    overlapping = weight[0].detach()
    weight[0].grad = overlapping
    with pytest.raises(ValueError, match="overlaps the memory of the parameter '0'"):
        opts[0].step()


def test_data_in_another_order_in_the_same_memory_is_noticed() -> None:
    ours, theirs = start((3, 3)), start((3, 3))
    opts = trained(fastopt.torch.Adam, ours, lr=0.1), trained(torch.optim.Adam, theirs, lr=0.1)
    for (param,), opt in zip((ours, theirs), opts, strict=True):
        param.data = param.data.t()
        for step in range(3):
            param.grad = torch.randn(3, 3, generator=torch.Generator().manual_seed(step))
            opt.step()
    assert_close(ours, theirs)
    wide = start((3, 4))
    opt = trained(fastopt.torch.Adam, wide)
    wide[0].grad = None
    wide[0].data = wide[0].data.t()
    with pytest.raises(ValueError, match="no longer those that the optimizer was given"):
        opt.step()


@pytest.mark.skipif(not hasattr(torch.Tensor, "grad_dtype"), reason="this torch has no grad_dtype")
def test_gradients_of_another_dtype_than_their_parameters() -> None:
    pytest.importorskip("ml_dtypes")
    (weight,) = start((3,), dtype=torch.float16)
    opt = trained(fastopt.torch.SGD, [weight], lr=0.5)
    for dtype in (torch.bfloat16, torch.float32):  # of the same size, and of another
        with torch.no_grad():
            weight.fill_(1.0)
        weight.grad, weight.grad_dtype = None, dtype
        weight.grad = torch.ones(3, dtype=dtype)
        opt.step()
        assert weight.tolist() == [0.5, 0.5, 0.5]
    weight.grad, weight.grad_dtype = None, torch.int16
    weight.grad = torch.ones(3, dtype=torch.int16)
    with pytest.raises(TypeError, match="'0' has dtype int16; expected a float dtype"):
        opt.step()


@pytest.mark.parametrize("size", [3, 1])  # of one element, it is laid out as its parameter
def test_gradient_whose_sign_torch_has_not_applied_yet(size: int) -> None:
    (weight,) = start((size,))
    before = weight.detach().clone()
    weight.grad = torch.full((size,), 1j).conj().imag
    assert weight.grad.is_neg()
    fastopt.torch.SGD([weight], lr=0.5).step()
    assert_close([weight], [before + 0.5])


def test_a_step_keeps_the_gradients_that_it_reads() -> None:
    (weight,) = start((4,))
    weight.grad = torch.ones(4)
    alive = []

    def rate(step: int) -> float:  # during a step
        grad = weakref.ref(weight.grad)
        weight.grad = None
        alive.append(grad() is not None)
        return 1.0

    before = weight.detach().clone()
    opt = fastopt.torch.SGD([weight], lr=rate)
    opt.step()
    assert alive == [True]
    assert_close([weight], [before - 1.0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("event", ["load", "copy", "add"])
def test_values_written_into_half_precision_after_another_change(event: str, dtype: Any) -> None:
    if dtype is torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    params = start((3,), (2,), dtype=dtype)
    opt = trained(fastopt.torch.SGD, params, lr=0.5)
    if event == "load":
        opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    if event == "copy":
        params, opt = copy.deepcopy((params, opt))
    with torch.no_grad():
        params[0].fill_(4.0)
    if event == "add":
        opt.add_param_group({"params": start((2,), dtype=dtype)})
    master = opt.state[params[1]]["master"].clone()
    for param in params:
        param.grad = torch.zeros_like(param)
    opt.step()
    assert params[0].tolist() == [4.0, 4.0, 4.0]
    assert torch.equal(opt.state[params[1]]["master"], master)


def test_values_written_into_parameters_of_schedule_free_before_a_group_is_added() -> None:
    (weight,) = start((3,))
    opt = trained(fastopt.torch.ScheduleFreeSGD, [weight], lr=0.1)
    with torch.no_grad():
        weight.fill_(1.0)
    opt.add_param_group({"params": start((2,))})
    weight.grad = torch.zeros(3)
    opt.step()
    assert weight.tolist() == pytest.approx([1.0, 1.0, 1.0])


def test_the_averages_are_not_taken_for_the_parameters() -> None:
    (weight,) = start((3,))
    opt = trained(fastopt.torch.SGD, [weight], lr=0.1, ema_decay=0.5)
    saved, before = copy.deepcopy(opt.state_dict()), weight.detach().clone()
    with opt.inner.averaged():
        with pytest.raises(ValueError, match="load_state_dict: the parameters are the averaged ones"):
            opt.load_state_dict(saved)
        weight.grad = torch.ones(3)
        with pytest.raises(ValueError, match="step: the parameters are the averaged ones"):
            opt.step()
    assert torch.equal(weight, before)
