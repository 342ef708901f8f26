"""An optimizer pickled or deep-copied together with its arrays changes these; one that comes back alone is an error."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CASES, MATRIX_CASES, Case, TwoOptimizers, everything, needs_native
from checkpoints import ENVIRONMENT

import fastopt
from fastopt import lr_scheduler, schedules

COPIES: dict[str, Callable[[Any], Any]] = {
    **{f"protocol{k}": lambda both, k=k: pickle.loads(pickle.dumps(both, k)) for k in (2, 4, 5)},  # type: ignore[misc]
    "deepcopy": copy.deepcopy,
}

ALONE = r"can't be copied or pickled alone, since it changes your own arrays, and nobody has these now"


def model() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    return {"W": rng.normal(size=(3, 2)), "V": rng.normal(size=(2, 2))}


def grads_of(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(50 + step)
    return {"W": rng.normal(size=(3, 2)), "V": rng.normal(size=(2, 2)) if step != 1 else None}


@pytest.mark.parametrize("case", [*CASES, *MATRIX_CASES, Case(TwoOptimizers, {"lr": 0.01})], ids=str)
@pytest.mark.parametrize("is_first", [True, False], ids=["optimizer_first", "arrays_first"])
def test_every_optimizer_goes_on(case: Case, is_first: bool) -> None:
    ours = model()
    opt = case.build(ours)
    if case.optimizer is TwoOptimizers:
        pytest.skip("its parts are chosen by lambdas")
    for step in range(3):
        opt.step(grads_of(step))
    both = (opt, ours) if is_first else (ours, opt)
    other, theirs = sorted(pickle.loads(pickle.dumps(both)), key=lambda each: isinstance(each, dict))
    assert isinstance(other, case.optimizer)
    assert repr(theirs) == repr(ours)
    for step in range(3, 7):
        assert other.step(grads_of(step)) == opt.step(grads_of(step))
    assert type(other) is case.optimizer
    assert repr(other) == repr(opt)
    assert everything(ours.values(), opt) == everything(theirs.values(), other)
    assert all(other.params[name] is theirs[name] for name in theirs)
    assert set(vars(other)) == set(vars(opt))


@pytest.mark.parametrize("kind", COPIES)
def test_combined(kind: str) -> None:
    ours = {**model(), "b": np.ones(2)}
    parts: Any = {"W": (fastopt.Muon, {"lr": 0.1}), "V": fastopt.Prodigy, "*": (fastopt.AdamW, {"lr": 0.01})}
    opt = fastopt.Combined(ours, parts, clip_global_norm=1.0)
    opt.step({**grads_of(0), "b": np.ones(2)})
    theirs, other = COPIES[kind]((ours, opt))
    for step in range(2, 5):
        assert other.step({**grads_of(step), "b": np.ones(2)}) == opt.step({**grads_of(step), "b": np.ones(2)})
    assert everything(ours.values(), opt) == everything(theirs.values(), other)
    assert [group["optimizer"] for group in other.param_groups] == ["Muon", "Prodigy", "AdamW"]


class Layer(NamedTuple):
    W: Any
    b: Any = None


def shared_list() -> Any:
    return [np.ones(2), None, {"a": np.ones(1), "empty": ()}]


STRUCTURES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "one_array": lambda: (np.ones(3), np.ones(3)),
    "list": lambda: (shared_list(), shared_list()),
    "tuple": lambda: ((np.ones(3), np.ones(1)), (np.ones(3), None)),
    "named_tuple": lambda: ({"l": Layer(np.ones(2))}, {"l": Layer(np.ones(2))}),
    "groups": lambda: (
        [{"params": {"W": np.ones(2)}, "lr": 0.25}, {"params": np.ones(1)}],
        [{"W": np.ones(2)}, np.ones(1)],
    ),
}


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_structures(structure: str, kind: str, backend: str) -> None:
    params, grads = STRUCTURES[structure]()
    arrays = fastopt.SGD(params).parts.parameters.arrays
    opt = fastopt.SGD(params, lr=0.5, momentum=0.9, backend=backend)
    for _ in range(5):
        opt.step(grads)
    theirs, other = COPIES[kind]((arrays, opt))
    for _ in range(5):
        opt.step(grads)
        other.step(grads)
    assert [array.tobytes() for array in arrays] == [array.tobytes() for array in theirs]
    assert other.lr == opt.lr
    assert (other.backend, other.planned_steps > 0) == (backend, backend == "native" and structure != "named_tuple")


@pytest.mark.parametrize("kind", COPIES)
def test_all_else_that_an_optimizer_has(kind: str) -> None:
    """Groups that were added or split, frozen arrays, averages, masters, copies, bounds, an accumulation, a scale."""
    rates = schedules.warmup_cosine(0.1, warmup=2, total=20) * 0.5
    ours: Any = {"W": np.ones((2, 2), np.float16), "V": np.ones(3, np.float32), "f": np.ones(1, np.float32)}
    copies = {"W": None, "V": np.zeros(3, np.float16), "f": None}
    opt = fastopt.AdamW(
        ours,
        lr=rates,
        ema_decay=0.9,
        copy_to=copies,
        bounds=({"V": np.full(3, 0.5)}, 2.0),
        accumulate_steps=2,
        grad_scale=fastopt.DynamicLossScale(8.0),
        nonfinite="skip",
        skip_above=1e6,
        seed=3,
    )
    more = {"late": np.ones(2)}
    opt.add_param_group({"params": more, "lr": 0.25})
    opt.set("V", weight_decay=0.5)
    opt.freeze("f")
    grads = {"W": np.ones((2, 2)), "V": np.ones(3), "f": np.ones(1), "late": np.ones(2)}
    for _ in range(5):
        opt.step(grads)
    theirs, more_there, copies_there, other = COPIES[kind]((ours, more, copies, opt))
    assert other.accumulated_calls == 1
    for _ in range(5):
        assert other.step(grads) == opt.step(grads)
    assert everything(ours.values(), opt) == everything(theirs.values(), other)
    assert more_there["late"].tolist() == more["late"].tolist() != [1.0, 1.0]
    assert copies_there["V"].tobytes() == copies["V"].tobytes()  # type: ignore[union-attr]
    assert (other.frozen, other.seed, other.skip_above) == (["f"], 3, 1e6)
    assert other.grad_scale is not opt.grad_scale
    assert repr(other) == repr(opt)
    assert other.param_groups[0]["lr"] == rates


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("is_first", [True, False])
def test_drivers(kind: str, is_first: bool) -> None:
    ours = model()
    opt = fastopt.SGD(ours, lr=1.0)
    driver = lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.5, total_iters=2), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    )
    driver.step()
    both = (driver, opt) if is_first else (opt, driver)
    theirs, *found = COPIES[kind]((ours, *both))
    other_driver, other = found if is_first else found[::-1]
    assert other_driver.optimizer is other
    for each, its_driver in ((opt, driver), (other, other_driver)):
        its_driver.step()
        each.set("V", lr=0.1)
        for step in range(4):
            its_driver.step()
            each.step(grads_of(step))
    assert other.lr == opt.lr
    assert len(set(opt.lr)) == 2
    assert everything(ours.values(), opt) == everything(theirs.values(), other)


class Estimator:
    """As scikit-learn's are: arrays and an optimizer among its attributes."""

    def __init__(self, order: int = 0) -> None:
        self.order = order

    def partial_fit(self, x: Any, y: Any) -> Estimator:
        if not hasattr(self, "opt_"):
            coef, intercept = np.zeros(x.shape[1]), np.zeros(1)
            opt = fastopt.AdamW({"coef": coef, "intercept": intercept}, lr=0.1)
            attributes = [("coef_", coef), ("opt_", opt), ("intercept_", intercept)]
            for name, value in attributes[self.order :] + attributes[: self.order]:
                setattr(self, name, value)
            self.opt_.owner = self  # a circle
        error = x @ self.coef_ + self.intercept_ - y
        self.opt_.step({"coef": x.T @ error, "intercept": error.sum(keepdims=True)})
        return self


