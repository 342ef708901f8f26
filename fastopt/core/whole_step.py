"""A step that no plan foresees. It may be the model of the next plan."""

from __future__ import annotations

from typing import Any, Protocol

from .parts import Parts
from .plans import PlanHooks, plan_of
from .results import StepInfo
from .step import Step, StepHooks
from .workspace import Workspace


class Steps(StepHooks, PlanHooks, Protocol):
    """An optimizer, as far as its step needs it."""

    @property
    def parts(self) -> Parts: ...
    def ready(self) -> Workspace: ...


def whole_step(opt: Steps, grads: Any, grad_scale: float | None, stream: Any) -> StepInfo:
    """Make a step, and a plan for the next one where one is due.

    Raises
    ------
    RuntimeError
        If another step of the optimizer is running.
    """
    parts, step_lock = opt.parts, opt.parts.step_lock
    if step_lock.lock.locked():
        step_lock.refuse()
    with step_lock.lock:
        if step_lock.marks[0]:
            step_lock.refuse()
        step_lock.marks[0] = 1  # no call stands between this line and the next: no interrupt comes in between
        try:
            parts.progress.undo_skipped_step()
            step = Step(opt, parts, opt.ready(), parts.whole.scale_of(grad_scale))
            try:
                info = step.run(grads, stream)
                planning = step.workspace.planning
                if planning.is_due(step_lock.planned_steps):
                    planning.plan = plan_of(opt, parts, step.workspace, step.leaves)
            finally:
                step.workspace.forget_grads()
            return info
        finally:
            step_lock.marks[0] = 0
