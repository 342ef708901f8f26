"""Ways to use an optimizer: functions of the backend that return one step, a function of the step's number."""

from __future__ import annotations

import contextlib
import copy
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cases import BFLOAT16, CASES, MATRIX_CASES, Case
from driver_stacks import Power

import fastopt
from fastopt import lr_scheduler

Step = Callable[[int], Any]
Pattern = Callable[[str], Step]

#: By name.
PATTERNS: dict[str, Pattern] = {}

#: NumPy reads the header of an .npy file by ast.literal_eval, whose functions refer to each other.
MAKE_CYCLES = ("files",)

ONE_OF_EACH = list({case.optimizer: case for case in reversed([*CASES, *MATRIX_CASES])}.values())


def pattern(function: Pattern) -> Pattern:
    PATTERNS[function.__name__] = function
    return function


def params_like(dtype: Any = np.float64) -> Any:
    return {"a": np.ones((4, 3), dtype), "b": [np.ones((2, 2), dtype), np.ones((1, 5), dtype)]}


def grads_like(value: float = 0.5, dtype: Any = np.float64) -> Any:
    return {"a": np.full((4, 3), value, dtype), "b": [np.full((2, 2), value, dtype), np.full((1, 5), value, dtype)]}


def adam(backend: str, params: Any = None, **options: Any) -> fastopt.Optimizer:
    return fastopt.Adam(params_like() if params is None else params, **{"lr": 0.1, "backend": backend, **options})


def plain(name: str, dtype: Any = np.float64, **options: Any) -> None:
    """Add the pattern of steps with new gradients under these options."""

    def steps(backend: str) -> Step:
        opt = adam(backend, params_like(dtype), **options)
        return lambda k: opt.step(grads_like(0.5 + k % 3))

    PATTERNS[name] = steps


plain("new_gradients")
plain("scheduled", lr=lambda step: 0.1 / (1 + step % 7))
plain("schedules", lr=fastopt.schedules.warmup_cosine(0.1, warmup=4, total=30), weight_decay=lambda step: 0.1)
plain("averaged", ema_decay=0.9, ema_bias_correction=True)
plain("clipped", clip_norm=1.0, clip_global_norm=0.5, clip_value=0.4)
plain("accumulated", accumulate_steps=3)
plain("cleared", zero_grads=True)
plain("limited_norms", max_weight_norm=1.0)
plain("sparse_weights", l1=0.1, prox_l1=0.1)
plain("float16", np.float16)
if BFLOAT16 is not None:
    plain("bfloat16", BFLOAT16)
    plain("rounded_at_random", BFLOAT16, stochastic_rounding=True, state_dtype="bfloat16")


def raises(function: Callable[[], Any], *errors: type[Exception]) -> None:
    """Call a function that raises."""
    try:
        function()
    except errors:
        return
    raise AssertionError("it raises")


@pattern
def same_gradients(backend: str) -> Step:
    opt, grads = adam(backend), grads_like()
    return lambda k: opt.step(grads)


@pattern
def gradients_of_every_form(backend: str) -> Step:
    opt = adam(backend)
    forms = [np.float32, np.float16, np.longdouble, np.float64]

    def step(k: int) -> None:
        grads = grads_like(0.5, forms[k % 4])
        if k % 3 == 1:
            grads["a"] = np.ones((3, 4)).T
        if k % 5 == 2:
            grads["b"][1] = None
        if k % 7 == 3:
            del grads["a"]
        if k % 11 == 4:
            grads = dict(reversed(grads.items()))
        opt.step(grads)

    return step


@pattern
def written_options(backend: str) -> Step:
    opt = adam(backend, [{"params": np.ones(3)}, {"params": [np.ones(2)], "lr": 0.01}])

    def step(k: int) -> None:
        opt.param_groups[k % 2]["weight_decay"] = 0.1 / (1 + k % 50)
        opt.param_groups[0]["betas"] = (0.9, 0.99 + 0.001 * (k % 5))
        opt.lr = np.float64(0.1 + k % 3)
        if k % 5 == 3:
            opt.param_groups[1]["amsgrad"] = k % 2 == 1
        opt.step([np.ones(3), [np.ones(2)]])

    return step


@pattern
def wrong_options(backend: str) -> Step:
    opt = adam(backend)

    def step(k: int) -> None:
        name, wrong = [("lr", -1.0), ("betas", (2.0, 0.9)), ("eps", "small"), ("lr", np.zeros(3)), ("none", 1)][k % 5]
        right = opt.param_groups[0].get(name)
        opt.param_groups[0][name] = wrong
        raises(lambda: opt.step(grads_like()), ValueError, TypeError)
        opt.param_groups[0][name] = right
        if name == "none":
            del opt.param_groups[0][name]
        opt.step(grads_like())

    return step


