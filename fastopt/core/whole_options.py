"""The options of an optimizer as a whole that can change after it was built."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

from ..arrays.memory import shown
from ..options.loss_scale import DynamicLossScale
from ..options.ranges import RANGES, Range, check

#: The options of the optimizer that updates each scale.
UPDATERS: weakref.WeakKeyDictionary[DynamicLossScale, weakref.ref[WholeOptions]] = weakref.WeakKeyDictionary()


class WholeOptions:
    """The greatest global norm, that of a step that is skipped, the scale of the loss, and the seed of rounding.

    Parameters
    ----------
    clip_global_norm, skip_above, grad_scale, seed
        As in :class:`fastopt.Optimizer`.
    nonfinite : str
        A DynamicLossScale needs "skip".
    """

    def __init__(
        self,
        clip_global_norm: float | None,
        skip_above: float | None,
        grad_scale: float | DynamicLossScale,
        seed: int,
        nonfinite: str,
    ) -> None:
        self.clip_global_norm, self.skip_above, self.seed = clip_global_norm, skip_above, seed
        self.nonfinite = nonfinite
        #: The options as they were when they were checked.
        self.checked: tuple[Any, Any, Any] = (None, None, None)
        self.check()
        self.grad_scale = grad_scale
        #: How many gradients each given one is the sum of; a step takes their mean.
        self.summed = 1
        #: Whether each of them was divided by the scale before they were added.
        self.are_scaled = False

    def check(self) -> None:
        """Raise if an option was set to a value that it can't have."""
        norm, above, seed = self.checked
        if self.clip_global_norm is norm and self.skip_above is above and self.seed is seed:
            return
        self.clip_global_norm = check("clip_global_norm", self.clip_global_norm, RANGES["clip_global_norm"])
        self.skip_above = check("skip_above", self.skip_above, RANGES["skip_above"])
        self.seed = check("seed", self.seed, RANGES["seed"])
        self.checked = self.clip_global_norm, self.skip_above, self.seed

    @property
    def global_limit(self) -> float | None:
        """The greatest global norm: infinity if it is only read, for ``skip_above``; None if it is not read."""
        return math.inf if self.clip_global_norm is None and self.skip_above is not None else self.clip_global_norm

    @property
    def norm_to_skip(self) -> float:
        """A step whose global norm is above this is skipped."""
        return math.inf if self.skip_above is None else self.skip_above

    @property
    def grad_scale(self) -> float | DynamicLossScale:
        """The number that the loss was multiplied by, or the object that finds it."""
        return self.scale if self.dynamic_scale is None else self.dynamic_scale

    @grad_scale.setter
    def grad_scale(self, grad_scale: float | DynamicLossScale) -> None:
        if isinstance(grad_scale, DynamicLossScale):
            if self.nonfinite != "skip":
                raise ValueError(
                    f'grad_scale=DynamicLossScale: expected nonfinite="skip", got {self.nonfinite!r}; '
                    "the scale is found by steps that are skipped"
                )
            self.scale: float = 1.0
            self.dynamic_scale: DynamicLossScale | None = grad_scale
        else:
            self.scale, self.dynamic_scale = check_scale(grad_scale), None
        #: The scale that this optimizer updates, once it has made a step with it.
        self.updated_scale: DynamicLossScale | None = None

    def scale_of(self, grad_scale: float | None) -> float:
        """Return the number by which the gradients of a step are divided that was given ``grad_scale``."""
        scale = self.loss_scale(grad_scale)
        return float(self.summed) if self.are_scaled else scale * self.summed

    def loss_scale(self, grad_scale: float | None = None) -> float:
        """Return the number that the loss was multiplied by in a step that was given ``grad_scale``."""
        if grad_scale is None:
            if self.dynamic_scale is None:
                return self.scale
            if self.updated_scale is not self.dynamic_scale:
                self.take(self.dynamic_scale)
            return check_scale(self.dynamic_scale.scale)
        if self.dynamic_scale is not None:
            raise ValueError(
                "step: grad_scale was given, but the optimizer has a DynamicLossScale; give one of the two"
            )
        return check_scale(grad_scale)

    def take(self, scale: DynamicLossScale) -> None:
        """Make this optimizer the one that updates a scale; raise if another one does."""
        if is_updated_by_another(scale, self):
            gc.collect()  # the other optimizer may be garbage, in a cycle of references
            if is_updated_by_another(scale, self):
                raise ValueError(
                    "grad_scale=DynamicLossScale: expected one that no other optimizer steps with, since each step may "
                    "change it; give each optimizer its own; or, for one loss of both, give each step "
                    "grad_scale=scale.scale, then call scale.update(applied) once (the other one makes no more steps? "
                    "set its grad_scale to 1.0)"
                )
        UPDATERS[scale] = weakref.ref(self)
        self.updated_scale = scale

    def check_saved(self, name: str, value: Any) -> None:
        """Raise unless this value of an option can be loaded."""
        if name != "grad_scale":
            check(name, value, RANGES[name])
            return
        if isinstance(value, DynamicLossScale) != isinstance(self.grad_scale, DynamicLossScale):
            raise ValueError(
                f"grad_scale is {shown(value)}; this optimizer's is {self.grad_scale!r}: build it with the same"
            )
        if not isinstance(value, DynamicLossScale):
            check_scale(value)

    def load(self, name: str, value: Any) -> None:
        """Set an option to a saved value that :meth:`check_saved` let pass."""
        if isinstance(value, DynamicLossScale) and self.dynamic_scale is not None:
            self.dynamic_scale.load_state_dict(value.state_dict())
        else:
            setattr(self, name, value)


#: The options of a whole optimizer that are saved besides its groups.
SAVED = ("clip_global_norm", "skip_above", "grad_scale", "seed")


def check_scale(grad_scale: Any) -> float:
    """Return a scale as options hold it; raise unless gradients can be divided by it."""
    scale: float = check("grad_scale", grad_scale, Range(0.0))
    if scale == 0:
        raise ValueError(f"grad_scale={grad_scale!r}: expected a number above 0, or a DynamicLossScale")
    return scale


def is_updated_by_another(scale: DynamicLossScale, whole: WholeOptions) -> bool:
    """Return whether an optimizer with other options than ``whole`` steps with a scale."""
    updater = UPDATERS.get(scale)
    other = None if updater is None else updater()
    return other is not None and other is not whole and other.dynamic_scale is scale
