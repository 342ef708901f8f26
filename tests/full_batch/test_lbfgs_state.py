"""The state of LBFGS: a run that goes on from it has the same bits, and a state that does not fit changes nothing."""

from __future__ import annotations

import copy
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import needs_native
from checkpoints import ENVIRONMENT, every_kind
from full_batch.functions import leaves, rosenbrock, rosenbrock_start
from places import TESTS

import fastopt

pytestmark = pytest.mark.filterwarnings("ignore:params. elements outside the bounds were moved")

BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]
both = pytest.mark.parametrize("after", BACKENDS)
STEPS, HISTORY = 9, 3


def start(
    dtype: Any = float, values: Any = (0.0,), shapes: Any = ((6,), (2, 3), ()), order: Any = "C"
) -> dict[str, Any]:
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,) * len(shapes)
    sizes = [int(np.prod(shape)) for shape in shapes]
    flat = np.split(np.resize(values, sum(sizes)), np.cumsum(sizes)[:-1])
    return {
        name: np.array(values.reshape(shape).astype(each), order=order)
        for name, values, shape, each in zip("abcdef", flat, shapes, dtypes, strict=False)
    }


#: With these, line searches of bounded runs need several evaluations; from 0, those of others do.
IN_BOUNDS = (0.5, -0.5, 0.0)


def valley(params: dict[str, Any], frozen: tuple[str, ...] = ()) -> tuple[float, dict[str, Any]]:
    """Rosenbrock's function of all elements; frozen arrays have no gradient."""
    flat = np.concatenate([each.astype(float).reshape(-1) for each in params.values()])
    loss, grad = rosenbrock(flat)
    parts = np.split(grad, np.cumsum([each.size for each in params.values()])[:-1])
    grads = {name: part.reshape(each.shape) for (name, each), part in zip(params.items(), parts, strict=True)}
    return loss, {name: None if name in frozen else grad for name, grad in grads.items()}


class Kind:
    """A kind of run: its parameters, options and frozen arrays."""

    def __init__(self, name: str, frozen: tuple[str, ...] = (), of: Callable[[], Any] = start, **options: Any) -> None:
        self.name, self.frozen, self.of, self.options = name, frozen, of, options

    def __str__(self) -> str:
        return self.name

    def build(self, params: Any = None, **more: Any) -> fastopt.LBFGS:
        options = {"history": HISTORY, "ftol": 0, "gtol": 0, **self.options, **more}
        opt = fastopt.LBFGS(self.of() if params is None else params, **options)
        for name in self.frozen:
            opt.freeze(name)
        return opt

    def step(self, opt: fastopt.LBFGS) -> Any:
        return opt.step(lambda: valley(opt.params, self.frozen))


KINDS = [
    Kind("float64"),
    Kind("float32", of=lambda: start(np.float32)),
    Kind("mixed", of=lambda: start((np.float32, float, np.float32))),
    Kind("one pair", history=1),
    Kind("bounds", of=lambda: start(float, IN_BOUNDS), bounds=(-0.1, 0.3)),
    Kind(
        "bounds of float32",
        of=lambda: start(np.float32, IN_BOUNDS),
        bounds=(-0.1, {"a": 0.3, "b": np.full((2, 3), 0.3), "c": None}),
    ),
    Kind("frozen", ("b",)),
    Kind("frozen and bounded", ("c",), lambda: start(float, IN_BOUNDS), bounds=(-0.1, 0.3)),
    Kind("several chunks", of=lambda: start(np.float32, shapes=((4096 * 2 + 5,), (70, 80), (3,)))),
    Kind("Fortran", of=lambda: start(order="F")),
]
every_kind_of_run = pytest.mark.parametrize("kind_of_run", KINDS, ids=str)


def bits(opt: fastopt.LBFGS) -> Any:
    values = [each.tobytes() for each in leaves(opt.params)]
    return values, opt.loss, opt.grad_norm, opt.step_size, opt.iterations, opt.evaluations


def copied(params: Any) -> Any:
    return {name: each.copy(order="K") for name, each in params.items()}


