"""Slices of an array in a table: the random numbers of the whole array."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, ISAS, STORAGE, needs_native, raw

import fastopt
from fastopt.arithmetic.dither import SCALE_BLOCK
from fastopt.backends.native import library as native
from fastopt.backends.table import CHUNK
from fastopt.core.workspace import Workspace

pytestmark = pytest.mark.usefixtures("restored")

SIZE = 3 * CHUNK + 77
#: One that begins in the middle of a block of the pipeline, and the rest.
CUTS = (0, CHUNK, 2 * CHUNK + SCALE_BLOCK, SIZE)


class OfSlice(fastopt.AdamW):
    """An optimizer of a slice that begins at ``begin``."""

    begin = 0

    def prepare(self, workspace: Workspace) -> None:
        super().prepare(workspace)
        workspace.table.first_blocks[:] = self.begin // SCALE_BLOCK


def run(begin: int, end: int, options: dict[str, Any], backend: str) -> tuple[list[Any], dict[str, Any]]:
    """Return the parameter and the slots of a slice after some steps."""
    rng = np.random.default_rng(2)
    dtype = options.get("params", np.float32)
    whole, grads = rng.normal(size=SIZE).astype(dtype), rng.normal(size=(3, SIZE)).astype(np.float32)
    param = whole[begin:end].copy()
    given = {name: value for name, value in options.items() if name not in ("params", "copy_to")}
    opt = OfSlice([param], backend=backend, **given)
    opt.begin = begin
    opt.parts.parameters.whole_sizes[:] = [SIZE]
    for grad in grads:
        opt.step([grad[begin:end].copy()])
    return [param], opt.state["0"]


@pytest.mark.skipif(BFLOAT16 is None, reason="needs ml_dtypes")
@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("name", ["bfloat16 without master", "bfloat16 slots", "8-bit slots", "all in few bits"])
def test_a_slice_is_rounded_as_in_its_array(name: str, backend: str) -> None:
    options = STORAGE[name]
    for isa in ISAS if backend == "native" else [None]:
        if isa is not None:
            native.use_isa(isa)
        (param,), state = run(0, SIZE, options, backend)
        for begin, end in pairwise(CUTS):
            (part,), entries = run(begin, end, options, backend)
            assert raw(part) == raw(param[begin:end])
            for slot, entry in entries.items():
                is_scale = slot.endswith("_scale")
                place = slice(begin // SCALE_BLOCK, -(-end // SCALE_BLOCK)) if is_scale else slice(begin, end)
                assert raw(entry) == raw(state[slot] if entry.ndim == 0 else state[slot][place])
