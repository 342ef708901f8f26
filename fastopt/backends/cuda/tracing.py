"""Arithmetic that becomes instructions: a rule is compiled by calling it on :class:`Lanes`.

Each operation on lanes appends instructions to the kernel that is being built. Multiplications round on their own, so
that none is fused with an addition: the bits are those of the other backends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.cuda import cgutils

from ...arithmetic.symbols import EXACT, Symbol, check_numbers
from .layout import ITEM_SIZES

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
LLVM_TYPES = {
    "float32": FLOAT,
    "float64": DOUBLE,
    "float16": ir.HalfType(),
    "bfloat16": I16,
    "uint8": I8,
    "uint16": I16,
    "int32": I32,
    "uint32": I32,
    "uint64": I64,
    "bool": I1,
}
DTYPES = {kind: np.dtype(name) for name, kind in LLVM_TYPES.items() if name != "bfloat16"}


def call_nvvm(builder: Any, name: str, *values: Any) -> Any:
    """Call one of LLVM's functions for the GPU whose operands and result have one type."""
    kind = values[0].type
    suffix = "f" if kind == FLOAT else "d"
    function = ir.FunctionType(kind, [kind] * len(values))
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"llvm.nvvm.{name}.{suffix}"), values)


def select_extreme(builder: Any, comparison: str, a: Any, b: Any) -> Any:
    """Return the first if it is greater (or less), or NaN, as NumPy's maximum (or minimum)."""
    is_first = builder.or_(builder.fcmp_ordered(comparison, a, b), builder.fcmp_unordered("uno", a, a))
    return builder.select(is_first, a, b)


def sign(builder: Any, a: Any) -> Any:
    """Return -1, 0 (of either zero), 1, or NaN, as NumPy's sign."""
    result = builder.select(builder.fcmp_unordered("uno", a, a), a, ir.Constant(a.type, 0.0))
    for comparison, one in ((">", 1.0), ("<", -1.0)):
        is_so = builder.fcmp_ordered(comparison, a, ir.Constant(a.type, 0.0))
        result = builder.select(is_so, ir.Constant(a.type, one), result)
    return result


#: The operations that a rule may use, by the names of NumPy's functions.
FLOAT_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda builder, a, b: builder.fadd(a, b),
    "subtract": lambda builder, a, b: builder.fsub(a, b),
    "multiply": lambda builder, a, b: call_nvvm(builder, "mul.rn", a, b),  # never fused
    "divide": lambda builder, a, b: builder.fdiv(a, b),
    "negative": lambda builder, a: builder.fsub(ir.Constant(a.type, -0.0), a),
    "absolute": lambda builder, a: call_nvvm(builder, "fabs", a),
    "sign": sign,
    "sqrt": lambda builder, a: call_nvvm(builder, "sqrt.rn", a),
    "maximum": lambda builder, a, b: select_extreme(builder, ">", a, b),
    "minimum": lambda builder, a, b: select_extreme(builder, "<", a, b),
    "greater": lambda builder, a, b: builder.fcmp_ordered(">", a, b),
    "less": lambda builder, a, b: builder.fcmp_ordered("<", a, b),
    "greater_equal": lambda builder, a, b: builder.fcmp_ordered(">=", a, b),
    "less_equal": lambda builder, a, b: builder.fcmp_ordered("<=", a, b),
    "equal": lambda builder, a, b: builder.fcmp_ordered("==", a, b),
    "not_equal": lambda builder, a, b: builder.fcmp_unordered("!=", a, b),
}

#: The operations on integers and conditions: unsigned, except minimum, which is of int32.
INTEGER_OPERATIONS: dict[str, Callable[..., Any]] = {
    "minimum": lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b),
    "add": lambda builder, a, b: builder.add(a, b),
    "multiply": lambda builder, a, b: builder.mul(a, b),
    "bitwise_and": lambda builder, a, b: builder.and_(a, b),
    "bitwise_or": lambda builder, a, b: builder.or_(a, b),
    "bitwise_xor": lambda builder, a, b: builder.xor(a, b),
    "invert": lambda builder, a: builder.not_(a),
    "left_shift": lambda builder, a, b: builder.shl(a, b),
    "right_shift": lambda builder, a, b: builder.lshr(a, b),
    "greater": lambda builder, a, b: builder.icmp_unsigned(">", a, b),
    "less": lambda builder, a, b: builder.icmp_unsigned("<", a, b),
}


def is_float(kind: Any) -> bool:
    return kind in (FLOAT, DOUBLE)


def operation(builder: Any, name: str, *values: Any) -> Any:
    """Append one operation on values of one type."""
    if name == "where":
        return builder.select(*values)
    operations = FLOAT_OPERATIONS if is_float(values[0].type) else INTEGER_OPERATIONS
    if name not in operations:
        raise NotImplementedError(f"rules: {name} is not among the operations of CUDA kernels")
    return operations[name](builder, *values)


def converted(builder: Any, value: Any, dtype: str, to: str) -> Any:
    """Return a value of memory in another dtype; 8-bit codes stay as they are."""
    if dtype == "uint8":
        return value
    if dtype == "bfloat16":
        value = builder.bitcast(builder.shl(builder.zext(value, I32), I32(16)), FLOAT)
        dtype = "float32"
    if dtype == to:
        return value
    cast = builder.fpext if ITEM_SIZES[dtype] < ITEM_SIZES[to] else builder.fptrunc
    return cast(value, LLVM_TYPES[to])


class Lanes(Symbol):
    """Numbers of one dtype in a kernel that is being built: one, or as many as a thread reads at once."""

    def __init__(self, builder: Any, values: Sequence[Any]) -> None:
        self.builder = builder
        self.values = values

    @property
    def dtype(self) -> np.dtype[Any]:
        return DTYPES[self.values[0].type]

    def __getitem__(self, which: slice) -> Lanes:  # type: ignore[override]
        return Lanes(self.builder, self.values[which])

    def astype(self, dtype: Any) -> Lanes:
        """Return unsigned integers or booleans in another dtype; floats become int32."""
        to, kind = LLVM_TYPES[np.dtype(dtype).name], self.values[0].type
        if is_float(to):
            cast = self.builder.uitofp
        elif is_float(kind):
            cast = self.builder.fptosi
        else:
            cast = self.builder.zext if to.width > kind.width else self.builder.trunc
        return Lanes(self.builder, [cast(value, to) for value in self.values])

    def view(self, dtype: Any) -> Lanes:
        """Return the bits as numbers of another dtype of the same size."""
        to = LLVM_TYPES[np.dtype(dtype).name]
        return Lanes(self.builder, [self.builder.bitcast(value, to) for value in self.values])

    def result(self, function: Any, operands: Sequence[Any]) -> Lanes:
        check_numbers(function, operands, EXACT)
        kind = next(o for o in reversed(operands) if isinstance(o, Lanes)).values[0].type
        lanes = [self._constant(operand, kind) for operand in operands]
        count = max(len(each.values) for each in lanes)
        spread = [each.values if len(each.values) == count else [*each.values] * count for each in lanes]
        name = function.__name__
        return Lanes(self.builder, [operation(self.builder, name, *each) for each in zip(*spread, strict=True)])

    def _constant(self, operand: Any, kind: Any) -> Lanes:
        """Return an operand as lanes."""
        if isinstance(operand, Lanes):
            return operand
        return Lanes(self.builder, [ir.Constant(kind, float(operand) if is_float(kind) else int(operand))])
