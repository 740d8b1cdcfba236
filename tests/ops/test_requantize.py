"""``requantize``: dyadic scaling of accumulators to int8 and int16."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm import fixed_point as fp
from relay_ops import requantize
from tests.ops import scalar_model
from tests.ops.support import agree, agree_with_scalars, few, integers, multipliers, rejects

LIMIT = 2**31 - 2**24  # accumulators lie strictly inside
WIDTHS = [(dtype, post) for dtype in ("int8", "int16") for post in (0, 3, 7)]


@pytest.mark.parametrize(("dtype", "post_shift"), WIDTHS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 5), (37, 50), (5, 129)])
def test_random(rows: int, columns: int, dtype: str, post_shift: int) -> None:
    multiplier = multipliers(columns, columns)
    multiplier[::4] = 0
    shift = integers(7, "int8", columns, low=0, high=24)
    for bits in (8, 20, 30):
        acc = integers(rows, "int32", rows, columns, low=-(2**bits), high=2**bits)
        agree("requantize", acc, multiplier, shift, post_shift=post_shift, dtype=dtype)


@pytest.mark.parametrize(("dtype", "post_shift"), WIDTHS)
def test_extreme(dtype: str, post_shift: int) -> None:
    """All corners: accumulators, multipliers and shifts at their limits and around powers of 2."""
    edges = [s * (2**k + d) for k in range(31) for d in (-1, 0, 1) for s in (-1, 1)]
    edges = [e for e in edges if abs(e) < LIMIT] + [LIMIT - 1, 1 - LIMIT, 0]
    corners = [(m, s) for m in (0, 2**14, 23170, 2**15 - 1) for s in (0, 1, 7, 15, 16, 23, 24)]
    multiplier, shift = np.array(corners).T
    acc = np.repeat(np.array(edges, np.int32)[:, None], len(corners), axis=1)
    agree_with_scalars(
        "requantize",
        acc,
        multiplier.astype(np.int16),
        shift.astype(np.int8),
        post_shift=post_shift,
        dtype=dtype,
    )


def test_halves_round_up_for_both_signs() -> None:
    acc = np.array([[-6], [-5], [-3], [-2], [-1], [1], [2], [3], [5], [6]], np.int32)
    half = np.array([2**14], np.int16), np.zeros(1, np.int8)
    result = agree("requantize", acc, *half, post_shift=0, dtype="int16")
    assert result.ravel().tolist() == [-3, -2, -1, -1, 0, 1, 1, 2, 3, 3]


@few
@given(
    st.integers(1 - LIMIT, LIMIT - 1),
    st.integers(2**14, 2**15 - 1),
    st.integers(0, 24),
    st.integers(0, 7),
)
def test_error_bound(acc: int, multiplier: int, shift: int, post_shift: int) -> None:
    """Within 1/2 + 2**-post_shift (1 if post_shift is 0) of the exact product, int8."""
    exact = acc * Fraction(multiplier, 2 ** (15 + shift + post_shift))
    result = int(fp.requantize(acc, multiplier, shift, post_shift, 8))
    bound = Fraction(1, 2) + Fraction(1, 2**post_shift) if post_shift else Fraction(1)
    nearest = min(max(exact, Fraction(-128)), Fraction(127))
    assert abs(result - nearest) < bound


@few
@given(
    st.lists(st.integers(1 - LIMIT, LIMIT - 1), min_size=2, max_size=30),
    st.integers(2**14, 2**15 - 1),
    st.integers(0, 24),
    st.integers(0, 7),
    st.sampled_from([8, 16]),
)
def test_monotone(values: list[int], multiplier: int, shift: int, post: int, bits: int) -> None:
    result = fp.requantize(sorted(values), multiplier, shift, post, bits)
    assert (np.diff(result) >= 0).all()


@pytest.mark.parametrize("post_shift", range(8))
def test_int8_saturates_as_without_the_16_bit_bound(post_shift: int) -> None:
    """Where t saturates, int8 results are what unbounded integers would give."""
    beyond = [32767, 32768, 32769, 40000, 2**20, 2**30]
    for multiplier in [*range(2**14, 2**15, 97), 2**15 - 1]:
        for t in [s * b for b in beyond for s in (-1, 1)]:
            unbounded = scalar_model.rshr(scalar_model.mulh(t, multiplier), post_shift)
            got = int(fp.requantize(t, multiplier, 0, post_shift, 8))
            assert got == scalar_model.sat(unbounded, 8)


def test_int16_saturates_at_the_multiplier() -> None:
    multiplier = np.arange(2**14, 2**15)
    high = fp.requantize(LIMIT - 1, multiplier, 0, 0, 16)
    low = fp.requantize(1 - LIMIT, multiplier, 0, 0, 16)
    assert (np.abs(high - multiplier) <= 1).all()
    assert (np.abs(low + multiplier) <= 1).all()
    assert high.min() == 2**14


def test_ranges() -> None:
    acc, multiplier, shift = np.ones((1, 1), np.int32), np.array([2**14]), np.array([0])
    for bad in (1, 2**14 - 1, -1, -(2**14), 2**15):
        with pytest.raises(fp.RangeError, match="multiplier"):
            requantize.reference(acc, np.array([bad]), shift, 0, "int8")
    for bad in (-1, 25):
        with pytest.raises(fp.RangeError, match="shift"):
            requantize.reference(acc, multiplier, np.array([bad]), 0, "int8")
    for bad in (LIMIT, -LIMIT - 1):
        with pytest.raises(fp.RangeError, match="accumulator"):
            requantize.reference(acc * bad, multiplier, shift, 0, "int8")
    with pytest.raises(fp.RangeError, match="post_shift"):
        requantize.reference(acc, multiplier, shift, 8, "int8")


def test_rejections() -> None:
    acc = np.zeros((2, 3), np.int32)
    multiplier, shift = np.zeros(3, np.int16), np.zeros(3, np.int8)
    good = {"post_shift": 7, "dtype": "int8"}
    name = "requantize"
    rejects(name, [acc.astype(np.int64), multiplier, shift], good, "'accumulator'", "int64[2, 3]")
    rejects(name, [acc[0], multiplier, shift], good, "'accumulator'", "int32[3]")
    rejects(name, [acc, multiplier[:2], shift], good, "'multiplier'", "int16[3]", "int16[2]")
    rejects(name, [acc, multiplier, shift.astype(np.int16)], good, "'shift'", "int16[3]")
    rejects(name, [acc, multiplier, shift], {**good, "post_shift": 8}, "'post_shift'", "[0, 7]")
    rejects(name, [acc, multiplier, shift], {**good, "dtype": "int32"}, "'dtype'", "int32")