def data() -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(20, 3))
    return x, x @ [1.0, 2.0, 3.0]


def fit(estimator: Any) -> Any:
    return estimator.partial_fit(*data())


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_estimators(kind: str, order: int) -> None:
    estimator = fit(fit(Estimator(order)))
    other = COPIES[kind](estimator)
    assert other.opt_.owner is other
    for _ in range(3):
        fit(estimator)
        fit(other)
    assert other.coef_.tobytes() == estimator.coef_.tobytes()
    assert other.opt_.params["coef"] is other.coef_
    assert other.opt_.step_count == 5


class EstimatorWithDict(Estimator):
    """It keeps its arrays in the dict that the optimizer has too."""

    def partial_fit(self, x: Any, y: Any) -> Estimator:
        if not hasattr(self, "opt_"):
            self.params_ = {"coef": np.zeros(x.shape[1])}
            self.opt_ = fastopt.AdamW(self.params_, lr=0.1)
        self.opt_.step({"coef": x.T @ (x @ self.params_["coef"] - y)})
        return self


def test_joblib(tmp_path: Path) -> None:
    """joblib writes an array as often as it meets it: a container that both have stays one, arrays do not."""
    joblib = pytest.importorskip("joblib")
    estimator = fit(fit(EstimatorWithDict()))
    joblib.dump(estimator, tmp_path / "estimator.joblib")
    other = joblib.load(tmp_path / "estimator.joblib")
    assert fit(other).params_["coef"].tobytes() == fit(estimator).params_["coef"].tobytes()
    joblib.dump(fit(Estimator()), tmp_path / "estimator.joblib")
    with pytest.raises(TypeError, match=r"AdamW: .*With joblib .* give the optimizer the very dict"):
        fit(joblib.load(tmp_path / "estimator.joblib"))


