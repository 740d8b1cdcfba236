"""The normative integer primitives, and their PyTorch forms."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iseg_tvm import fixed_point as fp
from relay_ops import torch_arithmetic as ta

few = settings(deadline=None, max_examples=100, derandomize=True)

INT16 = np.arange(-(2**15), 2**15)
EDGES = sorted({s * (2**k + d) for k in range(53) for d in (-1, 0, 1) for s in (-1, 1)})


@pytest.mark.parametrize("shift", range(25))
def test_rounding_shift_is_floor_of_x_plus_half(shift: int) -> None:
    values = np.array([*INT16, *EDGES])
    expected = [math.floor(Fraction(v, 2**shift) + Fraction(1, 2)) for v in values.tolist()]
    assert fp.rounding_shift_right(values, shift).tolist() == expected
    narrow = values[np.abs(values) < 2**31 - 2**24].astype(np.int32)
    got = ta.rounding_shift_right(torch.from_numpy(narrow), shift).numpy()
    np.testing.assert_array_equal(got, fp.rounding_shift_right(narrow, shift))


def test_rounding_of_negative_halves_goes_up() -> None:
    assert fp.rounding_shift_right([-6, -5, -3, -2, -1, 0, 1, 2, 3], 1).tolist() == [
        -3, -2, -1, -1, 0, 0, 1, 1, 2,
    ]  # fmt: skip
    assert fp.floor_divide_rounding([-7, -6, -5, -3, -2, 2, 3, 5, 6], 4).tolist() == [
        -2, -1, -1, -1, 0, 1, 1, 1, 2,
    ]  # fmt: skip


def test_shift_per_element() -> None:
    assert fp.rounding_shift_right([100, 100, 100], [0, 1, 3]).tolist() == [100, 50, 13]
    with pytest.raises(fp.RangeError, match="shift"):
        fp.rounding_shift_right([1], [-1])


@pytest.mark.parametrize("factor", [0, 1, -1, 2**14, 23170, 2**15 - 1, -(2**15) + 1])
def test_multiply_high_of_every_int16(factor: int) -> None:
    got = fp.multiply_high_rounding(INT16, factor)
    expected = [math.floor(Fraction(v * factor, 2**15) + Fraction(1, 2)) for v in INT16.tolist()]
    assert got.tolist() == expected
    assert np.abs(got).max() <= 2**15 - 1
    narrow = torch.from_numpy(INT16.astype(np.int32))
    np.testing.assert_array_equal(ta.multiply_high_rounding(narrow, factor).numpy(), got)


def test_multiply_high_refuses_wide_operands() -> None:
    for a, b in ((2**15, 1), (1, -(2**15) - 1)):
        with pytest.raises(fp.RangeError, match="multiply_high"):
            fp.multiply_high_rounding(a, b)


@pytest.mark.parametrize("bits", [8, 16])
def test_saturate(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = [low - 1, low, 0, high, high + 1, 2**40, -(2**40)]
    expected = [low, low, 0, high, high, high, low]
    assert fp.saturate(values, bits).tolist() == expected
    assert ta.saturate(torch.tensor(values), bits).tolist() == expected


def test_check_range_names_value_and_bounds() -> None:
    with pytest.raises(fp.RangeError, match=r"gamma: values \[-3, 9\] leave \[0, 8\]"):
        fp.check_range("gamma", [-3, 9], 0, 8)
    assert fp.check_range("empty", np.zeros((0, 3)), 5, 4).shape == (0, 3)


def test_isqrt_and_bit_length_at_boundaries() -> None:
    roots = np.array([*range(3000), *(2**k + d for k in range(2, 16) for d in (-1, 0, 1)), 65535])
    squares = np.concatenate([roots**2 + d for d in (-1, 0, 1)])
    values = squares[(squares >= 0) & (squares < 2**32)]
    expected = [math.isqrt(v) for v in values.tolist()]
    assert fp.isqrt(values).tolist() == expected
    assert ta.isqrt(torch.from_numpy(values)).tolist() == expected
    assert fp.isqrt(2**32 - 1) == 65535
    wide = np.array([0, *(e for e in EDGES if e >= 0)])
    lengths = [v.bit_length() for v in wide.tolist()]
    assert fp.bit_length(wide).tolist() == lengths
    assert ta.bit_length(torch.from_numpy(wide)).tolist() == lengths
    narrow = wide[wide < 2**31].astype(np.int32)
    assert ta.bit_length(torch.from_numpy(narrow)).tolist() == lengths[: len(narrow)]
    for bad in (-1, 2**32):
        with pytest.raises(fp.RangeError, match="isqrt"):
            fp.isqrt(bad)


@few
@given(st.integers(0, 2**32 - 1))
def test_isqrt(value: int) -> None:
    assert int(fp.isqrt(value)) == math.isqrt(value)


@few
@given(st.floats(2.0**-24, 1.0, exclude_max=True), st.integers(0, 7))
def test_dyadic_is_the_nearest_normalised_number(scale: float, post_shift: int) -> None:
    scale *= 2.0**-post_shift
    multiplier, shift = fp.dyadic(scale, post_shift)
    assert 2**14 <= multiplier < 2**15
    assert 0 <= shift <= fp.SHIFT_MAX
    value = fp.dyadic_to_float(multiplier, shift, post_shift)
    assert abs(value - scale) <= scale * 2.0**-15
    for neighbour in (multiplier - 1, multiplier + 1):
        if neighbour < 2**15:
            other = fp.dyadic_to_float(neighbour, shift, post_shift)
            assert abs(value - scale) <= abs(other - scale)


def test_dyadic_limits() -> None:
    assert fp.dyadic(0.0, 0) == (0, 0)
    assert fp.dyadic(2.0**-26, 0) == (0, 0)
    assert fp.dyadic(2.0**-25, 0) == (2**14, 24)
    assert fp.dyadic(1 - 2.0**-20, 0) == (2**15 - 1, 0)
    assert fp.dyadic(0.5 - 2.0**-20, 0) == (2**14, 0)
    for scale, post_shift in ((1.0, 0), (2.0**-7, 7), (-0.1, 0), (math.nan, 0), (math.inf, 0)):
        with pytest.raises(fp.RangeError, match="dyadic"):
            fp.dyadic(scale, post_shift)


def test_matmul_exact_refuses_what_float64_cannot_hold() -> None:
    a = np.full((1, 2), 2**26)
    assert fp.matmul_exact(a, a.T // 2).tolist() == [[2**52]]
    with pytest.raises(fp.RangeError, match="matmul_exact"):
        fp.matmul_exact(a, a.T)


@pytest.mark.parametrize("inner", [1, 1023, 1024, 1025, 3000])
def test_torch_matmul_is_exact_at_the_largest_products(inner: int) -> None:
    """The float32 carrier's pieces: all partial sums reach 2**24 and none passes it."""
    a, b = torch.full((2, inner), -128, dtype=torch.int8), torch.full((inner, 3), -128)
    assert ta.matmul(a, b, 128 * 128).unique().tolist() == [inner * 2**14]
    odd = torch.full((inner, 3), 127, dtype=torch.int8)
    weights = torch.full((2, inner), 255, dtype=torch.int32)
    assert ta.matmul(weights, odd, 255 * 128).unique().tolist() == [inner * 255 * 127]
    with pytest.raises(ValueError, match="empty inner"):
        ta.matmul(a[:, :0], b[:0], 1)
