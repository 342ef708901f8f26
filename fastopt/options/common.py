"""The options that every optimizer takes."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from .ranges import Schedulable

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack

    from .loss_scale import DynamicLossScale
else:
    # Python 3.10 lacks it, and only annotations name it, which are not evaluated.
    Unpack = getattr(typing, "Unpack", None)


class Common(TypedDict, total=False):
    """The keywords that every optimizer takes besides its own.

    Parameters
    ----------
    decoupled : bool
        False: ``weight_decay`` is L2, ``g += weight_decay * p`` before the rule. True: it is decoupled,
        ``p *= 1 - lr * weight_decay`` before the rule. Each optimizer documents its default at ``weight_decay``.
    cautious_decay : bool, default False
        Whether decoupled decay is ``p -= lr * weight_decay * p_before`` after the rule, and only where the rule moved
        the parameter towards 0 or not at all: ``(p_before - p) * p_before >= 0``. Needs ``decoupled=True``. Source:
        Chen et al., arXiv 2510.12402.
    maximize : bool, default False
        Whether to ascend the gradient.
    clip_value, clip_norm, clip_global_norm : float, optional
        At least 0: the greatest magnitude of an element, the greatest norm of an array, and the greatest norm of all
        gradients together. They apply in this order. A norm may be infinite: ``clip_global_norm=inf`` measures
        ``StepInfo.grad_norm`` and ``norms``, and clips nothing, whatever the norm.
    skip_above : float, optional
        At least 0: a step whose global norm (``StepInfo.grad_norm``, before ``clip_global_norm``) is above this is
        skipped. As with ``nonfinite="skip"`` nothing changes, and ``StepInfo.skipped`` and ``skipped_steps`` tell it;
        a norm that is NaN is not above. With ``accumulate_steps`` it is the norm of the mean, in the last call, and the
        calls before it are dropped with it. A DynamicLossScale stays as it is.
    l1 : float, default 0.0
        At least 0: ``g += l1 * sign(p)``, also where weight decay is decoupled (0 where p is NaN).
    prox_l1 : float, default 0.0
        At least 0: after the rule ``p = sign(p) * max(abs(p) - lr * prox_l1, 0)``, which makes exact zeros.
    max_weight_norm : float, optional
        At least 0. After the step, a unit's incoming weights whose norm is greater are multiplied by
        ``max_weight_norm / norm``. Arrays of fewer than two dimensions (biases) do not change. bfloat16 arrays need a
        master.
        The norms are added in double precision in a fixed order, with the same bits on every machine.
    max_weight_norm_axis : int or tuple of int, default 0
        The axes of a unit's incoming weights: 0 for ``x @ W``, 1 for ``W @ x``, (1, 2, 3) for convolutions
        (out, in, height, width).
    bounds : pair, optional
        ``(lo, hi)``, each a number or None: after ``max_weight_norm``, ``p = lo`` where ``p < lo``, and ``p = hi``
        where ``p > hi``. NaN stays NaN. Averages and copies get the bounded parameters. Parameters that begin outside
        come in by their first step, and a row-sparse gradient moves the rows that it touches. Each bound is rounded
        inwards to the dtype of the parameter: float16 and bfloat16 parameters keep to it too, and so do their masters.
        In a group and in ``param_groups`` it is a pair of numbers. Given to the optimizer, either side may also be a
        structure like the parameters, of numbers, None and arrays, each of its parameter's shape; these hold together
        with the numbers of a group. The arrays are copied, so that later changes of them have no effect, and no state:
        an optimizer into which a state is loaded is built with them again.
    nonfinite : {"propagate", "skip", "raise"}, default "propagate"
        How to handle a gradient with infinite or NaN elements (after ``grad_scale``, before clipping). "skip": no
        parameter, slot or counter changes, and ``StepInfo.applied`` is False. "raise": ValueError with the name of the
        first such array; nothing changes. On a GPU "skip" does not wait: ``applied`` and ``step`` of the StepInfo are
        fetched when they are used, at the latest by the next step, which needs the counters (with ``accumulate_steps``
        or a DynamicLossScale by the step itself). "raise" waits until the gradients have been read.
    nonfinite_limit : int, optional
        At least 1, with ``nonfinite="skip"``: after so many skipped steps in a row the next one that would be skipped
        is a ValueError with the names of the arrays; nothing changes. An applied step, or a call that accumulates,
        begins a new row. A DynamicLossScale begins with some skipped steps, since it halves itself until nothing
        overflows: allow for some 20.
    grad_scale : float or DynamicLossScale, default 1.0
        Above 0: the number that the loss was multiplied by. The gradients are multiplied by ``1 / grad_scale``. A
        :class:`fastopt.DynamicLossScale` needs ``nonfinite="skip"``; each step updates it, and it serves one optimizer.
    zero_grads : bool, default False
        Whether the same pass clears the gradient arrays. A skipped step clears them too; a step that raises does not.
        The arrays must be writeable and share no memory.
    accumulate_steps : int, default 1
        The number of calls of :meth:`step` that add up their gradients in ``state[name]["accumulated"]``. The last call
        applies the mean; the others return ``applied=False``. None counts as 0, but an array that had no gradient in
        any of the calls is skipped. :meth:`flush` applies the calls so far. With ``nonfinite`` each call checks its own
        gradients, and a bad call does not count.
    ema_decay : float or function, optional
        From 0 to below 1: keep ``ema += (1 - ema_decay) * (p - ema)`` in ``state[name]["ema"]``. See :attr:`ema` and
        :meth:`averaged`. A function is called with the array's own step ``t``, from 1 (schedules count from 0). thinc's
        is ``lambda t: min(0.9999, (1 + t) / (10 + t))``, with ``ema_start="zero"``. It is not saved: build the
        optimizer with the same one.
    ema_start : {"before", "after", "zero"}, default "before"
        Where the average begins: with the parameter before the array's first step; with that after it, which the first
        step copies (torch's AveragedModel, Keras); or at zero, and so too near zero at first. An array without a step
        has no average: :attr:`ema` has its own values, for "zero" too.
    ema_bias_correction : bool, default False
        Whether the weight is ``(1 - ema_decay) / (1 - ema_decay**t)`` instead. The parameters before the first step do
        not count then. Not with ``ema_start``, nor with a function, which can return what it wants.
    polyak : bool, default False
        Whether ``ema`` is the arithmetic mean of the parameters after the steps from number ``polyak_start`` on; before
        that it is the parameters. Not with ``ema_decay``.
    polyak_start : int, default 1
        At least 1; each array counts its own steps.
    copy_to : array or structure of arrays, optional
        float16 or bfloat16 arrays in the structure of the (float32) parameters, None for no copy. The parameters are
        written there too, rounded to nearest: when the optimizer is built, in the pass of every step, and by
        :meth:`reload_params`.
    state_dtype : {"bfloat16", "uint8"}, optional
        Store slots in fewer bits; :mod:`fastopt.quantize` describes uint8 (``state[name]["m_scale"]`` holds the
        scales). They are rounded up or down so that their mean is kept. For parameters whose compute dtype is float32:
        a float64 one is an error.
        Some optimizers leave some slots as they are, and say so.
    stochastic_rounding : bool, default False
        Whether bfloat16 parameters have no master, and are rounded up or down so that their mean is kept. Without any
        bfloat16 parameter it is an error.
    seed : int, default 0
        At least 0: the seed of the random numbers for rounding. They depend only on the seed, the array, its step and
        the element (for a row-sparse gradient, on the place among its rows).
    backend : str, optional
        "native" or "numpy". Arrays on a GPU select "cuda" by themselves.
    """

    decoupled: bool
    cautious_decay: bool
    maximize: bool
    clip_value: float | None
    clip_norm: float | None
    clip_global_norm: float | None
    skip_above: float | None
    l1: float
    prox_l1: float
    max_weight_norm: float | None
    max_weight_norm_axis: int | tuple[int, ...]
    bounds: Any
    nonfinite: Literal["propagate", "skip", "raise"]
    nonfinite_limit: int | None
    grad_scale: float | DynamicLossScale
    zero_grads: bool
    accumulate_steps: int
    ema_decay: Schedulable | None
    ema_start: Literal["before", "after", "zero"]
    ema_bias_correction: bool
    polyak: bool
    polyak_start: int
    copy_to: Any
    state_dtype: Literal["bfloat16", "uint8"] | None
    stochastic_rounding: bool
    seed: int
    backend: str | None


class StepOptions(NamedTuple):
    """The options of the stages around the rule, which run in the same pass; fixed when an optimizer is built."""

    nonfinite: str
    nonfinite_limit: int | None
    zero_grads: bool
    accumulate_steps: int
    ema_decay: Schedulable | None
    ema_start: str
    ema_bias_correction: bool
    polyak: bool
    polyak_start: int
    state_dtype: str | None
    stochastic_rounding: bool

    def check_together(self) -> None:
        """Raise if an option needs another one, or excludes it."""
        if self.nonfinite_limit is not None and self.nonfinite != "skip":
            raise ValueError(
                f"nonfinite_limit={self.nonfinite_limit}: it limits how many steps are skipped; expected "
                f'nonfinite="skip" too, got {self.nonfinite!r}'
            )
        if self.polyak and self.ema_decay is not None:
            raise ValueError("polyak=True, ema_decay: expected one of the two averages, got both")
        needs_ema = self.ema_bias_correction or self.ema_start != "before"
        if (needs_ema and self.ema_decay is None) or (self.polyak_start != 1 and not self.polyak):
            raise ValueError(
                "ema_bias_correction and ema_start need ema_decay, and polyak_start needs polyak=True: expected those "
                "too"
            )
        if self.ema_bias_correction and self.ema_start != "before":
            raise ValueError(
                f"ema_bias_correction=True, ema_start={self.ema_start!r}: expected one of the two; a corrected average "
                "is the same wherever it begins"
            )
        if self.ema_bias_correction and callable(self.ema_decay):
            raise ValueError(
                "ema_bias_correction=True: expected a number as ema_decay, got a function; it can return the decay of "
                "a corrected average by itself: b * (1 - b**(t - 1)) / (1 - b**t)"
            )

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self.polyak or self.ema_decay is not None

    @property
    def is_dithered(self) -> bool:
        """Whether parameters or slots are rounded with random bits."""
        return self.state_dtype is not None or self.stochastic_rounding


#: The options of the whole step. All others, and bounds of numbers, are those of a group.
OF_WHOLE_STEP = frozenset(
    {*StepOptions._fields, "clip_global_norm", "skip_above", "grad_scale", "bounds", "copy_to", "seed", "backend"}
)

#: The options of the stages around the rule, with the values that turn them off.
PLAIN_OPTIONS: Mapping[str, Any] = {
    **StepOptions("propagate", None, False, 1, None, "before", False, False, 1, None, False)._asdict(),
    "l1": 0,
    "prox_l1": 0,
    "max_weight_norm": None,
    "bounds": None,
    "cautious_decay": False,
    "copy_to": None,
}


def is_plain(name: str, value: Any) -> bool:
    """Return whether an option of the stages around the rule is turned off."""
    plain_value = PLAIN_OPTIONS[name]
    return value is None if plain_value is None else bool(value == plain_value)
