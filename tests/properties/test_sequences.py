"""Random sequences of all that can be done to an optimizer between steps, against one naive step and both backends.

What a step may remember from the last one (the very gradients, their kinds and places, the rows of hyperparameters, the
table of slots) must never show. After every operation: the backends agree to the bit; a step changed what can be
observed (parameters, ``opt.state``, ``step_count``) as plain NumPy in double precision does; anything else, and every
operation that raised, changed nothing that it should not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.backends.native import library as native

BACKENDS = ["numpy"] if native.missing is not None else ["native", "numpy"]
SHAPES: list[tuple[int, ...]] = [(4, 3), (3,), (), (0,), (2, 3, 2), (5000,), (17000,), (1,)]
GRAD_DTYPES = [np.float16, np.float32, np.float64, np.longdouble, np.dtype(">f4")]
KINDS = ["single", "dict", "list", "groups", "group_by"]
OPTIMIZERS: list[tuple[type[fastopt.Optimizer], dict[str, Any]]] = [
    (fastopt.SGD, {"lr": 0.05}),
    (fastopt.SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.25}),
    (fastopt.Adagrad, {"lr": 0.05, "lr_decay": 0.1, "initial_accumulator_value": 0.1, "eps": 1e-3}),
    (fastopt.RMSprop, {"lr": 0.05, "eps": 1e-2, "momentum": 0.5}),
    (fastopt.Adam, {"lr": 0.05, "eps": 1e-3}),
    (fastopt.AdamW, {"lr": 0.05, "eps": 1e-3, "amsgrad": True}),
    (fastopt.LARS, {"lr": 0.05, "trust_coefficient": 0.3, "eps": 0.1, "nesterov": True}),
    (fastopt.LAMB, {"lr": 0.02, "eps": 1e-2}),
]

Observed = dict[str, Any]


def naive_step(
    opt: fastopt.Optimizer, leaves: dict[str, Any], params: dict[str, Any], state: Observed, grads: dict[str, Any]
) -> None:
    """Change copies of parameters and state as one step is documented to, in double precision."""
    work: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name, grad in grads.items():
        group = next(group for group in opt.param_groups if any(leaves[name] is array for array in group["params"]))
        h = {key: value if key == "params" else at(value, opt.step_count) for key, value in group.items()}
        g = np.asarray(grad).astype(params[name].dtype).astype(float)
        g = -g if h["maximize"] else g
        if h["clip_value"] is not None:
            g = np.clip(g, -h["clip_value"], h["clip_value"])
        if h["clip_norm"] is not None:
            g = g * min(1.0, h["clip_norm"] / (np.linalg.norm(g.ravel()) + 1e-6))
        work[name] = g, h
    if opt.clip_global_norm is not None:
        norm = math.sqrt(sum(float(np.sum(g * g)) for g, _ in work.values()))
        factor = min(1.0, opt.clip_global_norm / (norm + 1e-6))
        work = {name: (g * factor, h) for name, (g, h) in work.items()}
    for name, (g, h) in work.items():
        p, slots = params[name].astype(float), state[name]
        slots["step"] = slots["step"] + 1
        g = g + h["l1"] * np.sign(p) + (0 if h["decoupled"] else h["weight_decay"] * p)
        update = RULES[type(opt)](h, g, slots, int(slots["step"]), p)
        decay = h["lr"] * h["weight_decay"] * (h["decoupled"] and type(opt) is not fastopt.LAMB)
        if h["cautious_decay"]:
            decay = np.where(update * p >= 0, decay, 0.0)
        p = p - decay * p - update
        p = np.sign(p) * np.maximum(np.abs(p) - h["lr"] * h["prox_l1"], 0)
        params[name][...] = p if h["bounds"] is None else np.clip(p, *h["bounds"])


def at(value: Any, step: int) -> Any:
    if isinstance(value, (tuple, list)):
        return tuple(at(item, step) for item in value)
    value = value(step) if callable(value) else value
    return value.item() if isinstance(value, np.generic) else value  # a float32 would make the others float32


def slot(slots: dict[str, Any], name: str, g: Any, first: float = 0.0) -> Any:
    return slots[name].astype(float) if name in slots else np.full_like(g, first)


def sgd(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    if h["momentum"] == 0:
        return h["lr"] * g
    weight = 1 if t == 1 else 1 - h["dampening"]
    inside, outside = (h["lr"], 1) if h["lr_in_momentum"] else (1, h["lr"])
    slots["b"] = h["momentum"] * slot(slots, "b", g) + weight * inside * g
    return outside * (inside * g + h["momentum"] * slots["b"] if h["nesterov"] else slots["b"])


def adagrad(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    slots["sum"] = slot(slots, "sum", g, h["initial_accumulator_value"]) + g * g
    return h["lr"] / (1 + (t - 1) * h["lr_decay"]) * g / (np.sqrt(slots["sum"]) + h["eps"])


def rmsprop(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    slots["v"] = h["alpha"] * slot(slots, "v", g) + (1 - h["alpha"]) * g * g
    square = slots["v"]
    if h["centered"]:
        slots["m"] = h["alpha"] * slot(slots, "m", g) + (1 - h["alpha"]) * g
        square = np.maximum(square - slots["m"] ** 2, 0)
    update = g / (np.sqrt(square) + h["eps"])
    if h["momentum"] == 0:
        return h["lr"] * update
    slots["b"] = h["momentum"] * slot(slots, "b", g) + update
    return h["lr"] * slots["b"]


def adam(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    beta1, beta2 = h["betas"]
    slots["m"] = beta1 * slot(slots, "m", g) + (1 - beta1) * g
    slots["v"] = beta2 * slot(slots, "v", g) + (1 - beta2) * g * g
    if h["amsgrad"]:
        slots["v_max"] = np.maximum(slot(slots, "v_max", g), slots["v"])
    v = slots["v_max" if h["amsgrad"] else "v"]
    return h["lr"] / (1 - beta1**t) * slots["m"] / (np.sqrt(v / (1 - beta2**t)) + h["eps"])


def trust_ratio(h: Any, p: Any, update: Any, coefficient: float = 1, eps: float = 0) -> Any:
    norms = np.linalg.norm(p.ravel()), np.linalg.norm(update.ravel())
    return np.asarray(coefficient * norms[0] / (norms[1] + eps) if h["adapt"] and all(norms) else 1.0)


def lars(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    slots["trust_ratio"] = trust_ratio(h, p, g, h["trust_coefficient"], h["eps"])
    step_size = h["lr"] * slots["trust_ratio"]
    slots["b"] = h["momentum"] * slot(slots, "b", g) + step_size * g
    return h["momentum"] * slots["b"] + step_size * g if h["nesterov"] else slots["b"]


def lamb(h: Any, g: Any, slots: dict[str, Any], t: int, p: Any) -> Any:
    beta1, beta2 = h["betas"]
    slots["m"] = beta1 * slot(slots, "m", g) + (1 - beta1) * g
    slots["v"] = beta2 * slot(slots, "v", g) + (1 - beta2) * g * g
    slots["u"] = slots["m"] / (1 - beta1**t) / (np.sqrt(slots["v"] / (1 - beta2**t) + h["eps_root"]) + h["eps"])
    slots["u"] = slots["u"] + (h["weight_decay"] * p if h["decoupled"] else 0)
    slots["trust_ratio"] = trust_ratio(h, p, slots["u"])
    return h["lr"] * slots["trust_ratio"] * slots["u"]


RULES = {
    fastopt.SGD: sgd,
    fastopt.Adagrad: adagrad,
    fastopt.RMSprop: rmsprop,
    fastopt.Adam: adam,
    fastopt.AdamW: adam,
    fastopt.LARS: lars,
    fastopt.LAMB: lamb,
}


class Run:
    """One optimizer for each backend, to which the same is done."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = KINDS[seed % len(KINDS)]
        build, self.options = OPTIMIZERS[seed // len(KINDS) % len(OPTIMIZERS)]
        first = [self.array() for _ in range(1 if self.kind == "single" else 4)]
        self.leaves = {backend: [array.copy(order="K") for array in first] for backend in BACKENDS}
        self.opts = {
            backend: build(self.params(leaves), **self.options, backend=backend)
            for backend, leaves in self.leaves.items()
        }
        self.last: list[Any] | None = None
        self.saved: list[tuple[dict[str, Any], list[str]]] = []
        self.log: list[str] = []

    @property
    def opt(self) -> fastopt.Optimizer:
        return self.opts[BACKENDS[0]]

    @property
    def names(self) -> list[str]:
        return list(self.opt.state)

    def pick(self, choices: Any) -> Any:
        return choices[self.rng.integers(len(choices))]

    def array(self) -> Any:
        shape = self.pick(SHAPES)
        array = np.asarray(self.rng.normal(size=shape)).astype(self.pick([np.float32, np.float64]))
        return np.asarray(array, order=self.pick("CF"))

    def params(self, leaves: list[Any]) -> Any:
        if self.kind == "single":
            return leaves[0]
        a, b, c, d = leaves
        if self.kind == "groups":
            return [{"params": [a, b], "lr": 0.02}, {"params": c}, {"params": {"x": d}, "weight_decay": 0.1}]
        if self.kind == "list":
            return [a, {"W": b, "b": c}, d]
        params = {"one": {"W": a, "b": b}, "two": [c], "d": d}
        return params if self.kind == "dict" else fastopt.group_by(params, {"*.b": {"weight_decay": 0.2}, "*": {}})

    def grads(self, grads: list[Any]) -> Any:
        """Return gradients in the parameters' structure, where a dict may leave out what is None."""
        more = grads[4:]
        if self.kind == "single":
            return grads[0] if len(grads) == 1 else grads
        a, b, c, d = grads[:4]
        if self.kind == "groups":
            entries = [[a, b], c, {"x": d}, *more]
            return [{"params": entry} for entry in entries] if self.rng.random() < 0.5 else entries
        if self.kind == "list":
            return [a, {"W": b, "b": c} if self.rng.random() < 0.5 else self.without_none({"W": b, "b": c}), d, *more]
        found = {"one": self.without_none({"W": a, "b": b}), "two": [c], "d": d}
        found |= {f"new{4 + k}": grad for k, grad in enumerate(more)}
        return self.without_none(found)

    def without_none(self, grads: dict[str, Any]) -> dict[str, Any]:
        return {key: grad for key, grad in grads.items() if grad is not None or self.rng.random() < 0.5}

    def fresh(self, param: Any) -> Any:
        grad = np.asarray(self.rng.normal(size=param.shape)).astype(self.pick(GRAD_DTYPES))
        how = self.pick(["plain", "plain", "plain", "F", "strided", "unaligned"])
        if how == "F":
            return np.asarray(grad, order="F")
        if how == "strided" and grad.ndim:
            wide = np.zeros((*grad.shape[:-1], 2 * grad.shape[-1]), grad.dtype)
            wide[..., ::2] = grad
            return wide[..., ::2]
        if how == "unaligned":
            memory = np.zeros(grad.nbytes + 1, np.uint8)[1:]
            memory.view(grad.dtype).reshape(grad.shape)[...] = grad
            return memory.view(grad.dtype).reshape(grad.shape)
        return grad

    def observed(self, backend: str) -> tuple[dict[str, Any], Observed, int]:
        opt = self.opts[backend]
        params = dict(zip(opt.state, (array.copy() for array in self.leaves[backend]), strict=True))
        state = {name: {key: array.copy() for key, array in slots.items()} for name, slots in opt.state.items()}
        return params, state, opt.step_count

    def bits(self, backend: str, without_new_slots: bool = True) -> Any:
        """Return what can be observed; slots that are still as they were made count as absent."""
        params, state, count = self.observed(backend)
        first = self.options.get("initial_accumulator_value", 0.0)
        return (
            {name: array.tobytes() for name, array in params.items()},
            {
                name: {
                    key: array.tobytes()
                    for key, array in slots.items()
                    if key == "step" or not without_new_slots or (array != array.dtype.type(first)).any()
                }
                for name, slots in state.items()
            },
            count,
            self.opts[backend].frozen,
            repr([{k: v for k, v in g.items() if k != "params"} for g in self.opts[backend].param_groups]),
        )

    def step(self, grads: list[Any]) -> None:
        self.last = grads
        structure = self.grads(grads)
        present = {
            name: grad
            for name, grad in zip(self.names, grads, strict=True)
            if grad is not None and name not in self.opt.frozen
        }
        for backend, opt in self.opts.items():
            params, state, count = self.observed(backend)
            leaves = dict(zip(self.names, self.leaves[backend], strict=True))
            naive_step(opt, leaves, params, state, present)
            info = opt.step(structure)
            assert info.step == opt.step_count == count + 1
            after, state_after, _ = self.observed(backend)
            for name in self.names:
                expected = {"param": params[name], **state[name]}
                found = {"param": after[name], **state_after[name]}
                for key, value in expected.items():
                    # The global norm sees float32 arrays as clip_norm left them: rounded to float32.
                    is_rough = after[name].dtype == np.float32 or opt.clip_global_norm is not None
                    close(found[key], value, f"{backend}: {name}.{key}", 3e-5 if is_rough else 1e-9)
                    if name not in present:
                        assert found[key].tobytes() == value.tobytes(), f"{backend}: {name}.{key} was to be skipped"
        self.same_everywhere()

    def same_everywhere(self) -> None:
        assert len({repr(self.bits(backend, without_new_slots=False)) for backend in BACKENDS}) == 1

    def refused(self, action: Callable[[fastopt.Optimizer, list[Any]], Any]) -> None:
        for backend, opt in self.opts.items():
            before = self.bits(backend)
            with pytest.raises((TypeError, ValueError, ArithmeticError, MemoryError, KeyboardInterrupt)):
                action(opt, self.leaves[backend])
            assert self.bits(backend) == before


def close(found: Any, expected: Any, what: str, tolerance: float) -> None:
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=what)


