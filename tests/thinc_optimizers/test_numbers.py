"""fastopt's Adam, RAdam and SGD for thinc have thinc's numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiers import shortly

thinc_optimizers = pytest.importorskip("thinc.optimizers", reason="compares with the live thinc")
thinc = pytest.importorskip("fastopt.thinc")

OPTIONS = {
    "learn_rate": st.floats(1e-4, 0.1),
    "L2": st.sampled_from([0.0, 0.01, 0.5]),
    "beta1": st.sampled_from([0.0, 0.5, 0.9]),
    "beta2": st.sampled_from([0.0, 0.9, 0.999]),
    "eps": st.sampled_from([1e-8, 1e-3]),
    "grad_clip": st.sampled_from([0.0, 1e-3, 1.0, 50.0]),
    "use_averages": st.booleans(),
    "use_radam": st.booleans(),
    "L2_is_weight_decay": st.booleans(),
}
SHAPES = st.sampled_from([(1,), (5,), (3, 4), (2, 3, 7), (1100,)])


def is_known_to_thinc(options: dict[str, Any]) -> bool:
    return options["use_radam"] or options["beta1"] > 0 or options["beta2"] == 0


class Pair:
    """An optimizer of thinc and one of fastopt, with the same arrays and gradients."""

    def __init__(self, shapes: list[tuple[int, ...]], options: dict[str, Any], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.both = (thinc_optimizers.Optimizer(**options), thinc.Optimizer(**options))
        starts = [self.rng.normal(size=shape).astype(np.float32) for shape in shapes]
        self.weights = [[start.copy() for start in starts] for _ in self.both]
        self.gradients = [[np.zeros_like(start) for start in starts] for _ in self.both]

    def update(self, lr_scale: float = 1.0) -> None:
        for own, others in zip(*self.gradients, strict=True):
            values = self.rng.normal(size=own.shape) * 10 ** self.rng.uniform(-3, 1)
            own += values.astype(np.float32)
            others[...] = own
        for optimizer, arrays, gradients in zip(self.both, self.weights, self.gradients, strict=True):
            for i, (weights, gradient) in enumerate(zip(arrays, gradients, strict=True)):
                optimizer((i, "W"), weights, gradient, lr_scale=lr_scale)
            optimizer.step_schedules()

    def check(self, tolerance: float = 2e-6) -> None:
        """Compare what thinc has with what is here; the tolerance is that of elements of about 1."""
        for own, others in zip(*self.weights, strict=True):
            np.testing.assert_allclose(own, others, rtol=tolerance, atol=tolerance)
        theirs, ours = self.both
        assert theirs.nr_update == ours.nr_update
        for name in ("averages", "mom1", "mom2"):
            expected, found = getattr(theirs, name), getattr(ours, name)
            assert (expected is None) == (found is None)
            assert (expected or {}).keys() == (found or {}).keys()
            for key, array in (expected or {}).items():
                assert found[key].shape == array.shape
                scale = max(1e-3, float(np.abs(array).max()))
                np.testing.assert_allclose(found[key], array, rtol=1e-5, atol=tolerance * scale)
        assert not any(gradient.any() for gradients in self.gradients for gradient in gradients)


@pytest.mark.parametrize("examples", shortly(40, 400))
def test_numbers_of_thinc(examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(
        st.fixed_dictionaries(OPTIONS).filter(is_known_to_thinc),
        st.lists(SHAPES, min_size=1, max_size=4),
        st.integers(1, 25),
        st.sampled_from([1.0, 0.5]),
        st.integers(0, 2**32 - 1),
    )
    def check(options: dict[str, Any], shapes: list[tuple[int, ...]], steps: int, lr_scale: float, seed: int) -> None:
        pair = Pair(shapes, options, seed)
        for _ in range(steps):
            pair.update(lr_scale)
        pair.check(tolerance=2e-5)

    check()


@pytest.mark.parametrize("use_radam", [False, True])
def test_many_steps(use_radam: bool) -> None:
    """The rectification of RAdam begins, and the decay of the averages changes."""
    pair = Pair([(40, 30), (30,)], {"learn_rate": 0.01, "L2": 0.1, "use_radam": use_radam})
    for _ in range(400):
        pair.update()
    pair.check(tolerance=2e-5)


def test_schedules() -> None:
    """Every option of the step may be a generator; one that ends stays at its last value."""
    pair = Pair(
        [(4, 3)],
        {
            "learn_rate": [0.1, 0.05, 0.01],
            "L2": [0.0, 0.1, 0.2, 0.3],
            "beta1": [0.8, 0.9, 0.95],
            "beta2": [0.9, 0.99],
            "eps": [1e-8, 1e-6],
            "grad_clip": [0.0, 1.0, 0.5, 0.1],
        },
    )
    for _ in range(8):
        pair.update()
    pair.check()
    assert pair.both[1].learn_rate == 0.01


def test_attributes_set_between_updates() -> None:
    pair = Pair([(4, 3)], {"learn_rate": 0.1, "use_averages": False})
    changes: dict[str, Any] = {
        "learn_rate": 0.01,
        "b1": 0.5,
        "b2": 0.9,
        "eps": 1e-4,
        "L2": 0.1,
        "L2_is_weight_decay": False,
        "grad_clip": 0.0,
        "use_radam": True,
    }
    for name, value in changes.items():
        pair.update()
        for optimizer in pair.both:
            setattr(optimizer, name, value)
    pair.update()
    pair.check()


AVERAGES: dict[str, Any] = {
    "cleared": lambda optimizer: (optimizer.averages or {}).clear(),
    "begun anew": lambda optimizer: setattr(optimizer, "averages", {}),
    "given": lambda optimizer: setattr(optimizer, "averages", {(0, "W"): np.full((4, 3), 7, np.float32)}),
    "ended": lambda optimizer: setattr(optimizer, "averages", None),
}


@pytest.mark.parametrize("change", AVERAGES)
@pytest.mark.parametrize("use_averages", [False, True])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_averages_set_between_updates(change: str, use_averages: bool, is_replaced: bool) -> None:
    """thinc looks there in each call: an average that is missing begins at zero, with the decay of the array's step."""
    pair = Pair([(4, 3), (3,)], {"learn_rate": 0.1, "use_averages": use_averages})
    for _ in range(3):
        pair.update()
    for optimizer in pair.both:
        AVERAGES[change](optimizer)
    if is_replaced:
        pair.weights = [[array.copy() for array in arrays] for arrays in pair.weights]
    for _ in range(3):
        pair.update()
    pair.check()