@pytest.mark.by_turns("kind_of_run", count=2)
@pytest.mark.parametrize("before", BACKENDS)
@both
@every_kind_of_run
def test_resuming_anywhere_has_the_same_bits(kind_of_run: Kind, before: str, after: str) -> None:
    """Saved after each step, before the first one too; the places of the pairs have turned around by then."""
    opt = kind_of_run.build(backend=before)
    saved = [(copied(opt.params), opt.state_dict())]
    for _ in range(STEPS):
        kind_of_run.step(opt)
        saved.append((copied(opt.params), opt.state_dict()))
    wanted = bits(opt), opt.state_dict()
    assert opt.iterations == STEPS
    for k, (params, state) in enumerate(saved):
        other = kind_of_run.build(params, backend=after)
        assert other.load_state_dict(state) == ([], [])
        for _ in range(k, STEPS):
            kind_of_run.step(other)
        assert bits(other) == wanted[0], k
        assert_same(other.state_dict(), wanted[1])


def assert_same(state: Any, other: Any) -> None:
    assert pickle.dumps(plain(state)) == pickle.dumps(plain(other))


def plain(value: Any) -> Any:
    """Return a state with its arrays as bytes, in C order."""
    if isinstance(value, dict):
        return [(key, plain(each)) for key, each in value.items()]
    if isinstance(value, np.ndarray):
        return value.tobytes(), str(value.dtype), value.shape
    return repr(value)


@every_kind
@both
def test_from_a_file(kind: str, after: str, tmp_path: Path) -> None:
    run = KINDS[5]
    opt = run.build()
    for _ in range(5):
        run.step(opt)
    fastopt.save(tmp_path / kind, opt, extra={"epoch": 5})
    other = run.build(backend=after)
    checkpoint = fastopt.load(tmp_path / kind)
    assert repr(checkpoint).endswith("optimizer=<LBFGS after 5 steps>, extra=<epoch>)")
    assert checkpoint.restore(other) == ([], [])
    for _ in range(4):
        run.step(opt), run.step(other)
    assert bits(other) == bits(opt)