# The operations. Each does one thing to all optimizers of a run.


def step_fresh(run: Run) -> None:
    run.step([run.fresh(param) for param in run.leaves[BACKENDS[0]]])


def step_like_last(run: Run) -> None:
    """New arrays of the last kinds, some of them in the places of the last ones."""
    if run.last is None or len(run.last) != len(run.names):
        return step_fresh(run)
    run.step([None if grad is None else grad.copy() if run.rng.random() < 0.6 else grad for grad in run.last])


def step_same(run: Run) -> None:
    """The very arrays of the last step, with other values written into them."""
    if run.last is None or len(run.last) != len(run.names):
        return step_fresh(run)
    for grad in run.last:
        if grad is not None and run.rng.random() < 0.8:
            grad[...] = run.rng.normal(size=grad.shape)
    run.step(run.last)


def step_plain(run: Run) -> None:
    """Gradients of the parameters' dtypes, all of them in the parameters' orders of memory or in C's."""
    is_c = run.rng.random() < 0.5
    run.step(
        [
            np.asarray(run.rng.normal(size=param.shape), order="C" if is_c or param.flags.c_contiguous else "F").astype(
                param.dtype, order="K"
            )
            for param in run.leaves[BACKENDS[0]]
        ]
    )


def step_with_gaps(run: Run) -> None:
    some = run.rng.random() * 1.2
    run.step([run.fresh(param) if run.rng.random() < some else None for param in run.leaves[BACKENDS[0]]])


