"""A rule of one's own that asks for the value of an element is an error that begins with its file and line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt import rules
from fastopt.arithmetic.symbols import check_rule

#: Bodies of rules; the misuse is in the line with the comment. Then what the error says.
TRUTH, NUMBER, ELEMENTS = "use where", "float, int", "a loop, in, len or an index"
MISUSES = {
    "if": ("if g > h.zero: # here\n  p = g", TRUTH),
    "if a number": ("if g: # here\n  p = g", TRUTH),
    "if a scalar": ("if h.zero: # here\n  p = g", TRUTH),
    "if a difference": ("p = p\nif h.lr - h.zero == g: # here\n  p = g", TRUTH),
    "if else": ("p = p if g < h.zero else g # here", TRUTH),
    "while": ("while g > h.zero: # here\n  g = g - h.lr", TRUTH),
    "and": ("p = where(p > g and g > h.zero, p, g) # here", TRUTH),
    "or": ("p = where(p > g or g > h.zero, p, g) # here", TRUTH),
    "not": ("p = where(not p > g, p, g) # here", TRUTH),
    "chained": ("p = where(h.zero < g < h.lr, p, g) # here", TRUTH),
    "max": ("p = max(p, g) # here", TRUTH),
    "min": ("p = min(p, g, h.lr) # here", TRUTH),
    "max of one": ("p = max(p) # here", ELEMENTS),
    "sum": ("p = sum(p) # here", ELEMENTS),
    "sorted": ("p = sorted([p, g])[0] # here", TRUTH),
    "any": ("if any([g]): # here\n  p = g", TRUTH),
    "assert": ("assert g > h.zero # here", TRUTH),
    "bool": ("p = p * bool(g) # here", TRUTH),
    "in a tuple": ("if g in (h.zero, p): # here\n  p = g", TRUTH),
    "in": ("if h.zero in g: # here\n  p = g", ELEMENTS),
    "match": ("match g:\n  case 0.5: # here\n    p = g", TRUTH),
    "for": ("for x in g: # here\n  p = p - x", ELEMENTS),
    "unpacked": ("a, b = g # here", ELEMENTS),
    "list": ("p = list(g) # here", ELEMENTS),
    "len": ("p = p * len(g) # here", ELEMENTS),
    "index": ("p = p - g[0] # here", ELEMENTS),
    "slice": ("p = p - g[...] # here", ELEMENTS),
    "deleted": ("del p[0] # here", "changes no array in place"),
    "written": ("p[...] = p - h.lr * g # here", "changes no array in place; write p = ..."),
    "in place": ("import numpy as np\nnp.subtract(p, g, out=p) # here", "changes no array in place"),
    "float": ("p = p * float(g) # here", NUMBER),
    "int": ("p = p * int(g) # here", NUMBER),
    "complex": ("p = p * complex(g) # here", NUMBER),
    "round": ("p = round(p) # here", NUMBER),
    "range": ("for i in range(g): # here\n  p = p", NUMBER),
    "math.sqrt": ("import math\np = p / math.sqrt(g) # here", NUMBER),
    "math.floor": ("import math\np = math.floor(p) # here", NUMBER),
    "math.trunc": ("import math\np = math.trunc(p) # here", NUMBER),
    "divmod": ("p, rest = divmod(p, g) # here", ""),
    "infinite": ("p = float('inf') * p # here", "multiply(inf, ...): expected numbers from the scalars"),
    "too great for float32": ("p = 1e39 * p # here", "1e+39 is not finite in float32"),
    "text": ("p = p + 'x' # here", "got one of type str"),
    "a power": ("p = p - g**3 # here", "x**3: expected x**2 or x**0.5"),
    "a power of a literal": ("import numpy as np\np = np.power(p, -1) # here", "x**-1: expected x**2"),
    "an array": ("import numpy as np\np = p * np.ones(3) # here", "from outside has a dtype of its own"),
    "a NumPy scalar": ("import numpy as np\np = p * np.float64(0.5) # here", "from outside has a dtype of its own"),
    "a method": ("p = p - g.sum() # here", ".sum: a rule has no such attributes of arrays; the operations of rules"),
    "np.asarray": ("import numpy as np\np = p - np.asarray(g) # here", ELEMENTS),
    "np.add.reduce": ("import numpy as np\np = p - np.add.reduce(g) # here", "plain calls"),
    "np.array": ("import numpy as np\np = p - np.array(g) # here", ELEMENTS),
    "matrix product": ("p = p @ g # here", "elementwise functions with one result, got matmul"),
    "matrix product in place": ("p @= g # here", "elementwise functions with one result, got matmul"),
    "np.modf": ("import numpy as np\np = np.modf(p) # here", "with one result, got modf"),
    "np.mean": ("import numpy as np\np = p - np.mean(g) # here", "elementwise functions, got mean"),
    "np.clip": ("import numpy as np\np = np.clip(p, h.zero, h.lr) # here", "elementwise functions, got clip"),
    "in a function": ("def larger(a, b):\n  return a if a > b else b # here\np = larger(p, g)", TRUTH),
}


#: Those that NumPy's dtypes tell, or its literals, which CUDA's check does not know.
OF_TYPES = {
    "bits": ("p = where((p > g) & g, p, g) # here", "ufunc 'bitwise_and' not supported"),
    "invert": ("p = ~p # here", "ufunc 'invert' not supported"),
    "shift": ("p = p << g # here", "ufunc 'left_shift' not supported"),
    "minus a comparison": ("p = -(p > g) # here", "boolean negative"),
    "where with a number": ("p = where(g, p, g) # here", "expected a comparison"),
    "where with a condition": ("p = where(p > g, p > h.zero, g) # here", "expected a comparison"),
    "where alone": ("p = where(p > g) # here", "expected a comparison"),
    "a truth value": ("p = True * p # here", "a truth value is not a number"),
    "a great int": ("p = p + 2**53 + (2**53 + 1) # here", "beyond 2**53 is not exact"),
}


#: Where rules are compiled.
COMPILED = pytest.param(
    "native",
    1,
    marks=pytest.mark.skipif(fastopt.info()["rules_missing"] is not None, reason="needs the native part and llvmlite"),
)


class Scalars(fastopt.rules.RpropScalars):
    """With a learning rate, and a number that is 0."""

    @property
    def lr(self) -> Any:
        return self.least_step


def made(body: str) -> tuple[Callable[..., Any], int]:
    """Return the rule with this body, and the number of its line with the comment."""
    lines = ["def rule(h, p, g, b):", *("  " + line for line in body.split("\n")), "  return p, b"]
    space: dict[str, Any] = {"where": rules.where}
    exec(compile("\n".join(lines), "folder/own.py", "exec"), space)
    return space["rule"], next(k for k, line in enumerate(lines, start=1) if line.endswith("# here"))


class Own(fastopt.SGD):
    own_rule: Any = None

    def rule(self, group: Any) -> Any:
        return type(self).own_rule

    def hyper(self, group: Any, step: int) -> Any:
        return Scalars(0.0, 1.0, 0.5, 1.2, group["lr"], 1.0)


@pytest.mark.parametrize(("backend", "threads"), [("numpy", 1), ("numpy", 2), COMPILED])
@pytest.mark.parametrize("name", [*MISUSES, *OF_TYPES])
def test_a_misuse_on_the_host(name: str, backend: str, threads: int, restored: None) -> None:
    """It is told of before anything changes."""
    body, says = (MISUSES | OF_TYPES)[name]
    rule, line = made(body)
    kind = type("Own", (Own,), {"own_rule": staticmethod(rule)})
    params = [np.ones(3, np.float32), np.ones(2)]
    opt = kind(params, backend=backend)
    fastopt.set_num_threads(threads)
    for _ in range(2):
        with pytest.raises(TypeError) as raised:
            opt.step([np.ones(3, np.float32), np.ones(2)])
        assert str(raised.value).startswith(f"folder/own.py:{line}: ")
        assert says in str(raised.value)
        assert [param.tolist() for param in params] == [[1, 1, 1], [1, 1]]
        assert [list(slots) for slots in opt.state.values()] == [["step"], ["step"]]
        assert opt.step_count == 0


@pytest.mark.parametrize("name", MISUSES)
def test_a_misuse_on_a_gpu(name: str) -> None:
    body, says = MISUSES[name]
    rule, line = made(body)
    with pytest.raises(TypeError) as raised:
        check_rule(rule, Scalars)
    assert str(raised.value).startswith(f"folder/own.py:{line}: ")
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("p", "one of type Untyped"),
        ("None", "one of type NoneType"),
        ("(p,)", "(...)"),
        ("(p, b, b)", "(..., ..., ...)"),
        ("(p, 0.5)", "(..., 0.5)"),
    ],
)
def test_wrong_results(result: str, says: str) -> None:
    rule, _ = made(f"return {result} # here")
    opt = type("Own", (Own,), {"own_rule": staticmethod(rule)})(np.ones(3), backend="numpy")
    for act in (lambda: opt.step(np.ones(3)), lambda: check_rule(rule, Scalars)):
        with pytest.raises(TypeError) as raised:
            act()
        expected = f"the rule returns {says}; expected a tuple of the new values of the parameter, b"
        assert str(raised.value) == f"folder/own.py:1: {expected}"


RIGHT = [
    "p = p - h.lr * abs(g)",
    "p = where(g > h.zero, p, where(g < -h.lr, g, -p))",
    "for k in range(2):\n  p = p - h.lr * g",
    "if b is not None and len(h) == 6:\n  p = p - h.lr * g",
    "p = where((p > g) & (g > h.zero) | ~(g > h.zero), p * h.lr, g)",
    "b = p > g\np = where(b, p + g, g)",
    "p = (p > g) * p",
    "zero, *rest = h\np = where(g != zero, rest[0] * p, +p)",
    "p = 0.5 * p - 3 * g / (1 + h.lr)",
    "p = p - g**2 + abs(g) ** 0.5 * (2 - h.lr) ** 2",
    "p -= h.lr * g\np *= 2\np **= 2\np /= 0.3",
    "import copy\np = copy.deepcopy(p) - h.lr * copy.copy(g)",
]


@pytest.mark.parametrize(("backend", "threads"), [("numpy", 2), COMPILED])
@pytest.mark.parametrize("body", RIGHT)
def test_what_is_no_misuse(body: str, backend: str, threads: int, restored: None) -> None:
    rule, _ = made(body + " # here")
    kind = type("Own", (Own,), {"own_rule": staticmethod(rule)})
    params, grad = [np.array([3.0, -2.0])], np.array([0.5, -1.0])
    fastopt.set_num_threads(threads)
    kind(params, backend=backend).step([grad])
    expected, _ = rule(Scalars(0.0, 1.0, 0.5, 1.2, 1e-3, 1.0), np.array([3.0, -2.0]), grad, np.zeros(2))
    assert params[0].tolist() == expected.tolist()
    check_rule(rule, Scalars)
