"""What fastopt.optimizer refuses: a TypeError that begins with the file and line."""

from __future__ import annotations

import itertools
import linecache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.core.own_rule_checks import MOST_SCALARS, MOST_SLOTS

START = "import math\nimport numpy as np\nimport fastopt\nfrom fastopt.rules import *\n"
TRUTH, OPERATIONS = "instead of max and min use maximum and minimum", "the operations of rules are + - * /, x**2"


def rule(body: str, arguments: str = "lr=0.1, beta=0.9", result: str = "p, m") -> str:
    lines = body.split("\n") if body else []
    text = "\n    ".join(["def Own(h, p, g, m):", *lines, f"return {result}"])
    return f"@fastopt.optimizer({arguments})\n{text}\n"


READS = "m = h.beta * m + h.lr * g\np = p - m"

#: Where the error is, the line has the comment "here"; else only its file is checked.
REFUSED = {
    # In the rule.
    "if": (rule("if g > 0: # here\n    p = g"), TRUTH),
    "and": (rule("p = where(g > 0 and p > 0, p, g) # here"), TRUTH),
    "not": (rule("p = where(not g > 0, p, g) # here"), TRUTH),
    "max": (rule("p = max(p, g) # here"), TRUTH),
    "chained": (rule("p = where(0 < g < 1, p, g) # here"), TRUTH),
    "exp": (rule("p = np.exp(p) # here"), f"exp(...) is no operation of rules; {OPERATIONS}"),
    "heaviside": (
        rule("p = np.heaviside(p, 0.0) # here"),
        f"heaviside(..., 0.0) is no operation of rules; {OPERATIONS}",
    ),
    "modulo": (rule("p = p % 2 # here"), "remainder(..., 2) is no operation of rules"),
    "cube": (rule("p = g**3 # here"), "x**3: expected x**2 or x**0.5"),
    "power of arrays": (rule("p = g**m # here"), "power(..., ...) is no operation of rules"),
    "power of a literal": (rule("p = 2**g # here"), "power(2, ...) is no operation of rules"),
    "clip": (rule("p = np.clip(p, 0, 1) # here"), f"got clip; {OPERATIONS}"),
    "math.sqrt": (rule("p = math.sqrt(g) # here"), "the functions of math use the operations of fastopt.rules: sqrt"),
    "sum": (rule("p = p - g.sum() # here"), f".sum: a rule has no such attributes of arrays; {OPERATIONS}"),
    "shape": (rule("p = p / g.size # here"), ".size: a rule has no such attributes"),
    "written": (rule("p[...] = p - g # here"), "changes no array in place; write p = ..."),
    "written where": (rule("p[g > 0] = 0 # here"), "changes no array in place; write p = ..., and use where("),
    "index": (rule("p = p - g[0] # here"), "use where(condition, a, b)"),
    "out": (rule("np.subtract(p, g, out=p) # here"), "a rule changes no array in place"),
    "three operands": (rule("p = np.add(p, g, m) # here"), "use p = add(...) without out="),
    "modulo in place": (rule("p %= 2 # here"), "remainder(..., 2) is no operation of rules"),
    "ufunc with where": (rule("p = np.subtract(p, g, where=True) # here"), "expected plain calls"),
    "a condition as a number": (rule("p = p - h.lr * (g > 0) # here"), "a comparison is not a number; use where"),
    "minus a condition": (rule("p = p * -(g > 0) # here"), "a comparison is not a number"),
    "compared conditions": (rule("p = where((g > 0) == (p > 0), p, g) # here"), "a comparison is not a number"),
    "numbers combined": (rule("p = where(g > 0 & p > 0, p, g) # here"), "each in parentheses"),
    "where of a number": (rule("p = where(g, p, g) # here"), "expected a comparison and two values"),
    "where of literals compared": (rule("p = where(1 > 0, p, g) # here"), "expected a comparison and two values"),
    "where alone": (rule("p = where(g > 0) # here"), "expected a comparison and two values"),
    "where of unlike": (rule("p = where(g > 0, p, p > 0) # here"), "two numbers to choose among, or two comparisons"),
    "where of literals": (rule("p = p - h.lr * where(g > 0, 1.0, -1.0) # here"), "of two literals NumPy makes float64"),
    "array": (rule("p = p * np.ones(3) # here"), "an array or a NumPy scalar from outside"),
    "NumPy scalar": (rule("p = p * np.float32(0.5) # here"), "an array or a NumPy scalar from outside"),
    "truth value": (rule("p = True * p # here"), "a truth value is not a number"),
    "not finite": (rule("p = where(g > math.inf, p, g) # here"), "inf is not finite in float32"),
    "not a number": (rule("p = p + math.nan # here"), "nan is not finite in float32"),
    "beyond float32": (rule("p = p * 1e39 # here"), "1e+39 is not finite in float32"),
    "great int": (rule("p = p * (2**53 + 1) # here"), "an int beyond 2**53 is not exact"),
    "greater int": (rule("p = p * 10**5000 # here"), "an int beyond 2**53 is not exact"),
    "list": (rule("p = p * [1.0] # here"), "got one of type list"),
    "complex": (rule("p = p * 1j # here"), "got one of type complex"),
    "unknown option": (
        rule("p = p - h.nope # here"),
        "h.nope: there is no such number; expected one of lr, beta; declare",
    ),
    "weight decay": (rule("p = p - h.weight_decay # here"), "applies weight decay before the rule"),
    "index of h": (rule("p = p - h['lr'] # here"), "attributes of its first argument, such as h.lr"),
    "all of h": (rule("lr, beta = h # here"), "attributes of its first argument, such as h.lr"),
    "h is written": (rule("h.lr = 2 # here"), "h.lr is a number of the whole step"),
    "h is deleted": (rule("del h.lr # here"), "h.lr is a number of the whole step"),
    "h is written by index": (rule("h['lr'] = 2 # here"), "attributes of its first argument, such as h.lr"),
    "underscore of h": (rule("p = p - h._lr # here"), "h._lr: there is no such number; expected one of lr, beta"),
    "tuple of numbers": (
        rule("p = p * h.pair # here", "lr=0.1, pair=(1, 2)"),
        "multiply(..., (<symbol>, <symbol>)): expected numbers",
    ),
    "h is elsewhere": (rule("p = p - g.lr # here"), ".lr: expected it of the rule's first argument"),
    "in a helper": ("def larger(a, b):\n    return a if a > b else b # here\n" + rule("p = larger(p, g)"), TRUTH),
    "of another library": (rule("p = p - len(3) # here"), "has no len(); the operations of rules"),
    "hashed": (rule("x = {p: 1} # here"), "unhashable type: 'Value'; the operations of rules"),
    # What it returns.
    "a slot not returned": (
        rule("", result="(p,)"),
        "the rule returns (...); expected the new values as a tuple: return p, m",
    ),
    "None": (rule("", result="None"), "the rule returns one of type NoneType"),
    "one value": (rule("", result="p"), "the rule returns one of type Value"),
    "a dict": (rule("", result="{'p': p, 'm': m}"), "the rule returns one of type dict"),
    "a generator": (rule("", result="(x for x in (p, m))"), "the rule returns one of type generator"),
    "a literal": (rule("", result="p - g, 0.5"), "the rule returns (..., 0.5)"),
    "a condition": (rule("", result="p - g, g > 0"), "the rule returns a comparison for m; use where"),
    "a number": (rule("", result="p - g, h.lr"), "the rule returns one number for m"),
    "p as it was": (rule("", result="p, m + g"), "the rule returns p as it was"),
    # The function.
    "a class": ("@fastopt.optimizer(lr=0.1) # here\nclass Own: pass\n", "got the class Own; expected a function"),
    "a lambda": ("fastopt.optimizer(lr=0.1)(lambda h, p, g: (p - h.lr * g,)) # here\n", "a lambda has no name"),
    "a builtin": ("fastopt.optimizer(lr=0.1)(max) # here\n", "got one of type builtin_function_or_method"),
    "a generator function": ("@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g):\n    yield p\n", "Own is a generator"),
    "async": ("@fastopt.optimizer(lr=0.1)\nasync def Own(h, p, g):\n    return p\n", "Own is a coroutine"),
    "too few": ("@fastopt.optimizer(lr=0.1)\ndef Own(h, p):\n    return p\n", "Own(h, p): expected a function of"),
    "star": (
        "@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, *slots):\n    return p\n",
        "Own(*slots): expected positional",
    ),
    "keyword": ("@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, *, m):\n    return p\n", "Own(m): expected positional"),
    "default": ("@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, m=0):\n    return p\n", "Own(m=0): expected no default"),
    # The arguments.
    "without parentheses": ("@fastopt.optimizer # here\ndef Own(h, p, g):\n    return (p,)\n", "given by name"),
    "by position": ("@fastopt.optimizer(0.1) # here\ndef Own(h, p, g):\n    return (p,)\n", "given by name"),
    "no lr": ("fastopt.optimizer(beta=0.9) # here\n", "there is no option lr"),
    "a common option": ("fastopt.optimizer(lr=0.1, clip_norm=1.0) # here\n", "option 'clip_norm': every optimizer has"),
    "params": ("fastopt.optimizer(lr=0.1, params=1.0) # here\n", "option 'params': every optimizer has"),
    "self": ("fastopt.optimizer(lr=0.1, self=1.0) # here\n", "option 'self': every optimizer has"),
    "a renamed option": ("fastopt.optimizer(lr=0.1, max_norm=1.0) # here\n", "option 'max_norm': every optimizer has"),
    "underscore": ("fastopt.optimizer(lr=0.1, _x=1.0) # here\n", "option '_x': expected a name"),
    "a keyword of Python": (
        "fastopt.optimizer(lr=0.1, **{'lambda': 1.0}) # here\n",
        "option 'lambda': expected a name",
    ),
    "no name": ("fastopt.optimizer(lr=0.1, **{'a b': 1.0}) # here\n", "option 'a b': expected a name"),
    "a truth value as option": (
        "fastopt.optimizer(lr=0.1, nesterov=True) # here\n",
        "nesterov=True: expected a number",
    ),
    "text as option": (
        "fastopt.optimizer(lr=0.1, mode='x') # here\n",
        "mode='x': expected a number; a rule is arithmetic",
    ),
    "None as option": ("fastopt.optimizer(lr=0.1, x=None) # here\n", "x=None: expected a number"),
    "an array as option": ("fastopt.optimizer(lr=0.1, x=np.ones(2)) # here\n", "expected a finite number"),
    "NaN as option": ("fastopt.optimizer(lr=0.1, x=math.nan) # here\n", "x=nan: expected a finite number"),
    "lr out of its range": ("fastopt.optimizer(lr=-0.1) # here\n", "lr=-0.1: expected"),
    "betas out of their range": ("fastopt.optimizer(lr=0.1, betas=(0.9, 1.0)) # here\n", "betas[1]=1.0: expected"),
    "one beta": ("fastopt.optimizer(lr=0.1, betas=0.9) # here\n", "betas=0.9: expected a tuple of 2"),
    "an empty tuple": ("fastopt.optimizer(lr=0.1, x=()) # here\n", "x=(): expected a number, or a tuple of numbers"),
    "items' names": ("fastopt.optimizer(lr=0.1, x=(1, 2), x_1=3) # here\n", "option 'x': its numbers are x_0, x_1"),
    "an option not read": (rule("p = p - h.lr * g\n"), "Own does not read the options beta; read each as h.beta"),
    "too many numbers": (
        rule(
            f"p = p - h.lr * g - m * ({' + '.join(f'h.x{k}' for k in range(17))})",
            "lr=0.1, " + ", ".join(f"x{k}=1" for k in range(17)),
        ),
        "reads 18 numbers, lr, x0",
    ),
    "non_negative of another": (
        rule(READS, "lr=0.1, beta=0.9, non_negative=('v',)"),
        "expected names of slots, which are",
    ),
    "non_negative in one word": (
        rule(READS, "lr=0.1, beta=0.9, non_negative='m'"),
        "expected the names of slots, such as",
    ),
    "slots of another": (
        rule(READS, "lr=0.1, beta=0.9, slots={'v': 1.0}"),
        "no slot is called 'v'; the rule's are ['m']",
    ),
    "slots as a list": (rule(READS, "lr=0.1, beta=0.9, slots=['m']"), "slots=['m']: expected what slots begin with"),
    "a slot's text": (rule(READS, "lr=0.1, beta=0.9, slots={'m': 'x'}"), "'x': expected a finite number, or \"param\""),
    "a slot's infinity": (rule(READS, "lr=0.1, beta=0.9, slots={'m': math.inf}"), "expected a finite number"),
    "a slot's sign": (
        rule(READS, "lr=0.1, beta=0.9, slots={'m': -1}, non_negative=['m']"),
        "expected a number of at least 0, since it is non_negative",
    ),
    "decoupled": ("fastopt.optimizer(lr=0.1, decoupled=1) # here\n", "decoupled=1: expected True or False"),
    "slot step": (
        "@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, step):\n    return p - h.lr, step\n",
        "slot 'step': another",
    ),
    "slot ema": (
        "@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, ema):\n    return p - h.lr, ema\n",
        "slot 'ema': another",
    ),
    "slot of scales": (
        "@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, m, m_scale):\n    return p - h.lr, m, m\n",
        "slot 'm_scale': another",
    ),
    "too many slots": (
        "@fastopt.optimizer(lr=0.1)\ndef Own(h, p, g, a, b, c, d, e, f, i):\n    return p, a\n",
        "Own has 7 slots, a, b, c, d, e, f, i; expected at most 6",
    ),
    # The numbers of the step.
    "scalars is no function": (
        rule(READS, "lr=0.1, beta=0.9, scalars={'x': 1}"),
        "scalars={'x': 1}: expected a function",
    ),
    "scalars is a class": (rule(READS, "lr=0.1, beta=0.9, scalars=dict"), "raised TypeError: dict expected"),
    "scalars returns a list": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: [1]"),
        "expected a dict of numbers by name",
    ),
    "scalars returns text": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'x': 'y'}"),
        "x='y': expected a number",
    ),
    "scalars not read": (rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'x': 1}"), "does not read the scalars x"),
    "scalars of an option": (rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'lr': 1}"), "'lr' is an option"),
    "scalars reads another": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'x': h.y}"),
        "the options are lr, beta",
    ),
    "scalars divides by 0": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'x': 1 / 0}"),
        "raised ZeroDivisionError",
    ),
    "scalars reads a third beta": (
        rule(READS, "lr=0.1, beta=0.9, betas=(0.9, 0.99), scalars=lambda h, t: {'x': h.betas[2]}"),
        "raised IndexError",
    ),
    "scalars of one argument": (rule(READS, "lr=0.1, beta=0.9, scalars=lambda h: {}"), "raised TypeError"),
    "scalars beyond float": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {'x': 10**400}"),
        "expected a number in the range of float",
    ),
    "scalars with a bad name": (
        rule(READS, "lr=0.1, beta=0.9, scalars=lambda h, t: {1: 1}"),
        "scalars: 1: expected a name",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_misuse(name: str) -> None:
    text, says = REFUSED[name]
    lines = (START + text).splitlines()
    with pytest.raises(TypeError) as raised:
        exec(compile("\n".join(lines), "folder/own.py", "exec"), {"__name__": "own"})
    found = str(raised.value)
    assert says in found
    line = next((k for k, line in enumerate(lines, 1) if line.endswith("# here")), None)
    assert found.startswith("folder/own.py:" if line is None else f"folder/own.py:{line}: ")


@pytest.mark.parametrize(
    ("result", "says"), [("m, p", "returns a slot first; expected return p, m"), ("p, p > m", "a comparison for m")]
)
def test_the_line_of_the_return(result: str, says: str, tmp_path: Path) -> None:
    """With a source the error is at the return."""
    path = tmp_path / "own.py"
    path.write_text(START + rule("p = p - h.lr * g * h.beta\n\ndef inner():\n    return m, p\n", result=result))
    linecache.checkcache()
    with pytest.raises(TypeError) as raised:
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": "own"})
    assert str(raised.value).startswith(f"{path}:12: the rule returns ")
    assert says in str(raised.value)


def test_numbers_of_a_step_that_change_their_names() -> None:
    names = itertools.chain("aa", itertools.repeat("b"))

    @fastopt.optimizer(lr=0.1, scalars=lambda h, t: {next(names): 1.0})
    def Changing(h: Any, p: Any, g: Any) -> Any:
        return (p - h.a * g,)

    theta = np.ones(1)
    opt = Changing(theta, backend="numpy")
    opt.step(np.ones(1))
    with pytest.raises(
        TypeError, match=r"test_own_rules_refused.py:\d+: scalars returns \['b'\] at step 2; expected \['a'\]"
    ):
        opt.step(np.ones(1))
    assert theta.tolist() == [0.0]
    assert opt.step_count == 1


def test_room_for_scalars_and_slots() -> None:
    from fastopt.backends.native import library

    if library.missing is None:
        assert library.lib.FO_MAX_SCALARS == MOST_SCALARS
        assert library.lib.FO_MAX_SLOTS == MOST_SLOTS
