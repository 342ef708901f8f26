"""The ways in which torch's training code uses an optimizer: schedules, clipping, scalers, hooks, groups."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402

import fastopt.torch  # noqa: E402

lr_scheduler = torch.optim.lr_scheduler


def small_net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def loss_of(net: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return net(torch.randn(5, 4, generator=generator)).square().sum()


def pair(name: str = "AdamW", groups: Callable[[Any], Any] = lambda net: net.parameters(), **options: Any) -> Any:
    """Return two nets that are alike, and for each an optimizer: ours and torch's."""
    nets = small_net(), small_net()
    ours, theirs = getattr(fastopt.torch, name), getattr(torch.optim, name)
    return nets, (ours(groups(nets[0]), **options), theirs(groups(nets[1]), **options))


def train(nets: Any, opts: Any, steps: int = 20, after: Callable[[int], object] = lambda step: None) -> None:
    for step in range(steps):
        for net, opt in zip(nets, opts, strict=True):
            opt.zero_grad()
            loss_of(net, step).backward()
            opt.step()
        after(step)


def assert_alike(nets: Any, tolerance: float = 1e-6) -> None:
    for ours, theirs in zip(*(net.parameters() for net in nets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_names_of_the_module() -> None:
    names = [*fastopt.optimizers.__all__, "Offload", "Optimizer", "optimizer_of_tensors"]
    assert dir(fastopt.torch) == sorted(names)
    namespace: dict[str, Any] = {}
    exec("from fastopt.torch import *", namespace)
    assert {*names} <= {*namespace}
    for name in fastopt.optimizers.__all__:
        kind = getattr(fastopt.torch, name)
        assert kind is namespace[name]
        assert issubclass(kind, fastopt.torch.Optimizer)
        assert kind.optimizer is getattr(fastopt.optimizers, name)
        assert pickle.loads(pickle.dumps(kind)) is kind
    with pytest.raises(AttributeError, match=r"module 'fastopt\.torch' has no attribute 'LBFGS'"):
        fastopt.torch.LBFGS  # noqa: B018


def test_an_optimizer_is_one_of_torchs() -> None:
    nets, (ours, _) = pair()
    assert isinstance(ours, torch.optim.Optimizer)
    assert not ours.state
    before = [param.detach().clone() for param in nets[0].parameters()]
    train(nets[:1], [ours], 5)
    assert ours.info.step == 5
    assert all((param != start).any() for param, start in zip(nets[0].parameters(), before, strict=True))


def test_steps_are_planned_although_gradients_are_new_tensors() -> None:
    nets, (ours, _) = pair()
    train(nets[:1], [ours], 50)
    planned = ours.inner.planned_steps
    if planned == 0:
        pytest.skip("no step is planned here")
    assert planned > 40


def test_zero_grad() -> None:
    nets, (ours, _) = pair()
    loss_of(nets[0], 0).backward()
    ours.zero_grad(set_to_none=False)
    assert all((param.grad == 0).all() for param in nets[0].parameters())
    ours.zero_grad()
    assert all(param.grad is None for param in nets[0].parameters())


def test_closure() -> None:
    nets, (ours, theirs) = pair("SGD", lr=0.01, momentum=0.9)

    def closure(net: Any, opt: Any) -> Any:
        opt.zero_grad()
        loss = loss_of(net, 0)
        loss.backward()
        return loss

    with torch.no_grad():
        losses = [opt.step(partial(closure, net, opt)) for net, opt in zip(nets, (ours, theirs), strict=True)]
    assert losses[0] == losses[1]
    assert_alike(nets)


def test_groups() -> None:
    def groups(net: Any) -> Any:
        return [{"params": net[0].parameters(), "lr": 0.1, "name": "first"}, {"params": net[2].parameters()}]

    nets, (ours, theirs) = pair("SGD", groups, lr=0.01, weight_decay=0.1)
    train(nets, (ours, theirs))
    assert_alike(nets)
    assert ours.param_groups[0]["name"] == "first"
    assert ours.info.lrs == (0.1, 0.01)


def test_added_group_and_written_options() -> None:
    nets, opts = pair("Adam", lambda net: net[2].parameters(), lr=0.01)
    train(nets, opts, 5)
    for net, opt in zip(nets, opts, strict=True):
        opt.add_param_group({"params": net[0].parameters(), "lr": 0.1})
    train(nets, opts, 5)
    for opt in opts:
        opt.param_groups[1]["weight_decay"] = 0.5
        opt.param_groups[0]["lr"] = 0.05
    train(nets, opts, 5)
    assert_alike(nets)
    with pytest.raises(ValueError, match=r"param_groups\[2\]: lr=-1"):
        opts[0].add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": -1.0})
    assert len(opts[0].param_groups) == 2
    train(nets, opts, 1)


def test_named_parameters() -> None:
    nets, opts = pair(groups=lambda net: net.named_parameters())
    train(nets, opts)
    assert_alike(nets)
    assert list(opts[0].inner.state) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    nets[0][0].weight.grad[0, 0] = torch.nan
    strict = fastopt.torch.SGD(nets[0].named_parameters(), nonfinite="raise")
    with pytest.raises(ValueError, match=r"'0\.weight' has 1 elements that are infinite or NaN"):
        strict.step()
    with pytest.raises(ValueError, match="params: 1 names occur twice, such as 'a'"):
        fastopt.torch.SGD([("a", param) for param in nets[0].parameters()])


def test_positional_options_and_those_of_torchs_implementations() -> None:
    net = small_net()
    opt = fastopt.torch.SGD(net.parameters(), 0.1, 0.9, foreach=True, fused=False)
    assert (opt.defaults["lr"], opt.defaults["momentum"]) == (0.1, 0.9)
    with pytest.raises(ValueError, match="capturable=True: expected False"):
        fastopt.torch.Adam(net.parameters(), capturable=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'weigth_decay'; for 'weigth_decay' write 'weight"):
        fastopt.torch.Adam(net.parameters(), weigth_decay=0.1)
    with pytest.raises(ValueError, match="no option of a group is called 'weigth_decay'"):
        fastopt.torch.Adam([{"params": net.parameters(), "weigth_decay": 0.1}])
    with pytest.raises(ValueError, match="give it to the optimizer: Adam"):
        fastopt.torch.Adam([{"params": net.parameters(), "clip_global_norm": 0.1}])
    with pytest.raises(ValueError, match="lr=-1"):
        fastopt.torch.Adam(net.parameters(), lr=-1.0)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda opt: lr_scheduler.StepLR(opt, 3, 0.5),
    "cosine": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 20),
    "one_cycle": lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, total_steps=25),
    "cyclic": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.1, 5, cycle_momentum=False),
    "sequential": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.9)], [4]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str) -> None:
    nets, opts = pair("Adam", lr=0.01)
    schedulers = [SCHEDULERS[name](opt) for opt in opts]
    train(nets, opts, after=lambda step: [scheduler.step() for scheduler in schedulers])
    assert_alike(nets, 1e-5)
    assert opts[0].param_groups[0]["lr"] == opts[1].param_groups[0]["lr"]
    assert opts[0].param_groups[0]["betas"] == opts[1].param_groups[0]["betas"]
    saved = [schedulers[0].state_dict(), opts[0].state_dict()]
    opt = fastopt.torch.Adam(small_net().parameters(), lr=0.01)
    scheduler = SCHEDULERS[name](opt)
    scheduler.load_state_dict(saved[0])
    opt.load_state_dict(saved[1])
    assert opt.param_groups[0]["lr"] == opts[0].param_groups[0]["lr"]


