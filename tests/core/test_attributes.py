"""Attributes of an optimizer: ``lr`` is that of all groups, and other options are refused with what to write."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import CASES, Case, needs_native

import fastopt
from fastopt.core.attributes import options_of
from fastopt.options.common import Common, StepOptions
from fastopt.options.names import SPELLINGS, meant

EACH = {case.optimizer: case for case in CASES}.values()


def is_there(opt: fastopt.Optimizer, name: str) -> bool:
    return hasattr(opt, name)


@pytest.mark.parametrize("case", EACH, ids=str)
def test_no_option_is_an_attribute(case: Case) -> None:
    """Whether it is the optimizer's own, one of all, or nearly one: setting it is refused, and nothing changes."""
    opt = case.build(np.ones((2, 2)))
    before = dict(vars(opt)), dict(opt.param_groups[0])
    names = {*opt.defaults, *Common.__annotations__} - {
        "lr",
        "clip_global_norm",
        "skip_above",
        "grad_scale",
        "seed",
        "backend",
    }
    assert names > {*StepOptions._fields, "copy_to", "weight_decay"}
    for name in names:
        assert not is_there(opt, name)
        with pytest.raises(AttributeError, match=rf"^{type(opt).__name__}: '{name}' is an option, not an attribute; "):
            getattr(opt, name)
        where = rf'write opt.param_groups\[0\]\["{name}"\] = 3$' if name in opt.defaults else f"give '{name}' to "
        with pytest.raises(AttributeError, match=rf"^{name}=3: '{name}' is an option, not an attribute; {where}"):
            setattr(opt, name, 3)
        if len(name) > 6 and type(opt).__module__.startswith("fastopt."):
            near = name[:-3] + name[-2] + name[-3] + name[-1]
            if near != name:
                with pytest.raises(AttributeError, match=rf"^{near}=3: '{near}' is neither an attribute nor an option"):
                    setattr(opt, near, 3)
    assert (dict(vars(opt)), dict(opt.param_groups[0])) == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learning_rate", r"write opt\.lr = 3$"),
        ("learningRate", r"write opt\.lr = 3$"),
        ("LR", r"write opt\.lr = 3$"),
        ("clip_global_nrom", r"write opt\.clip_global_norm = 3$"),
        ("grad_scael", r"write opt\.grad_scale = 3$"),
        ("weightDecay", r'write opt\.param_groups\[k\]\["weight_decay"\] = 3$'),
        ("beta1", r'write opt\.param_groups\[k\]\["betas"\] = 3$'),
        ("max_norm", r'\["max_weight_norm"\] = 3; to clip gradients, write \'clip_global_norm\'$'),
        ("emadecay", "give 'ema_decay' to Adam when you build it$"),
        ("momentum", "Adam has neither such an attribute nor such an option; its options are .*'amsgrad'"),
        ("momentun", "Adam has neither such an attribute nor such an option; its options are "),
    ],
)
def test_what_to_write(name: str, says: str) -> None:
    opt = fastopt.Adam([{"params": np.ones(1)}, {"params": np.ones(2)}])
    with pytest.raises(AttributeError, match=rf"^{name}=3: .*{says}"):
        setattr(opt, name, 3)
    assert not is_there(opt, name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learning_rate", r"Adam: 'learning_rate' is neither an attribute nor an option; read opt\.lr$"),
        ("beta_1", r'read opt\.param_groups\[k\]\["betas"\]$'),
        (
            "max_norm",
            r'read opt\.param_groups\[k\]\["max_weight_norm"\]; to clip gradients, write \'clip_global_norm\'$',
        ),
        ("global_clipnorm", r"read opt\.clip_global_norm$"),
        ("use_ema", r"'ema_decay' is fixed when the optimizer is built$"),
        ("minimize", r"Adam has no 'minimize': .*write opt\.step\(grads\); fastopt\.minimize\(function, params\) "),
        ("apply", r"Adam has no 'apply': write opt\.step\(grads\)$"),
        ("init", r"write opt\.step\(grads\)$"),
        ("iterations", r"Adam has no 'iterations': read opt\.step_count$"),
        ("variables", r"Adam has no 'variables': read opt\.state$"),
        ("trainable_variables", r"Adam has no 'trainable_variables': read opt\.params$"),
    ],
)
def test_what_to_read(name: str, says: str) -> None:
    opt = fastopt.Adam([{"params": np.ones(1)}, {"params": np.ones(2)}])
    assert name not in dir(opt)
    with pytest.raises(AttributeError, match=says):
        getattr(opt, name)
    assert not hasattr(fastopt.Adam, name)


