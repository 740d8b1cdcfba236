"""Element-wise kernels, argmax and row copies equal their references, edges included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm

from iseg_tvm.kernels import rows
from iseg_tvm.kernels.isa import get_isa
from relay_ops.operator import Lowering, TensorSpec
from tests.kernels.harness import build, compare
from tests.ops.support import filled, integers, multipliers

# These kernels use no instruction of their own; LLVM vectorises them for the target.
ISA, TARGET = get_isa("generic"), "generic"
PATTERNS = ("random", "lowest", "highest", "zeros", "alternating")


@pytest.mark.parametrize(
    ("shape", "dtype", "post_shift"),
    [((1, 1), "int8", 7), ((5, 33), "int8", 0), ((7, 70), "int16", 0), ((3, 26), "int16", 3)],
)
def test_requantize(shape: tuple[int, int], dtype: str, post_shift: int) -> None:
    limit = 2**31 - 2**24 - 1
    shifts = np.arange(shape[1], dtype=np.int8) % 25  # 0, the identity, to 24
    accumulators = [integers(k, "int32", *shape, low=-limit, high=limit) for k in (1, 2)]
    accumulators += [accumulators[0] >> 16, np.full(shape, limit, dtype=np.int32)]
    accumulators += [-accumulators[-1], np.zeros(shape, dtype=np.int32)]
    constants = {"multiplier": multipliers(3, shape[1]), "shift": shifts}
    cases = [{"accumulator": a, **constants} for a in accumulators]
    compare("requantize", ISA, TARGET, cases, post_shift=post_shift, dtype=dtype)


@pytest.mark.parametrize("skip_shift", [0, 1, 14])
def test_residual_add(skip_shift: int) -> None:
    shape = (9, 35)
    cases = [
        {"skip": filled(a, "int16", *shape), "branch": filled(b, "int16", *shape)}
        for a in PATTERNS
        for b in PATTERNS
    ]
    compare("residual_add", ISA, TARGET, cases, skip_shift=skip_shift)


def test_table() -> None:
    every_value = np.arange(-128, 128, dtype=np.int8).reshape(4, 64)
    case = {"x": every_value, "table": integers(4, "int8", 1, 256)}
    compare("shift_gelu", ISA, TARGET, [case])


@pytest.mark.parametrize(("columns", "groups"), [(96, 1), (96, 2), (129, 3), (144, 3)])
def test_tables(columns: int, groups: int) -> None:
    tables = {"table": integers(4, "int8", groups, 256)}
    cases = [{"x": filled(p, "int8", 3, columns), **tables} for p in PATTERNS]
    compare("shift_gelu", ISA, TARGET, cases)


@pytest.mark.parametrize(
    ("height", "width", "patch", "classes", "dtype"),
    [
        (5, 3, 4, 1, "int16"),
        (33, 50, 16, 150, "int32"),
        (7, 7, 1, 256, "int16"),
        (1, 9, 2, 5, "int32"),
    ],
)
def test_argmax_upsample(height: int, width: int, patch: int, classes: int, dtype: str) -> None:
    shape = (-(-height // patch) * -(-width // patch), classes)
    ties = integers(6, dtype, *shape, low=-2, high=2)
    cases = [{"scores": s} for s in (ties, *(filled(p, dtype, *shape) for p in PATTERNS))]
    compare("argmax_upsample", ISA, TARGET, cases, patch=patch, height=height, width=width)


def _run(function: Any, arrays: list[np.ndarray], result: TensorSpec) -> np.ndarray:
    out = tvm.runtime.tensor(np.full(result.shape, 77, dtype=result.dtype))
    library = build(Lowering(function, [], result), TARGET)
    library["main"](*map(tvm.runtime.tensor, arrays), out)
    return out.numpy()


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_row_copies(dtype: str) -> None:
    first, second = integers(7, dtype, 5, 19), integers(8, dtype, 1, 19)
    specs = [TensorSpec(a.shape, dtype) for a in (first, second)]
    joined = _run(rows.concatenate_kernel(*specs), [first, second], TensorSpec((6, 19), dtype))
    np.testing.assert_array_equal(joined, np.concatenate([first, second]))
    cut = _run(rows.slice_kernel(specs[0], 1, 4), [first], TensorSpec((3, 19), dtype))
    np.testing.assert_array_equal(cut, first[1:4])
