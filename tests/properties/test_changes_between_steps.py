"""Arrays, slots and options that change between steps: what is refused, and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from bad_input import SWAPPED, Bad, check_says, f32, misaligned, read_only
from cases import everything, needs_native

import fastopt
from fastopt import rules

BAD_SLOTS = [
    Bad("short", lambda: f32(2), ValueError, ("(2,)", "(3,)", "[...] = values")),
    Bad("other dtype", lambda: np.zeros(3), TypeError, ("float64", "float32")),
    Bad("list", lambda: [0.0] * 3, TypeError, ("list",)),
    Bad("strided", lambda: f32(6)[::2], ValueError, ("strides (8,)",)),
    Bad("read-only", lambda: read_only(f32(3)), ValueError, ("writeable",)),
    Bad("misaligned", lambda: misaligned((3,)), ValueError, ("state['0']['m']",)),
]


@pytest.mark.parametrize("bad", BAD_SLOTS, ids=str)
def test_slots(bad: Bad) -> None:
    """A slot put into the state before the first step is checked: a short one would be written past its end."""
    param = f32(3)
    opt = fastopt.Adam(param)
    opt.state["0"]["m"] = bad.do()
    with pytest.raises(bad.error) as raised:
        opt.step(f32(3))
    check_says(raised, ("state['0']['m']", *bad.says))
    assert param.tolist() == [1, 1, 1]
    assert list(opt.state["0"]) == ["step", "m"]


@pytest.mark.parametrize(
    "replace",
    [
        lambda opt: opt.state["a"].__setitem__("m", f32(3)),
        lambda opt: opt.state["a"].__setitem__("step", np.array(5)),
        lambda opt: opt.state["a"].__delitem__("m"),
        lambda opt: opt.state["a"].pop("m"),
        lambda opt: opt.state["a"].popitem(),
        lambda opt: opt.state["a"].clear(),
        lambda opt: opt.state["a"].update(m=f32(3)),
        lambda opt: opt.state["a"].__ior__({"m": f32(3)}),
        lambda opt: opt.state.__setitem__("a", {"m": f32(3)}),
        lambda opt: opt.state.pop("a"),
    ],
)
def test_what_is_in_the_state_can_not_be_replaced(replace: Callable[[fastopt.Optimizer], Any]) -> None:
    """It would be ignored: steps go on writing where they wrote."""
    params = {"a": f32(3)}
    opt = fastopt.Adam(params)
    opt.step({"a": f32(3)})
    before = everything(params.values(), opt)
    with pytest.raises(TypeError, match=r"can't be replaced or taken out.*write into it: opt.state\[.*\]\[slot\]"):
        replace(opt)
    assert everything(params.values(), opt) == before
    opt.state["a"]["m"] += 1
    opt.state["a"]["step"][...] = 7
    opt.step({"a": f32(3)})
    assert int(opt.state["a"]["step"]) == 8


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [("lr", 1.0, True), ("weight_decay", 0.0, False), ("momentum", 0, False), ("maximize", False, 0)],
)
def test_what_equals_the_option_but_is_of_another_kind(option: str, good: Any, bad: Any) -> None:
    param = np.ones(2)
    opt = fastopt.SGD(param, **{"lr": 0.5, option: good})
    opt.step(np.ones(2))
    opt.param_groups[0][option] = bad
    before = everything([param], opt)
    with pytest.raises(TypeError, match=f"{option}={bad}: expected "):
        opt.step(np.ones(2))
    assert everything([param], opt) == before
    opt.param_groups[0][option] = good
    opt.step(np.ones(2))


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("count", [1, 1000])
def test_a_parameter_made_read_only_later(count: int, backend: str) -> None:
    """Of many parameters a step looks at some: the error comes within a few steps, and its step changes nothing."""
    params = [f32(1) for _ in range(count)]
    opt = fastopt.SGD(params, momentum=0.9, backend=backend)
    opt.step([f32(1)] * count)
    for i in {0, count // 2, count - 1}:
        read_only(params[i])
        opt.freeze(str(i))
        for _ in range(9):
            opt.step([f32(1)] * count)
        opt.unfreeze()
        told = rf"params: '{i}' was made read-only .*; make it writeable, or keep it as it is: opt.freeze"
        befores = []
        with pytest.raises(ValueError, match=told):  # noqa: PT012
            for _ in range(9):
                befores.append(everything(params, opt))
                opt.step([f32(1)] * count)
        assert everything(params, opt) == befores[-1]
        assert len(befores) == 1 or count > 1
        params[i].flags.writeable = True
        opt.step([f32(1)] * count)


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kind", [np.ndarray, type("Subclass", (np.ndarray,), {})])
@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")
def test_a_parameter_given_another_dtype_later(kind: Any, backend: str) -> None:
    """Gradients of its new shape would be too short for the step."""
    params = [f32(8).view(kind), f32(2).view(kind)]
    opt = fastopt.SGD(params, momentum=0.9, backend=backend)
    opt.step([f32(8), f32(2)])
    before = everything(params, opt)
    params[0].dtype = np.float64
    with pytest.raises(ValueError, match=r"params: '0' was an array of float32 .* float64 now; set its dtype back"):
        opt.step([f32(4), f32(2)])
    params[0].dtype = np.float32
    assert everything(params, opt) == before
    opt.step([f32(8), f32(2)])


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize(
    ("optimizer", "slot"), [(fastopt.Adam, "v"), (fastopt.Adam, "ema"), (fastopt.Muon, "b"), (fastopt.LAMB, "m")]
)
def test_gradients_that_are_slots(optimizer: type[fastopt.Optimizer], slot: str, backend: str) -> None:
    params = {"a": f32(2, 3), "b": f32(1, 2)}
    opt = optimizer(params, backend=backend, **({"ema_decay": 0.5} if slot == "ema" else {}))
    opt.step({"a": f32(2, 3), "b": f32(1, 2)})
    held = opt.state["a"][slot]
    for grads in ({"a": held, "b": f32(1, 2)}, {"a": f32(2, 3), "b": held[1:, 1:]}, {"a": None, "b": held[:1, :2]}):
        before = everything(params.values(), opt)
        told = rf"grads: '[ab]' overlaps the memory of state\['a'\]\['{slot}'\], which is changed .*; give a copy"
        with pytest.raises(ValueError, match=told):
            opt.step(grads)
        assert everything(params.values(), opt) == before
    opt.step({"a": held.copy(), "b": f32(1, 2)})


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_what_is_allowed(backend: str) -> None:
    """0-d and empty arrays, either order of memory, and gradients that are converted."""
    params = [np.array(1.0), np.zeros((0, 3)), np.zeros(0), np.ones((2, 3), order="F"), np.ones((2, 3)), np.ones(3)]
    off = misaligned((3,), np.float64)
    off[...] = 1
    grads = [
        np.float64(1),
        np.zeros((0, 3)),
        np.zeros(0, np.float16),
        np.ones((4, 6))[::2, ::2],
        np.ones((2, 3), SWAPPED),
        read_only(off),
    ]
    assert not grads[5].flags.aligned
    opt = fastopt.SGD(params, lr=1.0, backend=backend, clip_global_norm=100.0)
    for step in range(1, 3):
        assert opt.step(grads) == (True, 4.0, 1.0, step)
        assert [param.ravel().tolist() for param in params] == [
            [1 - step],
            [],
            [],
            *[[1 - step] * 6] * 2,
            [1 - step] * 3,
        ]
    assert opt.step([0.5, None, None, None, None, None]).grad_norm == 0.5


def test_a_gradient_too_large_for_its_parameter_is_infinite_without_a_warning() -> None:
    param = f32(2)
    fastopt.SGD(param, lr=1.0).step(np.array([1e300, -1e300], np.longdouble))
    assert param.tolist() == [-np.inf, np.inf]
    fastopt.SGD(param := f32(2), lr=1.0).step(np.array([1e300, -1e300]))
    assert param.tolist() == [-np.inf, np.inf]


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_a_group_without_clip_norm_is_not_clipped(backend: str) -> None:
    """Nor by a norm that is infinite, which another group's clip_norm has made to be computed."""
    clipped, free = np.zeros(2), np.zeros(2)
    groups = [{"params": clipped, "clip_norm": 5.0}, {"params": free}]
    fastopt.SGD(groups, lr=1.0, backend=backend).step([np.array([-6.0, -8.0]), np.array([np.inf, -1.0])])
    np.testing.assert_allclose(clipped, [3, 4], rtol=1e-6)
    assert free.tolist() == [-np.inf, 1]


def test_lookahead_checks_and_takes_what_was_written() -> None:
    param = np.array([1.0])
    opt = fastopt.SGD(param, lr=0.5, momentum=0.5)
    opt.step(np.array([1.0]))
    opt.param_groups[0].update(momentum=1.0, lr=0.25)
    with opt.lookahead():
        assert param.tolist() == [0.25]
    assert param.tolist() == [0.5]
    opt.param_groups[0]["momentum"] = float("nan")
    with pytest.raises(ValueError, match="momentum=nan"), opt.lookahead():
        pass
    assert param.tolist() == [0.5]


def test_a_rule_of_ones_own_with_the_name_of_a_compiled_one() -> None:
    """A function with the name of a compiled rule is not that rule."""

    def sgd(h: rules.SGDScalars, p: Any, g: Any) -> tuple[Any]:
        return (p + h.lr * g,)

    class Own(fastopt.SGD):
        def rule(self, group: Any) -> Any:
            return sgd

    Own(param := np.ones(2), lr=0.5).step(np.ones(2))
    assert param.tolist() == [1.5, 1.5]
