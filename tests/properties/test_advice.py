"""Errors of the first hour say what to write instead, and it works: the tests run what the error says."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import f32

import fastopt
from fastopt import convert
from fastopt.options.names import NEEDLESS, SYNONYMS, in_one_word, meant

OPTIMIZERS = [getattr(fastopt, name) for name in fastopt.optimizers.__all__]


def message_of(do: Callable[[], Any], error: type[Exception] = TypeError) -> str:
    with pytest.raises(error) as raised:
        do()
    return str(raised.value)


# --- Keywords ---------------------------------------------------------------------------------------------------------

KEYWORDS = {
    "learning_rate": ("lr", 0.5),
    "step_size": ("lr", 0.5),
    "clipnorm": ("clip_norm", 1.0),
    "clipvalue": ("clip_value", 1.0),
    "global_clipnorm": ("clip_global_norm", 1.0),
    "max_grad_norm": ("clip_global_norm", 1.0),
    "gradient_clip_val": ("clip_global_norm", 1.0),
    "beta_1": ("betas", (0.8, 0.9)),
    "b2": ("betas", (0.8, 0.9)),
    "momentum": ("betas", (0.8, 0.9)),
    "epsilon": ("eps", 1e-3),
    "wd": ("weight_decay", 0.1),
    "weight_deacy": ("weight_decay", 0.1),
    "ams_grad": ("amsgrad", True),
    "decoupled_weight_decay": ("decoupled", True),
    "gradient_accumulation_steps": ("accumulate_steps", 4),
    "ema_momentum": ("ema_decay", 0.9),
    "loss_scale": ("grad_scale", 8.0),
    "random_state": ("seed", 3),
    "mu_dtype": ("state_dtype", "bfloat16"),
    "max_norm": ("max_weight_norm", 1.0),
}


@pytest.mark.parametrize("wrong", KEYWORDS)
def test_keywords(wrong: str) -> None:
    option, value = KEYWORDS[wrong]
    message = message_of(lambda: fastopt.AdamW(f32(2), **{wrong: value}))
    assert message.startswith(f"AdamW() got an unexpected keyword argument {wrong!r}; for {wrong!r} write {option!r}")
    written = re.findall(r"write '(\w+)'", message)[0]
    opt = fastopt.AdamW(f32(2), **{written: value})
    opt.step(f32(2))


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_a_synonym_is_an_option_of_the_class(cls: type[fastopt.Optimizer]) -> None:
    own = cls(np.ones((2, 2))).defaults
    for wrong in SYNONYMS:
        if wrong not in map(in_one_word, own):
            option = meant(wrong, own)
            assert option is None or option in own


@pytest.mark.parametrize("wrong", ["foreach", "fused", "capturable", "name", "mask"])
def test_needless_keywords(wrong: str) -> None:
    assert in_one_word(wrong) in NEEDLESS
    assert f"leave {wrong!r} out" in message_of(lambda: fastopt.SGD(f32(2), **{wrong: True}))


def test_a_keyword_that_is_like_none() -> None:
    message = message_of(lambda: fastopt.RMSprop(f32(2), colour=1))  # type: ignore[call-arg]
    assert "its own options are ['lr', 'alpha', " in message
    assert message.endswith("help(RMSprop) has all")


SCHEDULE_KEYWORDS = {
    ("cosine", "T_max"): "total",
    ("cosine", "eta_min"): "floor",
    ("cosine", "lr"): "lr0",
    ("cosine", "learning_rate"): "lr0",
    ("cosine", "decay_steps"): "total",
    ("cosine", "totl"): "total",
    ("linear", "total_iters"): "total",
    ("linear", "end_value"): "end",
    ("exponential", "decay_rate"): "gamma",
    ("step_decay", "stepsize"): "step_size",
    ("step_decay", "decay_steps"): "step_size",
    ("multistep", "milestone"): "milestones",
    ("one_cycle", "total_steps"): "total",
    ("one_cycle", "lr"): "max_lr",
    ("cosine_restarts", "first_decay_steps"): "T_0",
    ("warmup_cosine", "num_warmup_steps"): "warmup",
    ("warmup_cosine", "peak_value"): "lr0",
    ("constant", "lr"): "value",
}


@pytest.mark.parametrize(("schedule", "wrong"), SCHEDULE_KEYWORDS)
def test_keywords_of_schedules(schedule: str, wrong: str) -> None:
    cls, option = getattr(fastopt.schedules, schedule), SCHEDULE_KEYWORDS[schedule, wrong]
    message = message_of(lambda: cls(**{wrong: 1}))
    assert message.startswith(
        f"{schedule}() got an unexpected keyword argument {wrong!r}; for {wrong!r} write {option!r}"
    )
    assert option in inspect.signature(cls).parameters


def test_schedules_take_their_own_names() -> None:
    for made in fastopt.schedules.examples():
        for field in dataclasses.fields(made):
            assert dataclasses.replace(made, **{field.name: getattr(made, field.name)}) == made


def test_a_name_that_no_group_has() -> None:
    opt = fastopt.AdamW({"W": f32(2)})
    opt.param_groups[0]["learning_rate"] = 0.5
    message = message_of(lambda: opt.step({"W": f32(2)}), ValueError)
    written, remedy = re.findall(r"write '(\w+)'; do: (.*)$", message)[0]
    opt.param_groups[0][written] = 0.5
    exec(remedy, {"opt": opt})
    assert opt.step({"W": f32(2)}).lr == 0.5
    del opt.param_groups[0]["lr"]
    assert message_of(lambda: opt.step({"W": f32(2)}), ValueError).endswith("got no 'lr'")


@pytest.mark.parametrize("option", ["clip_global_norm", "nonfinite", "ema_decay", "grad_scale", "backend", "seed"])
def test_an_option_of_the_optimizer_in_a_group(option: str) -> None:
    value = {"nonfinite": "skip", "backend": "numpy", "seed": 3}.get(option, 0.5)
    opt = fastopt.SGD({"W": f32(2)})
    opt.param_groups[0][option] = value
    for do in (
        lambda: fastopt.SGD([{"params": f32(2), option: value}]),
        lambda: fastopt.SGD(fastopt.group_by([f32(2)], {"*": {option: value}})),
        lambda: fastopt.SGD({"a": f32(2)}).add_param_group({"params": {"b": f32(2)}, option: value}),
        lambda: opt.step({"W": f32(2)}),
    ):
        message = message_of(do, ValueError)
        assert f"{option!r} is an option of the whole optimizer" in message
        advice = re.findall(r"give it to the optimizer: (.*)$", message)[0]
        built = eval(advice, {"SGD": fastopt.SGD, "params": f32(2)})
        built.step(f32(2))


@pytest.mark.parametrize("cls", [fastopt.schedules.cosine, fastopt.lr_scheduler.StepLR])
def test_the_class_of_a_schedule(cls: type) -> None:
    message = message_of(lambda: fastopt.SGD(f32(2), lr=cls))  # type: ignore[arg-type]
    assert f"lr={cls.__name__}: expected a finite number of at least 0, a schedule, got a class; make one: " in message
    fastopt.SGD(f32(2), lr=eval(message.partition("make one: ")[2], {"fastopt": fastopt})).step(f32(2))


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "right"), [("adamw", "AdamW"), ("sgd", "SGD"), ("rms_prop", "RMSprop")])
def test_a_name_of_the_package(wrong: str, right: str) -> None:
    message = message_of(lambda: getattr(fastopt, wrong), AttributeError)
    assert message.endswith(f"; write fastopt.{right}")
    assert issubclass(getattr(fastopt, right), fastopt.Optimizer)


def test_methods_that_are_functions_here(tmp_path: Path) -> None:
    opt, path = fastopt.SGD(f32(2)), tmp_path / "run.npz"
    for method in ("save", "restore"):
        advice = message_of(lambda method=method: getattr(opt, method), AttributeError).partition("write ")[2]  # type: ignore[misc]
        eval(advice, {"fastopt": fastopt, "opt": opt, "path": path})
    assert path.exists()


# --- Parameters -------------------------------------------------------------------------------------------------------


class Layer:
    def __init__(self) -> None:
        self.W, self.b = f32(2, 3), f32(3)


class LayerWithMore(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.name, self.mask, self.size = "hidden", np.ones(3, bool), 3


class Slotted:
    __slots__ = ("W", "b", "missing")

    def __init__(self) -> None:
        self.W, self.b = f32(2), f32(1)


@dataclass
class Data:
    W: Any
    b: Any


def advised(message: str) -> str:
    """Return the code that an error about a parameter ends with."""
    return re.findall(r"\(give (.*)\)$", message)[0]


@pytest.mark.parametrize("kind", [Layer, LayerWithMore, Slotted, lambda: Data(f32(2), f32(3))])
def test_an_object_with_attributes(kind: Callable[[], Any]) -> None:
    it = kind()
    message = message_of(lambda: fastopt.SGD(it, lr=0.5))
    entries = re.findall(r"\{.*\}", advised(message))[0]
    params = eval(entries, {"it": it})
    fastopt.SGD(params, lr=0.5).step({"W": f32(*it.W.shape), "b": None})
    assert np.all(it.W == 0.5)
    if "vars(it)" in message:
        fastopt.SGD(vars(it), lr=0.5).step({"W": f32(*it.W.shape)})
        assert np.all(it.W == 0.0)
    else:
        assert kind in (LayerWithMore, Slotted)


def test_a_list_of_objects() -> None:
    layers = [Layer(), Layer()]
    assert "'0' is of type " in message_of(lambda: fastopt.SGD(layers))
    fastopt.SGD([vars(layer) for layer in layers]).step([None, {"W": f32(2, 3)}])


def test_iterators() -> None:
    arrays = {"W": f32(2), "b": f32(1)}
    for it in ((a for a in arrays.values()), arrays.values(), iter(arrays.values()), map(np.asarray, arrays.values())):
        message = message_of(lambda it=it: fastopt.SGD(it))  # type: ignore[misc]
        assert "give list(...) of it" in message
    opt = fastopt.SGD(list(a for a in arrays.values()))  # noqa: C400
    assert list(opt.state) == ["0", "1"]
    assert "list(...)" in message_of(lambda: fastopt.group_by((a for a in arrays.values()), {"*": {}}))


def test_pairs_of_names_and_arrays() -> None:
    pairs = [("W", f32(2)), ("b", f32(1))]
    assert "give dict(pairs)" in message_of(lambda: fastopt.SGD(pairs))
    assert list(fastopt.SGD(dict(pairs)).state) == ["W", "b"]


def test_none_and_numbers() -> None:
    assert "does the function that makes them return them?" in message_of(lambda: fastopt.SGD(None))
    message = message_of(lambda: fastopt.SGD(0.1, {"W": f32(2)}))  # type: ignore[arg-type]
    assert "lr={" in message or "the parameters come first" in message
    assert "the parameters come first" in message_of(lambda: fastopt.SGD(0.1))


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    tensor = torch.ones(3)
    message = message_of(lambda: fastopt.SGD({"W": tensor}, lr=1.0))
    params = eval(advised(message).split(",")[0], {"tensor": tensor})
    fastopt.SGD(params, lr=1.0).step(f32(3))
    assert (tensor == 0).all()  # torch sees it
    for do in (lambda: fastopt.SGD(model.parameters()), lambda: fastopt.SGD([{"params": model.parameters()}])):
        found = re.findall(r"\[p\..*\]", message_of(do))[0]
        arrays = eval(found, {"model": model})
        assert len(fastopt.SGD(arrays).state) == 4
    message = message_of(lambda: fastopt.SGD(model, lr=1.0))
    params = eval(re.findall(r"\{.*\}", message)[0], {"model": model})
    fastopt.SGD(params, lr=1.0).step({"2.bias": f32(1)})
    assert list(params) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    model(torch.ones(1, 3)).sum().backward()
    # A parameter that wants a gradient is advised the same.
    assert "tensor.detach().numpy()" in message_of(lambda: fastopt.SGD(list(model.parameters())))


def test_jax() -> None:
    jax = pytest.importorskip("jax")
    params = {"W": jax.numpy.ones(3), "b": jax.numpy.ones(1)}
    message = message_of(lambda: fastopt.SGD(params, lr=1.0))
    scope: dict[str, Any] = {"jax": jax, "np": np, "params": params}
    exec(re.findall(r"params = .*?params\)", message)[0], scope)
    fastopt.SGD(scope["params"], lr=1.0).step({"W": f32(3), "b": None})
    assert np.all(scope["params"]["W"] == 0)
    assert float(jax.numpy.sum(jax.jit(lambda p: p["W"])(scope["params"]))) == 0.0


# --- Arguments that change places -------------------------------------------------------------------------------------


def test_saving_and_loading(tmp_path: Path) -> None:
    opt, path = fastopt.Adam({"W": f32(2)}), tmp_path / "run.npz"
    message = message_of(lambda: fastopt.save(opt, path))  # type: ignore[arg-type]
    scope: dict[str, Any] = {"save": fastopt.save, "load": fastopt.load, "opt": opt, "path": path}
    eval(re.findall(r"save\(path, opt\)", message)[0], scope)
    message = message_of(lambda: fastopt.load(opt))  # type: ignore[arg-type]
    eval(re.findall(r"load\(path\)\.restore\(opt\)", message)[0], scope)
    assert "give parameters as params=" in message_of(lambda: fastopt.save(path, {"W": f32(2)}))  # type: ignore[arg-type]
    fastopt.save(path, params={"W": f32(2)})


def test_restoring(tmp_path: Path) -> None:
    params = {"W": f32(2)}
    opt, path = fastopt.Adam(params), tmp_path / "run.npz"
    fastopt.save(path, opt)
    checkpoint = fastopt.load(path)
    for wrong in (params, params["W"], None):
        message = message_of(lambda wrong=wrong: checkpoint.restore(wrong))  # type: ignore[misc]
        eval(re.findall(r"checkpoint\.restore\(opt\)", message)[0], {"checkpoint": checkpoint, "opt": opt})
    for given, advice in (
        (checkpoint, r"checkpoint\.restore\(opt\)"),
        (path, r"fastopt\.load\(path\)\.restore\(opt\)"),
        (opt, r"state_dict\(\)"),
    ):
        message = message_of(lambda given=given: opt.load_state_dict(given))  # type: ignore[misc]
        assert re.findall(advice, message), message
    opt.load_state_dict(checkpoint.optimizer or {})


def test_early_stopping() -> None:
    opt = fastopt.SGD({"W": f32(2)}, lr=1.0)
    stopping = fastopt.EarlyStopping(2)
    scope = {"stopping": stopping, "opt": opt, "metric": 0.5, "params": opt.params}
    eval(re.findall(r"write (.*)$", message_of(lambda: stopping.update(0.5, opt)))[0], scope)
    eval(re.findall(r"write (.*)$", message_of(lambda: stopping.update(opt.params, 0.5)))[0], scope)  # type: ignore[arg-type]
    eval(re.findall(r"write (.*)$", message_of(lambda: stopping.restore(opt)))[0], scope)
    message_of(lambda: stopping.restore(opt.params, opt.params))
    ensemble = fastopt.SnapshotEnsemble(2)
    message = message_of(lambda: ensemble.update(opt, 0.5))
    eval(re.findall(r"write (.*)$", message)[0], {**scope, "ensemble": ensemble})
    message = message_of(lambda: ensemble.update(0.5, opt.params))
    eval(re.findall(r"write (.*)$", message)[0], {**scope, "ensemble": ensemble})


def test_patterns() -> None:
    names = ["a", "b"]
    opt = fastopt.SGD({name: f32(1) for name in names})
    for method in (opt.freeze, opt.unfreeze, opt.reload_params):
        message = message_of(lambda method=method: method(names))  # type: ignore[misc]
        code = re.findall(r"for names?.*$", message)[0].replace("...", "method")
        exec(code, {"names": names, "method": method})
    assert "give its name" in message_of(lambda: opt.freeze(opt.params["a"]))


def test_from_torch() -> None:
    opt = fastopt.Adam({"W": f32(2)})
    sd = {
        "state": {},
        "param_groups": [
            {"lr": 0.1, "momentum": 0, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0]}
        ],
    }
    scope = {"from_torch": convert.from_torch, "opt": opt, "sd": sd, "names": ["W"]}
    message = message_of(lambda: convert.from_torch(sd, opt))  # type: ignore[arg-type]
    eval(re.findall(r"from_torch\(sd, .*\)$", message)[0], scope)
    message = message_of(lambda: convert.from_torch(["W"], sd))  # type: ignore[arg-type]
    eval(re.findall(r"from_torch\(sd, names\)", message)[0], scope)
    assert "to_torch(opt)" in message_of(lambda: convert.from_torch(opt, sd))  # type: ignore[arg-type]
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.ones(2)])
    assert "give its state_dict()" in message_of(lambda: convert.from_torch(theirs, ["W"]))
    convert.from_torch(theirs.state_dict(), ["W"])
    model = torch.nn.Linear(2, 1)
    assert "torch_opt.state_dict(), not the model's" in message_of(
        lambda: convert.from_torch(model.state_dict(), ["W"])
    )


# --- Methods and gradients of other libraries -------------------------------------------------------------------------


def test_methods_of_other_libraries() -> None:
    opt = fastopt.SGD(f32(2), lr=0.5)
    for name, says in (
        ("zero_grad", "leave it out"),
        ("apply_gradients", "opt.step(grads)"),
        ("get_last_lr", "opt.lr"),
        ("parameters", "opt.params"),
    ):
        assert not hasattr(opt, name)
        assert says in message_of(lambda name=name: getattr(opt, name), AttributeError)  # type: ignore[misc]
    opt.parameters = 3  # one's own attributes go before
    assert opt.parameters == 3


def test_gradients_of_another_form() -> None:
    opt = fastopt.SGD([f32(2), f32(1)])
    message = message_of(lambda: opt.step(lambda: [f32(2), f32(1)]))
    assert "the result of the function: call it first" in message
    message = message_of(lambda: opt.step(g for g in [f32(2), f32(1)]))
    assert "list(...) of it" in message
    opt.step(list(g for g in [f32(2), f32(1)]))  # noqa: C400
    for params, grads in (({"W": f32(2)}, [f32(2)]), ([f32(2)], {"W": f32(2)}), ({"W": f32(2)}, iter([f32(2)]))):
        message = message_of(lambda params=params, grads=grads: fastopt.SGD(params).step(grads))  # type: ignore[misc]
        assert message.endswith("give the same structure as the parameters")
