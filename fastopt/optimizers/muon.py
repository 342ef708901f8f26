"""Muon: orthogonalized momentum for matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from ..arithmetic import tiny
from ..arithmetic.pipeline import flush
from ..arrays.dtypes import Array
from ..core.directions import Direction, DirectionOptimizer
from ..options.common import Common, Unpack
from ..options.ranges import ANY_NUMBER, Allowed, Choice, Group, Range, Schedulable


class Muon(DirectionOptimizer):
    r"""Muon, as ``torch.optim.Muon``: momentum for matrices, orthogonalized: the singular values of a step are near 1.

    ::

        b = momentum * b + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * b         or, without nesterov: x = b
        x = x / max(norm(x), eps)
        ns_steps times: s = x @ x.T; x = a * x + (b_ * s + c * s @ s) @ x      with ns_coefficients (a, b_, c)
        p -= lr * ratio * x

    (a matrix with more rows than columns is transposed first). The ``ratio`` is ``sqrt(max(1, rows / columns))``, or
    with ``adjust_lr_fn="match_rms_adamw"``: ``0.2 * sqrt(max(rows, columns))``.

    Parameters
    ----------
    lr : float >= 0 or schedule, default 1e-3
    weight_decay : float >= 0, default 0.1
        Decoupled, or L2 with ``decoupled=False``.
    momentum : float >= 0, default 0.95
    nesterov : bool, default True
    ns_coefficients : triple of float, default (3.4445, -4.775, 2.0315)
        The coefficients of the Newton-Schulz iteration, which orthogonalizes.
    eps : float >= 0, default 1e-7
    ns_steps : int in [0, 100), default 5
        Newton-Schulz iterations.
    adjust_lr_fn : str or None, default None
        ``"original"`` (also None) or ``"match_rms_adamw"``.
    params, **common : see :class:`fastopt.Optimizer`

    Raises
    ------
    ValueError
        For arrays that are not 2-D; the error names them.

    Notes
    -----
    State: ``b`` (momentum buffer), with the shape and dtype of its parameter.

    NumPy's BLAS computes the matrix products, in the dtype of the parameter (torch's are in bfloat16). Their bits may
    depend on the BLAS, its threads and the machine. No other optimizer here has this limitation.

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon/ (2024); Liu et al., arXiv 2502.16982;
    https://docs.pytorch.org/docs/stable/generated/torch.optim.Muon.html.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> W = np.zeros((2, 2))
    >>> opt = fastopt.Muon(W, lr=0.1, weight_decay=0.0)
    >>> info = opt.step(np.array([[4.0, 0.0], [0.0, -0.5]]))
    >>> W.round(2)
    array([[-0.07,  0.  ],
           [ 0.  ,  0.07]])
    """

    ranges: ClassVar[Mapping[str, Allowed]] = {
        "ns_coefficients": (ANY_NUMBER, ANY_NUMBER, ANY_NUMBER),
        "ns_steps": Range(0.0, 100.0),
        "adjust_lr_fn": Choice(None, "original", "match_rms_adamw"),
    }

    def __init__(
        self,
        params: Any,
        lr: Schedulable = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        common.setdefault("decoupled", True)
        options = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        super().__init__(params, options, **common)

    def check_param(self, name: str, array: Any) -> None:
        if array.ndim != 2:
            raise ValueError(
                f"params: {name!r} has shape {array.shape}; Muon is for matrices: give arrays that are not 2-D to "
                "another optimizer, such as AdamW"
            )

    def slots(self, param: Array) -> Mapping[str, tuple[int, ...]]:
        return {"b": param.shape}

    def direction(self, group: Group, step: int, param: Array, g: Array, state: Mapping[str, Array]) -> Direction:
        b, momentum = state["b"], param.dtype.type(group["momentum"])
        keep = param.dtype.type(1.0 - group["momentum"])
        b[...] = momentum * b + keep * g
        if tiny.is_due(step) and group["eps"] >= tiny.LEAST_EPS:
            b[...] = flush(b, param.dtype.type(tiny.smallest_normal(param.dtype)))
        update = keep * g + momentum * b if group["nesterov"] else b
        rows, columns = param.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            ratio = 0.2 * math.sqrt(max(rows, columns))
        else:
            ratio = math.sqrt(max(1.0, rows / max(columns, 1)))
        x = orthogonalized(update, group["ns_coefficients"], int(group["ns_steps"]), group["eps"])
        return Direction(x, group["lr"] * ratio)


def orthogonalized(matrix: Array, coefficients: tuple[float, float, float], steps: int, eps: float) -> Array:
    """Return a matrix with the same singular vectors and singular values near 1, by the Newton-Schulz iteration."""
    a, b, c = (matrix.dtype.type(coefficient) for coefficient in coefficients)
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    norm = math.sqrt(float(np.square(x, dtype=np.float64).sum()))
    x = x / matrix.dtype.type(max(norm, eps))
    for _ in range(steps):
        s = x @ x.T
        x = a * x + (b * s + c * (s @ s)) @ x
    return np.asarray(x.T if is_tall else x)