#: Goes on from the file, if there is one, and saves after each step; the ``last``th evaluation does not come back.
KILLED = """
import os, signal, sys
from pathlib import Path
import fastopt
from full_batch.test_lbfgs_state import KINDS, STEPS, valley
path, number, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
kind, calls = KINDS[number], 0
opt = kind.build()
if path.exists():
    fastopt.load(path).restore(opt)
def closure():
    global calls
    calls += 1
    if calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return valley(opt.params, kind.frozen)
while opt.iterations < STEPS:
    opt.step(closure)
    fastopt.save(path, opt)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("number", [1, 5])
def test_killed_in_the_middle_of_a_line_search(number: int, tmp_path: Path) -> None:
    """Twice, each time in a new process."""
    kind = KINDS[number]
    opt = kind.build()
    counts = []
    for _ in range(STEPS):
        kind.step(opt)
        counts.append(opt.evaluations)
    # The last evaluation but one of a step that needs several.
    k = next(k for k in range(1, STEPS) if counts[k] - counts[k - 1] > 1)
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{TESTS}:{ENVIRONMENT['PYTHONPATH']}"}

    def run(last: int) -> int:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "run.npz"), str(number), str(last)]
        return subprocess.run(command, env=environment, check=False).returncode

    assert run(counts[k]) == -signal.SIGKILL
    assert fastopt.load(tmp_path / "run.npz").optimizer["step_count"] == k  # type: ignore[index]
    assert run(2) == -signal.SIGKILL
    assert run(0) == 0
    other = kind.build()
    fastopt.load(tmp_path / "run.npz").restore(other)
    assert bits(other) == bits(opt)


@both
def test_an_exception_in_a_line_search_changes_no_state(after: str) -> None:
    """Between two evaluations of a search, and in its first one; the parameters are the accepted ones again."""
    kind = KINDS[0]
    opt = kind.build(backend=after)
    for _ in range(STEPS):
        before, values = opt.state_dict(), bits(opt)[0]
        evaluations = opt.evaluations

        def fails(last: int, first: int = evaluations) -> Any:
            if opt.evaluations == first + last:
                raise OSError("no data")
            return valley(opt.params)

        for last in (0, 1):
            try:
                opt.step(lambda last=last: fails(last))
            except OSError:
                state = opt.state_dict()
                assert bits(opt)[0] == values
                lost = len(before["extra"]["steps"]) - len(state["extra"]["steps"])
                assert lost in (0, 1)  # the direction took the place of the oldest pair
                other = kind.build(copied(opt.params), backend="numpy")
                other.load_state_dict(state)
                assert_same(other.state_dict(), state)
            else:
                break
        if opt.iterations == before["step_count"]:
            kind.step(opt)
            kind.step(other)
            assert bits(other) == bits(opt)


@both
@pytest.mark.parametrize("history", [1, 2, 3, 8])
def test_another_history_keeps_the_newest_pairs(history: int, after: str) -> None:
    kind = KINDS[4]
    opt = kind.build()
    for _ in range(STEPS):
        kind.step(opt)
    saved = opt.state_dict()
    other = kind.build(copied(opt.params), history=history, backend=after)
    assert other.load_state_dict(saved).options == {"step_count": (0, STEPS)}
    state, kept = other.state_dict(), min(history, HISTORY)
    assert state["options"]["history"] == other.history == history
    for name, entries in saved["state"].items():
        for entry in ("directions", "changes"):
            np.testing.assert_array_equal(state["state"][name][entry], entries[entry][-kept:])
    for name in ("sy", "yy"):
        np.testing.assert_array_equal(state["extra"][name], saved["extra"][name][-kept:, -kept:])
    evaluations = other.evaluations
    assert kind.step(other).loss < opt.loss
    assert other.evaluations > evaluations


def test_pairs_are_those_of_the_run() -> None:
    """The rows of a state are steps and changes of the gradient, the oldest first, whatever was in their places."""
    kind = KINDS[0]
    opt = kind.build()
    points = []
    for _ in range(7):
        kind.step(opt)
        points.append((copied(opt.params), valley(opt.params)[1]))
    state = opt.state_dict()
    assert state["extra"]["steps"].shape == (HISTORY,)
    for row, k in enumerate(range(7 - HISTORY, 7)):
        (x, g), (old_x, old_g) = points[k], points[k - 1]
        for name, entries in state["state"].items():
            np.testing.assert_array_equal(entries["changes"][row], g[name] - old_g[name])
            step = state["extra"]["steps"][row] * entries["directions"][row]
            np.testing.assert_allclose(step, x[name] - old_x[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(entries["grad"], points[-1][1][name])
    steps, changes = (
        np.concatenate([entries[entry].reshape(HISTORY, -1) for entries in state["state"].values()], axis=1)
        for entry in ("directions", "changes")
    )
    products = (state["extra"]["steps"][:, np.newaxis] * steps) @ changes.T
    np.testing.assert_allclose(state["extra"]["sy"], np.triu(products), rtol=1e-10)


def test_an_array_in_another_order_of_memory() -> None:
    kind, params = KINDS[0], start()
    opt = kind.build(params)
    for _ in range(5):
        kind.step(opt)
    other = kind.build({name: np.array(each, order="F") for name, each in params.items()})
    other.load_state_dict(opt.state_dict())
    assert_same(other.state_dict(), opt.state_dict())
    kind.step(opt), kind.step(other)
    for name, each in params.items():
        np.testing.assert_allclose(other.params[name], each, rtol=1e-12)


def test_a_state_is_a_copy() -> None:
    kind = KINDS[0]
    opt = kind.build()
    for _ in range(3):
        kind.step(opt)
    saved = opt.state_dict()
    before = plain(saved)
    other = kind.build(copied(opt.params))
    other.load_state_dict(saved)
    kind.step(opt), kind.step(other)
    assert plain(saved) == before


# --- runs that were changed before they were saved --------------------------------------------------------------------


@pytest.mark.parametrize("keep_history", [True, False])
@both
def test_after_a_reset(keep_history: bool, after: str) -> None:
    kind = KINDS[0]
    opt = kind.build()
    for _ in range(5):
        kind.step(opt)
    opt.params["a"] += 0.01
    opt.reset(keep_history)
    saved = opt.state_dict()
    assert (len(saved["extra"]["steps"]) > 0) == keep_history
    assert not saved["extra"]["is_settled"]
    other = kind.build(copied(opt.params), backend=after)
    other.load_state_dict(saved)
    assert np.isnan(other.loss)
    for _ in range(3):
        kind.step(opt), kind.step(other)
        assert bits(other) == bits(opt)


def test_after_freezing() -> None:
    """What was learned is forgotten, in the file too."""
    kind = KINDS[0]
    opt = kind.build()
    for _ in range(4):
        kind.step(opt)
    opt.freeze("b")
    saved = opt.state_dict()
    assert saved["frozen"] == ["b"]
    assert saved["state"] == {}
    other = kind.build(copied(opt.params))
    assert other.load_state_dict(saved).options == {"frozen": ([], ["b"]), "step_count": (0, 4)}
    for _ in range(3):
        kind.step(opt), kind.step(other)
        assert bits(other) == bits(opt)


def test_where_evaluations_ran_out() -> None:
    """The point is accepted, and its gradient is not known: both runs evaluate again."""
    kind = KINDS[0]
    for left in range(1, 15):
        opt = kind.build()
        opt.evaluations_left = left
        while opt.evaluations_left:
            kind.step(opt)
        opt.evaluations_left = None
        other = kind.build(copied(opt.params))
        other.load_state_dict(opt.state_dict())
        for _ in range(2):
            kind.step(opt), kind.step(other)
            assert bits(other) == bits(opt), left


def test_a_single_precision_loss_is_remembered() -> None:
    """The line search allows for its rounding."""
    x = rosenbrock_start()
    opt = fastopt.LBFGS(x)
    opt.step(lambda: (np.float32(rosenbrock(x)[0]), rosenbrock(x)[1]))
    other = fastopt.LBFGS(x.copy())
    assert not other.is_single_loss
    other.load_state_dict(opt.state_dict())
    assert other.is_single_loss


# --- loading a part ---------------------------------------------------------------------------------------------------


def saved_run(number: int = 0, steps: int = 4) -> tuple[fastopt.LBFGS, dict[str, Any]]:
    opt = KINDS[number].build()
    for _ in range(steps):
        KINDS[number].step(opt)
    return opt, opt.state_dict()


def test_state_and_options_apart() -> None:
    opt, saved = saved_run()
    saved["options"]["gtol"], saved["frozen"] = 1e-3, []
    other = fastopt.LBFGS(copied(opt.params), gtol=1e-7, ftol=0)
    assert other.load_state_dict(saved, options=False).options == {"step_count": (0, 4)}
    assert (other.gtol, other.iterations, other.loss) == (1e-7, 4, opt.loss)
    other = fastopt.LBFGS(copied(opt.params), gtol=1e-7, ftol=0)
    assert other.load_state_dict(saved, state=False).options == {"gtol": (1e-7, 1e-3)}
    assert (other.gtol, other.iterations) == (1e-3, 0)
    with pytest.raises(ValueError, match="leave nothing to load"):
        other.load_state_dict(saved, state=False, options=False)


@pytest.mark.parametrize("what", ["another shape", "missing", "unexpected", "bounds", "frozen here"])
def test_not_strict(what: str) -> None:
    """Pairs of some of the arrays alone are of no use: counts and options are loaded, and the run begins anew."""
    opt, saved = saved_run()
    params = copied(opt.params)
    if what == "another shape":
        params["b"] = np.ones((3, 2))
    elif what == "missing":
        params["d"] = np.ones(2)
    elif what == "unexpected":
        del params["c"]
    other = fastopt.LBFGS(params, ftol=0, bounds=(None, 5) if what == "bounds" else None)
    if what == "frozen here":
        other.freeze("a")
    before = other.state_dict()
    options = {"options": what != "frozen here"}
    with pytest.raises(ValueError, match="it does not fit this LBFGS"):
        other.load_state_dict(saved, **options)
    assert_same(other.state_dict(), before)
    result = other.load_state_dict(saved, strict=False, **options)
    assert result.missing or result.unexpected
    assert other.iterations == 4
    assert np.isnan(other.loss)
    state = other.step(lambda: valley(params, tuple(other.frozen)))
    assert state.evaluations >= opt.evaluations + 2
    assert len(other.state_dict()["extra"]["steps"]) == 1


def test_parameters_alone(tmp_path: Path) -> None:
    opt, _ = saved_run()
    fastopt.save(tmp_path / "run.npz", opt)
    other, _ = saved_run(steps=2)
    assert fastopt.load(tmp_path / "run.npz").restore(other, state=False) == ([], [])
    assert [each.tobytes() for each in other.params.values()] == [each.tobytes() for each in opt.params.values()]
    assert np.isnan(other.loss)
    assert other.iterations == 2
    KINDS[0].step(other)
    assert other.loss < opt.loss
    fresh = KINDS[0].build()
    fastopt.save(tmp_path / "params.npz", params=opt.params)
    fastopt.load(tmp_path / "params.npz").restore(fresh)
    assert KINDS[0].step(fresh).loss < opt.loss


def test_parameters_that_do_not_fit(tmp_path: Path) -> None:
    """One error names what is wrong with the parameters and with the state; nothing is written."""
    opt, _ = saved_run()
    fastopt.save(tmp_path / "run.npz", opt)
    params = {**start(), "b": np.ones((3, 2))}
    other = fastopt.LBFGS(params)
    before = copied(params)
    with pytest.raises(ValueError, match=r"(?s)params\.b is of shape \(2, 3\).*state\['b'\]\['directions'\]"):
        fastopt.load(tmp_path / "run.npz").restore(other)
    assert all(np.array_equal(params[name], each) for name, each in before.items())
    result = fastopt.load(tmp_path / "run.npz").restore(other, strict=False)
    assert "params.b" in result.missing
    np.testing.assert_array_equal(params["a"], opt.params["a"])
    assert np.isnan(other.loss)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that writes the last of these at the place that the others lead to."""

    def change(state: dict[str, Any]) -> None:
        *places, key, value = path
        for place in places:
            state = state[place]
        state[key] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        *places, key = path
        for place in places:
            state = state[place]
        del state[key]

    return change


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "class": (put("optimizer", "Adam"), "it is that of the optimizer 'Adam', this is 'LBFGS'"),
    "no entry": (drop("extra"), "expected the entries"),
    "step_count": (put("step_count", -1), "step_count=-1: expected a whole number"),
    "huge step_count": (put("step_count", 2**63), "step_count=9223372036854775808"),
    "gtol": (put("options", "gtol", -1.0), "options: gtol=-1.0"),
    "no gtol": (put("options", "gtol", None), "options: gtol=None"),
    "options": (drop("options", "ftol"), "options: expected"),
    "more options": (put("options", "lr", 1.0), "options: expected"),
    "extra": (drop("extra", "sy"), "extra: expected"),
    "loss": (put("extra", "loss", float("nan")), "'loss' is nan; expected a finite number"),
    "text": (put("extra", "loss", "1"), "'loss' is of type str"),
    "truth": (put("extra", "evaluations", True), "'evaluations' is of type bool"),
    "evaluations": (put("extra", "evaluations", -1), "'evaluations' is -1; expected a count"),
    "norm": (put("extra", "grad_norm", float("nan")), "'grad_norm' is nan"),
    "square": (put("extra", "grad_square", -1.0), "'grad_square' is -1.0"),
    "a list": (put("extra", "steps", [1.0] * 3), "'steps' is of type list"),
    "number of steps": (
        put("extra", "steps", np.ones(2)),
        r"'sy' is of shape \(3, 3\), float64; expected shape \(2, 2\)",
    ),
    "axes of steps": (put("extra", "steps", np.ones((3, 1))), "'steps' is of shape .* expected one dimension"),
    "float32": (put("extra", "yy", np.ones((3, 3), np.float32)), "'yy' is of shape .* float32; expected"),
    "infinite": (put("extra", "steps", np.array([1, np.inf, 1])), "'steps' is not finite"),
    "curvature": (put("extra", "sy", np.zeros((3, 3))), "'sy' is not that of pairs"),
    "NaN": (put("extra", "yy", np.full((3, 3), np.nan)), "'yy' is not that of pairs"),
    "no array": (drop("state", "b"), "missing: state: b"),
    "another array": (put("state", "z", {}), "unexpected: state: z"),
    "no entry of an array": (drop("state", "a", "grad"), r"state\['a'\] has \['directions', 'changes'\]; expected"),
    "shape": (put("state", "a", "grad", np.ones(5)), r"state\['a'\]\['grad'\] is of shape \(5,\), float64; expected"),
    "dtype": (put("state", "a", "grad", np.ones(6, np.float32)), "float32; expected shape"),
    "no ndarray": (put("state", "a", "grad", 1.0), r"state\['a'\]\['grad'\] is of type float; expected shape"),
    "rows": (put("state", "c", "changes", np.ones(4)), r"state\['c'\]\['changes'\] is of shape \(4,\)"),
    "bounds": (
        put("param_groups", 0, "bounds", (0, None)),
        r"bounds: those of 'a' are \(0, None\); here they are None",
    ),
    "members": (put("param_groups", 0, "params", ["a", "b"]), "missing: param_groups: c"),
    "frozen": (put("frozen", ["z"]), "unexpected: frozen: z"),
    "frozen array with a state": (put("frozen", ["a"]), "unexpected: state: a"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_state_changes_nothing(what: str) -> None:
    change, message = WRONG[what]
    _, saved = saved_run()
    saved = copy.deepcopy(saved)
    change(saved)
    other, _ = saved_run(steps=2)
    before = other.state_dict(), bits(other)
    with pytest.raises((TypeError, ValueError), match=message):
        other.load_state_dict(saved)
    assert_same(other.state_dict(), before[0])
    assert bits(other) == before[1]
    KINDS[0].step(other)
    assert other.iterations == 3


def test_all_mismatches_are_in_one_error() -> None:
    _, saved = saved_run()
    for change in ("gtol", "square", "step_count", "frozen"):
        WRONG[change][0](saved)
    with pytest.raises(ValueError, match=r"(?s)gtol=-1.*step_count=-1.*'grad_square' is -1.*frozen: z"):
        KINDS[0].build().load_state_dict(saved)


def test_states_by_chance_are_refused_or_loaded() -> None:
    """Anything anywhere: an error that changes nothing, or a run that steps."""
    rng = np.random.default_rng(5)
    values = [None, True, -1, 2**70, 0.0, -1.0, float("nan"), "a", [], {}, (), np.ones(3), np.ones((3, 3)), np.array(1)]
    refused = 0
    for _ in range(60):
        _, saved = saved_run(int(rng.integers(0, 2)) * 4, 3)
        for _ in range(rng.integers(1, 3)):
            place: Any = saved
            while True:
                key = list(place)[rng.integers(len(place))] if isinstance(place, dict) else rng.integers(len(place))
                inner = place[key]
                if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.2:
                    break
                place = inner
            place[key] = values[rng.integers(len(values))]
        opt = KINDS[0].build()
        before = opt.state_dict()
        try:
            opt.load_state_dict(saved, strict=bool(rng.integers(2)))
        except (TypeError, ValueError):
            refused += 1
            assert_same(opt.state_dict(), before)
        opt.unfreeze()
        with np.errstate(all="ignore"):
            KINDS[0].step(opt)
    assert 10 < refused < 60


def test_states_of_other_optimizers(tmp_path: Path) -> None:
    opt, saved = saved_run()
    adam = fastopt.Adam(start())
    with pytest.raises(ValueError, match="it is that of the optimizer 'LBFGS', this is 'Adam'; build the same one"):
        adam.load_state_dict(saved)
    with pytest.raises(ValueError, match="it is that of the optimizer 'Adam', this is 'LBFGS'"):
        opt.load_state_dict(adam.state_dict())
    fastopt.save(tmp_path / "run.npz", opt)
    assert fastopt.load(tmp_path / "run.npz").restore(adam, state=False) == ([], [])
    with pytest.raises(TypeError, match=r"a file is loaded by fastopt.load\(path\).restore\(opt\)"):
        opt.load_state_dict("run.npz")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give its state_dict"):
        opt.load_state_dict(opt)  # type: ignore[arg-type]


def test_inside_a_step(tmp_path: Path) -> None:
    opt, saved = saved_run()
    for call in (
        opt.state_dict,
        lambda: opt.load_state_dict(saved),
        lambda: fastopt.save(tmp_path / "run.npz", opt),
        lambda: fastopt.Checkpoint(opt.params, saved, {}).restore(opt),
    ):

        def closure(call: Any = call) -> Any:
            call()
            return valley(opt.params)

        with pytest.raises(RuntimeError, match="a step of this optimizer is running around this call"):
            opt.step(closure)
    assert_same(opt.state_dict()["param_groups"], saved["param_groups"])


def test_copies_and_pickles_are_refused() -> None:
    opt, _ = saved_run()
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"load_state_dict\(opt.state_dict\(\)\)"):
            copies(opt)
