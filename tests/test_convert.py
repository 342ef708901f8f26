"""States from and to torch.optim: a run moves over and back, and goes on as if it had stayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, Case

import fastopt
from fastopt import convert, lr_scheduler

KNOWN = [counterpart.name for counterpart in convert.COUNTERPARTS]


def is_expressible(case: Case) -> bool:
    """Return whether torch's options say the same as those here."""
    renamed = {"decoupled_weight_decay" if name == "decoupled" else name: value for name, value in case.options.items()}
    return case.torch is not None and case.torch[0] in KNOWN and case.torch[1] in (case.options, renamed)


BOTH = [
    *(case for case in CASES if is_expressible(case)),
    Case(fastopt.Adafactor, {"lr": 0.01}, ("Adafactor", {"lr": 0.01})),
    Case(
        fastopt.Adafactor,
        {"lr": 0.1, "eps": (1e-6, 1e-2), "d": 2.0, "beta2_decay": -0.5, "weight_decay": 0.1, "maximize": True},
        (
            "Adafactor",
            {"lr": 0.1, "eps": (1e-6, 1e-2), "d": 2.0, "beta2_decay": -0.5, "weight_decay": 0.1, "maximize": True},
        ),
    ),
    Case(fastopt.Muon, {"lr": 0.02}, ("Muon", {"lr": 0.02})),
    Case(
        fastopt.Muon,
        {"lr": 0.02, "nesterov": False, "momentum": 0.8, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"},
        ("Muon", {"lr": 0.02, "nesterov": False, "momentum": 0.8, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}),
    ),
]
both = pytest.mark.parametrize("case", BOTH, ids=str)
SHAPES = ((4, 3), (3,), ())
MATRICES = ((4, 3), (2, 3), (1, 2))


class Run:
    """The same model and gradients in torch and here."""

    def __init__(self, case: Case, dtype: Any = np.float32) -> None:
        self.torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
        self.case = case
        rng = np.random.default_rng(4)
        shapes = MATRICES if case.optimizer is fastopt.Muon else SHAPES
        self.start = [np.asarray(rng.normal(size=shape), dtype) for shape in shapes]
        self.grads = [[np.asarray(rng.normal(size=shape), dtype) for shape in shapes] for _ in range(40)]

    def in_torch(self, params: list[Any]) -> tuple[Any, list[Any]]:
        assert self.case.torch is not None
        name, options = self.case.torch
        tensors = [self.torch.nn.Parameter(self.torch.tensor(param)) for param in params]
        groups = [{"params": tensors[:1], "lr": 0.02}, {"params": tensors[1:]}]
        return getattr(self.torch.optim, name)(groups, **options), tensors

    def here(self, params: list[Any]) -> tuple[Any, dict[str, Any]]:
        arrays = {name: param.copy() for name, param in zip("abc", params, strict=True)}
        return self.case.build(fastopt.group_by(arrays, {"a": {"lr": 0.02}, "*": {}})), arrays

    def step_torch(self, opt: Any, tensors: list[Any], steps: range) -> None:
        for step in steps:
            for tensor, grad in zip(tensors, self.grads[step], strict=True):
                tensor.grad = self.torch.tensor(grad)
            if step in (0, 30):
                tensors[1].grad = None
            opt.step()

    def step_here(self, opt: Any, steps: range) -> None:
        for step in steps:
            a, b, c = self.grads[step]
            opt.step({"a": a, "b": None if step in (0, 30) else b, "c": c})


def close(case: Case, found: list[Any], expected: list[Any], dtype: Any) -> None:
    # sums of 40 steps, whose roundings differ: torch computes some of its scalars in another order
    tolerance = 2e-5 if dtype == np.float32 else 1e-11
    if case.optimizer in (fastopt.NAdam, fastopt.ASGD):
        tolerance = max(tolerance, 2e-6)  # torch keeps scalars of theirs in float32
    if case.optimizer is fastopt.Muon:
        tolerance = 0.05  # torch's products are in bfloat16
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_from_torch_and_on(case: Case, dtype: Any) -> None:
    run = Run(case, dtype)
    whole, expected = run.in_torch(run.start)
    run.step_torch(whole, expected, range(40))
    first, tensors = run.in_torch(run.start)
    run.step_torch(first, tensors, range(20))

    opt, arrays = run.here([tensor.detach().numpy() for tensor in tensors])
    opt.param_groups[1]["lr"] = 9.0  # the options come over too
    assert opt.load_state_dict(convert.from_torch(first.state_dict(), ["a", "b", "c"])) == ([], [])
    run.step_here(opt, range(20, 40))
    close(case, list(arrays.values()), [tensor.detach().numpy() for tensor in expected], dtype)


@both
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_to_torch_and_on(case: Case, dtype: Any) -> None:
    run = Run(case, dtype)
    whole, expected = run.here(run.start)
    run.step_here(whole, range(40))
    first, arrays = run.here(run.start)
    run.step_here(first, range(20))

    opt, tensors = run.in_torch(list(arrays.values()))
    opt.param_groups[1]["lr"] = 9.0
    opt.load_state_dict(convert.to_torch(first))
    run.step_torch(opt, tensors, range(20, 40))
    close(case, [tensor.detach().numpy() for tensor in tensors], list(expected.values()), dtype)


@both
def test_there_and_back_is_the_same(case: Case) -> None:
    run = Run(case)
    opt, arrays = run.here(run.start)
    run.step_here(opt, range(1, 4))
    saved = opt.state_dict()
    back = convert.from_torch(convert.to_torch(opt), list("abc"))
    other, others = run.here(list(arrays.values()))
    other.load_state_dict(back)
    run.step_here(opt, range(4, 6))
    run.step_here(other, range(4, 6))
    assert [array.tobytes() for array in arrays.values()] == [array.tobytes() for array in others.values()]
    assert back["param_groups"] == saved["param_groups"]


def test_to_torch_inside_a_step_is_refused() -> None:
    pytest.importorskip("torch", reason="moves a run to the live torch.optim")
    errors: list[str] = []

    def schedule(step: int) -> float:
        with pytest.raises(RuntimeError) as caught:
            convert.to_torch(opt)
        errors.append(str(caught.value))
        return 0.1

    opt = fastopt.SGD(np.ones(3), lr=schedule)
    opt.step(np.ones(3))
    assert errors[0].startswith("to_torch: a step of this optimizer is running around this call; ")


def test_a_part_of_a_combined_goes_to_torch() -> None:
    torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    params = {"W": np.ones((2, 2)), "b": np.ones(2), "c": np.ones(2), "d": np.ones(2)}
    parts: Any = {
        "W": fastopt.Muon,
        "d": fastopt.Lion,
        "b": (fastopt.AdamW, {"lr": 0.1}),
        "c": (fastopt.SGD, {"momentum": 0.9}),
    }
    opt = fastopt.Combined(params, parts)
    opt.step({"W": np.eye(2), "b": np.ones(2), "c": np.ones(2)})
    tensor = torch.nn.Parameter(torch.from_numpy(params["b"].copy()))
    theirs = torch.optim.AdamW([tensor])
    theirs.load_state_dict(convert.to_torch(opt, "AdamW"))
    assert theirs.param_groups[0]["lr"] == 0.1
    tensor.grad = torch.ones(2, dtype=torch.float64)
    theirs.step()
    opt.step({"W": np.eye(2), "b": np.ones(2), "c": np.ones(2)})
    assert params["b"] == pytest.approx(tensor.detach().numpy(), rel=1e-15)
    assert convert.to_torch(opt, "Muon")["state"][0]["momentum_buffer"].tolist() == opt.state["W"]["b"].tolist()
    assert convert.to_torch(opt, "SGD")["state"][0]["momentum_buffer"].tolist() == opt.state["c"]["b"].tolist()
    for part, message in (
        (None, r"part=None: expected the class of one of the groups, one of \['AdamW', 'Lion', 'Muon', 'SGD'\]"),
        ("Adam", "part='Adam': expected the class of one of the groups"),
        ("Lion", "torch has no Lion with this state"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_torch(opt, part)


def test_what_was_taken_is_a_copy() -> None:
    torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    opt = fastopt.Adam({"W": np.ones(2)})
    opt.step({"W": np.ones(2)})
    sd = convert.to_torch(opt)
    before = opt.state["W"]["m"].copy()
    sd["state"][0]["exp_avg"] += 1
    assert opt.state["W"]["m"].tolist() == before.tolist()
    taken = convert.from_torch(sd, ["W"])
    sd["state"][0]["exp_avg"] += 1
    assert taken["state"]["W"]["m"].tolist() == (before + 1).tolist()
    assert isinstance(sd["state"][0]["step"], torch.Tensor)


def test_a_run_before_its_first_step_and_arrays_that_were_skipped() -> None:
    torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    tensors = [torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))]
    theirs = torch.optim.Adam(tensors)
    opt = fastopt.Adam([np.ones(2, np.float32), np.ones(3, np.float32)])
    opt.load_state_dict(convert.from_torch(theirs.state_dict(), ["0", "1"]))
    assert opt.step_count == 0
    tensors[1].grad = torch.ones(3)
    theirs.step()
    opt.step([np.ones(2), np.ones(3)])
    opt.load_state_dict(convert.from_torch(theirs.state_dict(), ["0", "1"]))
    assert opt.step_count == 1
    assert [int(entries["step"]) for entries in opt.state.values()] == [0, 1]
    opt.step([np.ones(2), None])
    assert opt.state["0"]["m"] == pytest.approx([0.1, 0.1])
    assert set(convert.to_torch(opt)["state"]) == {0, 1}


def test_the_rate_that_a_driver_began_with_comes_over() -> None:
    torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    tensor = torch.nn.Parameter(torch.ones(2))
    tensor.grad = torch.ones(2)
    theirs = torch.optim.SGD([tensor], lr=0.8, momentum=0.9)
    their_scheduler = torch.optim.lr_scheduler.StepLR(theirs, 2, 0.5)
    for _ in range(3):
        theirs.step()
        their_scheduler.step()
    opt = fastopt.SGD([np.ones(2, np.float32)])
    opt.load_state_dict(convert.from_torch(theirs.state_dict(), ["0"]))
    assert opt.param_groups[0]["lr"] == 0.4
    scheduler = lr_scheduler.StepLR(opt, 2, 0.5)
    assert opt.param_groups[0]["lr"] == 0.4
    assert scheduler.base_lrs == [0.8]
    assert convert.to_torch(opt)["param_groups"][0]["initial_lr"] == 0.8


def test_a_schedule_goes_over_as_its_next_value() -> None:
    pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    betas = (fastopt.schedules.constant(0.8), 0.999)
    opt = fastopt.Adam(np.ones(2), lr=fastopt.schedules.linear(1.0, 0.0, 4), betas=betas)
    opt.step(np.ones(2))
    group = convert.to_torch(opt)["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.75, (0.8, 0.999))


GROUP = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "params": [0]}


def sd(group: Any = GROUP, entries: Any = None) -> dict[str, Any]:
    return {"state": {} if entries is None else {0: entries}, "param_groups": [group]}


@pytest.mark.parametrize(
    ("saved", "names", "error", "message"),
    [
        (3, ["W"], TypeError, r"expected the state_dict\(\) of an optimizer of torch"),
        ({"state": {}}, ["W"], TypeError, r"expected the state_dict\(\)"),
        (sd(), [], ValueError, "expected 1 names, one for each parameter in torch's order"),
        (sd(), "W", ValueError, "expected 1 names"),
        (sd({**GROUP, "params": [0, 1]}), ["W", "W"], ValueError, r"the names \['W'\] are there more than once"),
        (sd({**GROUP, "rho": 0.9}), ["W"], ValueError, "no optimizer here has the options"),
        (sd({**GROUP, "lr": "x"}), ["W"], TypeError, "expected a number, got one of type str"),
        (sd({**GROUP, "lr": -1.0}), ["W"], ValueError, "lr=-1.0: expected a finite number of at least 0"),
        (sd(GROUP, {"momentum_buffer": np.ones(2, np.float16)}), ["W"], TypeError, "is float16; expected float32 or"),
        (sd(GROUP, {"step": 3}), ["W"], ValueError, r"the state of parameter 0 has no \['momentum_buffer'\]"),
        (
            {"state": {}, "param_groups": [GROUP, {"params": [1]}]},
            ["V", "W"],
            ValueError,
            r"no optimizer here has the options \[\]",
        ),
    ],
)
def test_bad_states_of_torch(saved: Any, names: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        convert.from_torch(saved, names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_value": 1.0}, r"torch's Adam has no clip_value=1.0 \(param_groups\[0\]\); set it to None first"),
        ({"eps_hat": True}, "torch's Adam has no eps_hat=True"),
        (
            {"amsgrad": "corrected"},
            r"torch's Adam has no amsgrad='corrected' \(param_groups\[0\]\); set it to False first",
        ),
        ({"decoupled": True}, "torch's Adam has no decoupled=True"),
        ({"clip_global_norm": 1.0}, "torch's Adam has no clip_global_norm=1.0; set it to None first, and do it in"),
        ({"skip_above": 1.0}, "torch's Adam has no skip_above=1.0; set it to None first, and do it in"),
    ],
)
def test_what_torch_has_not(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert.to_torch(fastopt.Adam(np.ones(2), **options))


def test_optimizers_that_torch_has_not() -> None:
    class Mine(fastopt.SGD):
        pass

    with pytest.raises(ValueError, match="torch has no Mine with this state; there are SGD"):
        convert.to_torch(Mine(np.ones(2)))
    with pytest.raises(TypeError, match="expected a first-order optimizer of fastopt, got int"):
        convert.to_torch(3)  # type: ignore[arg-type]


def test_every_optimizer_that_torch_has_too() -> None:
    torch = pytest.importorskip("torch", reason="lists the live torch.optim")
    shared = {name for name in fastopt.optimizers.__all__ if hasattr(torch.optim, name)}
    assert shared == set(KNOWN)
    assert {case.optimizer.__name__ for case in BOTH} | {"SparseAdam"} == shared


@pytest.mark.parametrize("case", BOTH, ids=str)
def test_the_entries_are_those_of_torch(case: Case) -> None:
    """Names, shapes, types and values of the state and the groups, but for what selects torch's implementation."""
    run = Run(case)
    opt, _ = run.here(run.start)
    theirs, tensors = run.in_torch(run.start)
    run.step_here(opt, range(1, 6))
    run.step_torch(theirs, tensors, range(1, 6))
    ours, expected = convert.to_torch(opt), theirs.state_dict()
    assert {*ours["state"]} == {*expected["state"]}
    for index, entries in expected["state"].items():
        assert {*ours["state"][index]} == {*entries}
        for name, value in entries.items():
            found = ours["state"][index][name]
            assert (type(found), found.shape, found.dtype) == (type(value), value.shape, value.dtype), name
            np.testing.assert_allclose(found, value, rtol=2e-5, atol=2e-6, err_msg=name)
    for group, other in zip(ours["param_groups"], expected["param_groups"], strict=True):
        options = {*other} - {*convert.RUNTIME_ENTRIES}
        assert {name: group[name] for name in options} == {name: other[name] for name in options}


@pytest.mark.parametrize("is_to_torch", [True, False])
def test_sparse_adam(is_to_torch: bool) -> None:
    torch = pytest.importorskip("torch", reason="moves a run from and to the live torch.optim")
    rng = np.random.default_rng(1)
    table = rng.normal(size=(9, 2)).astype(np.float32)
    batches = [(rng.permutation(9)[:4], rng.normal(size=(4, 2)).astype(np.float32)) for _ in range(10)]
    ours, tensor = table.copy(), torch.nn.Parameter(torch.from_numpy(table.copy()))
    opt, theirs = fastopt.SparseAdam({"E": ours}, lr=0.1), torch.optim.SparseAdam([tensor], lr=0.1)

    def step_here(rows: Any, values: Any) -> None:
        opt.step({"E": fastopt.RowSparse(rows, values)})

    def step_torch(rows: Any, values: Any) -> None:
        tensor.grad = torch.sparse_coo_tensor(rows[None], values, (9, 2), check_invariants=True)
        theirs.step()

    for rows, values in batches[:5]:
        step_here(rows, values)
        step_torch(rows, values)
    if is_to_torch:
        tensor.data.copy_(torch.from_numpy(ours))
        theirs.load_state_dict(convert.to_torch(opt))
        assert type(theirs.state_dict()["state"][0]["step"]) is int
    else:
        ours[...] = tensor.detach().numpy()
        opt = fastopt.SparseAdam({"E": ours}, lr=9.0)
        opt.load_state_dict(convert.from_torch(theirs.state_dict(), ["E"]))
        assert (opt.lr, opt.step_count) == (0.1, 5)
    for rows, values in batches[5:]:
        step_here(rows, values)
        step_torch(rows, values)
    np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_options_that_torchs_have_not() -> None:
    for opt, message in (
        (fastopt.Muon(np.ones((2, 2)), maximize=True), "torch's Muon has no maximize=True"),
        (fastopt.Muon(np.ones((2, 2)), decoupled=False), "torch's Muon has no decoupled=False"),
        (fastopt.Adamax(np.ones(2), decoupled=True), "torch's Adamax has no decoupled=True"),
        (fastopt.Rprop(np.ones(2), weight_decay=0.1), "torch's Rprop has no weight_decay=0.1"),
        (fastopt.Adafactor(np.ones(2), clip_norm=1.0), "torch's Adafactor has no clip_norm=1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            convert.to_torch(opt)


def test_states_before_the_first_step() -> None:
    torch = pytest.importorskip("torch", reason="moves a run from the live torch.optim")
    for name in KNOWN:
        theirs = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(2, 2))])
        opt = getattr(fastopt, name)({"W": np.ones((2, 2), np.float32)}, lr=0.125)
        assert opt.load_state_dict(convert.from_torch(theirs.state_dict(), ["W"])) == ([], [])
        assert opt.lr == theirs.param_groups[0]["lr"]
        theirs.load_state_dict(convert.to_torch(opt))
        if name != "SparseAdam":
            opt.step({"W": np.ones((2, 2), np.float32)})
            theirs.param_groups[0]["params"][0].grad = torch.ones(2, 2)
            theirs.step()
