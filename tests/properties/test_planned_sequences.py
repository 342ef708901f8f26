"""Random sequences of steps and of what comes between them: planned runs against the same runs without plans."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planned_runs import OPTION_SETS, OptionSet, Run, needs_plans, without_plans
from tiers import shortly

from fastopt import lr_scheduler

hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis")
st = hypothesis.strategies

pytestmark = [needs_plans, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

OPTIONS: dict[str, list[Any]] = {
    "lr": [0.1, 0.05, 1, np.float32(0.03), -1.0, None, lambda step: 0.1 / (1 + step)],
    "weight_decay": [0.0, 0.1, np.float64(0.2), float("nan")],
    "momentum": [0.0, 0.9, 0.5, True],
    "betas": [(0.9, 0.999), (0.5, 0.6), [0.5, 0.6], (lambda step: 0.9, 0.99)],
    "amsgrad": [True, False],
    "nesterov": [True, False],
    "decoupled": [True, False, 1],
    "maximize": [True, False],
    "clip_value": [None, 0.5, "text"],
    "clip_norm": [None, 0.5, 2],
    "l1": [0.0, 0.05],
    "prox_l1": [0.0, 0.05],
    "bounds": [None, (-0.3, 0.3), [0, None], (1, 0), 0.5],
    "cautious_decay": [True, False, None],
}
CHANGES = [
    *["None", "other_dtype", "strided", "nan", "shape", "slot", "read_only", "row_of_nan"],
    *["other_order", "other_kind_of_dict", "missing_key"],
]
ACTIONS = ["replace_parameter", "put_back", "freeze", "unfreeze", "save", "load", "write_slot", "write_step"]
ACTIONS += ["write_param", "global_norm", "grad_scale", "add_group", "replace_group", "drive", "average", "argument"]

small = st.integers(0, 11)
operation = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 5), small),
    st.tuples(st.just("option"), st.sampled_from(sorted(OPTIONS)), small),
    st.tuples(st.just("grads"), st.sampled_from(CHANGES), small),
    st.tuples(st.just("act"), st.sampled_from(ACTIONS), small),
)


class Sequence(Run):
    """A run to which operations are done; one that raises is noted."""

    def __init__(self, its: OptionSet) -> None:
        super().__init__(its)
        self.replaced: list[Any] = []
        self.planned = 0

    def do(self, kind: str, what: Any, k: int) -> None:
        if kind == "steps":
            for _ in range(what):
                self.step()
        elif kind == "option":
            choices = OPTIONS[what]
            group = self.opt.param_groups[k % len(self.opt.param_groups)]
            if what in group:
                before = group[what]
                group[what] = choices[k % len(choices)]
                self.step()
                if self.seen[-1]["told"][0][0].__name__ != "StepInfo":
                    group[what] = before
        elif kind == "grads":
            self.step(lambda run: self.change(what, k))
        else:
            try:
                self.act(what, k)
            except (TypeError, ValueError) as error:
                self.seen.append({"told": (type(error), str(error))})

    def change(self, what: str, k: int) -> None:
        i = k % len(self.grads)
        grad = self.grads[i]
        if what == "None":
            self.grads[i] = None
        elif what == "other_dtype":
            self.grads[i] = grad.astype([np.float16, np.float32, np.float64][k % 3])
        elif what == "strided":
            self.grads[i] = np.repeat(grad, 2, -1)[..., ::2] if grad.ndim else grad
        elif what == "nan":
            grad[...] = np.nan
        elif what == "row_of_nan":
            grad[(slice(1),) * min(grad.ndim, 1)] = np.inf
        elif what == "shape":
            self.grads[i] = np.ones((*grad.shape, 2))
        elif what == "slot":
            self.grads[i] = list(list(self.opt.state.values())[i].values())[-1]
        elif what == "read_only":
            grad.flags.writeable = False
        elif what == "other_order":
            self.grads[i] = np.asfortranarray(grad) if k % 2 else np.array(grad, order="C")
        else:
            grads = self.structure()
            if isinstance(grads, dict):
                items = list(grads.items())
                self.given = dict(items[::-1] if what == "other_kind_of_dict" else items[: k % len(items)])

    def act(self, what: str, k: int) -> None:
        opt, names = self.opt, list(self.opt.state)
        name = names[k % len(names)]
        if what == "replace_parameter" and self.form == "nested":
            self.replaced.append(self.params["scale"])
            self.params["scale"] = self.params["scale"].copy()
        elif what == "put_back" and self.replaced:
            self.params["scale"] = self.replaced[0]
        elif what == "freeze":
            opt.freeze(name)
        elif what == "unfreeze":
            opt.unfreeze()
        elif what == "save":
            self.saved.append(opt.state_dict())
        elif what == "load" and self.saved:
            opt.load_state_dict(self.saved[k % len(self.saved)], strict=k % 2 == 0)
        elif what == "write_slot":
            slot = list(opt.state[name].values())[-1]
            if slot.dtype.kind == "f":
                slot[...] = 0.25
        elif what == "write_step":
            opt.state[name]["step"][...] = k
        elif what == "write_param":
            self.arrays[k % len(self.arrays)][...] = 0.5
        elif what == "global_norm":
            opt.clip_global_norm = [None, 0.5, 3, -1.0][k % 4]
            self.step()
            opt.clip_global_norm = None if opt.clip_global_norm == -1.0 else opt.clip_global_norm
        elif what == "grad_scale":
            opt.grad_scale = [1.0, 8.0, 0.0][k % 3]
        elif what == "add_group" and len(names) < 8:
            more = np.ones(3, self.arrays[0].dtype)
            added = {f"added{len(names) - len(self.its.shapes)}": more} if self.form == "nested" else more
            opt.add_param_group({"params": added, **self.kind})
        elif what == "replace_group":
            opt.param_groups[-1] = {**self.group, "lr": 0.02}
        elif what == "drive" and not callable(self.group["lr"]):
            driver = lr_scheduler.ExponentialLR(opt, 0.9)
            for _ in range(k % 5):
                self.step()
                driver.step()
        elif what == "average" and opt.pass_options.averages:
            with opt.averaged():
                self.step()
        elif what == "argument":
            self.step(lambda run: run.keywords.update(grad_scale=float(k)))


def seen(its: OptionSet, operations: list[tuple[str, Any, int]]) -> Sequence:
    run = Sequence(its)
    for each in [("steps", 4, 0), *operations, ("steps", 3, 0)]:
        run.do(*each)
    return run


#: Those of few elements.
SETS = [its for its in OPTION_SETS if its.name not in ("large", "uint8")]


@pytest.mark.parametrize("examples", [*shortly(60, 500), pytest.param(5000, marks=pytest.mark.long)])
def test_no_sequence_shows_that_it_is_planned(examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @hypothesis.given(st.sampled_from(SETS), st.lists(operation, max_size=12))
    def check(its: OptionSet, operations: list[tuple[str, Any, int]]) -> None:
        planned = seen(its, operations)
        assert planned.opt.planned_steps >= 2
        with without_plans(monkeypatch):
            whole = seen(its, operations)
        assert whole.opt.planned_steps == 0
        assert planned.seen == whole.seen

    check()
