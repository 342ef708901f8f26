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
    parts, running = opt.parts, opt.parts.running
    if running.lock.locked():
        running.refuse()
    with running.lock:
        if running.marks[0]:
            running.refuse()
        running.marks[0] = 1  # no call stands between this line and the next: no interrupt comes in between
        try:
            parts.progress.undo_skipped_step()
            step = Step(opt, parts, opt.ready(), parts.whole.scale_of(grad_scale))
            try:
                info = step.run(grads, stream)
                planning = step.workspace.planning
                if planning.is_due(running.planned_steps):
                    planning.plan = plan_of(opt, parts, step.workspace, step.leaves)
            finally:
                step.workspace.forget_grads()
            return info
        finally:
            running.marks[0] = 0
