"""The results of the full-batch methods."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..arrays.texts import amount_in


class MinimizeState(NamedTuple):
    """Where a full-batch method is after an iteration: what ``step`` returns, and what a callback gets.

    Attributes
    ----------
    loss : float
        The loss of the parameters.
    grad_norm : float
        The largest absolute element of the gradient; with bounds that of the projected gradient, ``x - clip(x - g)``.
    step_size : float
        How far along its direction the last iteration went; 0 before the first.
    iterations, evaluations : int
        How many iterations were made, and how often the function was called.
    params : structure of arrays
        The parameters: the very structure and arrays that were given. The next iteration changes them in place.
    status : str or None
        None: go on. ``"gtol"`` and ``"ftol"``: converged. ``"line_search"``: no step lowers the loss.
        ``"nonfinite_start"``: loss or gradient are not finite at the start. :func:`fastopt.minimize` also ends with
        ``"max_iterations"``, ``"max_evaluations"`` and ``"callback"``.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> x = np.array([3.0])
    >>> opt = fastopt.LBFGS(x)
    >>> state = opt.step(lambda: (float(x @ x), 2 * x))
    >>> state.iterations, state.evaluations, state.params is x, state.status
    (1, 2, True, None)
    """

    loss: float
    grad_norm: float
    step_size: float
    iterations: int
    evaluations: int
    params: Any
    status: str | None = None

    def __repr__(self) -> str:
        shown = {name: repr(value) for name, value in self._replace(params=None)._asdict().items()}
        shown["params"] = f"<{amount_in(self.params)}>"
        return f"{type(self).__name__}({', '.join(f'{name}={text}' for name, text in shown.items())})"


class MinimizeResult(NamedTuple):
    """The result of :func:`fastopt.minimize`. The parameters themselves are where they were given: changed in place.

    Attributes
    ----------
    loss : float
        The loss of the parameters as they are now.
    grad_norm : float
        As in :class:`fastopt.MinimizeState`.
    iterations, evaluations : int
        How many iterations were made, and how often the function was called.
    status : str
        One of ``"gtol"``, ``"ftol"``, ``"max_iterations"``, ``"max_evaluations"``, ``"callback"``, ``"line_search"``,
        ``"nonfinite_start"``.
    success : bool
        Whether it has converged: ``status`` is ``"gtol"`` or ``"ftol"``.
    message : str
        A sentence that says why it stopped, with numbers, and what to do.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> x = np.array([3.0])
    >>> result = fastopt.minimize(lambda x: (float(x @ x), 2 * x), x)
    >>> result.loss, result.status, result.success, x
    (0.0, 'gtol', True, array([0.]))
    """

    loss: float
    grad_norm: float
    iterations: int
    evaluations: int
    status: str
    success: bool
    message: str