def test_spellings_of_others_mean_an_option() -> None:
    """All of them for some optimizer, and none is an option of its own."""
    everywhere = [case.build(np.ones((2, 2))) for case in EACH]
    for name in SPELLINGS:
        found = [opt for opt in everywhere if meant(name, options_of(opt))]
        assert found, name
        assert not any(name in options_of(opt) for opt in everywhere)


def test_a_rule_of_ones_own_may_have_such_names() -> None:
    @fastopt.optimizer(lr=0.1, mu=0.5, b1=0.25)
    def Own(h: Any, p: Any, g: Any, m: Any) -> Any:
        m = h.mu * m + h.b1 * g
        return p - h.lr * m, m

    opt = Own(np.ones(1))
    for name in ("mu", "b1"):
        with pytest.raises(AttributeError, match=rf"'{name}' is an option, not an attribute; read opt\.param_groups"):
            getattr(opt, name)


def test_learning_rate_of_all_groups() -> None:
    opt = fastopt.SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 0.5}], lr=0.25)
    rates = fastopt.schedules.constant(2.0)
    assert opt.lr == [0.25, 0.5]
    opt.lr = opt.lr
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.5]
    opt.lr = (rates, 0.5)
    assert opt.lr == [rates, 0.5]
    for value in (1, np.array(1.0), rates):
        opt.lr = value
        assert opt.lr == value
        assert [group["lr"] for group in opt.param_groups] == [value, value]
    assert fastopt.SGD(np.ones(1), lr=0.5).lr == 0.5


@pytest.mark.parametrize(
    "value", [-1.0, float("nan"), "fast", None, True, [0.5], [0.5, -1], [0.5, 0.5, 0.5], np.ones(2)]
)
def test_wrong_learning_rates(value: Any) -> None:
    opt = fastopt.SGD([{"params": np.zeros(1)}, {"params": np.zeros(1), "lr": 0.5}], lr=0.25)
    with pytest.raises((TypeError, ValueError), match=r"^lr=.*: expected "):
        opt.lr = value
    assert opt.lr == [0.25, 0.5]


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_next_step_has_the_learning_rate_that_was_set(backend: str) -> None:
    param = np.zeros(1)
    opt = fastopt.SGD(param, lr=1.0, backend=backend)
    for lr in (1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.25):
        opt.lr = lr
        assert opt.step(np.ones(1)).lr == lr
    assert param == -6.0
    assert (opt.planned_steps > 3) == (backend == "native")


class Own(fastopt.SGD):
    """A subclass from elsewhere, with attributes of its own: declared, in slots, properties, set before and after."""

    __slots__ = ("momentums",)
    maximise = True

    def __init__(self, params: Any, nestrov: bool = False, **options: Any) -> None:
        self.weight_deacy = 1
        super().__init__(params, **options)
        self.nestrov = nestrov
        self.momentums = [1]
        self.maximise = False
        self.double = 4

    @property
    def double(self) -> int:
        return self.halved * 2

    @double.setter
    def double(self, value: int) -> None:
        self.halved = value // 2

    def hyper(self, group: Any, step: int) -> Any:
        self.learning_rate = group["lr"]
        return super().hyper(group, step)