def write_options(run: Run) -> None:
    for _ in range(run.rng.integers(1, 5)):
        write_option(run)


def switch_clip_norm(run: Run) -> None:
    for opt in run.opts.values():
        for group in opt.param_groups:
            group["clip_norm"] = 0.7 if group["clip_norm"] is None else None


def write_option(run: Run) -> None:
    cycle = fastopt.schedules.triangular(0.01, 0.1, 3)
    choices: dict[str, list[Any]] = {
        "lr": [0.01, 0.1, 0.0, np.float32(0.03), fastopt.schedules.cosine(0.1, 20), lambda step: 0.1 / (1 + step)],
        "weight_decay": [0.0, 0.05, fastopt.schedules.constant(0.02)],
        "maximize": [True, False],
        "decoupled": [True, False],
        "clip_value": [None, 0.5, 2],
        "clip_norm": [None, 0.7, 100.0],
        "l1": [0.0, 0.05],
        "prox_l1": [0.0, 0.1],
        "bounds": [None, (-0.3, 0.7), (None, 0.5), (0.125, None)],
    }
    if "cautious_decay" not in run.opt.refused and all(group["decoupled"] for group in run.opt.param_groups):
        choices["cautious_decay"] = [True, False]
    if any(group["cautious_decay"] for group in run.opt.param_groups):
        choices["decoupled"] = [True]
    if "momentum" in run.opt.defaults:
        choices["momentum"] = [0.0, 0.5, 0.9, cycle]
    for flag in {"amsgrad", "centered", "lr_in_momentum", "adapt"}.intersection(run.opt.defaults):
        if flag != "lr_in_momentum" or isinstance(run.opt, fastopt.SGD):
            choices[flag] = [True, False]
    if "betas" in run.opt.defaults:
        choices["betas"] = [(0.9, 0.99), (0.5, 0.9), [0.0, 0.5], (cycle, 0.9)]
    name = run.pick(sorted(choices))
    k, value = run.rng.integers(len(run.opt.param_groups)), run.pick(choices[name])
    for opt in run.opts.values():
        opt.param_groups[k][name] = value


