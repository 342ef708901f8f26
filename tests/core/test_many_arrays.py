"""Optimizers of many arrays: their slots share memory, and their state is made when somebody looks at it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import needs_native

import fastopt
from fastopt.arrays.memory import CACHE_LINE, address
from fastopt.backends.host_arrays import SHARED_BYTES

LENGTHS = [1, 3, 16, 17, 0, 1000, 5, 20_000, 2, 15_000, 1]
BACKENDS = ["numpy", pytest.param("native", marks=needs_native)]


def arrays(dtype: Any = np.float32) -> list[Any]:
    """Return arrays at various places of a cache line, small and large, with one axis or two in either order."""
    rng = np.random.default_rng(5)
    memory = [rng.normal(size=length + 40).astype(dtype) for length in LENGTHS]
    flat = [values[i : i + length] for i, (values, length) in enumerate(zip(memory, LENGTHS, strict=True))]
    return [*flat, np.asfortranarray(rng.normal(size=(3, 5)).astype(dtype)), np.array(2, dtype)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("initial", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slots_lie_in_memory_of_their_own_like_their_parameters(backend: str, initial: float, dtype: Any) -> None:
    params = arrays(dtype)
    opt = fastopt.Adagrad(params, initial_accumulator_value=initial, backend=backend)
    opt.step([np.zeros_like(param) for param in params])
    slots = [entries["sum"] for entries in opt.state.values()]
    for i, (param, slot) in enumerate(zip(params, slots, strict=True)):
        assert (slot.shape, slot.dtype) == (param.shape, dtype)
        assert slot.flags.c_contiguous == param.flags.c_contiguous
        assert slot.flags.writeable
        assert slot.flags.aligned
        assert (address(slot) - address(param)) % CACHE_LINE == 0 or not slot.size
        assert (slot == initial).all()
        slot[...] = i
    assert all((slot == i).all() for i, slot in enumerate(slots))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_slot_keeps_little_memory_alive(backend: str) -> None:
    params = arrays()
    opt = fastopt.SGD(params, momentum=0.9, backend=backend)
    opt.step([np.zeros_like(param) for param in params])
    for entries in opt.state.values():
        slot: Any = entries["b"]
        assert slot.base.nbytes <= max(SHARED_BYTES, slot.nbytes + CACHE_LINE) + CACHE_LINE


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("looks_at", [(), (0,), (1,), (2,), (0, 1, 2, 3)])
def test_the_state_is_the_same_whenever_somebody_looks(backend: str, looks_at: tuple[int, ...]) -> None:
    def run(looks_at: tuple[int, ...]) -> tuple[Any, Any]:
        params, seen = {"a": np.ones(3), "b": np.array([1, 2], np.float32)}, []
        opt = fastopt.Adam(params, backend=backend, accumulate_steps=2, ema_decay=0.5)
        for i in range(4):
            if i in looks_at:
                seen.append(opt.state)
            if i == 2:
                opt.add_param_group({"params": {"c": np.ones(1)}, "lr": 0.5})
            opt.step(
                {"a": np.full(3, 2.0), "b": None, "c": np.ones(1)} if i >= 2 else {"a": np.ones(3), "b": np.ones(2)}
            )
        assert all(state is opt.state for state in seen)
        assert opt.state["a"]["m"] is opt.state["a"]["m"]
        return opt.state_dict(), {name: list(entries) for name, entries in opt.state.items()}

    found, expected = run(looks_at), run(())
    assert repr(found) == repr(expected)
    assert found[1]["c"] == ["step", "ema", "accumulated", "accumulated_calls", "m", "v"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("slot", ["m", "v", "ema"])
@pytest.mark.parametrize("looks_first", [False, True])
def test_a_gradient_that_overlaps_the_state_is_refused(backend: str, slot: str, looks_first: bool) -> None:
    params = [np.ones(3) for _ in range(5)]
    opt = fastopt.Adam(params, backend=backend, ema_decay=0.5)
    if looks_first:
        assert list(opt.state["3"]) == ["step"]
    grads = [np.ones(3) for _ in params]
    opt.step(grads)
    for _ in range(3):
        with pytest.raises(ValueError, match=rf"grads: '1' overlaps the memory of state\['3'\]\['{slot}'\]"):
            opt.step([grads[0], opt.state["3"][slot], *grads[2:]])
        with pytest.raises(ValueError, match=r"grads: '2' overlaps the memory of the parameter '4'"):
            opt.step([*grads[:2], params[4], *grads[3:]])
        opt.step(grads)
    assert opt.step_count == 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_slot_of_an_optimizer_that_makes_its_own(backend: str) -> None:
    class Own(fastopt.SGD):
        def new_slot(self, group: Any, slot: str, param: Any) -> Any:
            values = super().new_slot(group, slot, param)
            values[...] = param
            return values

    params = [np.full(2, 3.0), np.full(1, 4.0)]
    opt = Own(params, lr=0.0, momentum=0.5, backend=backend)
    opt.step([np.zeros(2), np.zeros(1)])
    assert [entries["b"].tolist() for entries in opt.state.values()] == [[1.5, 1.5], [2.0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_arrays_make_the_steps_of_one(backend: str) -> None:
    """Two groups, two dtypes and several shapes, whose slots are made together."""
    rng = np.random.default_rng(7)
    shapes = [(1,), (2, 3), (), (5,)] * 50
    plain = [rng.normal(size=shape).astype([np.float32, np.float64][i % 3 == 0]) for i, shape in enumerate(shapes)]
    params = [np.array(param, order="F") for param in plain]
    more: dict[str, Any] = {"amsgrad": True, "lr": 0.1}
    opt = fastopt.Adam([{"params": params[:70]}, {"params": params[70:], **more}], backend=backend)
    alone = [fastopt.Adam([param], backend=backend, **(more if i >= 70 else {})) for i, param in enumerate(plain)]
    for _ in range(3):
        grads = [rng.normal(size=shape) for shape in shapes]
        opt.step([grads[:70], grads[70:]])
        for each, grad in zip(alone, grads, strict=True):
            each.step([grad])
    for param, state, its, each in zip(params, opt.state.values(), plain, alone, strict=True):
        assert param.tobytes() == its.tobytes()
        assert repr(dict(state)) == repr(dict(each.state["0"]))
