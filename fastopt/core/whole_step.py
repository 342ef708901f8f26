"""A step that no plan foresees. It may be the model of the next plan."""

from __future__ import annotations

from operator import is_
from typing import Any, Protocol

from ..backends.plan import Plan
from .params_in_state import check_own_values
from .parts import Parts
from .plans import PlanHooks, plan_of
from .results import StepInfo
from .step import Step, StepHooks
from .turns import Kind
from .workspace import Workspace


class Steps(StepHooks, PlanHooks, Protocol):
    """An optimizer, as far as its step needs it."""

    @property
    def parts(self) -> Parts: ...
    def check_step(self) -> None: ...
    def ready(self) -> Workspace: ...


def whole_step(opt: Steps, grads: Any, grad_scale: float | None, stream: Any) -> StepInfo:
    """Make a step, and a plan for the next one where one is due.

    Raises
    ------
    RuntimeError
        If another change of the optimizer is running.
    """
    return opt.parts.turns.run("step", Kind.CHANGE, make_step, opt, grads, grad_scale, stream)


def planned_step(opt: Steps, plan: Plan, grads: Any) -> StepInfo | None:
    """Make a step that is planned but for the library of its gradients; return None if it is not."""
    parts = opt.parts
    try:
        leaves = parts.parameters.leaves(grads, "grads")
        arrays = [parts.backend.ops.as_array("grads", leaf) for leaf in leaves]
    except (TypeError, ValueError):  # the whole step raises it
        return None
    if all(map(is_, arrays, leaves)):
        return None
    info: StepInfo | None = plan.run(plan.address, opt, parts.parameters.structure(arrays))
    return info


def flush(opt: Steps, stream: Any) -> StepInfo:
    """Apply the mean of the calls that have accumulated; see :meth:`fastopt.Optimizer.flush`."""
    return opt.parts.turns.run("flush", Kind.CHANGE, make_flush, opt, stream)


def make_flush(opt: Steps, stream: Any) -> StepInfo:
    step = new_step(opt, "flush", None, opt.parts.progress.accumulated_calls)
    if opt.parts.options.accumulate_steps == 1 or not step.flushed_calls:
        return step.nothing()
    try:
        return step.run(None, stream)
    finally:
        step.workspace.forget_grads()


def new_step(opt: Steps, what: str, grad_scale: float | None, flushed_calls: int = 0) -> Step:
    """Return a step that can be made now; ``what`` names the call in errors."""
    parts = opt.parts
    if parts.stand_in:
        check_own_values(parts, what)
    opt.check_step()
    parts.progress.undo_skipped_step()
    return Step(opt, parts, opt.ready(), parts.whole.scale_of(grad_scale), flushed_calls)


def make_step(opt: Steps, grads: Any, grad_scale: float | None, stream: Any) -> StepInfo:
    parts, step = opt.parts, new_step(opt, "step", grad_scale)
    try:
        info = step.run(grads, stream)
        planning = step.workspace.planning
        if planning.is_due(parts.turns.planned_steps):
            planning.plan = plan_of(opt, parts, step.workspace, step.leaves)
    finally:
        step.workspace.forget_grads()
    return info
