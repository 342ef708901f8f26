"""Print one line of digests of all that fastopt computes: equal before and after a change that must not change a bit.

``python tests/digest.py [CHECKOUT] [--rows FILE]``: CHECKOUT (default: this one) has fastopt/ and tests/cases.py. FILE
gets the digest of each row; ``diff`` of two such files shows where two checkouts differ. The words of the line are:

native, numpy  each row of CASES with each of OPTIONS and STORAGE, in groups, and by rows; the two words must be equal
matrix         the same for MATRIX_CASES, whose products of matrices depend on the machine's BLAS
errors, files, schedules, drivers, clipping    messages of errors, bytes of checkpoints, and values

The native part runs with the instruction set of FASTOPT_ISA, on which the line must not depend. Only public names are
used, and of an error outside "errors" only the type counts.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

parser = argparse.ArgumentParser(description="Print one line of digests of all that fastopt computes.")
parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).parents[1])
parser.add_argument("--rows", type=Path, metavar="FILE", help="write the digest of each row to this file")
arguments = parser.parse_args()
root = arguments.checkout.resolve()
sys.path[:0] = [str(root), str(root / "tests")]

from cases import BFLOAT16, CASES, MATRIX_CASES, OPTIONS, STORAGE, Case, raw, taken_by  # noqa: E402

import fastopt  # noqa: E402
from fastopt import lr_scheduler as drivers  # noqa: E402
from fastopt import schedules  # noqa: E402

Digest = hashlib.blake2b
SHAPES = {"odd": (17,), "in.long": (5000,), "one": (1,), "empty": (0,), "in.matrix": (7, 9), "in.fortran": (6, 5)}
MATRICES = {"wide": (7, 9), "in.row": (1, 4), "square": (5, 5), "in.fortran": (6, 5)}
GROUPS = {"in.*": {"lr": 0.003, "weight_decay": 0.02}, "*": {}}
WHOLE_OPTIONS = "clip_global_norm nonfinite grad_scale zero_grads accumulate_steps ema_decay ema_bias_correction polyak"
MORE_OPTIONS = "polyak_start copy_to state_dtype stochastic_rounding seed max_weight_norm_axis backend"
DRIVERS: tuple[Callable[[fastopt.Optimizer], Any], ...] = (
    lambda opt: drivers.LambdaLR(opt, lambda epoch: 0.9**epoch),
    lambda opt: drivers.MultiplicativeLR(opt, lambda epoch: 1 - 0.1 / (1 + epoch)),
    lambda opt: drivers.StepLR(opt, 3, gamma=0.5),
    lambda opt: drivers.MultiStepLR(opt, [2, 5, 5], gamma=0.3),
    lambda opt: drivers.ConstantLR(opt, total_iters=4),
    lambda opt: drivers.LinearLR(opt, total_iters=7),
    lambda opt: drivers.ExponentialLR(opt, 0.9),
    lambda opt: drivers.PolynomialLR(opt, total_iters=9, power=2.0),
    lambda opt: drivers.CosineAnnealingLR(opt, T_max=6, eta_min=0.001),
    lambda opt: drivers.CosineAnnealingWarmRestarts(opt, T_0=3, T_mult=2),
    lambda opt: drivers.CyclicLR(opt, 0.01, 0.1, step_size_up=3, mode="triangular2"),
    lambda opt: drivers.OneCycleLR(opt, 0.1, total_steps=14),
    lambda opt: drivers.ReduceLROnPlateau(opt, patience=1),
    lambda opt: drivers.SequentialLR(opt, [drivers.ConstantLR(opt), drivers.ExponentialLR(opt, 0.9)], [4]),
    lambda opt: drivers.ChainedScheduler([drivers.ExponentialLR(opt, 0.9), drivers.StepLR(opt, 3)]),
)


def feed(out: Digest, *values: Any) -> None:
    """Add plain Python and arrays to a digest: structure, keys in any order, types, dtypes, memory orders and bits."""
    for value in values:
        if isinstance(value, np.ndarray):
            out.update(f"{value.dtype.char} {value.shape} {value.flags.f_contiguous}:".encode() + raw(value))
        elif isinstance(value, (Mapping, list, tuple)):
            out.update(f"{type(value).__name__} {len(value)}:".encode())
            feed(out, *(sorted(value.items(), key=lambda item: item[0]) if isinstance(value, Mapping) else value))
        elif isinstance(value, Exception):
            out.update(type(value).__name__.encode())
        elif value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
            out.update(f"{type(value).__name__} {value!r};".encode())
        else:
            raise TypeError(f"digest: expected plain Python or arrays, got {value!r}")


def outcome(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return the result of a call, or the error that it raises."""
    try:
        return call(*args, **options)
    except Exception as error:
        return error


