"""The message of a result: why the method stopped, with numbers, and what to do."""

from __future__ import annotations

import math
from typing import ClassVar, Protocol

from ..arrays.texts import number_of


class End(Protocol):
    """A method, as far as a message needs it."""

    gtol: float
    ftol: float
    #: How much the last iteration has lowered the loss.
    decrease: float
    #: Names the loss or the gradients that were not finite at the start.
    trouble: str
    #: Names the arrays that were moved into their bounds.
    moved_in: str
    #: Where it looks for a step that lowers the loss; "": nowhere.
    searches: ClassVar[str]

    @property
    def loss(self) -> float: ...
    @property
    def grad_norm(self) -> float: ...
    @property
    def iterations(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    @property
    def is_bounded(self) -> bool: ...


def message_of(status: str, end: End) -> str:
    """Return why a method stopped with this status."""
    made = f"after {number_of(end.iterations, 'iteration')} and {number_of(end.evaluations, 'evaluation')}"
    kind = "projected gradient" if end.is_bounded else "gradient"
    gradient = f"the {kind}'s largest element is {end.grad_norm:.3g}"
    if math.isnan(end.grad_norm) and math.isfinite(end.loss):
        gradient = "its gradient is not known"
    text = {
        "gtol": f"Converged {made}: {gradient}, at most gtol={end.gtol:g}",
        "ftol": f"Converged {made}: the last iteration lowered the loss by {end.decrease:.3g}, at most "
        f"ftol={end.ftol:g}, and {gradient}; a smaller ftol, or 0, goes on",
        "max_iterations": f"Stopped {made}, with loss {end.loss:.6g}: {gradient}; to go on, call it again with these "
        "parameters, or give a larger max_iterations",
        "max_evaluations": f"Stopped {made}, with loss {end.loss:.6g}: {gradient}; to go on, call it again with these "
        "parameters, or give a larger max_evaluations",
        "callback": f"The callback stopped it {made}, with loss {end.loss:.6g}: {gradient}",
        "line_search": f"Stopped {made}: no step {end.searches} lowers the loss "
        f"{end.loss:.6g}, and {gradient}, above gtol={end.gtol:g}; the loss may be rounded (a larger gtol accepts "
        "this, float64 goes on), or the gradient wrong: compare it with differences of the loss",
        "nonfinite_start": f"Nothing was done: at the start {end.trouble}; start where all is finite",
    }[status]
    if status == "gtol" and (end.gtol == 0 or end.grad_norm > end.gtol):
        text = f"Converged {made}: the {kind} is 0"
    if status in ("max_iterations", "max_evaluations") and not end.searches and end.loss != end.loss:
        text = f"Diverged: the loss is NaN {made}; lower lr"
    return f"{text}{f'; {end.moved_in}' if end.moved_in else ''}."
