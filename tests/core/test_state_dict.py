"""state_dict and load_state_dict: what is saved, that it goes on with the same bits, and what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from cases import CASES, Case, every_case, every_dtype, everything
from structures import copied, flat, like, model, same

import fastopt
from fastopt import schedules
from fastopt.core import encoding

RNG = np.random.default_rng(1)


def trained(case: Case, params: Any, steps: int = 3, **more: Any) -> fastopt.Optimizer:
    opt = case.build(params, **more)
    for step in range(steps):
        grads = like(params)
        opt.step({**grads, "hidden": None} if step == 1 else grads)
    return opt


def unchanged(opt: fastopt.Optimizer, params: Any) -> list[Any]:
    """Return all that an error must leave as it was."""
    return [
        everything(flat(params), opt),
        {name: list(entries) for name, entries in opt.state.items()},
        opt.step_count,
        [{name: value for name, value in group.items() if name != "params"} for group in opt.param_groups],
        set(opt.parts.parameters.frozen),
        opt.clip_global_norm,
    ]


@every_case
def test_going_on_from_a_saved_state_gives_the_same_bits(case: Case) -> None:
    params = model()
    opt = trained(case, params)
    opt.freeze("out*")
    others = copied(params)
    # Options are loaded too: the other one is built with those of another run.
    other = type(opt)(others, lr=0.7)
    assert other.load_state_dict(opt.state_dict()) == ([], [])
    for _ in range(3):
        grads = like(params)
        assert opt.step(grads) == other.step(copied(grads))
        opt.unfreeze()
        other.unfreeze()
    assert everything(flat(params), opt) == everything(flat(others), other)


@every_dtype
@pytest.mark.parametrize("order", ["C", "F"])
def test_shapes_orders_and_dtypes(dtype: Any, order: str) -> None:
    params = [np.asarray(RNG.normal(size=shape), dtype, order=order) for shape in [(4, 3, 2), (), (0, 3), (1, 5)]]
    opt = fastopt.AdamW(params, amsgrad=True)
    opt.step([np.ones(param.shape) for param in params])
    other = fastopt.AdamW([param.copy(order="K") for param in params])
    other.load_state_dict(opt.state_dict())
    for name, entries in opt.state.items():
        for slot, values in entries.items():
            loaded = other.state[name][slot]
            assert (loaded.shape, loaded.dtype, loaded.tobytes("A")) == (
                values.shape,
                values.dtype,
                values.tobytes("A"),
            )
            assert loaded.flags.f_contiguous == values.flags.f_contiguous


@every_case
def test_a_saved_state_is_plain_and_a_copy(case: Case) -> None:
    params = model()
    opt = trained(case, params)
    saved = opt.state_dict()
    json.dumps({name: value for name, value in saved.items() if name != "state"})
    assert all(type(name) is str for name in saved["state"])
    before = copy.deepcopy(saved)
    opt.step(like(params))
    np.testing.assert_equal(saved, before)
    other = case.build(copied(params))
    other.load_state_dict(saved)
    other.step(like(params))
    np.testing.assert_equal(saved, before)


def test_a_state_before_the_first_step() -> None:
    opt = fastopt.Adam({"W": np.ones(2)}, lr=0.5)
    other = fastopt.Adam({"W": np.ones(2)})
    other.load_state_dict(opt.state_dict())
    assert other.step_count == 0
    assert sorted(other.state["W"]) == ["m", "step", "v"]
    for each in (opt, other):
        each.step({"W": np.ones(2)})
    assert everything([], opt) == everything([], other)


def test_slots_of_an_earlier_rule_are_kept() -> None:
    params, others = [np.ones(2)], [np.ones(2)]
    opt, other = fastopt.Adam(params, amsgrad=True), fastopt.Adam(others)
    opt.step([np.ones(2)])
    opt.param_groups[0]["amsgrad"] = False
    opt.step([np.ones(2)])
    other.load_state_dict(opt.state_dict())
    others[0][...] = params[0]
    for each in (opt, other):
        each.param_groups[0]["amsgrad"] = True
        each.step([np.full(2, 0.1)])
    assert everything(params, opt) == everything(others, other)
    fresh = fastopt.Adam([np.ones(2)])
    other.load_state_dict(fresh.state_dict())
    assert sorted(other.state["0"]) == ["m", "step", "v"]


COPYING = [copy.copy, lambda opt: copy.deepcopy(opt).step_count, lambda opt: pickle.loads(pickle.dumps(opt)).params]


@pytest.mark.parametrize("copying", COPYING, ids=["copy", "deepcopy", "pickle"])
def test_optimizers_are_copied_by_their_state(copying: Callable[[Any], Any]) -> None:
    params = model()
    opt = trained(Case(fastopt.Adam, {}), params)
    before = unchanged(opt, params)
    with pytest.raises(TypeError, match=r"^Adam: an optimizer can't be copied.*"):
        copying(opt)
    assert unchanged(opt, params) == before
    assert same(copy.deepcopy(opt.state), opt.state)
    assert same(pickle.loads(pickle.dumps(opt.state["hidden.W"])), opt.state["hidden.W"])
    others = copied(params)
    other = fastopt.Adam(others)
    other.load_state_dict(opt.state_dict())
    grads = like(params)
    for each in (opt, other):
        each.step(grads)
    assert everything(flat(params), opt) == everything(flat(others), other)


def test_groups_and_what_was_written_into_them() -> None:
    build = lambda: fastopt.SGD(fastopt.group_by(model(), {"*.b": {"weight_decay": 0}, "*": {}}), momentum=0.9)  # noqa: E731
    opt, other = build(), build()
    opt.param_groups[1]["lr"] = np.float64(0.25)
    opt.clip_global_norm = 2.0
    other.load_state_dict(opt.state_dict())
    assert [group["lr"] for group in other.param_groups] == [1e-3, 0.25]
    assert [group["weight_decay"] for group in other.param_groups] == [0, 0]
    assert other.clip_global_norm == 2.0


# --- schedules --------------------------------------------------------------------------------------------------------


def rate(step: int) -> float:
    return 0.1 / (step + 1)


class Rate:
    def __call__(self, step: int) -> float:
        return rate(step)


@pytest.mark.parametrize("schedule", schedules.examples()[:19], ids=lambda schedule: type(schedule).__name__)
def test_every_schedule_is_data(schedule: schedules.Schedule) -> None:
    saved = json.loads(json.dumps(encoding.encoded(schedule)))
    assert encoding.decoded(saved, None) == schedule
    assert repr(encoding.decoded(saved, None)) == repr(schedule)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rate,
        Rate,
        lambda: schedules.lambda_(rate),
        lambda: schedules.join([schedules.lambda_(rate), schedules.cosine(0.1, 5)], [3]),
        lambda: schedules.chain([rate, schedules.per_epoch(rate, 2)]),
    ],
)
def test_a_function_is_taken_from_the_optimizer(make: Callable[[], Any]) -> None:
    opt = fastopt.SGD([np.ones(1)], lr=make())
    opt.step([np.ones(1)])
    saved = opt.state_dict()
    json.dumps(saved["param_groups"])
    same = fastopt.SGD([np.ones(1)], lr=make())
    same.load_state_dict(saved)
    assert same.step([np.ones(1)]) == opt.step([np.ones(1)])
    with pytest.raises(ValueError, match=r"calls the function '\S*[rR]ate', which can't be saved; build the optimizer"):
        fastopt.SGD([np.ones(1)], lr=0.1).load_state_dict(saved)


def test_betas_with_a_schedule() -> None:
    betas = (schedules.one_cycle(0.1, 10).momentum(), 0.999)
    opt = fastopt.Adam([np.ones(1)], betas=betas)
    other = fastopt.Adam([np.ones(1)])
    other.load_state_dict(opt.state_dict())
    assert other.param_groups[0]["betas"] == betas


# --- what does not fit ------------------------------------------------------------------------------------------------


def test_every_mismatch_is_in_one_error_and_nothing_is_changed() -> None:
    params = model()
    opt = trained(Case(fastopt.AdamW, {}), params)
    saved = opt.state_dict()
    saved["state"]["hidden.W"]["m"] = np.zeros((9, 9))
    saved["state"]["hidden.b"]["v"] = saved["state"]["hidden.b"]["v"].astype(np.float32)
    saved["state"]["norm1"]["q"] = np.zeros(3)
    saved["state"]["out.0"]["step"] = np.array(-1)
    saved["state"]["out.1.b"]["m"] = [1, 2]
    del saved["state"]["out.1.b"]["v"]
    saved["state"]["alien"] = {}
    saved["frozen"] = ["martian"]
    saved["extra"] = {"loss_scale": 3.0}
    saved["options"]["clip_global_norm"] = -1
    saved["param_groups"][0]["lr"] = -1
    saved["step_count"] = -5
    for other in (opt, fastopt.AdamW(copied(params))):
        before = unchanged(other, params)
        with pytest.raises(ValueError, match="does not fit this AdamW") as caught:
            other.load_state_dict(saved)
        assert unchanged(other, params) == before
        lines = str(caught.value).splitlines()
        for part in (
            "hidden.W.m is of shape (9, 9), float64; expected shape (4, 3), float64",
            "hidden.b.v is of shape (3,), float32; expected shape (3,), float64",
            "unexpected: norm1.q",
            "out.0.step is -1",
            "out.1.b.m is of type list",
            "missing: out.1.b.v",
            "unexpected: alien",
            "unexpected: frozen: martian",
            "extra: expected the entries [], got ['loss_scale']",
            "options: clip_global_norm=-1: expected a number of at least 0, or None",
            "param_groups[0]: lr=-1: expected a finite number of at least 0, a schedule",
            "step_count: expected a number from 0 to 2**62, got -5",
        ):
            assert sum(part in line for line in lines) == 1, part
        assert len(lines) == 13


def test_not_strict_loads_what_fits() -> None:
    """The lower layers of another model, with a new head."""
    params = {"body": {"W": np.ones((2, 3)), "b": np.ones(3)}, "head": {"W": np.ones((3, 5)), "old": np.ones(1)}}
    opt = fastopt.Adam(params, lr=0.3)
    for _ in range(2):
        opt.step(like(params))
    new = {"body": {"W": np.ones((2, 3)), "b": np.ones(3)}, "head": {"W": np.ones((3, 2)), "new": np.ones(2)}}
    other = fastopt.Adam(new, lr=0.1)
    with pytest.raises(ValueError, match=r"head.W.m is of shape \(3, 5\)"):
        other.load_state_dict(opt.state_dict())
    result = other.load_state_dict(opt.state_dict(), strict=False)
    assert result.missing == ["param_groups[0]", "head.W.m", "head.W.v", "head.new"]
    assert result.unexpected == ["param_groups[0]", "head.W.m", "head.W.v", "head.old"]
    for name in ("body.W", "body.b"):
        for slot, values in opt.state[name].items():
            assert other.state[name][slot].tobytes() == values.tobytes()
    assert set(other.state["head.W"]) == {"step"}  # its slots are made by the next step
    assert int(other.state["head.W"]["step"]) == 0
    assert other.param_groups[0]["lr"] == 0.1
    assert other.step_count == 2
    other.freeze("body.*")
    other.step(like(new))
    assert int(other.state["body.W"]["step"]) == 2


def without(saved: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in saved.items() if key != name}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda saved: None, TypeError, "expected a dict from state_dict"),
        (lambda saved: [], TypeError, "expected a dict from state_dict"),
        (lambda saved: {}, ValueError, "expected the entries"),
        (lambda saved: without(saved, "frozen"), ValueError, "expected the entries"),
        (lambda saved: {**saved, "more": 1}, ValueError, "expected the entries"),
        (lambda saved: {**saved, "optimizer": "AdamW"}, ValueError, "of the optimizer 'AdamW', this is 'Adam'"),
        (lambda saved: {**saved, "optimizer": None}, TypeError, "'optimizer' is of type NoneType"),
        (lambda saved: {**saved, "step_count": "3"}, TypeError, "'step_count' is of type str"),
        (lambda saved: {**saved, "step_count": True}, TypeError, "'step_count' is of type bool"),
        (lambda saved: {**saved, "step_count": -3}, ValueError, "step_count: expected a number from 0 to 2"),
        (lambda saved: {**saved, "step_count": 2**62 + 1}, ValueError, "step_count: expected a number from 0 to 2"),
        (lambda saved: {**saved, "state": [1]}, TypeError, "'state' is of type list"),
        (lambda saved: {**saved, "state": {"0": 3}}, TypeError, r"state\['0'\] is of type int"),
        (lambda saved: {**saved, "param_groups": {}}, TypeError, "'param_groups' is of type dict"),
        (lambda saved: {**saved, "param_groups": [3]}, TypeError, r"param_groups\[0\] is not a dict with the names"),
        (lambda saved: {**saved, "param_groups": [{"lr": 1}]}, TypeError, r"param_groups\[0\] is not a dict with the"),
        (lambda saved: {**saved, "options": {}}, ValueError, "options: expected"),
        (lambda saved: options(saved, initial_lr="x"), TypeError, r"param_groups\[0\]: 'initial_lr' is of type str"),
        (
            lambda saved: options(saved, lr={"schedule": "constant", "arguments": {"value": 10**400}}),
            ValueError,
            "expected a finite number",
        ),
        (lambda saved: options(saved, nesterov=True), ValueError, r"param_groups\[0\]: expected the options"),
        (lambda saved: options(saved, lr="fast"), ValueError, r"param_groups\[0\]: lr='fast'"),
        (lambda saved: options(saved, lr=float("nan")), ValueError, r"param_groups\[0\]: lr=nan"),
        (lambda saved: options(saved, betas=(0.9,)), ValueError, r"param_groups\[0\]: betas"),
        (lambda saved: options(saved, lr={"schedule": "os", "arguments": {}}), ValueError, "there is no schedule 'os'"),
        (lambda saved: options(saved, lr={"schedule": "Schedule", "arguments": {}}), ValueError, "no schedule 'Sched"),
        (lambda saved: options(saved, lr={"schedule": "cosine", "arguments": {}}), ValueError, "cosine: expected the"),
        (
            lambda saved: options(saved, lr={"schedule": "constant", "arguments": {"value": -1}}),
            ValueError,
            r"param_groups\[0\]: constant: value=.*: expected a finite number of at least 0",
        ),
        (lambda saved: options(saved, lr={"function": "os.system"}), ValueError, "calls the function 'os.system'"),
        (lambda saved: options(saved, lr={"x": 1}), ValueError, "expected a number, a schedule or a tuple"),
    ],
)
def test_what_is_no_saved_state(
    change: Callable[[Any], Any], error: type[Exception], message: str, strict: bool
) -> None:
    params = [np.ones(2)]
    opt = fastopt.Adam(params, lr=0.1)
    opt.step([np.ones(2)])
    before = unchanged(opt, params)
    with pytest.raises(error, match=message):
        opt.load_state_dict(change(opt.state_dict()), strict=strict)
    assert unchanged(opt, params) == before


def options(saved: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**saved, "param_groups": [{**saved["param_groups"][0], **more}]}


def test_a_rule_that_the_saved_options_do_not_allow() -> None:
    opt = fastopt.SGD([np.ones(2)], momentum=0.9)
    saved = opt.state_dict()
    saved["param_groups"][0].update(nesterov=True, dampening=0.5)
    with pytest.raises(ValueError, match=r"param_groups\[0\]: nesterov=True: expected momentum above 0"):
        opt.load_state_dict(saved)


def test_other_groups() -> None:
    params = {"a": np.ones(1), "b": np.ones(1)}
    opt = fastopt.SGD(fastopt.group_by(params, {"a": {}, "b": {"lr": 0.5}}))
    other = fastopt.SGD({"a": np.ones(1), "b": np.ones(1)})
    with pytest.raises(
        ValueError, match=r"param_groups\[0\] is of the arrays \['a'\]; the groups here are of .* with .* opt.set"
    ):
        other.load_state_dict(opt.state_dict())
    other.set("b", lr=0.1)
    other.load_state_dict(opt.state_dict())
    assert other.lr == opt.lr


class WithMore(fastopt.SGD):
    """An optimizer with state besides its arrays'."""

    seed = 1

    def extra_state(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_extra_state(self, extra: Mapping[str, Any]) -> None:
        self.seed = extra["seed"]


def test_state_besides_the_arrays() -> None:
    opt, other = WithMore([np.ones(1)]), WithMore([np.ones(1)])
    opt.seed = 7
    other.load_state_dict(opt.state_dict())
    assert other.seed == 7
    with pytest.raises(ValueError, match=r"extra: expected the entries \['seed'\], got \[\]"):
        other.load_state_dict({**opt.state_dict(), "extra": {}})
    assert other.load_state_dict({**opt.state_dict(), "extra": {}}, strict=False) == (["extra"], ["extra"])


def test_cases_have_every_optimizer() -> None:
    """All but Muon, which takes no vectors, and Combined: test_array_optimizers.py and test_combined.py have theirs."""
    ours = {case.optimizer for case in CASES if case.optimizer.__module__.startswith("fastopt.")}
    assert ours == {
        value for value in vars(fastopt).values() if isinstance(value, type) and issubclass(value, fastopt.Optimizer)
    } - {fastopt.Optimizer, fastopt.Muon, fastopt.Combined}


def test_loss_scales_go_on() -> None:
    scale = fastopt.DynamicLossScale(init_scale=8.0, growth_interval=3)
    opt = fastopt.SGD(np.ones(2), grad_scale=scale, nonfinite="skip")
    for grad in (np.inf, 1.0, 1.0):
        opt.step(np.full(2, grad))
    saved = opt.state_dict()
    other_scale = fastopt.DynamicLossScale()
    other = fastopt.SGD(np.ones(2), grad_scale=other_scale, nonfinite="skip")
    other.load_state_dict(saved)
    assert other.grad_scale is other_scale
    assert vars(other_scale) == vars(scale)
    other.step(np.ones(2))
    assert other_scale.scale == 8.0
    with pytest.raises(ValueError, match=r"grad_scale is DynamicLossScale.*this optimizer's is 1.0: build it with"):
        fastopt.SGD(np.ones(2)).load_state_dict(saved)
    saved["options"]["grad_scale"]["loss_scale"]["scale"] = -1.0
    with pytest.raises(ValueError, match=r"init_scale=-1.0: expected"):
        other.load_state_dict(saved)
    assert other_scale.scale == 8.0


def test_accumulation_goes_on() -> None:
    params = [np.ones(2), np.ones(3)]
    opt = fastopt.SGD(params, accumulate_steps=3, grad_scale=2.0, seed=5)
    opt.step([np.ones(2), None])
    saved = opt.state_dict()
    other = fastopt.SGD([np.ones(2), np.ones(3)], accumulate_steps=3)
    other.load_state_dict(saved)
    assert (other.accumulated_calls, other.grad_scale, other.seed) == (1, 2.0, 5)
    assert same(other.state_dict(), saved)
    shorter = fastopt.SGD([np.ones(2), np.ones(3)], accumulate_steps=1)
    with pytest.raises(ValueError, match=r"accumulated_calls=1: expected a number below accumulate_steps=1"):
        shorter.load_state_dict(saved)


def test_what_is_stored_otherwise_does_not_fit() -> None:
    opt = fastopt.Adam(np.ones(5000, np.float32), state_dtype="uint8", ema_decay=0.5)
    opt.step(np.ones(5000))
    other = fastopt.Adam(np.ones(5000, np.float32))
    with pytest.raises(
        ValueError, match=r"0.m is of shape \(5000,\), uint8; expected shape \(5000,\), float32"
    ) as told:
        other.load_state_dict(opt.state_dict())
    assert "unexpected: 0.ema" in str(told.value)
    assert "unexpected: 0.m_scale" in str(told.value)
    unexpected = other.load_state_dict(opt.state_dict(), strict=False).unexpected
    assert sorted(unexpected) == ["0.ema", "0.m", "0.m_scale", "0.v", "0.v_scale"]
    assert set(other.state["0"]) == {"step"}


def test_a_frozen_array_drops_what_it_accumulated() -> None:
    params = [np.ones(1), np.ones(1)]
    opt = fastopt.SGD(params, lr=1.0, accumulate_steps=2)
    opt.step([np.ones(1), np.ones(1)])
    opt.freeze("1")
    opt.step([np.ones(1), np.ones(1)])
    opt.unfreeze()
    assert params[1] == 1
    for _ in range(2):
        opt.step([np.ones(1), np.full(1, 2.0)])
    assert params == [-1, -1]


def test_restoring_brings_copies_and_masters(tmp_path: Any) -> None:
    params = [np.float16([1.0, 2.0])]
    opt = fastopt.SGD(params)
    fastopt.save(tmp_path / "model.npz", params=[np.float16([3.0, 4.0])])
    opt.step([np.ones(2)])
    fastopt.load(tmp_path / "model.npz").restore(opt)
    opt.step([np.zeros(2)])
    assert params[0].tolist() == [3, 4]
    full, copy = np.ones(2, np.float32), np.zeros(2, np.float16)
    opt = fastopt.SGD(full, copy_to=copy)
    fastopt.save(tmp_path / "model.npz", params=np.float32([3.0, 4.0]))
    fastopt.load(tmp_path / "model.npz").restore(opt)
    assert copy.tolist() == [3, 4]


@pytest.mark.parametrize("steps", [(4, 1), (1, 4), (4, 2)])
def test_a_state_in_which_nothing_has_accumulated_loads_with_other_accumulate_steps(steps: tuple[int, int]) -> None:
    before, after = steps
    theta, like = np.ones(3), np.ones(3)
    opt, other = fastopt.Adam(theta, accumulate_steps=before), fastopt.Adam(like, accumulate_steps=after)
    for _ in range(2 * before):
        opt.step(np.arange(3.0))
    for _ in range(after + 1):  # in the midst of an accumulation
        other.step(np.full(3, 5.0))
    other.load_state_dict(opt.state_dict())
    like[...] = theta
    for _ in range(before):
        opt.step(np.full(3, 0.5))
    for _ in range(after):
        other.step(np.full(3, 0.5))
    assert np.array_equal(theta, like)
    assert opt.step_count == other.step_count == 3


def test_a_state_in_which_something_has_accumulated_needs_a_place_for_it() -> None:
    opt = fastopt.Adam(np.ones(3), accumulate_steps=4)
    for _ in range(5):
        opt.step(np.arange(3.0))
    with pytest.raises(ValueError, match=r"accumulated_calls=1: expected a number below accumulate_steps=1"):
        fastopt.Adam(np.ones(3)).load_state_dict(opt.state_dict())
