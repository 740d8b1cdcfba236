"""``linear`` and ``matmul``: exact int32 products of int8 matrices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from relay_ops import linear, matmul
from relay_ops.linear import BIAS_MAX, K_MAX
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    rejects,
)

SHAPES = [(1, 1, 1), (3, 5, 7), (37, 192, 50), (2, 1025, 9), (65, 33, 1)]  # M, K, N


def layer(seed: int, rows: int, inner: int, columns: int) -> list[np.ndarray]:
    return [
        integers(seed, "int8", rows, inner),
        integers(seed + 1, "int8", columns, inner, low=-127),
        integers(seed + 2, "int32", columns, low=-BIAS_MAX, high=BIAS_MAX),
    ]


@pytest.mark.parametrize(("rows", "inner", "columns"), SHAPES)
def test_random(rows: int, inner: int, columns: int) -> None:
    x, weight, bias = layer(rows, rows, inner, columns)
    agree("linear", x, weight, bias)
    agree("matmul", x, integers(9, "int8", columns, inner))


@pytest.mark.parametrize("weight", PATTERNS)
@pytest.mark.parametrize("x", PATTERNS)
def test_extreme(x: str, weight: str) -> None:
    left = filled(x, "int8", 3, 200)
    bias = np.array([-BIAS_MAX, 0, 1, BIAS_MAX], np.int32)
    agree_with_scalars("linear", left, filled(weight, "int8", 4, 200, low=-127), bias)
    agree_with_scalars("matmul", left, filled(weight, "int8", 4, 200))


def test_worst_accumulators_fit() -> None:
    """The overflow argument's worst case, reached: 128 * 127 * K + bias at the largest K."""
    x = np.full((1, K_MAX), -128, np.int8)
    weight = np.stack([np.full(K_MAX, 127, np.int8), np.full(K_MAX, -127, np.int8)])
    bias = np.array([-BIAS_MAX, BIAS_MAX], np.int32)
    worst = 128 * 127 * K_MAX + BIAS_MAX
    assert agree("linear", x, weight, bias).tolist() == [[-worst, worst]]
    assert worst < 2**30
    assert agree("matmul", x, x).tolist() == [[2**29]]


@few
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 6), st.integers(0, 10**6))
def test_property(rows: int, inner: int, columns: int, seed: int) -> None:
    x, weight, bias = layer(seed, rows, inner, columns)
    result = agree_with_scalars("linear", x, weight, bias)
    product = agree_with_scalars("matmul", x, weight)
    np.testing.assert_array_equal(result, product + bias)


def test_ranges() -> None:
    x, weight, bias = layer(0, 2, 3, 4)
    with pytest.raises(RangeError, match="weight"):
        linear.reference(x, np.full_like(weight, -128), bias)
    with pytest.raises(RangeError, match="bias"):
        linear.reference(x, weight, np.full_like(bias, BIAS_MAX + 1))
    with pytest.raises(RangeError, match="x: "):
        linear.reference(x.astype(np.int16) * 2, weight, bias)
    long = np.zeros((1, K_MAX + 1), np.int8)
    with pytest.raises(RangeError, match="inner dimension"):
        linear.reference(long, long, np.zeros(1, np.int32))
    with pytest.raises(RangeError, match="inner dimension"):
        matmul.reference(long, long)


def test_rejections() -> None:
    x, weight, bias = layer(0, 2, 3, 4)
    rejects("linear", [x.astype(np.int16), weight, bias], {}, "'x'", "int8[*, *]", "int16[2, 3]")
    rejects("linear", [x[0], weight, bias], {}, "'x'", "int8[3]")
    rejects("linear", [x, weight[:, :2], bias], {}, "'weight'", "int8[*, 3]", "int8[4, 2]")
    rejects("linear", [x, weight.astype(np.uint8), bias], {}, "'weight'", "uint8")
    rejects("linear", [x, weight, bias[:3]], {}, "'bias'", "int32[4]", "int32[3]")
    rejects("linear", [x, weight, bias.astype(np.float32)], {}, "'bias'", "float32")
    rejects("linear", [x[:, :0], weight[:, :0], bias], {}, "inner dimension 0")
    rejects("matmul", [x, x[:, :2]], {}, "'b'", "int8[*, 3]", "int8[2, 2]")
    rejects("matmul", [x.astype(np.int32), x], {}, "'a'", "int32")
    long = np.zeros((1, K_MAX + 1), np.int8)
    rejects("matmul", [long, long], {}, f"inner dimension {K_MAX + 1}")
