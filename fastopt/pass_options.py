"""The options around the rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class PassOptions(NamedTuple):
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

    @property
    def averages(self) -> bool:
        return self.polyak or self.ema_decay is not None


#: The options around the rule, and which values leave it alone.
PLAIN_OPTIONS: Mapping[str, Any] = {
    **PassOptions("propagate", False, 1, None, False, False, 1, None, False)._asdict(),
    "l1": 0,
    "prox_l1": 0,
    "max_norm": None,
    "copy_to": None,
}


def is_plain(name: str, value: Any) -> bool:
    """Tell whether an option around the rule leaves it alone."""
    plain_value = PLAIN_OPTIONS[name]
    return value is None if plain_value is None else bool(value == plain_value)