def test_plateau() -> None:
    nets, opts = pair("SGD", lr=0.1)
    schedulers = [lr_scheduler.ReduceLROnPlateau(opt, patience=1) for opt in opts]
    train(nets, opts, 10, lambda step: [scheduler.step(1.0) for scheduler in schedulers])
    assert opts[0].param_groups[0]["lr"] == opts[1].param_groups[0]["lr"] < 0.1
    assert_alike(nets)


def test_rate_in_a_tensor() -> None:
    nets, (ours, theirs) = pair("Adam", lr=0.01)
    rate = torch.tensor(0.01)
    ours.param_groups[0]["lr"] = rate
    train(nets, (ours, theirs), 5)
    rate.fill_(0.1)
    theirs.param_groups[0]["lr"] = 0.1
    train(nets, (ours, theirs), 5)
    assert ours.info.lr == pytest.approx(0.1)
    assert_alike(nets)
    opt = fastopt.torch.SGD(nets[0].parameters(), lr=torch.tensor(0.5))
    scheduler = lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step()
    scheduler.step()
    opt.step()
    assert opt.info.lr == 0.25


def test_clip_grad_norm() -> None:
    nets, opts = pair("SGD", lr=0.1)
    for net, opt in zip(nets, opts, strict=True):
        for step in range(10):
            opt.zero_grad()
            loss_of(net, step).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            opt.step()
    assert_alike(nets)
    fused = small_net()
    opt = fastopt.torch.SGD(fused.parameters(), lr=0.1, clip_global_norm=0.1)
    train([fused], [opt], 10)
    assert_alike([fused, nets[1]])
    assert opt.info.grad_norm > 0.1


