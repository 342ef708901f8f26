"""The options around the rule: memory around the arrays, steps that fail, going on from a copy of the state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import OPTIONS, STORAGE, Case, built, needs_native
from option_runs import EACH, all_bytes, every_backend, shape_of, taken

pytestmark = pytest.mark.usefixtures("restored")

GUARD = 64


@needs_native
@taken({**OPTIONS, **STORAGE}, EACH)
def test_guard_bytes(case: Case, options: dict[str, Any]) -> None:
    """All arrays in larger buffers, at any element: same bits, and all around them stays as it was."""
    rng = np.random.default_rng(12)
    start = [rng.normal(size=shape_of(case, length)).astype(np.float32) for length in (1, 127, 1025, 5001)]
    opt, reference = built(case, start, options), built(case, start, options, backend="numpy")
    opt.step([None] * 4)
    reference.step([None] * 4)
    buffers = []
    for i, slots in enumerate(opt.state.values()):
        for name, array in slots.items():
            if array.ndim > 0:
                buffer = np.full((array.size + 2 * GUARD) * array.itemsize, 7, np.uint8)
                begin = (GUARD + i) * array.itemsize
                moved = buffer[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
                moved[...] = array
                slots.set_entry(name, moved)
                buffers.append((buffer, slice(begin, begin + array.nbytes)))
    opt.parts.workspace = None  # its pointers are to the arrays before
    for _ in range(4):
        grads = [rng.normal(size=param.shape).astype(np.float32) for param in start]
        copies = [grad.copy() for grad in grads]
        opt.step(grads)
        reference.step(copies)
    assert all_bytes(opt) == all_bytes(reference)
    for buffer, inside in buffers:
        buffer[inside] = 7
        assert (buffer == 7).all()


@pytest.mark.by_turns("case", "options")
@every_backend
@taken({**OPTIONS, **STORAGE}, EACH)
def test_failed_step_changes_nothing(case: Case, options: dict[str, Any], backend: str) -> None:
    rng = np.random.default_rng(13)
    shapes = [shape_of(case, 4100), shape_of(case, 3)]
    opt = built(case, [np.ones(shape, np.float32) for shape in shapes], options, backend=backend)
    grads = [rng.normal(size=shape) for shape in shapes]
    opt.step([grad.copy() for grad in grads])
    before = all_bytes(opt, *grads)
    for wrong in (np.ones(2), np.ones(shapes[1], int), "text", opt.parts.parameters.arrays[1]):
        with pytest.raises((TypeError, ValueError)):
            opt.step([grads[0], wrong])
        assert all_bytes(opt, *grads) == before


@pytest.mark.by_turns("case", "options")
@every_backend
@taken({**OPTIONS, **STORAGE}, EACH)
def test_resuming(case: Case, options: dict[str, Any], backend: str) -> None:
    """Parameters, state, two counters and the seed are all there is: a copy of them goes on with the same bits."""
    rng = np.random.default_rng(14)
    start = [rng.normal(size=shape_of(case, size)).astype(np.float32) for size in (4100, 3)]
    grads = [[rng.normal(size=param.shape).astype(np.float32) for param in start] for _ in range(7)]
    opt, resumed, loaded = (built(case, start, options, backend=backend) for _ in range(3))
    for k in range(4):
        opt.step([grad.copy() for grad in grads[k]])
    resumed.step([None, None])
    for params in (resumed.parts.parameters.arrays, loaded.parts.parameters.arrays):
        for param, other in zip(params, opt.parts.parameters.arrays, strict=True):
            param[...] = other
    loaded.load_state_dict(opt.state_dict())
    for name, slots in opt.state.items():
        for slot, values in slots.items():
            resumed.state[name][slot][...] = values
    resumed.step_count, resumed.accumulated_calls = opt.step_count, opt.accumulated_calls
    for k in range(4, 7):
        infos = [each.step([grad.copy() for grad in grads[k]]) for each in (opt, resumed, loaded)]
        assert infos[0] == infos[1] == infos[2]
    assert all_bytes(opt) == all_bytes(resumed)
    assert sorted(all_bytes(opt)) == sorted(all_bytes(loaded)), "the state's entries may be in another order"