def write_global_norm(run: Run) -> None:
    value = run.pick([None, 0.5, 3.0, 1e6])
    for opt in run.opts.values():
        opt.clip_global_norm = value


def write_and_undo(run: Run) -> None:
    """A value that is refused, then the old one again."""
    k = run.rng.integers(len(run.opt.param_groups))
    name, bad = run.pick([("lr", -1.0), ("lr", math.nan), ("lr", lambda step: math.inf), ("weight_decay", "much")])
    grads = run.grads([run.fresh(param) for param in run.leaves[BACKENDS[0]]])
    before = {backend: opt.param_groups[k][name] for backend, opt in run.opts.items()}
    for opt in run.opts.values():
        opt.param_groups[k][name] = bad
    run.refused(lambda opt, _: opt.step(grads))
    for backend, opt in run.opts.items():
        opt.param_groups[k][name] = before[backend]


def raise_in_schedule(run: Run) -> None:
    error = run.pick([ArithmeticError, MemoryError, KeyboardInterrupt])

    def broken(step: int) -> float:
        raise error

    k = run.rng.integers(len(run.opt.param_groups))
    grads = run.grads(run.last if run.last and len(run.last) == len(run.names) else [None] * len(run.names))
    before = run.opt.param_groups[k]["lr"]
    for opt in run.opts.values():
        opt.param_groups[k]["lr"] = broken
    run.refused(lambda opt, _: opt.step(grads))
    for opt in run.opts.values():
        opt.param_groups[k]["lr"] = before