def test_moments_that_begin_late() -> None:
    """A schedule leads from plain SGD to Adam, and back."""
    pair = Pair([(4, 3)], {"learn_rate": 0.1, "beta1": [0.0, 0.9, 0.0, 0.9], "beta2": [0.0, 0.99, 0.0, 0.99]})
    for _ in range(5):
        pair.update()
        pair.check()


@pytest.mark.parametrize("kind", [np.float32, np.array, int, bool])
def test_numbers_of_other_types(kind: Any) -> None:
    """As schedules may give them."""
    pair = Pair([(4, 3)], {"learn_rate": 0.1})
    for optimizer in pair.both:
        optimizer.learn_rate, optimizer.grad_clip = kind(1), kind(1)
    pair.update()
    pair.check()


def test_the_average_begins_at_zero() -> None:
    optimizer = thinc.SGD(0.5, grad_clip=0.0)
    weights = np.float32([2.0])
    optimizer((0, "b"), weights, np.float32([2.0]))
    np.testing.assert_allclose(weights, [1.0])
    np.testing.assert_allclose(optimizer.averages[0, "b"], [(1 - 2 / 11) * 1.0], rtol=1e-6)


def test_the_factor_of_clipping_is_the_limit_over_the_norm() -> None:
    """Not over the norm and 1e-6, which would be half the step here."""
    optimizer = thinc.SGD(1.0, grad_clip=1e-6, use_averages=False)
    weights = np.float32([0.0, 0.0])
    optimizer((0, "b"), weights, np.float32([3e-6, -4e-6]))
    np.testing.assert_allclose(weights, [-0.6e-6, 0.8e-6], rtol=1e-6)


def test_one_minus_beta_in_single_precision() -> None:
    """As in thinc's Adam, where 1 - beta2 is less than 1e-3 by a part of 1.3e-5."""
    pair = Pair([(50,)], {"learn_rate": 0.1, "grad_clip": 0.0})
    pair.update()
    theirs, ours = (optimizer.mom2[0, "W"] for optimizer in pair.both)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_beta1_of_zero_is_no_error() -> None:
    """thinc raises NotImplementedError without a text."""
    weights = np.ones(2, np.float32)
    thinc.Adam(0.1, beta1=0.0)((0, "b"), weights, np.float32([3.0, -4.0]))
    np.testing.assert_allclose(weights, [0.9, 1.1], rtol=1e-6)