def test_attributes_of_a_subclass_are_free() -> None:
    opt = Own(np.ones(1), True, lr=0.5)
    opt.step(np.ones(1))
    opt.weight_deacy += 1
    assert (opt.nestrov, opt.momentums, opt.maximise, opt.double, opt.learning_rate) == (True, [1], False, 4, 0.5)
    assert opt.weight_deacy == 2
    with pytest.raises(AttributeError, match=r'write opt.param_groups\[0\]\["weight_decay"\] = 3$'):
        opt.weight_decay = 3
    with pytest.raises(AttributeError, match=r"^Own: 'nesterov' is an option"):
        opt.nesterov  # noqa: B018


def test_attributes_that_have_nothing_of_an_option() -> None:
    opt = fastopt.Adam(np.ones(1))
    opt.name, opt.steps_of_run, opt._lr_of_last_run = "generator", 3, 0.1
    assert (opt.name, opt.steps_of_run, opt._lr_of_last_run) == ("generator", 3, 0.1)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        opt.nothing  # noqa: B018
    del opt.name
    assert not is_there(opt, "name")


def test_methods_can_be_wrapped() -> None:
    opt = fastopt.SGD(np.ones(1), lr=0.5)
    opt.step = functools.partial(opt.step)  # type: ignore[method-assign]
    with mock.patch.object(opt, "step", wraps=opt.step) as step:
        assert opt.step(np.ones(1)).lr == 0.5
    step.assert_called_once()


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_hooks_that_are_replaced_on_an_instance(backend: str) -> None:
    """Also where the last steps were planned and their scalars do not change."""
    param = np.zeros(1)
    opt = fastopt.SGD(param, lr=1.0, backend=backend)
    hyper, update = opt.hyper, opt.update
    for _ in range(6):
        opt.step(np.ones(1))
    opt.hyper = lambda group, step: hyper({**group, "lr": 0.5}, step)  # type: ignore[method-assign]
    for _ in range(6):
        opt.step(np.ones(1))
    assert param == -9.0
    del opt.hyper
    opt.step(np.ones(1))
    assert param == -10.0
    calls = []
    opt.update = lambda step: (calls.append(step), update(step))[1]  # type: ignore[method-assign]
    for _ in range(6):
        opt.step(np.ones(1))
    assert (param, len(calls)) == (-16.0, 6)


def test_keywords() -> None:
    for name, says in (
        ("learning_rate", "write 'lr'"),
        ("weight_deacy", "write 'weight_decay'"),
        ("clip_norms", "write 'clip_norm'"),
        ("max_norm", "write 'max_weight_norm'; to clip gradients, write 'clip_global_norm'"),
        ("max_norm_axis", "write 'max_weight_norm_axis'"),
    ):
        with pytest.raises(TypeError, match=rf"^Adam\(\) got an unexpected keyword argument '{name}'; .*{says}$"):
            fastopt.Adam(np.ones(1), **{name: 3})
    with pytest.raises(TypeError, match=r"argument 'nothing'; its own options are .*'lr'"):
        fastopt.Adam(np.ones(1), nothing=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("learning_rate", "for 'learning_rate' write 'lr'"),
        ("weight_deacy", "write 'weight_decay'"),
        ("max_norm", "write 'max_weight_norm'; to clip gradients, write 'clip_global_norm'"),
        ("max_norm_axis", "write 'max_weight_norm_axis'"),
    ],
)
def test_wrong_names_in_groups(name: str, says: str) -> None:
    param = np.ones(1)
    opt = fastopt.SGD({"W": param}, lr=0.5)
    for do in (
        lambda: fastopt.SGD([{"params": np.ones(1), name: 3}]),
        lambda: opt.add_param_group({"params": {"b": np.ones(1)}, name: 3}),
        lambda: fastopt.SGD(fastopt.group_by({"W": np.ones(1)}, {"*": {name: 3}})),
        lambda: (opt.param_groups[0].update({name: 3}), opt.step({"W": np.ones(1)})),
    ):
        with pytest.raises(ValueError, match=rf"{name}.*{says}"):
            do()
    assert (param, opt.step_count, len(opt.param_groups)) == (1, 0, 1)