def bad_grads(run: Run) -> None:
    how = run.pick(["shape", "int", "overlap", "text"])
    k = run.rng.integers(len(run.names))
    like_last = run.last if run.last and len(run.last) == len(run.names) and run.rng.random() < 0.5 else None

    def action(opt: fastopt.Optimizer, leaves: list[Any]) -> None:
        grads = list(like_last) if like_last else [np.ones_like(param) for param in leaves]
        grads[k] = {
            "shape": np.ones((*leaves[k].shape, 2)),
            "int": np.ones(leaves[k].shape, int),
            "overlap": leaves[k],
            "text": "gradient",
        }[how]
        opt.step(run.grads(grads))

    unseen = run.opt.state.keys() & run.opt.frozen
    if run.names[k] not in unseen and (how != "overlap" or run.leaves[BACKENDS[0]][k].size):
        run.refused(action)


def add_group(run: Run) -> None:
    if len(run.names) > 7:
        return
    array, name, lr = run.array(), f"new{len(run.names)}", float(run.rng.uniform(0.01, 0.1))
    for backend, opt in run.opts.items():
        mine = array.copy(order="K")
        is_dict = run.kind in ("dict", "group_by")
        opt.add_param_group({"params": {name: mine} if is_dict else mine, "lr": lr})
        run.leaves[backend].append(mine)


def add_bad_group(run: Run) -> None:
    def action(opt: fastopt.Optimizer, leaves: list[Any]) -> None:
        bad = run.pick([leaves[-1], np.ones(2, int), [], np.ones((4, 4))[:, 1], "array"])
        opt.add_param_group({"params": {"bad": bad} if run.kind in ("dict", "group_by") else bad})

    if run.leaves[BACKENDS[0]][-1].size:
        state = run.rng.bit_generator.state

        def the_same(opt: fastopt.Optimizer, leaves: list[Any]) -> None:
            run.rng.bit_generator.state = state
            action(opt, leaves)

        run.refused(the_same)


def freeze(run: Run) -> None:
    name = run.pick(run.names)
    for opt in run.opts.values():
        opt.freeze(name)