@pattern
def wrong_gradients(backend: str) -> Step:
    opt = adam(backend)

    def step(k: int) -> None:
        wrong = [
            {"a": np.ones(3)},
            {"a": opt.params["a"]},
            {"c": np.ones(3)},
            {"a": np.ones((4, 3), int)},
            [],
            {"b": [np.ones((2, 2))]},
            {"a": "text"},
            None,
        ][k % 8]
        raises(lambda: opt.step(wrong), ValueError, TypeError)
        opt.step(grads_like())

    return step


@pattern
def gradients_that_are_not_finite(backend: str) -> Step:
    skipping, raising = adam(backend, nonfinite="skip"), adam(backend, nonfinite="raise")

    def step(k: int) -> None:
        skipping.step(grads_like(np.nan if k % 3 == 1 else 0.5))
        if k % 3 == 1:
            raises(lambda: raising.step(grads_like(np.inf)), ValueError)
        raising.step(grads_like())

    return step


@pattern
def scaled_loss(backend: str) -> Step:
    scale = fastopt.DynamicLossScale(growth_interval=4)
    opt, other = adam(backend, nonfinite="skip", grad_scale=scale), adam(backend, grad_scale=2.0)

    def step(k: int) -> None:
        opt.step(grads_like(np.inf if k % 5 == 0 else scale.scale))
        other.step(grads_like(), grad_scale=1.0 + k % 3)

    return step


class Broken(fastopt.Optimizer):
    """An optimizer whose scalars can't be had in some steps."""

    def __init__(self, params: Any, **common: Any) -> None:
        super().__init__(params, {"lr": 0.1, "weight_decay": 0.0}, **common)
        self.calls = 0

    def rule(self, group: Any) -> Any:
        return fastopt.rules.sgd

    def hyper(self, group: Any, step: int) -> Any:
        self.calls += 1
        if self.calls % 7 == 5:
            raise ArithmeticError(f"step {step}")
        return ["no number"] if self.calls % 7 == 6 else fastopt.rules.SGDScalars(group["lr"])


@pattern
def hooks_that_raise(backend: str) -> Step:
    opt = Broken(params_like(), backend=backend)

    def step(k: int) -> None:
        with contextlib.suppress(ArithmeticError, TypeError, ValueError):
            opt.step(grads_like())

    return step


@pattern
def schedules_that_raise(backend: str) -> Step:
    calls = 0

    def schedule(step: int) -> Any:
        nonlocal calls
        calls += 1
        if calls % 5 == 3:
            raise ArithmeticError(f"step {step}")
        return "no number" if calls % 5 == 4 else 0.1

    opt = adam(backend, lr=schedule)

    def step(k: int) -> None:
        with contextlib.suppress(ArithmeticError, TypeError, ValueError):
            opt.step(grads_like())

    return step


def own_rule(h: fastopt.rules.SGDScalars, p: Any, g: Any) -> Any:
    return (p - h.lr * g,)


class Own(Broken):
    def rule(self, group: Any) -> Any:
        return own_rule if self.backend == "numpy" else fastopt.rules.sgd

    def hyper(self, group: Any, step: int) -> Any:
        return fastopt.rules.SGDScalars(group["lr"] / step)


@pattern
def own_optimizers(backend: str) -> Step:
    opt = Own(params_like(), backend=backend)
    return lambda k: opt.step(grads_like())


@pattern
def row_sparse(backend: str) -> Step:
    opt = adam(backend, np.ones((20, 3)))

    def step(k: int) -> None:
        count = 1 + k % 9
        opt.step(fastopt.RowSparse(np.arange(count) % 4, np.ones((count, 3))))

    return step


@pattern
def slots_in_8_bits(backend: str) -> Step:
    opt = adam(backend, np.ones(5000, np.float32), state_dtype="uint8")
    return lambda k: (opt.step(np.ones(5000)), opt.slot("0", "m"))


@pattern
def copies(backend: str) -> Step:
    params = params_like(np.float32)
    copy_to = {"a": np.empty((4, 3), np.float16), "b": [None, np.empty((1, 5), np.float16)]}
    opt = adam(backend, params, copy_to=copy_to)
    return lambda k: (opt.step(grads_like()), opt.reload_params())


@pattern
def looks(backend: str) -> Step:
    opt = adam(backend, ema_decay=0.5)

    def step(k: int) -> Any:
        opt.step(grads_like())
        with opt.averaged():
            raises(lambda: opt.step(grads_like()), ValueError)
        seen = [opt.state["a"]["m"], opt.slot("b.0", "v"), opt.ema, opt.lr, opt.params, opt.state_bytes, opt.frozen]
        return [*seen, repr(opt), repr(opt.state)]

    return step