def test_grad_scaler() -> None:
    nets, opts = pair("Adam", lr=0.01)
    skipped = []
    for net, opt in zip(nets, opts, strict=True):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
        for step in range(12):
            opt.zero_grad()
            scaler.scale(loss_of(net, step)).backward()
            if step == 5:
                next(net.parameters()).grad[0] = torch.inf
            scaler.step(opt)
            scaler.update()
        skipped.append(scaler.get_scale())
    assert skipped[0] == skipped[1]
    assert opts[0].info.step == 11
    assert_alike(nets)


@pytest.mark.parametrize("kind", ["each", "offload"])
def test_grad_scaler_of_parameters_in_float16(kind: str) -> None:
    """It refuses to divide their gradients, so that the step does it."""

    def build(params: list[Any], **options: Any) -> Any:
        if kind == "offload":
            return fastopt.torch.Offload(params, fastopt.torch.Adam, lr=0.01, **options)
        return fastopt.torch.Adam(params, lr=0.01, **options)

    ours, plain = ([torch.nn.Parameter(torch.ones(3, dtype=torch.float16))] for _ in range(2))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=4)
    opts = build(ours), build(plain)
    infos, scales = [], []
    for step in range(12):
        scale = scaler.get_scale()
        values = torch.tensor([0.25, -0.5, 2.0**-12]) * (step + 1)
        for params, opt in zip((ours, plain), opts, strict=True):
            opt.zero_grad()
            params[0].grad = (values * scale).half()
        if step == 5:
            ours[0].grad[0] = torch.inf
        scaler.scale(torch.zeros(()))
        scaler.step(opts[0])
        scaler.update()
        if step != 5:
            opts[1].inner.grad_scale = scale
            opts[1].step()
        infos.append(opts[0].info.step)
        scales.append(scaler.get_scale())
        assert torch.equal(ours[0], plain[0])
    assert infos == [1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11]
    assert scales[3] == 2.0**11
    assert scales[5] == 2.0**10
    assert opts[0].inner.grad_scale == 1.0
    assert not hasattr(opts[0], "grad_scale")
    dynamic = build(ours, grad_scale=fastopt.DynamicLossScale(), nonfinite="skip")
    scaler.scale(torch.zeros(()))
    with pytest.raises(ValueError, match="give one of the two"):
        scaler.step(dynamic)


def test_autocast() -> None:
    nets, opts = pair("AdamW", lr=0.01)
    for net, opt in zip(nets, opts, strict=True):
        for step in range(5):
            opt.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(net, step)
            loss.backward()
            opt.step()
    assert_alike(nets)


def test_averaged_model() -> None:
    nets, opts = pair("SGD", lr=0.1)
    averages = [torch.optim.swa_utils.AveragedModel(net) for net in nets]
    train(nets, opts, 10, lambda step: [a.update_parameters(n) for a, n in zip(averages, nets, strict=True)])
    assert_alike(averages)
    net = small_net()
    opt = fastopt.torch.SGD(net.parameters(), lr=0.1, polyak=True)
    train([net], [opt], 10)
    with opt.inner.averaged():
        assert_alike([net, averages[1]])


