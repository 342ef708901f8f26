"""Bad parameters and options: an error that names the array, what came and the remedy, when the optimizer is built."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bad_input import SWAPPED, Bad, Tensor, check_says, f32, in_two_groups, misaligned, overlapping, read_only, twice
from cases import everything

import fastopt

BAD_PARAMS = [
    Bad("int array", lambda: {"W": np.ones(3, int)}, TypeError, ("'W'", "int64", "float32", "astype")),
    Bad("complex array", lambda: {"W": np.ones(3, complex)}, TypeError, ("'W'", "complex128", "astype")),
    Bad("object array", lambda: {"W": np.array([1.0, None])}, TypeError, ("'W'", "object")),
    Bad("bool array", lambda: [f32(2), np.ones(3, bool)], TypeError, ("'1'", "bool")),
    Bad("swapped array", lambda: {"W": np.ones(3, SWAPPED)}, TypeError, ("'W'", SWAPPED.str, "byte order", "astype")),
    Bad("masked array", lambda: {"W": np.ma.ones(3)}, TypeError, ("'W'", "masked", ".data")),
    Bad("array-like", lambda: {"a": {"W": Tensor()}}, TypeError, ("'a.W'", "Tensor", "np.asarray")),
    Bad("list of floats", lambda: {"W": [1.0, 2.0]}, TypeError, ("'W.0'", "float", "NumPy array")),
    Bad("one float", lambda: 1.0, TypeError, ("'0'", "float", "NumPy array")),
    Bad("NumPy scalar", lambda: np.float64(1), TypeError, ("'0'", "numpy.float64")),
    Bad("None", lambda: [{"params": f32(2)}, {"params": None}], TypeError, ("'0'", "NoneType", "return")),
    Bad("text", lambda: ["weights"], TypeError, ("'0'", "str")),
    Bad("view of a dict", lambda: {"W": f32(2)}.values(), TypeError, ("dict_values",)),
    Bad("read-only", lambda: {"W": read_only(f32(3))}, ValueError, ("'W'", "read-only", "copy")),
    Bad("strided", lambda: {"W": f32(6)[::2]}, ValueError, ("'W'", "(8,)", "ascontiguousarray")),
    Bad("columns", lambda: [f32(4, 4)[:, :2]], ValueError, ("'0'", "(4, 2)", "contiguous")),
    Bad("reversed", lambda: [f32(4)[::-1]], ValueError, ("'0'", "(-4,)")),
    Bad("axes moved", lambda: [f32(2, 3, 4).transpose(1, 0, 2)], ValueError, ("'0'", "contiguous")),
    Bad("misaligned", lambda: {"W": misaligned((3,))}, ValueError, ("'W'", "aligned")),
    Bad("twice", twice, ValueError, ("'0'", "'2'", "share memory", "once")),
    Bad("overlapping", overlapping, ValueError, ("'left'", "'right'", "share memory", "copies")),
    Bad("overlapping groups", in_two_groups, ValueError, ("'0.0'", "'1.0'", "share memory")),
    Bad("same memory, other dtype", lambda: (lambda a: [a, a.view("f4")])(np.ones(3)), ValueError, ("'0'", "'1'")),
    Bad("empty list", list, ValueError, ("no array", "at least one")),
    Bad("empty dict", dict, ValueError, ("no array", "at least one")),
    Bad("nested empties", lambda: {"a": [], "b": {"c": ()}}, ValueError, ("no array",)),
    Bad("empty group", lambda: [{"params": []}, {"params": f32(2)}], ValueError, ("no array",)),
    Bad("colliding names", lambda: {"a.b": f32(1), "a": {"b": f32(1)}}, ValueError, ("'a.b'", "rename")),
    Bad("colliding keys", lambda: {1: f32(1), "1": f32(1)}, ValueError, ("'1'", "rename")),
    Bad("group among arrays", lambda: [{"params": f32(2)}, f32(2)], TypeError, ("'params'", "array")),
    Bad("unknown option", lambda: [{"params": f32(2), "rate": 1}], ValueError, ("'rate'", "'lr'", "'betas'")),
    Bad("bad option", lambda: [{"params": f32(2)}, {"params": f32(2), "lr": -1}], ValueError, ("groups[1]", "lr=-1")),
]


@pytest.mark.parametrize("bad", BAD_PARAMS, ids=str)
def test_params(bad: Bad) -> None:
    with pytest.raises(bad.error) as raised:
        fastopt.Adam(bad.do())
    check_says(raised, bad.says)


NOT_NEGATIVE: tuple[Any, ...] = (-1, -1e-9, float("nan"), float("inf"), float("-inf"), 10**400, np.float32("nan"))

NO_NUMBER: tuple[Any, ...] = (True, np.True_, np.array(True), "0.1", None, [0.1], 1j, np.array([0.1]))

NO_BOOL: tuple[Any, ...] = (1, 0.0, "yes", None, [])

OPTIMIZERS = (fastopt.SGD, fastopt.Adagrad, fastopt.RMSprop, fastopt.Adam, fastopt.AdamW)

OPTIONAL = ("clip_value", "clip_norm", "clip_global_norm", "skip_above", "max_weight_norm")

#: Those that may be infinite.
MEASURED = ("clip_norm", "clip_global_norm", "skip_above")

#: Those that are attributes of the optimizer.
OF_ALL = ("clip_global_norm", "skip_above")


def every_bad_option() -> list[Any]:
    """Return (optimizer, option, values of the wrong kind, values out of range) for every option there is."""
    rows = []
    for optimizer in OPTIMIZERS:
        for option, default in {**optimizer(f32(1)).defaults, **dict.fromkeys(OF_ALL)}.items():
            wrong_kind, out_of_range = NO_NUMBER, NOT_NEGATIVE
            if option == "amsgrad":
                wrong_kind, out_of_range = (), NO_BOOL
            elif isinstance(default, bool):
                wrong_kind, out_of_range = NO_BOOL, ()
            elif option in OPTIONAL:
                wrong_kind = tuple(value for value in NO_NUMBER if value is not None)
                if option in MEASURED:
                    out_of_range = tuple(value for value in NOT_NEGATIVE if value != float("inf"))
            elif option == "betas":
                wrong_kind = (0.9, (0.9,), (0.9, 0.9, 0.9), ("a", 0.9), (True, 0.9), np.array([0.9, 0.9]), "ab", None)
                out_of_range = ((1.0, 0.9), (0.9, -0.1), (0.9, float("nan")))
            elif option == "bounds":
                wrong_kind = (0.5, (0.0,), (0, 1, 2), ("a", 1), (True, 1), np.array([0.0, 1.0]), "ab", (None, 1j))
                out_of_range = ((float("nan"), 1), (None, float("nan")), (2, 1), (float("inf"), None), (0, 10**400))
            elif option == "max_weight_norm_axis":
                wrong_kind, out_of_range = (True, "0", None, 1.5, (0, 1.5), 1j), ()
            elif option == "dampening":
                out_of_range = (float("nan"), float("inf"), 10**400)
            elif option == "alpha":
                out_of_range = (*NOT_NEGATIVE, 1.0)
            rows.append(pytest.param(optimizer, option, wrong_kind, out_of_range, id=f"{optimizer.__name__}-{option}"))
    return rows


@pytest.mark.parametrize(("optimizer", "option", "wrong_kind", "out_of_range"), every_bad_option())
def test_options(optimizer: Any, option: str, wrong_kind: Any, out_of_range: Any) -> None:
    """In the constructor, in a group, and written into a group between two steps."""
    params = [f32(3), f32(2)]
    opt = optimizer(params)
    opt.step([f32(3), f32(2)])
    before = everything(params, opt)
    for error, values in ((TypeError, wrong_kind), (ValueError, out_of_range)):
        for value in values:
            with pytest.raises(error, match=rf"^{option}(\[\d\])?=.*: expected "):
                optimizer(f32(2), **{option: value})
            if option in OF_ALL:
                setattr(opt, option, value)
                with pytest.raises(error, match=rf"^{option}=.*: expected "):
                    opt.step([f32(3), f32(2)])
                setattr(opt, option, None)
            else:
                with pytest.raises(error, match=rf"^param_groups\[1\]: {option}(\[\d\])?=.*: expected "):
                    opt.add_param_group({"params": f32(1), option: value})
                good = opt.param_groups[0][option]
                opt.param_groups[0][option] = value
                if not (isinstance(good, bool) and value in (0, 1) and value == good):  # 1 is as good as True
                    with pytest.raises(error, match=rf"^{option}(\[\d\])?=.*: expected "):
                        opt.step([f32(3), f32(2)])
                opt.param_groups[0][option] = good
            assert everything(params, opt) == before
            assert len(opt.param_groups) == opt.step_count == 1
    assert opt.step([f32(3), f32(2)]).step == 2


def test_a_list_of_betas_is_watched() -> None:
    betas = [0.9, 0.999]
    opt = fastopt.Adam(f32(2), betas=betas)
    opt.step(f32(2))
    betas[0] = float("nan")
    with pytest.raises(ValueError, match=r"betas\[0\]=nan"):
        opt.step(f32(2))


def test_scalars_are_made_in_double_precision() -> None:
    """Whatever NumPy type an option has: its value is taken, and the arithmetic is that of Python's floats."""
    given: list[Any] = []
    for kind in (np.float32, float):
        param = np.array([1.0, -2.0])
        lr, beta2 = kind(np.float32(1e-3)), kind(np.float32(0.999))
        opt = fastopt.Adam(param, lr=lambda step, lr=lr: lr, betas=(kind(0.5), beta2))
        given.append([opt.step(np.array([0.3, 0.4])) for _ in range(3)])
        given.append(param.tobytes())
    assert given[:2] == given[2:]


def test_constructor_keywords() -> None:
    with pytest.raises(TypeError, match="weight_deacy"):
        fastopt.Adam(f32(2), weight_deacy=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="backend=torch: expected one of native, numpy, cuda"):
        fastopt.Adam(f32(2), backend="torch")
    for options in ({"nesterov": True}, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValueError, match="nesterov=True: expected momentum above 0 and dampening 0"):
            fastopt.SGD(f32(2), **options)
