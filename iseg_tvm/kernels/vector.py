"""Vector expressions for kernel generators: thin names over TVM's IR builder.

Kernels are built by calling the builder from plain Python functions, so register-block sizes are
Python integers; TVMScript's decorators are not used (each costs 0.2 s of ``inspect.stack``).
``lanes`` 1 means a scalar.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.tirx import PrimFunc

Expr = Any
Buffer = Any
Parameter = tuple[str, tuple[int, ...], str]
"""(name, shape, dtype) of a kernel's buffer."""

__all__ = ["Buffer", "Expr", "IRBuilder", "PrimFunc", "T"]


def typed(dtype: str, lanes: int) -> str:
    """Name of a vector type: ``int32x8``, or ``int32`` for one lane."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: int, dtype: str, lanes: int) -> Expr:
    """Constant vector."""
    scalar = T.IntImm(dtype, value)
    return scalar if lanes == 1 else T.broadcast(scalar, lanes)


def constant_vector(values: np.ndarray) -> Expr:
    """Constant vector of different lanes, a multiple of 4 bytes."""
    words = np.ascontiguousarray(values).view(np.int32)
    vector = T.Shuffle([T.int32(int(w)) for w in words], [T.int32(i) for i in range(words.size)])
    return reinterpret(vector, str(values.dtype), values.size)


def spread(value: Expr, lanes: int) -> Expr:
    """Broadcast a scalar expression."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """Convert each lane (truncate or sign-extend)."""
    return T.cast(value, typed(dtype, lanes))


def reinterpret(value: Expr, dtype: str, lanes: int) -> Expr:
    """Same bits, other lanes."""
    return T.reinterpret(typed(dtype, lanes), value)


def load(buffer: Buffer, index: Expr, lanes: int) -> Expr:
    """``lanes`` consecutive elements of a flat buffer."""
    return buffer[index] if lanes == 1 else buffer[T.ramp(index, 1, lanes)]


def store(buffer: Buffer, index: Expr, value: Expr, lanes: int) -> None:
    """Store ``lanes`` consecutive elements of a flat buffer."""
    T.buffer_store(buffer, value, [index if lanes == 1 else T.ramp(index, 1, lanes)])


def clamp(value: Expr, low: int, high: int, dtype: str, lanes: int) -> Expr:
    """Limit each lane to ``[low, high]``."""
    return T.max(T.min(value, splat(high, dtype, lanes)), splat(low, dtype, lanes))


def rounding_shift_right(value: Expr, shift: int, dtype: str, lanes: int) -> Expr:
    """``(value + 2**(shift-1)) >> shift`` for a constant shift, without a carry out of the lane.

    ``floor((v + 2**(s-1)) / 2**s) = ((v >> 1) + 2**(s-2)) >> (s - 1)`` for ``s >= 2``.
    """
    if shift == 0:
        return value
    one = splat(1, dtype, lanes)
    if shift == 1:
        return (value >> one) + (value & one)
    half = (value >> one) + splat(1 << (shift - 2), dtype, lanes)
    return half >> splat(shift - 1, dtype, lanes)


def half_of(value: Expr, part: int, lanes: int) -> Expr:
    """Lower (0) or upper (1) half of a vector of ``lanes`` lanes."""
    half = lanes // 2
    return T.Shuffle([value], [T.int32(part * half + i) for i in range(half)])


def reduce_add(value: Expr, dtype: str, lanes: int) -> Expr:
    """Sum of all lanes, as a scalar of the same type."""
    name = f"llvm.vector.reduce.add.v{lanes}i{dtype.removeprefix('int')}"
    return T.call_llvm_pure_intrin(dtype, name, value)


def flat(buffer: Buffer, dtype: str, size: int) -> Buffer:
    """One-dimensional view of ``size`` elements of ``dtype`` over a buffer's memory."""
    return T.decl_buffer((size,), dtype, data=buffer.data)


def scratch(size: int, dtype: str) -> Buffer:
    """Workspace local to the running task: registers or stack below 1,024 bytes, else heap."""
    return T.alloc_buffer((size,), dtype, scope="global")


def spans(length: int, lanes: int) -> tuple[int, int]:
    """Split ``length`` into full vectors and a scalar tail: (vectors, tail start)."""
    full = length // lanes
    return full, full * lanes


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements executed if ``condition`` holds."""
    with T.If(condition), T.Then():
        yield


@contextmanager
def kernel(name: str, parameters: Sequence[Parameter]) -> Iterator[Any]:
    """Open a PrimFunc; yields (builder, buffers in order of ``parameters``).

    Call ``builder.get()`` after the block for the finished function.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        # op_pattern 8 (opaque) keeps Relax from fusing a finished kernel with anything.
        T.func_attr({"tirx.noalias": True, "op_pattern": T.int32(8)})
        yield builder, [T.arg(n, T.buffer(shape, dtype)) for n, shape, dtype in parameters]