def test_hooks_around_a_step() -> None:
    nets, (ours, _) = pair("SGD")
    calls: list[Any] = []
    handles = [
        ours.register_step_pre_hook(lambda opt, args, kwargs: calls.append(("before", opt is ours))),
        ours.register_step_post_hook(lambda opt, args, kwargs: calls.append(("after", opt.info.step))),
        register_optimizer_step_post_hook(lambda opt, args, kwargs: calls.append("every")),
    ]
    train(nets[:1], [ours], 2)
    assert calls == [("before", True), ("after", 1), "every", ("before", True), ("after", 2), "every"]
    for handle in handles:
        handle.remove()
    train(nets[:1], [ours], 1)
    assert len(calls) == 6
    # They get the very arguments of the step.
    ours.register_step_pre_hook(lambda opt, args, kwargs: calls.append(args[1:]))
    ours.step()
    assert calls[-1] == ()
    assert ours.step(lambda: 1.5) == 1.5
    assert len(calls[-1]) == 1
    replaced = ours.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 3.0), {}))
    assert ours.step() == 3.0
    replaced.remove()
    ours.register_step_pre_hook(lambda opt, args, kwargs: "wrong")
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        ours.step()


def test_profiler() -> None:
    nets, (ours, _) = pair()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(nets[:1], [ours], 1)
    names = {event.key for event in profile.key_averages()}
    assert {"Optimizer.step#AdamW.step", "Optimizer.zero_grad#AdamW.zero_grad"} <= names


def test_backward_through_an_old_graph_is_an_error_still() -> None:
    """torch counts the changes of a tensor: a gradient of weights that are gone would be wrong."""
    nets, (ours, _) = pair("SGD")
    loss = loss_of(nets[0], 0)
    loss.backward(retain_graph=True)
    ours.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_through_parameters_that_no_step_changed_is_none() -> None:
    nets, (ours, _) = pair("SGD", lr=0.1)
    net = nets[0]
    loss = loss_of(net, 0)
    net[0].bias.sum().backward()
    ours.step()  # the other parameters have no gradient
    loss.backward()
    skipping = fastopt.torch.SGD(net.parameters(), nonfinite="skip")
    loss = loss_of(net, 1)
    net[2].bias.grad[0] = torch.nan
    skipping.step()
    loss.backward()


def test_parameters_without_gradients_and_frozen_ones() -> None:
    nets, opts = pair("Adam", lr=0.01, weight_decay=0.1)
    for net in nets:
        net[0].weight.requires_grad_(False)
    start = nets[0][0].weight.clone()
    train(nets, opts, 5)
    assert torch.equal(nets[0][0].weight, start)
    assert nets[0][0].weight not in opts[0].state
    for net in nets:
        net[0].weight.requires_grad_(True)
    train(nets, opts, 5)
    assert_alike(nets)
    # A step goes on with the gradient that is there.
    for net, opt in zip(nets, opts, strict=True):
        assert net[0].weight.requires_grad_(False).grad is not None
        opt.step()
    assert_alike(nets)


def test_gradients_set_by_hand() -> None:
    weight = torch.ones(3)
    weight.grad = torch.ones(3)
    fastopt.torch.SGD([weight], lr=0.5).step()
    assert weight.tolist() == [0.5, 0.5, 0.5]


def test_tied_parameters() -> None:
    nets = small_net(), small_net()
    for net in nets:
        net.append(torch.nn.Linear(2, 4))
        net.append(torch.nn.Linear(4, 8))
        net[-1].weight = net[0].weight
    opts = fastopt.torch.SGD(nets[0].parameters(), lr=0.01), torch.optim.SGD(nets[1].parameters(), lr=0.01)
    torch.manual_seed(1)
    nets[1].load_state_dict(nets[0].state_dict())
    train(nets, opts, 5)
    assert_alike(nets)
    assert nets[0][-1].weight is nets[0][0].weight