@pattern
def shifted_by_momentum(backend: str) -> Step:
    opt = fastopt.SGD(params_like(), lr=0.1, momentum=0.5, backend=backend)

    def step(k: int) -> None:
        with opt.lookahead():
            grads = grads_like()
        opt.step(grads)

    return step


@pattern
def frozen_arrays(backend: str) -> Step:
    opt = adam(backend)

    def step(k: int) -> None:
        opt.freeze("b*")
        opt.step(grads_like())
        opt.unfreeze()
        opt.step(grads_like())
        raises(lambda: opt.freeze("none*"), ValueError)

    return step


@pattern
def states(backend: str) -> Step:
    opt, other = adam(backend), adam(backend, ema_decay=0.5)

    def step(k: int) -> None:
        opt.step(grads_like())
        other.step(grads_like())
        if k % 4 == 0:
            saved = opt.state_dict()
            opt.load_state_dict(saved)
            opt.load_state_dict(saved, options=False)
            other.load_state_dict(saved, strict=False)
            raises(lambda: other.load_state_dict({**saved, "optimizer": "SGD"}), ValueError)
            raises(lambda: opt.load_state_dict({**saved, "state": {}}), ValueError)

    return step


@pattern
def written_parameters(backend: str) -> Step:
    opt = adam(backend, params_like(np.float16))

    def step(k: int) -> None:
        opt.params["a"][...] = k % 5
        opt.reload_params("a")
        opt.step(grads_like())

    return step


@pattern
def changed_layouts(backend: str) -> Step:
    opt = adam(backend, [np.ones((4, 3))])

    def step(k: int) -> None:
        param = opt.params[0]
        param.shape = (3, 4)
        raises(lambda: opt.step([np.ones((3, 4))]), ValueError)
        param.shape = (4, 3)
        param.flags.writeable = False
        raises(lambda: opt.step([np.ones((4, 3))]), ValueError)
        param.flags.writeable = True
        opt.step([np.ones((4, 3))])

    return step


@pattern
def added_groups(backend: str) -> Step:
    """An optimizer that gets a group in every step, and a new one in every fourth step."""
    opts = [adam(backend)]

    def step(k: int) -> None:
        if k % 4 == 0:
            opts[0] = adam(backend)
        opts[0].step(grads_like())
        opts[0].add_param_group({"params": {f"more{k % 4}": np.ones(2)}, "lr": 0.2})
        raises(lambda: opts[0].add_param_group({"params": {"a": np.ones(2)}}), ValueError)

    return step


@pattern
def files(backend: str) -> Step:
    """Save into the working directory and load in every eighth step."""
    opt, path = adam(backend), Path("run.npz")

    def step(k: int) -> None:
        opt.step(grads_like())
        if k % 8 == 0:
            fastopt.save(path, opt, extra={"k": k % 3, "history": [1.0, None, "text"]})
            fastopt.load(path).restore(opt)
            path.write_bytes(b"text")
            raises(lambda: fastopt.load(path), fastopt.CheckpointError)

    return step


DRIVERS: list[Callable[[Any], Any]] = [
    lambda opt: lr_scheduler.LambdaLR(opt, Power(0.9)),
    lambda opt: lr_scheduler.MultiplicativeLR(opt, Power(1.0)),
    lambda opt: lr_scheduler.StepLR(opt, 2),
    lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5]),
    lambda opt: lr_scheduler.ConstantLR(opt),
    lambda opt: lr_scheduler.LinearLR(opt),
    lambda opt: lr_scheduler.ExponentialLR(opt, 0.999),
    lambda opt: lr_scheduler.PolynomialLR(opt),
    lambda opt: lr_scheduler.CosineAnnealingLR(opt, 5),
    lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, T_mult=2),
    lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 5, cycle_momentum=False),
    lambda opt: lr_scheduler.OneCycleLR(opt, 0.1, 2_000_000_000, cycle_momentum=False),
    lambda opt: lr_scheduler.SWALR(opt, 0.05),
    lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt), lr_scheduler.ExponentialLR(opt, 0.999)], [2]
    ),
    lambda opt: lr_scheduler.ChainedScheduler([lr_scheduler.StepLR(opt, 3), lr_scheduler.ConstantLR(opt)]),
    lambda opt: lr_scheduler.ReduceLROnPlateau(opt),
]


@pattern
def drivers(backend: str) -> Step:
    """Every driver, each on an optimizer of its own, by turns."""
    driven = []
    for drive in DRIVERS:
        opt = adam(backend, np.ones(2))
        driven.append((opt, drive(opt)))

    def step(k: int) -> None:
        opt, driver = driven[k % len(driven)]
        opt.step(np.ones(2))
        driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))
        driver.load_state_dict(driver.state_dict())

    return step


