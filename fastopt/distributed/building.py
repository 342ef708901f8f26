"""The model of a sharded optimizer: an optimizer of one process, which checks all arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arithmetic import halves
from ..arrays.dtypes import FLOAT64, Array
from ..core.optimizer import Optimizer


def whole_optimizer(
    optimizer: type[Optimizer], params: Any, arguments: Mapping[str, Any], options: Mapping[str, Any]
) -> Optimizer:
    """Return the optimizer of one process, which has checked all arrays and options; it makes no step.

    Raises
    ------
    ImportError
        If the dtype of the wire needs ml_dtypes.
    TypeError, ValueError
        If that one can't be built, or not be sharded.
    """
    check_arguments(**arguments)
    if arguments["exact"] and options.get("accumulate_steps", 1) != 1:
        raise ValueError(
            f"accumulate_steps={options['accumulate_steps']!r:.80}: not with exact=True, where each step has a list of "
            "micro-batches already; give longer lists"
        )
    model = optimizer(params, **options)
    if not model.parts.backend.on_host:
        raise TypeError("Sharded: expected NumPy arrays, got arrays on a GPU, where it can't run yet")
    parameters = model.parts.parameters
    check_wire_dtype(arguments["wire_dtype"], parameters.names, parameters.arrays)
    return model


def check_arguments(exact: Any, reduction: Any, wire_dtype: Any, bucket_bytes: Any) -> None:
    """Raise if an argument of Sharded itself is wrong."""
    if type(exact) is not bool:
        raise TypeError(f"exact={exact!r:.80}: expected True or False")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction={reduction!r:.80}: expected 'sum' or 'mean'")
    if wire_dtype not in (None, "float16", "bfloat16"):
        raise ValueError(f"wire_dtype={wire_dtype!r:.80}: expected 'float16', 'bfloat16', or None for no conversion")
    if wire_dtype == "bfloat16":
        halves.bfloat16()  # raises where ml_dtypes is missing
    if type(bucket_bytes) is not int:
        raise TypeError(f"bucket_bytes={bucket_bytes!r:.80}: expected an int")
    if bucket_bytes < 1:
        raise ValueError(f"bucket_bytes={bucket_bytes}: expected at least 1")


def check_wire_dtype(wire_dtype: str | None, names: Sequence[str], arrays: Sequence[Array]) -> None:
    """Raise if gradients can't be sent in half precision."""
    wide = [name for name, array in zip(names, arrays, strict=True) if array.dtype == FLOAT64]
    if wire_dtype is not None and wide:
        raise ValueError(
            f"wire_dtype={wire_dtype}: {wide[0]!r} is float64, whose gradients would lose most of their digits on the "
            "way; leave wire_dtype out, or make the parameters float32"
        )