def unfreeze(run: Run) -> None:
    for opt in run.opts.values():
        opt.unfreeze()


def save(run: Run) -> None:
    run.saved.append((run.opt.state_dict(), run.names))
    for opt in run.opts.values():
        opt.state_dict()


def load(run: Run) -> None:
    """Any saved state into all backends, its functions with it; a strict load of one with fewer arrays is refused."""
    if not run.saved:
        return save(run)
    saved, names = run.pick(run.saved)
    if "function" in repr(saved["param_groups"]):
        return None
    if names != run.names:
        run.refused(lambda opt, _: opt.load_state_dict(saved))
    for opt in run.opts.values():
        opt.load_state_dict(saved, strict=names == run.names)
        assert opt.step_count == saved["step_count"]
        assert set(opt.frozen) == set(saved["frozen"])
        for name in names:
            for key, value in saved["state"][name].items():
                assert opt.state[name][key].tobytes() == value.tobytes()


def write_state(run: Run) -> None:
    name = run.pick(run.names)
    key = run.pick(sorted(run.opt.state[name]))
    for opt in run.opts.values():
        opt.state[name][key][...] = 3 if key == "step" else 0.25


def write_param(run: Run) -> None:
    k = run.rng.integers(len(run.names))
    for leaves in run.leaves.values():
        leaves[k][...] = 0.5


def threads(run: Run) -> None:
    fastopt.set_num_threads(int(run.pick([1, 2, 3, 7])))


OPERATIONS = [
    *[step_fresh, step_like_last, step_same, step_same, step_plain, step_plain, step_with_gaps],
    *[
        write_options,
        write_options,
        switch_clip_norm,
        write_global_norm,
        write_and_undo,
        raise_in_schedule,
        bad_grads,
        bad_grads,
    ],
    *[add_group, add_bad_group, freeze, unfreeze, save, load, load, write_state, write_param, threads],
]


PAIRS = len(KINDS) * len(OPTIMIZERS)
SECOND_TIME = [pytest.param(seed, marks=pytest.mark.long) for seed in range(PAIRS, 2 * PAIRS)]


@pytest.mark.parametrize("seed", [*range(PAIRS), *SECOND_TIME])
def test_what_a_step_remembers_never_shows(seed: int) -> None:
    before = fastopt.get_num_threads()
    run = Run(seed)
    try:
        for _ in range(30):
            operation = run.pick(OPERATIONS)
            run.log.append(operation.__name__)
            operation(run)
            run.same_everywhere()
    except BaseException:
        print(f"seed {seed}, {run.kind}, {type(run.opt).__name__}: {' '.join(run.log)}")
        raise
    finally:
        fastopt.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_places_found_clear_are_clear_for_these_sizes_only(backend: str) -> None:
    """A gradient that begins where a clear one began, but is longer, reaches into the parameter behind it."""
    memory = np.ones(16)
    param, place = memory[8:], memory[4:8]
    opt = fastopt.SGD(param, lr=0.5, backend=backend)
    short, other = place.view(np.float32), np.ones(8)
    long = memory[4:12]
    for _ in range(2):
        for grad in (short, short.copy(), short, other, short):
            opt.step(grad)
        before = memory.tobytes(), opt.step_count
        with pytest.raises(ValueError, match="overlaps"):
            opt.step(long)
        with pytest.raises(ValueError, match="overlaps"):
            opt.step(long)
        assert (memory.tobytes(), opt.step_count) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_orders_of_memory_may_change_between_steps(backend: str) -> None:
    values = np.arange(6.0).reshape(2, 3)
    for order in "CF":
        param = np.zeros((2, 3), order=order)
        opt = fastopt.SGD(param, lr=1.0, backend=backend)
        for count, grad_order in enumerate("FFCCFCF", 1):
            opt.step(np.array(values, order=grad_order))
            np.testing.assert_array_equal(param, -count * values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_last_gradients_again_after_refused_ones(backend: str) -> None:
    param, grad = np.full(4, 8.0), np.ones(4)
    opt = fastopt.SGD(param, lr=1.0, backend=backend)
    opt.step(grad)
    with pytest.raises(ValueError, match="overlaps"):
        opt.step(param)
    opt.step(grad)
    np.testing.assert_array_equal(param, 6.0)
