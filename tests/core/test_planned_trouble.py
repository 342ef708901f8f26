"""Every kind of trouble in a run that is planned: what is seen is what a run without plans shows, to the last bit.

``test_planned_options.py`` has each value of each option, ``test_planned_gradients.py`` the gradients.
"""

from __future__ import annotations

from collections import OrderedDict, UserDict, UserList
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from bad_input import read_only
from planned_runs import OPTION_SETS, OptionSet, Run, check_like_unplanned, needs_plans

import fastopt
from fastopt import lr_scheduler

pytestmark = [
    needs_plans,
    pytest.mark.filterwarnings("ignore:Setting the (dtype|shape|strides):DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

Trouble = Callable[[Run], Any]


class OwnDict(dict[Any, Any]):
    """A dict that may hide what it has."""


class OwnList(list[Any]):
    """A list that may hide what it has."""


#: What is done to groups, the parameters, the state and the optimizer as a whole.
TROUBLES: dict[str, Trouble] = {}


def trouble(do: Trouble) -> Trouble:
    TROUBLES[do.__name__] = do
    return do


# --- options and groups -----------------------------------------------------------------------------------------------


@trouble
def an_option_written_in_each_step(run: Run) -> None:
    def write(run: Run) -> None:
        run.group["lr"] = 0.1 / (1 + run.opt.step_count)

    run.each_step = write


@trouble
def a_numpy_number_written_in_each_step(run: Run) -> None:
    def write(run: Run) -> None:
        run.group["weight_decay"] = np.float32(0.1 / (1 + run.opt.step_count))

    run.each_step = write


@trouble
def lr_written_in_each_step_that_also_decays_in_some(run: Run) -> None:
    def write(run: Run) -> None:
        run.group.update(lr=0.1 / (1 + run.opt.step_count), decoupled=run.opt.step_count % 5 > 2)

    run.group["weight_decay"] = 0.1
    run.each_step = write


@trouble
def several_options_written(run: Run) -> None:
    for k, group in enumerate(run.opt.param_groups):
        group.update(lr=0.03 + k, weight_decay=0.2, l1=0.01, eps=1e-3) if "eps" in group else group.update(lr=0.03)


@trouble
def one_good_and_one_bad_option(run: Run) -> Any:
    before = run.group["weight_decay"]
    run.group.update(lr=0.03, weight_decay=-1.0)
    return lambda: run.group.update(weight_decay=before)


@trouble
def a_good_option_and_a_bad_gradient(run: Run) -> None:
    run.group["lr"] = 0.03
    run.grads[-1] = np.ones(7)


@trouble
def an_option_popped(run: Run) -> Any:
    lr = run.group.pop("lr")
    return lambda: run.group.update(lr=lr)


@trouble
def an_option_put_in_again(run: Run) -> None:
    run.group["lr"] = run.group.pop("lr")


@trouble
def an_option_put_in_again_with_another_value(run: Run) -> None:
    run.group.pop("lr")
    run.group["lr"] = 0.03


@trouble
def options_in_another_order(run: Run) -> None:
    for group in run.opt.param_groups:
        entries = list(group.items())
        group.clear()
        group.update(reversed(entries))


@trouble
def an_unknown_option(run: Run) -> Any:
    run.group["rate"] = 0.1
    return lambda: run.group.pop("rate")


@trouble
def an_option_of_a_key_that_is_no_text(run: Run) -> Any:
    run.group[3] = run.group.pop("lr")  # type: ignore[index]
    return lambda: run.group.update(lr=run.group.pop(3))  # type: ignore[call-overload]


@trouble
def a_group_replaced(run: Run) -> None:
    run.opt.param_groups[-1] = {**run.group, "lr": 0.03}


@trouble
def a_group_replaced_by_its_like(run: Run) -> None:
    run.opt.param_groups[-1] = dict(run.group)


@trouble
def the_list_of_groups_replaced(run: Run) -> None:
    run.opt.param_groups = [{**group, "lr": 0.03} for group in run.opt.param_groups]


def a_group_of_another_kind(kind: Callable[[Any], Any]) -> Trouble:
    """The next plan has no dict to look into; the group is written later."""

    def replace(run: Run) -> Any:
        run.opt.param_groups[-1] = kind({**run.group, "lr": 0.03})
        if kind is MappingProxyType:
            return None
        return lambda: run.group.__setitem__("lr", 0.02)

    return replace


def groups_in(kind: Callable[[Any], Any]) -> Trouble:
    def replace(run: Run) -> Any:
        run.opt.param_groups = kind(run.opt.param_groups)
        return lambda: run.group.update(lr=0.02)

    return replace


TROUBLES |= {
    f"a_group_as_{kind.__name__}": a_group_of_another_kind(kind)
    for kind in (OrderedDict, UserDict, MappingProxyType, OwnDict)
}
TROUBLES |= {f"groups_in_a_{kind.__name__}": groups_in(kind) for kind in (tuple, UserList, OwnList)}


@trouble
def a_group_taken_away(run: Run) -> Any:
    group = run.opt.param_groups.pop()
    return lambda: run.opt.param_groups.append(group)


@trouble
def a_group_put_in_twice(run: Run) -> Any:
    run.opt.param_groups.append(run.group)
    return run.opt.param_groups.pop


@trouble
def groups_in_another_order(run: Run) -> Any:
    run.opt.param_groups.reverse()
    return run.opt.param_groups.reverse


@trouble
def the_arrays_of_a_group_replaced(run: Run) -> Any:
    before = run.group["params"]
    run.group["params"] = list(before)
    return lambda: run.group.update(params=before)


# --- options of the optimizer as a whole ------------------------------------------------------------------------------


def setting(name: str, value: Any) -> Trouble:
    """Set an attribute; one that refuses the value at once raises here, in every kind of run."""

    def set_attribute(run: Run) -> Any:
        before = getattr(run.opt, name)
        try:
            setattr(run.opt, name, value)
        except (TypeError, ValueError) as error:
            run.seen.append({"told": (type(error), str(error))})
        return lambda: setattr(run.opt, name, before)

    return set_attribute


for text, value in {"0.1": 0.1, "None": None, "-1": -1.0, "nan": float("nan"), "text": "1", "1": 1, "0": 0}.items():
    TROUBLES[f"clip_global_norm={text}"] = setting("clip_global_norm", value)
    TROUBLES[f"grad_scale={text}"] = setting("grad_scale", value)
    TROUBLES[f"skip_above={text}"] = setting("skip_above", value)
TROUBLES["clip_global_norm=inf"] = setting("clip_global_norm", float("inf"))
TROUBLES["clip_global_norm=float32"] = setting("clip_global_norm", np.float32(0.1))
TROUBLES["grad_scale=float32"] = setting("grad_scale", np.float32(3))
TROUBLES["seed=5"] = setting("seed", 5)
TROUBLES["step_count=40"] = setting("step_count", 40)
TROUBLES["accumulated_calls=1"] = setting("accumulated_calls", 1)


@trouble
def a_loss_scale(run: Run) -> Any:
    return setting("grad_scale", fastopt.DynamicLossScale(init_scale=8.0, growth_interval=2))(run)


def giving(**keywords: Any) -> Trouble:
    return lambda run: run.keywords.update(keywords)


for text, value in {"8.0": 8.0, "3": 3, "0": 0.0, "nan": float("nan"), "text": "8", "float32": np.float32(3)}.items():
    TROUBLES[f"argument_grad_scale={text}"] = giving(grad_scale=value)
TROUBLES["argument_stream"] = giving(stream=0)


# --- parameters -------------------------------------------------------------------------------------------------------


@trouble
def a_parameter_replaced(run: Run) -> Any:
    if run.form == "single":
        return None
    container = run.params[-1]["params"] if run.form == "groups" else run.params
    key = {"nested": "scale", "list": 2, "groups": "x"}[run.form]
    before = container[key]
    container[key] = before.copy()
    return lambda: (
        container.update({key: before}) if isinstance(container, dict) else container.__setitem__(key, before)
    )


@trouble
def a_container_replaced(run: Run) -> Any:
    if run.form != "nested":
        return None
    before = run.params["hidden"]
    run.params["hidden"] = dict(before)
    return lambda: run.params.update(hidden=before)


@trouble
def a_parameter_popped(run: Run) -> Any:
    if run.form != "nested":
        return None
    before = run.params["hidden"].pop("W")
    return lambda: run.params["hidden"].update(W=before)


@trouble
def the_user_adds_keys(run: Run) -> None:
    if run.form == "nested":
        run.params["more"] = np.ones(3)
        run.params["hidden"][("a", 1)] = None
        run.params["out"].append(np.ones(2))


@trouble
def the_user_adds_keys_before_the_others(run: Run) -> None:
    if run.form == "nested":
        entries = dict(run.params)
        run.params.clear()
        run.params.update({"first": 0, **entries})


@trouble
def a_parameter_written(run: Run) -> None:
    for array in run.arrays:
        array[...] = 0.5


@trouble
def a_parameter_not_finite(run: Run) -> None:
    run.arrays[0][...] = np.nan


@trouble
def a_parameter_read_only(run: Run) -> Any:
    read_only(run.arrays[0])
    return lambda: run.arrays[0].setflags(write=True)


@trouble
def a_parameter_read_only_without_a_gradient(run: Run) -> Any:
    run.grads[0] = None
    return a_parameter_read_only(run)


@trouble
def a_parameter_of_another_dtype(run: Run) -> Any:
    before = run.arrays[0].dtype
    run.arrays[0].dtype = f"i{before.itemsize}"
    return lambda: setattr(run.arrays[0], "dtype", before)


@trouble
def a_parameter_of_the_same_dtype_in_another_object(run: Run) -> None:
    before = run.arrays[0].dtype
    run.arrays[0].dtype = np.dtype(before, metadata={"of": "mine"})


@trouble
def a_parameter_in_another_shape(run: Run) -> Any:
    before = run.arrays[0].shape
    run.arrays[0].shape = (1, *before)
    return lambda: setattr(run.arrays[0], "shape", before)


@trouble
def a_parameter_in_another_shape_and_its_gradient(run: Run) -> Any:
    undo = a_parameter_in_another_shape(run)
    run.grads[0] = run.grads[0][None]
    return undo


# --- the state, and what the optimizer can do -------------------------------------------------------------------------


@trouble
def an_array_frozen(run: Run) -> Any:
    run.opt.freeze(next(iter(run.opt.state)))
    return run.opt.unfreeze


@trouble
def an_array_frozen_whose_gradient_is_bad(run: Run) -> Any:
    run.opt.freeze(next(iter(run.opt.state)))
    run.grads[0] = "nothing"
    return run.opt.unfreeze


@trouble
def an_array_frozen_and_unfrozen(run: Run) -> None:
    run.opt.freeze("*")
    run.opt.unfreeze("*")


@trouble
def all_arrays_frozen(run: Run) -> Any:
    run.opt.freeze("*")
    return run.opt.unfreeze


@trouble
def an_older_state_loaded(run: Run) -> None:
    run.opt.load_state_dict(run.saved[0])


@trouble
def an_older_state_loaded_again_and_again(run: Run) -> None:
    run.opt.load_state_dict(run.saved[0])
    run.each_step = lambda run: run.opt.load_state_dict(run.opt.state_dict())


@trouble
def a_state_that_does_not_fit(run: Run) -> None:
    with pytest.raises(ValueError, match="state_dict"):
        run.opt.load_state_dict({**run.saved[0], "optimizer": "Own"})


@trouble
def the_state_loaded_into_another_optimizer(run: Run) -> None:
    other = Run(run.its)
    other.step()
    other.opt.load_state_dict(run.opt.state_dict())


@trouble
def slots_written(run: Run) -> None:
    for slots in run.opt.state.values():
        for slot, array in slots.items():
            if array.dtype.kind == "f" and array.dtype != np.uint8:
                array[...] = 0.25 if slot != "accumulated" else 0.5


@trouble
def the_step_of_one_array_written(run: Run) -> None:
    next(iter(run.opt.state.values()))["step"][...] = 17


@trouble
def the_step_of_one_array_written_back_to_0(run: Run) -> None:
    next(iter(run.opt.state.values()))["step"][...] = 0


@trouble
def the_steps_of_all_arrays_written(run: Run) -> None:
    for slots in run.opt.state.values():
        slots["step"][...] = 1


@trouble
def the_steps_of_all_arrays_are_different(run: Run) -> None:
    for k, slots in enumerate(run.opt.state.values()):
        slots["step"][...] = 100 - k


@trouble
def accumulated_calls_of_an_array_written(run: Run) -> None:
    slots = next(iter(run.opt.state.values()))
    if "accumulated_calls" in slots:
        slots["accumulated_calls"][...] = 1


@trouble
def an_array_added(run: Run) -> None:
    more = np.ones(3, run.arrays[0].dtype)
    run.opt.add_param_group({"params": {"added0": more} if run.form == "nested" else more, "lr": 0.02, **run.kind})


@trouble
def parameters_restored(run: Run) -> None:
    """The masters of float16 parameters get other values; the next step is planned all the same."""
    stopping = fastopt.EarlyStopping(patience=1)
    stopping.update(1.0, run.opt.params)
    run.step()
    stopping.restore(run.opt.params, run.opt)
    run.grads = run.new_grads()


@trouble
def weights_written_and_taken_over(run: Run) -> None:
    for array in run.arrays:
        array[...] = array / 2
    run.opt.reload_params()


@trouble
def a_checkpoint_restored(run: Run) -> None:
    checkpoint = fastopt.Checkpoint(run.opt.params, run.saved[0], {})
    checkpoint.restore(run.opt)


@trouble
def looked_ahead(run: Run) -> None:
    if isinstance(run.opt, fastopt.SGD) and not run.group["nesterov"]:
        run.group["lr"] = 0.03
        with run.opt.lookahead():
            run.grads = run.new_grads()
        run.step()


@trouble
def an_option_written_before_the_state_is_read(run: Run) -> None:
    """Reading checks the options too: the step must not take them for known."""
    run.group["lr"] = 0.03
    run.opt.state_dict()


@trouble
def a_rule_written_before_the_state_is_read(run: Run) -> None:
    for rule in ({"momentum": 0.0, "nesterov": False}, {"amsgrad": True}):
        if run.group.keys() >= rule.keys():
            run.group.update(rule)
    run.opt.state_dict()


@trouble
def averaged_with_a_step_inside(run: Run) -> Any:
    if not run.opt.pass_options.averages:
        return None
    averaged = run.opt.averaged()
    averaged.__enter__()
    return lambda: averaged.__exit__(None, None, None)


@trouble
def averaged_between_steps(run: Run) -> None:
    if run.opt.pass_options.averages:
        with run.opt.averaged():
            run.seen.append(run.state())


@trouble
def everything_read(run: Run) -> None:
    run.opt.state_dict()
    assert run.opt.state_bytes
    assert run.opt.params is not None
    for name, slots in run.opt.state.items():
        for slot in slots:
            run.opt.slot(name, slot)
    if run.opt.pass_options.averages:
        assert run.opt.ema is not None


@trouble
def other_numbers_of_threads(run: Run) -> None:
    run.each_step = lambda run: fastopt.set_num_threads(1 + run.opt.step_count % 3)


# --- schedules and drivers --------------------------------------------------------------------------------------------


def scheduling(schedule: Callable[[Run, int], Any]) -> Trouble:
    """Return the trouble of a schedule that has been there for some steps, and then makes trouble once."""

    def write(run: Run) -> Any:
        before = run.group["lr"]
        run.group["lr"] = lambda step: schedule(run, step)
        for _ in range(7):
            run.step()
        assert run.opt.planned_steps == 0 or run.opt.planned_steps > run.its.before
        run.grads = run.new_grads()
        run.is_bad_now = True
        return lambda: run.group.update(lr=before)

    return write


def is_bad(run: Run) -> bool:
    """Return whether the schedule is to make trouble: once."""
    now, run.is_bad_now = run.is_bad_now, False
    return now


def raising(error: BaseException) -> Callable[[Run, int], Any]:
    def schedule(run: Run, step: int) -> float:
        if is_bad(run):
            raise error
        return 0.1 / (1 + step)

    return schedule


def returning(value: Any) -> Callable[[Run, int], Any]:
    return lambda run, step: value if is_bad(run) else 0.1 / (1 + step)


def stepping(run: Run, step: int) -> float:
    if is_bad(run):
        run.opt.step(run.structure())
    return 0.1


def stepping_and_catching(run: Run, step: int) -> float:
    if is_bad(run):
        with pytest.raises(RuntimeError, match="a step of this optimizer is running"):
            run.opt.step(run.structure())
    return 0.1


def writing_an_option(run: Run, step: int) -> float:
    if is_bad(run):
        run.group["weight_decay"] = 0.3
    return 0.1


def freezing(run: Run, step: int) -> float:
    if is_bad(run):
        run.opt.freeze("*")
    return 0.1


def forgetting_the_gradients(run: Run, step: int) -> float:
    """Only the step itself keeps the gradients alive then, while other arrays take free memory."""
    if is_bad(run):
        run.grads.clear()
        if run.form != "single":
            run.passed.clear()
        run.saved += [np.full(array.shape, np.nan, array.dtype) for array in run.arrays * 9]
    return 0.1


SCHEDULES: dict[str, Callable[[Run, int], Any]] = {
    "raises": raising(ArithmeticError("broken")),
    "is_interrupted": raising(KeyboardInterrupt()),
    "negative": returning(-1.0),
    "nan": returning(float("nan")),
    "None": returning(None),
    "text": returning("0.1"),
    "True": returning(True),
    "float32": returning(np.float32(0.07)),
    "0-d": returning(np.array(0.07)),
    "function": returning(lambda: 0.1),
    **{
        does.__name__: does
        for does in (stepping, stepping_and_catching, writing_an_option, freezing, forgetting_the_gradients)
    },
}
for text, does in SCHEDULES.items():
    TROUBLES[f"a_schedule:{text}"] = scheduling(does)


def driving(build: Callable[[fastopt.Optimizer], Any]) -> Trouble:
    def drive(run: Run) -> Any:
        if any(map(callable, [group["lr"] for group in run.opt.param_groups])):
            return None
        driver = build(run.opt)
        run.each_step = lambda run: driver.step()
        return None

    return drive


TROUBLES["driver:StepLR"] = driving(lambda opt: lr_scheduler.StepLR(opt, 2, 0.5))
TROUBLES["driver:CosineAnnealingLR"] = driving(lambda opt: lr_scheduler.CosineAnnealingLR(opt, 4))
TROUBLES["driver:LambdaLR"] = driving(lambda opt: lr_scheduler.LambdaLR(opt, lambda epoch: np.float32(0.9) ** epoch))


def once(values: dict[str, BaseException], method: str) -> dict[str, Trouble]:
    """Return troubles in which a method of the optimizer's own raises once."""

    def trouble(error: BaseException) -> Trouble:
        def replace(run: Run) -> Any:
            kind = type(run.opt)
            left = [error]

            def raises(self: Any, *arguments: Any) -> Any:
                if left:
                    raise left.pop()
                return getattr(super(type(self), self), method)(*arguments)

            run.group["lr"] = 0.07  # the method is called in the next step
            run.opt.__class__ = type(kind.__name__, (kind,), {method: raises})

            def undo() -> None:
                run.opt.__class__ = kind

            return undo

        return replace

    return {f"{method}_raises_{name}": trouble(error) for name, error in values.items()}


ERRORS: dict[str, BaseException] = {"KeyboardInterrupt": KeyboardInterrupt(), "ValueError": ValueError("broken")}
TROUBLES |= once(ERRORS, "hyper") | once(ERRORS, "rule")


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.mark.by_turns("name", count=2)
@pytest.mark.parametrize(
    ("its", "name"), [pytest.param(its, name, id=f"{name}-{its}") for name in TROUBLES for its in OPTION_SETS]
)
def test_trouble(its: OptionSet, name: str, monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    check_like_unplanned(its, TROUBLES[name], monkeypatch)


@pytest.mark.parametrize("its", OPTION_SETS, ids=str)
def test_nothing(its: OptionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without trouble all further steps are planned."""
    run = check_like_unplanned(its, lambda run: None, monkeypatch)
    assert run.opt.planned_steps == len(run.seen) - 2