def text(result: Any) -> str:
    """Return the type and text of an error, without the modules of fastopt's classes; anything else was accepted."""
    message = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else "accepted"
    return re.sub(r"fastopt(\.[a-z_]+)+(?=\.[A-Z])", "fastopt", message)


def random_arrays(rng: np.random.Generator, shapes: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return {name: np.asfortranarray(array) if "fortran" in name else array for name, array in arrays.items()}


def tree(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays in a dict, those called "in.NAME" in a dict within it."""
    inner = {name[3:]: array for name, array in arrays.items() if name.startswith("in.")}
    return {"in": inner, **{name: array for name, array in arrays.items() if not name.startswith("in.")}}


def gradients(rng: np.random.Generator, shapes: Mapping[str, Any], dtype: Any) -> list[dict[str, Any]]:
    """Return the gradients of six steps: some missing, of other dtypes and memory orders, or not finite."""
    steps = [random_arrays(rng, shapes, dtype) for _ in range(6)]
    first, second, *_, before_last, last = shapes
    steps[1][first] = None
    steps[1][last] = steps[1][last].astype(np.float64, order="C")
    del steps[2][second]
    steps[2][before_last] = np.repeat(steps[2][before_last], 2, axis=-1)[..., ::2]
    steps[3][before_last] = np.asfortranarray(steps[3][before_last])
    steps[3][first] = steps[3][first].astype(np.float16)
    steps[4][first].flat[3], steps[4][last][0, 0] = np.nan, np.inf
    return steps


def observe(out: Digest, opt: fastopt.Optimizer, params: Any) -> None:
    feed(out, params, opt.state_dict(), opt.step_count, opt.accumulated_calls, opt.frozen, opt.state_bytes)
    feed(out, {name: [opt.slot(name, slot) for slot in slots] for name, slots in opt.state.items()})
    feed(out, outcome(getattr, opt, "ema"))


def run(case: Case, shapes: Mapping[str, Any], dtype: Any, row: Mapping[str, Any], backend: str, out: Digest) -> None:
    """Add six steps with options around the rule."""
    rng, options = np.random.default_rng(1), taken_by(case, dict(row))
    params = tree(random_arrays(rng, shapes, options.pop("params", dtype)))
    if "copy_to" in options:
        options["copy_to"] = tree(random_arrays(rng, shapes, options["copy_to"]))
    if options.get("bounds") == "elements":
        options["bounds"] = (
            None,
            tree({name: np.linspace(0, 1, math.prod(shapes[name])).reshape(shapes[name]) for name in shapes}),
        )
    opt = case.build(params, **options, backend=backend)
    for number, grads in enumerate(gradients(rng, shapes, dtype)):
        feed(out, outcome(opt.step, tree(grads)), grads if options.get("zero_grads") else None)
        if number in (3, 5):
            feed(out, options.get("copy_to"))
            observe(out, opt, params)


def run_in_groups(case: Case, shapes: Mapping[str, Any], dtype: Any, backend: str, out: Digest) -> None:
    """Add steps between which groups are written, frozen, saved, loaded into another optimizer, and added."""

    def build() -> tuple[Any, fastopt.Optimizer]:
        params = tree(random_arrays(rng, shapes, dtype))
        scale = fastopt.DynamicLossScale(init_scale=8.0, growth_interval=2)
        options = taken_by(case, {"ema_decay": 0.9, "nonfinite": "skip", "grad_scale": scale})
        return params, case.build(fastopt.group_by(params, GROUPS), **options, backend=backend)

    rng = np.random.default_rng(2)
    params, opt = build()
    feed(out, opt.freeze("in.f*"))
    for number, grads in enumerate(gradients(rng, shapes, dtype)):
        if number == 1:
            opt.param_groups[1]["lr"] = 0.02
        elif number == 2:
            feed(out, opt.unfreeze())
        elif number == 3:
            with tempfile.TemporaryDirectory() as folder:
                fastopt.save(Path(folder) / "run.npz", opt)
                saved = fastopt.load(Path(folder) / "run.npz")
            params, opt = build()
            feed(out, saved, saved.restore(opt))
        elif number == 5:
            params["added"], grads["added"] = np.ones((3, 2), dtype), np.ones((3, 2), dtype)
            opt.add_param_group({"params": {"added": params["added"]}, "lr": 0.05})
        feed(out, outcome(opt.step, tree(grads)))
    observe(out, opt, params)
    for name in ("averaged", "lookahead"):
        feed(out, outcome(params_within, getattr(opt, name), params) if hasattr(opt, name) else None)
    for name in ("eval", "train"):
        feed(out, outcome(getattr(opt, name)) if hasattr(opt, name) else None, params)


def params_within(context: Callable[[], Any], params: Any) -> Any:
    with context():
        return copy.deepcopy(params)


def run_by_rows(case: Case, dtype: Any, row: Mapping[str, Any], backend: str, out: Digest) -> None:
    """Add steps with row-sparse gradients and dense ones."""
    rng, shapes = np.random.default_rng(3), {"table": (40, 3), "dense": (17,)}
    params = random_arrays(rng, shapes, dtype)
    opt = case.build(params, **taken_by(case, dict(row)), backend=backend)
    for rows in ([7, 2, 7, 39], [], None, [0, 3, 2], [5]):
        grads = random_arrays(rng, shapes, dtype)
        if rows is not None:
            grads["table"] = fastopt.RowSparse(np.array(rows, np.int32), grads["table"][: len(rows)].copy())
        feed(out, outcome(opt.step, grads), grads["dense"], grads["table"].values if rows else None)
    observe(out, opt, params)


def complaints(case: Case, shapes: Mapping[str, Any], backend: str, out: Digest) -> None:
    """Add what is said of options, parameters, gradients and saved states that are wrong."""
    first, *_, last = shapes
    good = random_arrays(np.random.default_rng(6), {**shapes, "more": (2, 2)}, np.float32)
    more = good.pop("more")
    opt = case.build({"more": more}, nonfinite="raise", backend=backend)
    for name in (*opt.param_groups[0], *WHOLE_OPTIONS.split(), *MORE_OPTIONS.split(), *case.optimizer.refused):
        for value in (-1.0, "wrong", None, np.nan) if name != "params" else ():
            feed(out, name, text(outcome(case.build, {"more": more}, **{"backend": backend, name: value})))
            if name in opt.param_groups[0]:
                before, opt.param_groups[0][name] = opt.param_groups[0][name], value
                feed(out, text(outcome(opt.step, {"more": np.ones((2, 2))})))
                opt.param_groups[0][name] = before
    values = [good[first][:1], np.ones((6, 5), int), "text", np.ones((5, 6)), np.full((6, 5), np.nan)]
    values += [np.broadcast_to(np.float32(1), (6, 5)), np.ones((6, 5))[::-1]]
    values += [fastopt.RowSparse(np.array(indices), np.ones((1, 5))) for indices in ([9], [0.5], [[1]])]
    wrong = [tree({**good, last: value}) for value in values]
    opt = case.build(
        tree(random_arrays(np.random.default_rng(7), shapes, np.float32)), nonfinite="raise", backend=backend
    )
    for value in (*wrong, tree({**good, "more": more}), {}, [more], None, "text", more):
        feed(out, text(outcome(case.build, value, backend=backend)), text(outcome(opt.step, value)))
        feed(out, text(outcome(opt.load_state_dict, value)))
    for key, value in opt.state_dict().items():
        changed = {**opt.state_dict(), key: type(value)()}
        feed(out, *(text(outcome(opt.load_state_dict, changed, strict)) for strict in (True, False)))


def file_bytes(case: Case, shapes: Mapping[str, Any], suffix: str, out: Digest) -> None:
    """Add the bytes of a checkpoint; the header of safetensors as values, as the digest always had it."""
    rng = np.random.default_rng(4)
    opt = case.build(tree(random_arrays(rng, shapes, np.float32)))
    opt.step(tree(random_arrays(rng, shapes, np.float32)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        fastopt.save(path, opt, extra={"rng": rng, "list": [1, (2.5, None, "three")]})
        content = path.read_bytes()
    if suffix == ".npz":
        feed(out, content)
    else:
        start = 8 + int.from_bytes(content[:8], "little")
        feed(out, start, json.loads(content[8:start]), content[start:])


def schedule_values(schedule: Callable[[Any], float], out: Digest) -> None:
    feed(out, [schedule(step) for step in (*range(51), *range(100, 1000, 50))])
    feed(out, *(outcome(schedule, step) for step in (-1, 1.5, "text", True)))


def run_driver(make: Callable[[fastopt.Optimizer], Any], out: Digest) -> None:
    """Add the steps of a driver of the learning rate, saved and loaded half way."""
    params = [np.ones(3), np.ones(4)]
    groups = [{"params": params[0]}, {"params": params[1], "lr": 0.3}]
    opt = fastopt.SGD(groups, lr=0.1, momentum=0.9)
    driver = make(opt)
    for step in range(12):
        opt.step([np.ones(3), np.ones(4)])
        driver.step(*([1.0 / min(step + 1, 4)] if isinstance(driver, drivers.ReduceLROnPlateau) else []))
        feed(out, [(group["lr"], group["momentum"]) for group in opt.param_groups], driver.get_last_lr(), params)
        if step == 6:
            saved, saved_driver = opt.state_dict(), driver.state_dict()
            feed(out, saved, saved_driver)
            opt = fastopt.SGD(groups, momentum=0.9)
            opt.load_state_dict(saved)
            driver = make(opt)
            driver.load_state_dict(saved_driver)


def clip_grads(dtype: Any, out: Digest) -> None:
    """Add the norms and the gradients that the functions of clipping leave, and a mean of snapshots."""
    for limit in (0.5, 1e6, -1.0, "text"):
        for norm_type in (1.0, 2.0, 3.5, np.inf, 0.0):
            grads = tree(random_arrays(np.random.default_rng(8), SHAPES, dtype))
            feed(out, outcome(fastopt.clip.global_norm, grads, norm_type))
            feed(out, outcome(fastopt.clip_grad_norm_, grads, limit, norm_type), grads)
            feed(out, outcome(fastopt.clip_grad_value_, grads, limit), grads, fastopt.averaging.mean([grads, grads]))


def jobs() -> Iterator[tuple[str, str, Callable[[Digest], None]]]:
    """Yield the word, the name and the function of each row."""
    backends = ("native", "numpy") if fastopt.info()["native_missing"] is None else ("numpy",)
    every = [(case, SHAPES) for case in CASES] + [(case, MATRICES) for case in MATRIX_CASES]
    for case, shapes in every:
        title = f"{case.optimizer.__name__} {case.options}"
        for backend in backends:
            word, prefix = (backend, title) if shapes is SHAPES else ("matrix", f"{backend} {title}")
            for dtype in (np.float32, np.float64):
                for options, row in {"no option": {}, **OPTIONS, **(STORAGE if dtype is np.float32 else {})}.items():
                    name = f"{prefix}, {options}, {dtype.__name__}"
                    yield word, name, partial(run, case, shapes, dtype, row, backend)
                    if case.optimizer.row_sparse_options is not None and options not in STORAGE:
                        yield word, f"{name}, by rows", partial(run_by_rows, case, dtype, row, backend)
                name = f"{prefix}, in groups, {dtype.__name__}"
                yield word, name, partial(run_in_groups, case, shapes, dtype, backend)
        for suffix in (".npz", ".safetensors"):
            yield "files", f"{title}, {suffix}", partial(file_bytes, case, shapes, suffix)
    for case, shapes in {case.optimizer: (case, shapes) for case, shapes in every}.values():
        for backend in backends:
            yield "errors", f"{case.optimizer.__name__}, {backend}", partial(complaints, case, shapes, backend)
    more = schedules.one_cycle(0.1, total=45, three_phase=True), schedules.triangular2(0.01, 0.1, step_size_up=4)
    for schedule in (*schedules.examples(), *more):
        yield "schedules", repr(schedule), partial(schedule_values, schedule)
    for number, make in enumerate(DRIVERS):
        yield "drivers", f"driver {number}", partial(run_driver, make)
    for dtype in (np.float16, np.float32, np.float64):
        yield "clipping", dtype.__name__, partial(clip_grads, dtype)


def main() -> None:
    if Path(fastopt.__file__).parents[1] != root or BFLOAT16 is None:
        sys.exit(f"digest: expected fastopt in {root} and the package ml_dtypes, got {fastopt.__file__}, {BFLOAT16}")
    rows: dict[str, dict[str, str]] = {}
    for word, name, job in tqdm(list(jobs()), disable=None):
        out = Digest(digest_size=8)
        job(out)
        rows.setdefault(word, {})[name] = out.hexdigest()
    lists = {word: "".join(f"{name}: {digest}\n" for name, digest in rows[word].items()) for word in rows}
    if arguments.rows:
        arguments.rows.write_text("".join(f"[{word}]\n{lines}" for word, lines in lists.items()))
    print(*(f"{word}={Digest(lines.encode(), digest_size=8).hexdigest()}" for word, lines in lists.items()))
    unequal = [name for name, digest in rows.get("native", {}).items() if rows["numpy"][name] != digest]
    if unequal:
        sys.exit(f"digest: native and numpy differ in {len(unequal)} rows, first in {unequal[:3]}")


main()
