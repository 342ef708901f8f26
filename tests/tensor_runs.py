"""Runs of optimizers of tensors, with gradients that depend on the number of the step alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def parameters(shapes: Sequence[tuple[int, ...]], dtype: Any = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def train(params: list[Any], opt: Any, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)
        opt.step()
