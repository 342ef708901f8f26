"""The state: tensors in place, state_dict in torch's form, copies of an optimizer."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
from cases import CASES, Case

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'fastopt[peers]'")

import tensor_runs  # noqa: E402
from tensor_runs import train  # noqa: E402

import fastopt.torch  # noqa: E402
from fastopt.convert import COUNTERPARTS  # noqa: E402
from fastopt.torch import live_state  # noqa: E402
from fastopt.torch.state_dict import tensors_of  # noqa: E402

SHAPES = [(3, 4), (5, 2)]


def parameters(dtype: Any = torch.float32) -> list[Any]:
    return tensor_runs.parameters(SHAPES, dtype)


def through_a_file(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_bits(ours: list[Any], others: list[Any]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))


OPTIMIZERS = list(fastopt.optimizers.__all__)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema_decay": 0.9, "clip_global_norm": 1.0},
    "schedule": {"lr": fastopt.schedules.cosine(0.1, total=20)},
}


def build(name: str, params: list[Any], options: dict[str, Any]) -> Any:
    kind = getattr(fastopt.torch, name)
    return kind(params, **{each: value for each, value in options.items() if each not in kind.optimizer.refused})


@pytest.mark.by_turns("name")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_from_a_file_and_copies_goes_on_with_the_same_bits(name: str, options: str, dtype: Any) -> None:
    params = parameters(dtype)
    opt = build(name, params, OPTIONS[options])
    train(params, opt, 0, 5)
    others = parameters(dtype)
    for param, other in zip(params, others, strict=True):
        other.data.copy_(param.data)
    resumed = build(name, others, {**OPTIONS[options], "lr": 0.5})
    resumed.load_state_dict(through_a_file(opt.state_dict()))
    copied, its = copy.deepcopy((params, opt))
    pickled, that = pickle.loads(pickle.dumps((params, opt)))
    for group in (params, others, copied, pickled):
        optimizer = {id(params): opt, id(others): resumed, id(copied): its, id(pickled): that}[id(group)]
        assert optimizer.param_groups[0]["params"][0] is group[0]
        train(group, optimizer, 5, 10)
    assert opt.info.step == resumed.info.step == its.info.step == 10
    assert opt.info.lr == resumed.info.lr == that.info.lr
    for group in (others, copied, pickled):
        assert_same_bits(params, group)


def test_compressed_state() -> None:
    params, others = [torch.nn.Parameter(torch.randn(5000))], [torch.nn.Parameter(torch.zeros(5000))]
    opt = fastopt.torch.Adam(params, state_dtype="uint8")
    train(params, opt, 0, 3)
    others[0].data.copy_(params[0].data)
    resumed = fastopt.torch.Adam(others, state_dtype="uint8")
    saved = through_a_file(opt.state_dict())
    assert {*saved["state"][0]} == {
        "m",
        "m_scale",
        "v",
        "v_scale",
        "step",
    }  # torch can't read these, and looks for others
    resumed.load_state_dict(saved)
    train(params, opt, 3, 6)
    train(others, resumed, 3, 6)
    assert_same_bits(params, others)
    with pytest.raises(ValueError, match="it does not fit this Adam"):
        fastopt.torch.Adam(others).load_state_dict(saved)


WITH_TORCH = [case for case in CASES if case.torch is not None and not case.options.get("lr_in_momentum")]


@pytest.mark.parametrize("case", [*WITH_TORCH, Case(fastopt.Muon, {}, ("Muon", {}))], ids=str)
def test_states_of_torch_and_back(case: Case) -> None:
    assert case.torch is not None
    torch.set_default_dtype(torch.float64)
    try:
        check_states_of_torch_and_back(case)
    finally:
        torch.set_default_dtype(torch.float32)


def check_states_of_torch_and_back(case: Case) -> None:
    assert case.torch is not None
    name, options = case.torch
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    peer = getattr(torch.optim, name)(theirs, **options)
    train(theirs, peer, 0, 5)
    for param, other in zip(ours, theirs, strict=True):
        param.data.copy_(other.data)
    opt = getattr(fastopt.torch, name)(ours)  # the options come with the state
    opt.load_state_dict(peer.state_dict())
    train(ours, opt, 5, 10)
    train(theirs, peer, 5, 10)
    bound = 1e-12 if name != "Muon" else 1e-2  # torch's Muon computes its products in bfloat16
    for param, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, other, rtol=bound, atol=bound)
    again = getattr(torch.optim, name)(theirs)
    again.load_state_dict(copy.deepcopy(opt.state_dict()))
    for param, other in zip(ours, theirs, strict=True):
        other.data.copy_(param.data)
    train(ours, opt, 10, 15)
    train(theirs, again, 10, 15)
    for param, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param, other, rtol=bound, atol=bound)
    for group in (peer.param_groups[0], again.param_groups[0]):
        options_of_torch = {key: value for key, value in group.items() if key not in ("params", "fused", "foreach")}
        mine = opt.param_groups[0]
        assert {key: mine[key] for key in options_of_torch} == options_of_torch


def test_every_counterpart_is_among_the_cases() -> None:
    assert {row.name for row in COUNTERPARTS} - {case.torch[0] for case in WITH_TORCH if case.torch} == {
        "Muon",
        "SparseAdam",
    }


def test_options_that_torch_lacks_stay_when_its_state_is_loaded() -> None:
    params = parameters()
    peer = torch.optim.AdamW(params, lr=0.5)
    train(params, peer, 0, 2)
    opt = fastopt.torch.AdamW(params, clip_norm=1.0, clip_global_norm=2.0)
    opt.load_state_dict(peer.state_dict())
    assert opt.param_groups[0]["lr"] == 0.5
    assert opt.param_groups[0]["clip_norm"] == 1.0
    assert opt.inner.clip_global_norm == 2.0
    assert opt.inner.step_count == 2


def test_adam_with_decoupled_decay() -> None:
    params = parameters()
    decoupled = torch.optim.Adam(params, weight_decay=0.1, decoupled_weight_decay=True)
    train(params, decoupled, 0, 2)
    opt = fastopt.torch.Adam(params)
    opt.load_state_dict(decoupled.state_dict())
    assert opt.param_groups[0]["decoupled_weight_decay"] is opt.inner.param_groups[0]["decoupled"] is True
    opt = fastopt.torch.AdamW(params)
    opt.load_state_dict(torch.optim.Adam(params).state_dict())
    assert opt.param_groups[0]["decoupled_weight_decay"] is True  # as in torch
    same = fastopt.torch.Adam(params, decoupled_weight_decay=True), fastopt.torch.Adam(params, decoupled=True)
    assert all(opt.inner.param_groups[0]["decoupled"] for opt in same)


def test_state_is_in_place() -> None:
    params = parameters()
    opt = fastopt.torch.Adam(params)
    assert opt.state[params[0]] == {}
    assert len(opt.state) == 0
    params[1].requires_grad_(False)
    train(params[:1], opt, 0, 2)
    assert list(opt.state) == params[:1]
    state = opt.state[params[0]]
    assert state["step"] == 2
    before = state["exp_avg"].clone()
    train(params[:1], opt, 2, 3)
    assert not torch.equal(state["exp_avg"], before)
    assert state["step"] == 3
    state["exp_avg"] = torch.zeros(3, 4)
    state["exp_avg_sq"].zero_()
    assert opt.inner.state["0"]["m"].any() == opt.inner.state["0"]["v"].any() == False  # noqa: E712
    copied = copy.deepcopy(state)
    assert type(copied) is dict
    assert copied["exp_avg"] is not state["exp_avg"]
    with pytest.raises(KeyError, match="there is no 'other'"):
        state["other"] = torch.zeros(1)
    for change in (
        lambda: opt.state.clear(),
        lambda: opt.state.pop(params[0]),
        lambda: setattr(opt, "state", {}),
        lambda: opt.state.__setitem__(params[0], {}),
        lambda: opt.state[params[0]].update(exp_avg=torch.zeros(3, 4)),
    ):
        with pytest.raises(TypeError, match="entries can't be replaced"):
            change()


def test_hooks_of_state_dicts() -> None:
    params = parameters()
    opt = fastopt.torch.SGD(params, momentum=0.9)
    train(params, opt, 0, 1)
    calls = []
    opt.register_state_dict_pre_hook(lambda opt: calls.append("before saving"))
    opt.register_state_dict_post_hook(lambda opt, saved: {**saved, "more": 1})
    opt.register_load_state_dict_pre_hook(lambda opt, saved: {key: saved[key] for key in saved if key != "more"})
    opt.register_load_state_dict_post_hook(lambda opt: calls.append("after loading"))
    saved = opt.state_dict()
    assert saved["more"] == 1
    opt.load_state_dict(saved)
    assert calls == ["before saving", "after loading"]
    assert saved["more"] == 1


def test_states_that_do_not_fit() -> None:
    params = parameters()
    opt = fastopt.torch.Adam(params, lr=0.25)
    train(params, opt, 0, 2)
    before, start = copy.deepcopy(opt.state_dict()), [param.detach().clone() for param in params]
    with pytest.raises(TypeError, match="expected a dict with the keys 'state' and 'param_groups'"):
        opt.load_state_dict({"weight": 1})
    with pytest.raises(ValueError, match=r"expected groups of \[2\] parameters, got groups of \[1\]"):
        opt.load_state_dict(torch.optim.Adam(params[:1]).state_dict())
    with pytest.raises(ValueError, match="it is that of SGD, this is Adam"):
        opt.load_state_dict(fastopt.torch.SGD(params).state_dict())
    with pytest.raises(ValueError, match=r"a group has no \['betas', 'eps', 'amsgrad'\]"):
        opt.load_state_dict(torch.optim.SGD(params).state_dict())
    with pytest.raises(ValueError, match="no entry 'fastopt', and torch has no Lion"):
        fastopt.torch.Lion(params).load_state_dict(torch.optim.SGD(params).state_dict())
    wrong = copy.deepcopy(before)
    wrong["state"][0]["exp_avg"] = torch.zeros(7)
    with pytest.raises(ValueError, match="it does not fit this Adam"):
        opt.load_state_dict(wrong)
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr=-1"):
        opt.load_state_dict(wrong)
    after = opt.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][0][key], value) for key, value in before["state"][0].items())
    assert_same_bits(params, start)


def test_step_counts_and_groups_of_torch() -> None:
    """The form of torch, entry by entry."""
    params = parameters()
    ours = fastopt.torch.Adam([{"params": params[:1], "lr": 0.5}, {"params": params[1:], "name": "head"}])
    theirs = torch.optim.Adam([{"params": params[:1], "lr": 0.5}, {"params": params[1:], "name": "head"}])
    for opt in (ours, theirs):
        train(params, opt, 0, 2)
    one, other = ours.state_dict(), theirs.state_dict()
    assert {*one} == {*other, "fastopt"}
    for mine, group in zip(one["param_groups"], other["param_groups"], strict=True):
        assert {key: mine[key] for key in group} == group
    for i in range(2):
        assert {*one["state"][i]} == {*other["state"][i]}
        assert one["state"][i]["step"].dtype is other["state"][i]["step"].dtype is torch.float32


def test_state_makes_no_tensors_that_nobody_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    params = parameters()
    opt = fastopt.torch.Adam(params)
    train(params, opt, 0, 2)
    made: list[int] = []
    monkeypatch.setattr(live_state, "tensors_of", lambda opt, i, entries: made.append(i) or tensors_of(opt, i, entries))
    state = opt.state
    assert len(state) == 2
    assert list(state) == list(state.keys()) == list(reversed(state))[::-1] == params
    assert params[1] in state
    assert object() not in state
    assert bool(state)
    assert made == []
    assert {*state[params[1]]} == {"step", "exp_avg", "exp_avg_sq"}
    assert made == [1]
    opt.add_param_group({"params": parameters()[:1]})
    assert len(state) == 2  # those with a step
    assert state.get(opt.params[2]) is None
    assert state[opt.params[2]] == {}


def test_state_is_a_dict_of_the_present_tensors() -> None:
    params = parameters()
    opt = fastopt.torch.Adam(params)
    train(params, opt, 0, 1)
    state = opt.state
    assert isinstance(state, dict)
    copies = [dict(state), state.copy(), copy.copy(state), {**state}, state | {}, {} | state, dict(state.items())]
    copies += [copy.deepcopy(state, {id(param): param for param in params})]
    for copied in copies:
        assert type(copied) is dict
        assert list(copied) == params
        for param, entries in copied.items():
            assert all(torch.equal(value, state[param][name]) for name, value in entries.items())
    its_params, pickled = pickle.loads(pickle.dumps((params, state)))
    assert type(pickled) is dict
    assert list(pickled) == its_params
    assert torch.equal(pickled[its_params[0]]["exp_avg"], state[params[0]]["exp_avg"])
    assert repr(state) == repr(dict(state))
    assert state != {}
    for entries in state.values():  # as torch's loops over states do
        for name, value in entries.items():
            if isinstance(value, torch.Tensor):
                entries[name] = value.to("cpu")
    train(params, opt, 1, 3)
    assert state[params[0]]["step"] == 3
    opt.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert torch.equal(state[params[0]]["exp_avg"], opt.state[params[0]]["exp_avg"])
    state[params[0]]["exp_avg"].zero_()
    assert not opt.inner.state["0"]["m"].any()


def test_torchs_own_state_dict_reads_the_state() -> None:
    params = parameters()
    opt = fastopt.torch.Adam(params)
    train(params, opt, 0, 2)
    theirs, ours = torch.optim.Optimizer.state_dict(opt), opt.state_dict()
    for i in range(2):
        assert all(torch.equal(ours["state"][i][name], theirs["state"][i][name]) for name in ("exp_avg", "exp_avg_sq"))
