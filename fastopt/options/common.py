"""The options that every optimizer takes."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack

    from .loss_scale import DynamicLossScale
else:
    # Python 3.10 has none, and needs none: only annotations name it, which are not evaluated.
    Unpack = getattr(typing, "Unpack", None)


class Common(TypedDict, total=False):
    """The keywords that every optimizer takes besides its own."""

    decoupled: bool
    maximize: bool
    clip_value: float | None
    clip_norm: float | None
    clip_global_norm: float | None
    l1: float
    prox_l1: float
    max_norm: float | None
    max_norm_axis: int | tuple[int, ...]
    nonfinite: Literal["propagate", "skip", "raise"]
    grad_scale: float | DynamicLossScale
    zero_grads: bool
    accumulate_steps: int
    ema_decay: float | None
    ema_bias_correction: bool
    polyak: bool
    polyak_start: int
    copy_to: Any
    state_dtype: Literal["bfloat16", "uint8"] | None
    stochastic_rounding: bool
    seed: int
    backend: str | None


class StepOptions(NamedTuple):
    """What is done around the rule, in the same pass; fixed when an optimizer is built."""

    nonfinite: str
    zero_grads: bool
    accumulate_steps: int
    ema_decay: float | None
    ema_bias_correction: bool
    polyak: bool
    polyak_start: int
    state_dtype: str | None
    stochastic_rounding: bool

    def check_together(self) -> None:
        """Raise if an option asks for another one, or excludes it."""
        if self.polyak and self.ema_decay is not None:
            raise ValueError("polyak=True, ema_decay: expected one of the two averages, got both")
        if (self.ema_bias_correction and self.ema_decay is None) or (self.polyak_start != 1 and not self.polyak):
            raise ValueError(
                "ema_bias_correction needs ema_decay, and polyak_start needs polyak=True: expected those too"
            )

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self.polyak or self.ema_decay is not None

    @property
    def is_dithered(self) -> bool:
        """Whether anything is rounded by random bits."""
        return self.state_dtype is not None or self.stochastic_rounding


#: The options around the rule, and which values leave it alone.
PLAIN_OPTIONS: Mapping[str, Any] = {
    **StepOptions("propagate", False, 1, None, False, False, 1, None, False)._asdict(),
    "l1": 0,
    "prox_l1": 0,
    "max_norm": None,
    "copy_to": None,
}


def is_plain(name: str, value: Any) -> bool:
    """Return whether an option around the rule leaves it alone."""
    plain_value = PLAIN_OPTIONS[name]
    return value is None if plain_value is None else bool(value == plain_value)
