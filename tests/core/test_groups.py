"""Groups by name, freezing, and options that follow a schedule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Case, every_case, everything
from structures import RNG, copied, flat, like, model

import fastopt
from fastopt import schedules


def is_matrix(name: str, p: Any) -> bool:
    return bool(p.ndim >= 2)


def is_vector(name: str, p: Any) -> bool:
    return bool(p.ndim == 1)


def is_a(name: str, p: Any) -> bool:
    return name == "a"


PATTERNS: dict[str, dict[str, Any]] = {"*.b": {"weight_decay": 0}, "norm*": {"lr": 0.5}, "*": {}}


@every_case
def test_groups_do_what_one_optimizer_for_each_would(case: Case) -> None:
    if case.options.get("clip_global_norm") is not None or case.optimizer is fastopt.Prodigy:
        pytest.skip("a global norm, and the d of Prodigy, are of all groups")
    params, grads = model(), None
    alone = copied(params)
    opt = case.build(fastopt.group_by(params, PATTERNS))
    parts = [
        (case.build([alone["hidden"]["b"], alone["out"][1]["b"]], weight_decay=0), ["hidden.b", "out.1.b"]),
        (case.build([alone["norm1"]], lr=0.5), ["norm1"]),
        (case.build([alone["hidden"]["W"], alone["out"][0]]), ["hidden.W", "out.0"]),
    ]
    for _ in range(3):
        grads = like(params)
        by_name = dict(zip(opt.state, flat(grads), strict=True))
        opt.step(grads)
        for part, names in parts:
            part.step([by_name[name] for name in names])
    assert [array.tobytes() for array in flat(params)] == [array.tobytes() for array in flat(alone)]
    assert opt.param_groups[0]["weight_decay"] == 0
    assert [len(group["params"]) for group in opt.param_groups] == [2, 1, 2]


def test_first_match_wins_and_names_stay() -> None:
    params = model()
    grouped = fastopt.group_by(params, [("hidden.*", {"lr": 0.1}), ("*.b", {"lr": 0.2}), ("*", {"lr": 0.3})])
    assert grouped.group_of == {"hidden.W": 0, "hidden.b": 0, "norm1": 2, "out.0": 2, "out.1.b": 1}
    opt = fastopt.SGD(grouped)
    assert list(opt.state) == ["hidden.W", "hidden.b", "norm1", "out.0", "out.1.b"]
    assert opt.param_groups[1]["params"] == (params["out"][1]["b"],)
    opt.step({"hidden": None, "norm1": None, "out": [None, {}]})
    opt.add_param_group({"params": {"more": np.ones(2)}, "lr": 0.7})
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2, 0.3, 0.7]


def test_a_pattern_whose_names_are_taken_makes_no_group() -> None:
    grouped = fastopt.group_by({"a": np.ones(1), "b": np.ones(1)}, {"*": {}, "b": {"lr": 0.1}})
    assert grouped.options == [{}]


@pytest.mark.parametrize(
    ("params", "patterns", "error", "message"),
    [
        ({"a": 1, "b": 2}, {"a": {}}, ValueError, r"no pattern matches \['b'\]; the patterns are \['a'\]"),
        ({"a": 1}, {"*": {}, "z*": {}}, ValueError, r"no array's name matches 'z\*'; the names are \['a'\]"),
        ({"a": {"b": 1}}, {"a": {}}, ValueError, r"matches 'a'; for all arrays in it write 'a\.\*'; the names are"),
        ({"a": 1}, [("*", {}), ("*", {})], ValueError, r"the patterns \['\*'\] are there more than once"),
        ({"a.b": 1, "a": {"b": 2}}, {"*": {}}, ValueError, r"the names \['a.b'\] are there more than once"),
        (np.ones(2), {"*": {}}, TypeError, "expected a dict, list or tuple of arrays, got ndarray"),
        ([{"params": 1}], {"*": {}}, TypeError, "these are groups already"),
        ({"a": 1}, {"*": 0.1}, TypeError, r"expected a pattern .* and a dict of options, got '\*': 0.1"),
    ],
)
def test_bad_groups(params: Any, patterns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.group_by(params, patterns)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lrr": 0.1}, ValueError, r"no option is called \['lrr'\]"),
        ({"params": []}, ValueError, r"no option is called \['params'\]"),
        ({"lr": -1}, ValueError, r"param_groups\[1\]: lr=-1: expected a finite number of at least 0, a schedule"),
    ],
)
def test_bad_options_of_a_group(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.SGD(fastopt.group_by({"a": np.ones(1), "b": np.ones(1)}, {"a": {}, "b": options}))


# --- freezing ---------------------------------------------------------------------------------------------------------


@every_case
def test_frozen_arrays_are_as_if_they_had_no_gradient(case: Case) -> None:
    params = model()
    others = copied(params)
    opt, reference = case.build(params), case.build(others)
    for step in range(4):
        grads = like(params)
        skipped = {**grads, "hidden": None} if step in (1, 2) else grads
        if step == 1:
            assert opt.freeze("hidden.*") == ["hidden.W", "hidden.b"]
        if step == 3:
            assert opt.unfreeze("hidden.?") == ["hidden.W", "hidden.b"]
        assert opt.step(grads) == reference.step(skipped)
    assert everything(flat(params), opt) == everything(flat(others), reference)
    assert int(opt.state["hidden.W"]["step"]) == 2


@pytest.mark.parametrize("grad", ["nonsense", np.full(3, np.nan), np.ones((7, 7)), np.ones(2, np.int64), None])
def test_whatever_the_gradient_of_a_frozen_array(grad: Any) -> None:
    params = {"a": np.ones(2), "b": np.ones(2)}
    opt = fastopt.Adam(params, lr=0.1, clip_global_norm=1.0)
    opt.freeze("a")
    info = opt.step({"a": grad, "b": np.full(2, 3.0)})
    assert info.grad_norm == pytest.approx(np.sqrt(18))
    assert params["a"].tolist() == [1, 1]
    assert params["b"] == pytest.approx([0.9, 0.9])


def test_freezing_between_steps_with_the_same_gradient_arrays() -> None:
    params = [np.ones(2), np.ones(2)]
    grads = [np.ones(2), np.ones(2)]
    opt = fastopt.SGD(params, lr=0.25)
    opt.step(grads)
    opt.freeze("0")
    opt.step(grads)
    opt.step(grads)
    assert [param[0] for param in params] == [0.75, 0.25]
    opt.unfreeze()
    opt.step(grads)
    assert [param[0] for param in params] == [0.5, 0.0]


def test_freezing_what_is_not_there() -> None:
    opt = fastopt.SGD({"a": np.ones(1)})
    for method in (opt.freeze, opt.unfreeze):
        with pytest.raises(ValueError, match=r"no array's name matches 'b\*'; the names are \['a'\]"):
            method("b*")


def test_lookahead_leaves_frozen_arrays_in_place() -> None:
    params = [np.ones(1), np.ones(1)]
    opt = fastopt.SGD(params, lr=0.1, momentum=0.9)
    opt.step([np.ones(1), np.ones(1)])
    opt.freeze("0")
    with opt.lookahead():
        assert params[0] == 0.9
        assert params[1] < 0.9


# --- options by schedule ----------------------------------------------------------------------------------------------

lr_cycle = schedules.one_cycle(0.1, 10)
SCHEDULED: list[tuple[type[fastopt.Optimizer], dict[str, Any]]] = [
    (fastopt.SGD, {"momentum": lr_cycle.momentum()}),
    (fastopt.SGD, {"momentum": schedules.linear(0.0, 0.9, 4), "nesterov": True}),
    (fastopt.SGD, {"momentum": schedules.linear(0.9, 0.0, 2), "lr_in_momentum": True}),
    (fastopt.SGD, {"weight_decay": schedules.linear(0.5, 0.1, 4)}),
    (fastopt.RMSprop, {"momentum": schedules.piecewise_constant([0.5, 0.0, 0.9], [1, 3]), "centered": True}),
    (fastopt.Adam, {"betas": (lr_cycle.momentum(), 0.999), "weight_decay": schedules.cosine(0.1, 5)}),
    (fastopt.AdamW, {"betas": (0.9, lambda step: 0.9 + 0.01 * step), "weight_decay": schedules.cosine(0.1, 5)}),
]


@pytest.mark.parametrize(("optimizer", "options"), SCHEDULED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_schedule_is_as_if_its_value_were_written_each_step(
    optimizer: type[fastopt.Optimizer], options: dict[str, Any], dtype: Any
) -> None:
    params = [RNG.normal(size=5).astype(dtype)]
    others = [params[0].copy()]
    lr = schedules.one_cycle(0.1, 10)
    opt = optimizer(params, lr=lr, **options)
    # A momentum of exactly 0 picks a rule without a buffer, so the reference passes it by the least float.
    reference = optimizer(others, **{name: 0.5 if name == "momentum" else value for name, value in options.items()})
    for step in range(6):
        group = reference.param_groups[0]
        group["lr"] = lr(step)
        for name, value in options.items():
            if name == "betas":
                group[name] = tuple(beta(step) if callable(beta) else beta for beta in value)
            elif name == "momentum":
                group[name] = value(step) or 5e-324
            elif callable(value):
                group[name] = value(step)
        grad = RNG.normal(size=5).astype(dtype)
        assert opt.step([grad]) == reference.step([grad.copy()])
    assert params[0].tobytes() == others[0].tobytes()


def test_momentum_that_passes_through_zero_is_no_momentum_there() -> None:
    param = np.zeros(1)
    opt = fastopt.SGD(param, lr=1.0, momentum=schedules.piecewise_constant([0.5, 0.0, 0.5], [1, 2]))
    positions = []
    for grad in (1.0, 2.0, 4.0):
        opt.step(np.array([grad]))
        positions.append(float(param[0]))
    assert positions == [-1, -3, -8]  # buffers 1; 0 * 1 + 2; 0.5 * 2 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": lambda step: -1}, "the schedule at step 0: momentum=-1: expected"),
        ({"weight_decay": lambda step: float("nan")}, "the schedule at step 0: weight_decay=nan: expected"),
    ],
)
def test_a_schedule_that_leaves_the_range(options: dict[str, Any], message: str) -> None:
    param = np.ones(2)
    opt = fastopt.SGD(param, **options)
    with pytest.raises(ValueError, match=message):
        opt.step(np.ones(2))
    assert param.tolist() == [1, 1]
    assert opt.step_count == 0
    adam = fastopt.Adam(param, betas=(0.9, schedules.constant(1.0)))
    with pytest.raises(
        ValueError, match=r"the schedule at step 0: betas\[1\]=1.0: expected a number from 0 to below 1"
    ):
        adam.step(np.ones(2))


def test_options_of_numpys_types_are_computed_in_double_precision() -> None:
    params = [np.ones(3), np.ones(3)]
    for param, lr in zip(params, (np.float32(0.1), float(np.float32(0.1))), strict=True):
        opt = fastopt.Adam(param, lr=lr)
        opt.step(np.full(3, 0.3))
    assert params[0].tobytes() == params[1].tobytes()


def test_functions_as_keys() -> None:
    params = model()
    patterns: dict[Any, dict[str, Any]] = {
        "out.*": {"lr": 0.1},
        is_matrix: {"lr": 0.2},
        lambda name, p: "b" in name: {},
    }
    grouped = fastopt.group_by(params, {**patterns, "*": {"lr": 0.4}})
    assert grouped.group_of == {"hidden.W": 1, "hidden.b": 2, "norm1": 3, "out.0": 0, "out.1.b": 0}
    opt = fastopt.AdamW(grouped)
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2, 1e-3, 0.4]
    opt.step(like(params))


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ({lambda name, p: 1: {}}, TypeError, "expected True or False for 'a', got 1"),
        ({lambda name, p: np.ones(2) > 0: {}}, TypeError, "expected True or False for 'a'"),
        ({is_matrix: {}, "*": {}}, ValueError, "group_by: is_matrix matches no array; the names are"),
        ([(is_vector, {}), (is_vector, {})], ValueError, "are there more than once"),
        ({is_a: {}}, ValueError, r"no pattern matches \['b'\]; the patterns are \['is_a'\]"),
        ({3: {}}, TypeError, "expected a pattern .or a function of an array's name and the array. and a dict"),
        ({is_a: 3}, TypeError, "and a dict of options, got"),
        ({lambda name: True: {}}, TypeError, "takes 1 positional argument"),
    ],
    ids=["number", "array", "nothing", "twice", "unmatched", "no_match", "no_options", "arguments"],
)
def test_functions_that_are_wrong(patterns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastopt.group_by({"a": np.ones(1), "b": np.ones(1)}, patterns)


def test_functions_of_numpy_booleans() -> None:
    grouped = fastopt.group_by({"a": np.ones(1), "b": np.zeros(1)}, {lambda name, p: np.any(p > 0): {"lr": 1}, "*": {}})
    assert grouped.group_of == {"a": 0, "b": 1}
