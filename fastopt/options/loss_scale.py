"""Dynamic loss scaling, for gradients of low precision."""

from __future__ import annotations

from typing import Any

from .ranges import ABOVE_ZERO_BELOW_ONE, COUNT, INDEX, POSITIVE, Range, check, plain


class DynamicLossScale:
    """A loss scale that grows while gradients are finite and backs off when they are not, as in torch's ``GradScaler``.

    Multiply the loss (or its gradient) by ``scale``, and give this object to an optimizer as ``grad_scale``, with
    ``nonfinite="skip"``: the optimizer divides the gradients by the scale, skips steps with an infinite or NaN
    gradient, and calls :meth:`update` after each step.

    One optimizer updates a scale. Give each optimizer its own where each has a loss of its own, as the two of a GAN
    have. Where one loss is for several optimizers, give each ``nonfinite="skip"`` and, instead of this object, the
    number in each step; then update the scale once, as the last example shows.

    Parameters
    ----------
    init_scale : float, default 65536.0
        Above 0.
    growth_factor : float, default 2.0
        Above 1: the factor after ``growth_interval`` applied steps in a row.
    backoff_factor : float, default 0.5
        Above 0 and below 1: the factor after a skipped step.
    growth_interval : int, default 2000
        At least 1.

    Attributes
    ----------
    scale : float
        The current scale.
    growth_tracker : int
        The number of applied steps since the scale last changed.

    Raises
    ------
    TypeError, ValueError
        For arguments out of these ranges.

    Notes
    -----
    Source: https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling; Micikevicius et al., Mixed Precision
    Training (arXiv 1710.03740).

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> theta = np.float32([1.0])
    >>> scale = fastopt.DynamicLossScale(init_scale=1024.0)
    >>> opt = fastopt.SGD(theta, lr=0.5, grad_scale=scale, nonfinite="skip")
    >>> opt.step(np.float16([np.inf])).applied, scale.scale
    (False, 512.0)
    >>> opt.step(np.float16([512.0])).applied, theta
    (True, array([0.5], dtype=float32))

    One loss for two optimizers:

    >>> scale = fastopt.DynamicLossScale(init_scale=1024.0)
    >>> body, head = np.float32([1.0]), np.float32([1.0])
    >>> opts = [fastopt.SGD(body, lr=0.5, nonfinite="skip"), fastopt.Adam(head, nonfinite="skip")]
    >>> grads = [np.float16([512.0]), np.float16([np.inf])]
    >>> infos = [opt.step(grad, grad_scale=scale.scale) for opt, grad in zip(opts, grads)]
    >>> scale.update(all(info.applied for info in infos))
    >>> body, head, scale.scale
    (array([0.75], dtype=float32), array([1.], dtype=float32), 512.0)
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        self.scale = init_scale
        self.growth_factor = growth_factor
        self.backoff_factor = backoff_factor
        self.growth_interval = growth_interval
        self.growth_tracker = 0
        self._check()

    def _check(self) -> None:
        self.scale = check("init_scale", self.scale, POSITIVE)
        self.growth_factor = check("growth_factor", self.growth_factor, Range(1.0, excludes_low=True))
        self.backoff_factor = check("backoff_factor", self.backoff_factor, ABOVE_ZERO_BELOW_ONE)
        self.growth_interval = check("growth_interval", self.growth_interval, COUNT)
        self.growth_tracker = check("growth_tracker", self.growth_tracker, INDEX)

    def update(self, applied: bool) -> None:
        """Update the scale after a step, given ``applied`` of its :class:`fastopt.StepInfo`.

        The optimizer that has this object as ``grad_scale`` calls it.
        """
        if not applied:
            self.scale = max(plain(self.scale) * plain(self.backoff_factor), SMALLEST)
            self.growth_tracker = 0
            return
        self.growth_tracker += 1
        if self.growth_tracker >= self.growth_interval:
            # As in torch, a scale that would become infinite stays.
            grown = plain(self.scale) * plain(self.growth_factor)
            self.scale = grown if grown < LARGEST else self.scale
            self.growth_tracker = 0

    def options(self) -> dict[str, Any]:
        """Return the attributes that steps do not change."""
        return {name: getattr(self, name) for name in ("growth_factor", "backoff_factor", "growth_interval")}

    def with_options_of(self, other: DynamicLossScale) -> DynamicLossScale:
        """Return a copy that goes on from this scale with the options of another one."""
        copy = DynamicLossScale()
        copy.load_state_dict({**self.state_dict(), **other.options()})
        return copy

    def state_dict(self) -> dict[str, Any]:
        """Return all attributes, as Python's numbers."""
        return {name: plain(value) for name, value in vars(self).items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set all attributes from a result of :meth:`state_dict`.

        Raises
        ------
        TypeError, ValueError
            If it has other keys, or values that are out of range. Nothing is changed then.
        """
        if state_dict.keys() != vars(self).keys():
            raise ValueError(f"state_dict: expected the keys {list(vars(self))}, got {list(state_dict)}")
        before = self.state_dict()
        vars(self).update(state_dict)
        try:
            self._check()
        except (TypeError, ValueError):
            vars(self).update(before)
            raise

    def __repr__(self) -> str:
        return (
            f"DynamicLossScale(scale={self.scale:g}, growth_factor={self.growth_factor:g}, "
            f"backoff_factor={self.backoff_factor:g}, growth_interval={self.growth_interval})"
        )


#: The limits of float32, the dtype of torch's scale. The scale must not become 0.
SMALLEST, LARGEST = 2.0**-126, 2.0**128
