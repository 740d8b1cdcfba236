"""``residual_add``: saturating addition on the int16 stream."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError, multiply_high_rounding, rounding_shift_right
from relay_ops import residual_add
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    rejects,
)


@pytest.mark.parametrize("skip_shift", [0, 1, 5, 14])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (37, 50), (2, 1025)])
def test_random(rows: int, columns: int, skip_shift: int) -> None:
    skip, branch = integers(1, "int16", rows, columns), integers(2, "int16", rows, columns)
    agree("residual_add", skip, branch, skip_shift=skip_shift)


@pytest.mark.parametrize("branch", PATTERNS)
@pytest.mark.parametrize("skip", PATTERNS)
def test_extreme(skip: str, branch: str) -> None:
    for skip_shift in (0, 1, 14):
        agree_with_scalars(
            "residual_add",
            filled(skip, "int16", 3, 7),
            filled(branch, "int16", 3, 7),
            skip_shift=skip_shift,
        )


@few
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 14), st.integers(0, 10**6))
def test_property(rows: int, columns: int, skip_shift: int, seed: int) -> None:
    skip = integers(seed, "int16", rows, columns)
    branch = integers(seed + 1, "int16", rows, columns)
    result = agree_with_scalars("residual_add", skip, branch, skip_shift=skip_shift)
    wide = skip.astype(np.float64) / 2**skip_shift + branch
    inside = np.abs(wide) < 2**15 - 1
    assert (np.abs(result - wide)[inside] <= 0.5).all()


@pytest.mark.parametrize("shift", range(1, 15))
def test_rounding_shift_is_a_multiply_high(shift: int) -> None:
    """The documented x86 form, for every int16 value."""
    values = np.arange(-(2**15), 2**15)
    expected = rounding_shift_right(values, shift)
    np.testing.assert_array_equal(multiply_high_rounding(values, 2 ** (15 - shift)), expected)


def test_ranges() -> None:
    x = np.zeros((1, 1), np.int16)
    for bad in (-1, 15):
        with pytest.raises(RangeError, match="skip_shift"):
            residual_add.reference(x, x, bad)


def test_rejections() -> None:
    x = np.zeros((2, 3), np.int16)
    good, name = {"skip_shift": 0}, "residual_add"
    rejects(name, [x.astype(np.int8), x], good, "'skip'", "int16[*, *]", "int8[2, 3]")
    rejects(name, [x, x[:1]], good, "'branch'", "int16[2, 3]", "int16[1, 3]")
    rejects(name, [x, x.astype(np.int32)], good, "'branch'", "int32[2, 3]")
    rejects(name, [x, x], {"skip_shift": 15}, "'skip_shift'", "[0, 14]", "15")