def test_own_options() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 2000))
    options: dict[str, Any] = {"ema_decay": 0.9, "bounds": (-0.1, 0.1), "state_dtype": "uint8", "zero_grads": True}
    opt = fastopt.torch.AdamW(net.parameters(), lr=0.01, nonfinite="skip", **options)
    loss_of(net, 0).backward()
    opt.step()
    assert all((param.abs() <= 0.1).all() and (param.grad == 0).all() for param in net.parameters())
    state = opt.state[net[0].weight]
    assert {"m", "v", "m_scale", "v_scale", "ema", "step"} == {*state}
    assert state["m"].dtype is torch.uint8
    net[0].weight.grad[0, 0] = torch.nan
    opt.step()
    assert opt.info.skipped == "nonfinite"


def test_structures_of_tensors() -> None:
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    copies = [torch.empty(3, dtype=torch.bfloat16), None]
    low = [torch.tensor([0.25, 0.75, 1.0]), 0.5]
    opt = fastopt.torch.SGD(weights, lr=1.0, copy_to=copies, bounds=(low, None))
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    opt.step()
    assert weights[0].tolist() == copies[0].tolist() == [0.25, 0.75, 1.0]
    assert weights[1].tolist() == [0.5, 0.5]


def test_accumulation() -> None:
    net = small_net()
    opt = fastopt.torch.SGD(net.parameters(), lr=0.1, accumulate_steps=3)
    train([net], [opt], 2)
    assert not opt.info.applied
    saved = copy.deepcopy(opt.state_dict())
    other = small_net()
    again = fastopt.torch.SGD(other.parameters(), lr=0.1, accumulate_steps=3)
    again.load_state_dict(saved)
    for step, (each, its) in enumerate(((net, opt), (other, again))):
        its.zero_grad()
        loss_of(each, 2).backward()
        its.step()
        assert its.info.applied, step
    assert_alike([net, other], 0.0)


def test_schedule_of_ours_and_schedule_free() -> None:
    net = small_net()
    opt = fastopt.torch.SGD(net.parameters(), lr=fastopt.schedules.linear(0.1, 0.0, 10))
    train([net], [opt], 3)
    assert opt.info.lr == pytest.approx(0.08)
    saved = opt.state_dict()
    again = fastopt.torch.SGD(net.parameters(), lr=0.5)
    again.load_state_dict(saved)
    assert again.param_groups[0]["lr"] == fastopt.schedules.linear(0.1, 0.0, 10)
    free = fastopt.torch.ScheduleFreeSGD(net.parameters(), lr=0.1)
    train([net], [free], 3)
    before = net[0].weight.detach().clone()
    free.eval()
    assert not torch.equal(net[0].weight, before)
    free.train()
    torch.testing.assert_close(net[0].weight, before)


def test_compiled_step_runs() -> None:
    """torch.compile leaves the step as it is."""
    nets, (ours, theirs) = pair("SGD", lr=0.1)

    @torch.compile(backend="eager")
    def step(opt: Any) -> None:
        opt.step()

    for net, opt in zip(nets, (ours, theirs), strict=True):
        for k in range(3):
            opt.zero_grad()
            loss_of(net, k).backward()
            step(opt) if opt is ours else opt.step()
    assert_alike(nets)


def test_rows_of_embeddings() -> None:
    nets = []
    for kind, sparse in ((fastopt.torch.SGD, True), (torch.optim.SGD, False)):
        torch.manual_seed(0)
        net = torch.nn.Embedding(9, 3, sparse=sparse)
        opt = kind(net.parameters(), lr=0.1)
        for k in range(4):
            opt.zero_grad()
            with torch.sparse.check_sparse_tensor_invariants():
                net(torch.tensor([[k, 1], [2, 1]])).square().sum().backward()
            opt.step()
        nets.append(net)
    assert_alike(nets)
    opt = fastopt.torch.RMSprop(nets[0].parameters())
    with torch.sparse.check_sparse_tensor_invariants():
        nets[0](torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="'0' is row-sparse, which RMSprop does not take"):
        opt.step()