def test_other_processes(tmp_path: Path) -> None:
    """There and back through a pool; and from a file in a process that has not imported fastopt."""
    estimator = fit(Estimator())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        (back,) = pool.map(fit, [estimator])
    assert fit(back).coef_.tobytes() == fit(fit(estimator)).coef_.tobytes()
    ours = model()
    opt = fastopt.Adam(ours)
    opt.step(grads_of(0))
    (tmp_path / "run.pickle").write_bytes(pickle.dumps({"opt": opt, "params": ours}))
    code = (
        "import pickle, sys; run = pickle.load(open(sys.argv[1], 'rb')); "
        "run['opt'].step({'W': 1 + 0 * run['params']['W']}); print(run['params']['W'].sum(), run['opt'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.pickle")]
    told = subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout
    opt.step({"W": np.ones((3, 2))})
    assert told.strip() == f"{ours['W'].sum()} {opt!r}"


# --- Alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("steps", [0, 3])
def test_alone(structure: str, kind: str, steps: int) -> None:
    params, grads = STRUCTURES[structure]()
    opt = fastopt.AdamW(params, ema_decay=0.9)
    for _ in range(steps):
        opt.step(grads)
    other = COPIES[kind]([opt])[0]
    assert isinstance(other, fastopt.AdamW)
    assert repr(other) == "<AdamW, loaded and not used yet>"
    for use in (
        lambda: other.step(grads),
        lambda: other.params,
        lambda: setattr(other, "lr", 0.5),
        lambda: other.state_dict(),
        lambda: fastopt.save("run.npz", other),
        lambda: pickle.dumps(other),
    ):
        with pytest.raises(TypeError, match=f"^AdamW: an optimizer {ALONE}"):
            use()
    assert opt.step_count == steps


def test_alone_in_another_process() -> None:
    opt = fastopt.SGD(model())
    with (
        multiprocessing.get_context("fork").Pool(1) as pool,
        pytest.raises(TypeError, match=ALONE),
    ):
        pool.map(step_alone, [opt])


def step_alone(opt: Any) -> None:
    opt.step(grads_of(0))


def test_one_array_that_somebody_has_is_enough() -> None:
    """The model has dropped the others, which no step would miss."""
    ours = model()
    opt = fastopt.SGD(ours, lr=1.0)
    W, other = pickle.loads(pickle.dumps((ours["W"], opt)))
    other.step({"W": np.ones((3, 2))})
    assert W.tolist() == (ours["W"] - 1).tolist()


def test_shallow_copies() -> None:
    with pytest.raises(
        TypeError, match=r"the copy would change the same arrays; copy\.deepcopy\(\(model, optimizer\)\)"
    ):
        copy.copy(fastopt.SGD(model()))


# --- What can't be pickled --------------------------------------------------------------------------------------------


def test_functions_and_moments() -> None:
    ours = model()
    opt = fastopt.SGD(ours, lr=lambda step: 0.1, polyak=True)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps((ours, opt))
    theirs, other = copy.deepcopy((ours, opt))  # which leaves functions as they are
    opt.step(grads_of(0))
    other.step(grads_of(0))
    assert theirs["W"].tobytes() == ours["W"].tobytes()
    opt = fastopt.SGD(ours, polyak=True)
    opt.step(grads_of(0))
    with opt.averaged(), pytest.raises(ValueError, match="pickle"):
        pickle.dumps((ours, opt))
    errors: list[str] = []

    def schedule(step: int) -> float:
        with pytest.raises(RuntimeError) as raised:
            pickle.dumps((ours, opt))
        errors.append(str(raised.value))
        return 0.1

    opt = fastopt.SGD(ours, lr=schedule)
    opt.step(grads_of(0))
    assert errors[0].startswith("pickle: a step of this optimizer is running around this call")


def test_a_class_with_attributes_of_its_own() -> None:
    ours = model()
    opt = Mine(ours, name="first")
    opt.step(grads_of(0))
    theirs, other = pickle.loads(pickle.dumps((ours, opt)))
    assert other.name == "first"
    assert other.step(grads_of(2)) == opt.step(grads_of(2))
    assert theirs["W"].tobytes() == ours["W"].tobytes()


class Mine(fastopt.SGD):
    def __init__(self, params: Any, name: str, **options: Any) -> None:
        self.name = name
        super().__init__(params, lr=0.5, **options)


def test_another_thread_steps_meanwhile() -> None:
    ours = model()
    opt = fastopt.SGD(ours, lr=0.5)
    is_over = threading.Event()

    def step() -> None:
        while not is_over.is_set():
            opt.step({"W": np.ones((3, 2))})

    thread = threading.Thread(target=step)
    thread.start()
    try:
        for _ in range(20):
            _, other = copy.deepcopy((ours, opt))
            other.step({"W": np.ones((3, 2))})
    finally:
        is_over.set()
        thread.join()