@pattern
def new_drivers(backend: str) -> Step:
    """A driver that is built anew for an optimizer that goes on."""
    opt = adam(backend, np.ones(2))

    def step(k: int) -> None:
        opt.param_groups[0]["lr"] = 0.1
        opt.param_groups[0].pop("initial_lr", None)
        driver = DRIVERS[k % len(DRIVERS)](opt)
        opt.step(np.ones(2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))

    return step


@pattern
def stopping_and_snapshots(backend: str) -> Step:
    opt, stopping = adam(backend), fastopt.EarlyStopping(5)
    ensemble = fastopt.SnapshotEnsemble(3)

    def step(k: int) -> None:
        opt.step(grads_like())
        stopping.update(1.0 / (1 + k % 7), opt.params)
        stopping.restore(opt.params, opt)
        ensemble.update(opt.params, float(k % 7))
        ensemble.average_params()
        stopping.load_state_dict(stopping.state_dict())

    return step


@pattern
def functions_around(backend: str) -> Step:
    rng, x = np.random.default_rng(0), np.linspace(-1, 1, 600, dtype=np.float32)

    def step(k: int) -> None:
        grads = grads_like(1.0 + k % 3, [np.float64, np.float32, np.float16][k % 3])
        fastopt.clip_grad_norm_(grads, 1.0)
        raises(lambda: fastopt.clip_grad_norm_([np.ones(2, int)], 1.0), TypeError)
        if k % 4:
            return
        fastopt.clip_grad_value_(grads, 0.1)
        fastopt.clip.global_norm(grads, 3.0)
        codes, scales = fastopt.quantize.quantize(x, "signed")
        fastopt.quantize.dequantize(codes, scales, "signed")
        fastopt.averaging.mean([grads, grads])
        fastopt.init.xavier_uniform(rng, (3, 4))
        fastopt.init.orthogonal(rng, (3, 4))

    return step


@pattern
def states_of_others(backend: str) -> Step:
    opt = fastopt.SGD({"W": np.ones(2)}, lr=0.1, momentum=0.9, backend=backend)
    group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0]}

    def step(k: int) -> None:
        opt.step({"W": np.ones(2)})
        buffer = {"momentum_buffer": opt.state["W"]["b"]}
        state = fastopt.convert.from_torch({"state": {0: buffer}, "param_groups": [group]}, ["W"])
        opt.load_state_dict(state)
        raises(lambda: fastopt.convert.from_torch({}, ["W"]), TypeError)

    return step


@pattern
def copied_optimizers(backend: str) -> Step:
    """Errors: an optimizer can't be copied without its arrays."""
    opt = adam(backend)

    def step(k: int) -> None:
        opt.step(grads_like())
        raises(lambda: copy.deepcopy(opt).params, TypeError)
        raises(lambda: setattr(opt, "momentum", 0.9), AttributeError, TypeError, ValueError)

    return step


@pattern
def threads_that_end(backend: str) -> Step:
    """Each step in a thread of its own, with another number of threads."""
    opt = adam(backend)

    def step(k: int) -> None:
        thread = threading.Thread(target=opt.step, args=(grads_like(),))
        thread.start()
        thread.join()

    return step


@pattern
def steps_in_steps(backend: str) -> Step:
    def schedule(step: int) -> float:
        raises(lambda: last().step(grads_like()), RuntimeError)
        return 0.1

    opt = adam(backend, lr=schedule)
    last: Any = weakref.ref(opt)
    return lambda k: opt.step(grads_like())


@pattern
def every_optimizer(backend: str) -> Step:
    """One of each class, by turns."""
    opts = [case.build(np.ones((4, 3)), backend=backend) for case in ONE_OF_EACH]
    return lambda k: opts[k % len(opts)].step(np.full((4, 3), 0.5))


@pattern
def new_optimizers(backend: str) -> Step:
    """One of each class, by turns, with some steps, a driver, an option that was written, and a look."""

    def step(k: int) -> None:
        case: Case = ONE_OF_EACH[k % len(ONE_OF_EACH)]
        opt = case.build(np.ones((4, 3)), backend=backend)
        driver = DRIVERS[k % len(DRIVERS)](opt) if k % 3 == 0 and not callable(opt.lr) else None
        for _ in range(3):
            opt.step(np.full((4, 3), 0.5))
        if driver is not None:
            driver.step(*([1.0] if isinstance(driver, lr_scheduler.ReduceLROnPlateau) else []))
        opt.param_groups[0]["weight_decay"] = 0.01
        opt.step(np.full((4, 3), 0.5))
        if k % 8 == 5:
            opt.load_state_dict(opt.state_dict())

    return step
