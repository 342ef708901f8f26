"""The first-order optimizers as full-batch methods: a step for each evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from ..arrays.dtypes import Array
from ..arrays.memory import shown
from ..core.optimizer import Optimizer
from ..optimizers.schedule_free import has_modes
from .accepted_point import Point
from .box import copies_of, in_a_row, write_back
from .method import Method
from .results import MinimizeState

#: The options that have no meaning where each gradient is that of all data.
REFUSED: Mapping[str, tuple[Any, str]] = {
    "maximize": (False, "fun is minimized; return -loss and its gradients"),
    "accumulate_steps": (1, "each gradient is that of all data already; leave it out"),
}


class FirstOrder(Method):
    """A first-order optimizer, as :func:`fastopt.minimize` runs it.

    After a step the function is evaluated at the new parameters: their loss and gradient are known after each
    iteration, and an iteration costs one evaluation.

    Parameters
    ----------
    cls : class
        The optimizer's.
    params : structure of arrays
    options : dict
        Those of the optimizer.
    **common
        Those of :class:`Method`.
    """

    takes_group_options: ClassVar[bool] = True
    searches: ClassVar[str] = ""

    def __init__(
        self,
        cls: Callable[..., Optimizer],
        params: Any,
        options: dict[str, Any],
        *,
        bounds: Any = None,
        gtol: float | None = None,
        ftol: float | None = None,
    ) -> None:
        self.title = getattr(cls, "__name__", "optimizer")
        for name, (default, reason) in REFUSED.items():
            if options.get(name, default) != default:
                raise TypeError(f"{name}={shown(options[name]):.80}: minimize does not take it: {reason}")
        super().__init__(params, bounds=bounds, gtol=gtol, ftol=ftol, backend=options.get("backend"))
        its_bounds = {} if bounds is None else {"bounds": bounds}
        self.optimizer = cls(params, **its_bounds, **options)
        #: The accepted point, and its gradients.
        self.copies: list[Array] = []
        self.next_grads: Any = None
        if has_modes(self.optimizer):
            if gtol or ftol:
                raise TypeError(
                    f"gtol={gtol}, ftol={ftol}: {self.title} takes gradients at other parameters than those that it "
                    "returns; leave these out, it makes max_iterations"
                )
            self.gtol = self.ftol = 0.0
            self.evaluations_at_end = 1

    def start(self) -> None:
        self.copies = copies_of(self.arrays)
        self.next_grads = self.grads

    def iterate(self) -> str | None:
        self.moving()
        info = self.optimizer.step(self.next_grads)
        self.next_grads = None
        self.makes_steps = info.applied and any(info.lrs)
        loss = self.evaluate()
        self.accept(loss, self.projected_norm(), info.lr, self.keep)
        return None

    def keep(self) -> None:
        """Record the parameters as they are, and their gradients."""
        for copy, array in zip(self.copies, self.arrays, strict=True):
            copy[...] = in_a_row(array)
        self.next_grads = self.grads

    def put_back(self) -> None:
        write_back(self.arrays, self.copies)

    def finish(self, closure: Callable[[], Any], state: MinimizeState) -> MinimizeState:
        """Have Schedule-Free's averages in the parameters, with their loss."""
        if not has_modes(self.optimizer) or state.iterations == 0:
            return state
        return self.run(closure, self.evaluate_averages)._replace(status=state.status)

    def evaluate_averages(self) -> str | None:
        self.moving()
        self.optimizer.eval()  # type: ignore[attr-defined]
        loss = self.evaluate()
        self.point = Point(loss, self.projected_norm(), self.step_size, self.iterations)
        return None
