"""``layer_norm``: I-LayerNorm of the int16 stream."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm.fixed_point import RangeError
from relay_ops import layer_norm
from relay_ops.layer_norm import BETA_MAX, D_MAX, EPS_MAX, GAMMA_MAX, fraction_bits, root_constant
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    rejects,
)

FORMS = [(center, dtype) for center in (True, False) for dtype in ("int8", "int32")]


def constants(seed: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gamma and beta over their whole ranges."""
    gamma = integers(seed, "int16", width, low=-GAMMA_MAX)
    return gamma, integers(seed + 1, "int32", width, low=-BETA_MAX, high=BETA_MAX)


@pytest.mark.parametrize(("center", "dtype"), FORMS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (4, 3), (37, 24), (65, 192), (3, D_MAX)])
def test_random(rows: int, width: int, center: bool, dtype: str) -> None:
    gamma, beta = constants(width, width)
    for spread in (3, 300, 2**15 - 1):
        x = integers(rows, "int16", rows, width, low=-spread, high=spread)
        for eps, shift in ((1, 18), (10**6, 0), (EPS_MAX, 24)):
            agree(
                "layer_norm", x, gamma, beta, eps=eps, shift=shift, center=center, dtype=dtype
            )


@pytest.mark.parametrize(("center", "dtype"), FORMS)
@pytest.mark.parametrize("width", [1, 2, 5, 1023, D_MAX])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_extreme(pattern: str, width: int, center: bool, dtype: str) -> None:
    """Extreme rows times extreme constants: every range check of the reference is exercised."""
    x = filled(pattern, "int16", 2, width)
    for sign in (-1, 1):
        gamma = np.full(width, GAMMA_MAX, np.int16)
        beta = np.full(width, sign * BETA_MAX, np.int32)
        for eps in (1, EPS_MAX):
            agree_with_scalars(
                "layer_norm", x, gamma, beta, eps=eps, shift=18, center=center, dtype=dtype
            )


@few
@given(
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(0, 15),
    st.integers(0, 40),
    st.integers(0, 24),
    st.sampled_from(FORMS),
    st.integers(0, 10**6),
)
def test_property(
    rows: int, width: int, bits: int, eps: int, shift: int, form: tuple[bool, str], seed: int
) -> None:
    gamma, beta = constants(seed, width)
    x = integers(seed, "int16", rows, width, low=-(2**bits), high=2**bits - 1)
    center, dtype = form
    agree_with_scalars(
        "layer_norm", x, gamma, beta, eps=2**eps, shift=shift, center=center, dtype=dtype
    )


@few
@given(st.integers(1, 50), st.integers(-8000, 8000), st.integers(0, 10**6))
def test_a_common_offset_changes_nothing(width: int, offset: int, seed: int) -> None:
    x = integers(seed, "int16", 2, width, low=-8000, high=8000)
    gamma, beta = constants(seed, width)
    given_to = {"eps": 1, "shift": 18, "center": True, "dtype": "int32"}
    moved = agree("layer_norm", x + np.int16(offset), gamma, beta, **given_to)
    np.testing.assert_array_equal(moved, agree("layer_norm", x, gamma, beta, **given_to))


@few
@given(st.integers(1, 50), st.integers(1, 2**30), st.integers(0, 10**6))
def test_doubling_a_row_changes_nothing(width: int, eps: int, seed: int) -> None:
    """Without centering and with eps on the finer grid, the result is scale-free by powers of 2."""
    x = integers(seed, "int16", 2, width, low=-16000, high=16000)
    gamma, beta = constants(seed, width)
    fixed = {"shift": 18, "center": False, "dtype": "int32"}
    once = agree("layer_norm", x, gamma, beta, eps=eps, **fixed)
    twice = agree("layer_norm", x * np.int16(2), gamma, beta, eps=4 * eps, **fixed)
    np.testing.assert_array_equal(once, twice)


def test_constants_of_every_width() -> None:
    for width in range(1, D_MAX + 1):
        root = root_constant(width)
        assert 2**14 <= root < 2**15
        assert root == math.isqrt(width << (2 * fraction_bits(width)))


def normalised(x: np.ndarray, eps: int) -> tuple[np.ndarray, np.ndarray]:
    """The operator's normalised values as reals, and the exact ones."""
    width = x.shape[1]
    one, zero = np.ones(width, np.int16), np.zeros(width, np.int32)
    n = layer_norm.reference(x, one, zero, eps, 0, True, "int32") / 2.0 ** fraction_bits(width)
    centred = x - x.mean(axis=1, keepdims=True)
    exact = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + eps / width)
    return n, exact


@pytest.mark.parametrize("width", [24, 192, 384, 768, 1024])
def test_quotient_error(width: int) -> None:
    """Rows of integer mean: only the documented relative error and half a unit remain."""
    rng = np.random.default_rng(width)
    half = rng.normal(0, 10.0 ** rng.uniform(0, 3.9, (200, 1)), (200, width // 2))
    half = np.clip(np.rint(half), -32767, 32767)
    n, exact = normalised(np.concatenate([half, -half], axis=1).astype(np.int16), 1)
    unit = 2.0 ** -fraction_bits(width)
    error = (n - exact) * np.sign(exact)
    assert (error >= -np.abs(exact) * 2.0**-12 - unit / 2).all()
    assert (error <= np.abs(exact) * 2.0**-14 + unit / 2).all()


@pytest.mark.parametrize(("sigma", "bound"), [(10, 0.003), (30, 0.002), (1000, 0.002)])
@pytest.mark.parametrize("width", [192, 384, 768, 1024])
def test_accuracy(width: int, sigma: int, bound: float) -> None:
    """The document's table: largest error of the normalised value, standard deviation 1."""
    x = np.random.default_rng(width).normal(sigma / 10, sigma, (300, width))
    n, exact = normalised(np.rint(x).astype(np.int16), 1)
    assert np.abs(n - exact).max() < bound


def test_ranges() -> None:
    x, (gamma, beta) = np.zeros((1, 4), np.int16), constants(0, 4)
    good = {"eps": 1, "shift": 0, "center": True, "dtype": "int8"}
    with pytest.raises(RangeError, match="gamma"):
        layer_norm.reference(x, np.full(4, -(2**15), np.int16), beta, **good)
    for bad in (BETA_MAX + 1, -BETA_MAX - 1):
        with pytest.raises(RangeError, match="beta"):
            layer_norm.reference(x, gamma, np.full(4, bad), **good)
    for bad in (0, EPS_MAX + 1):
        with pytest.raises(RangeError, match="eps"):
            layer_norm.reference(x, gamma, beta, **{**good, "eps": bad})
    with pytest.raises(RangeError, match="shift"):
        layer_norm.reference(x, gamma, beta, **{**good, "shift": 25})
    wide = np.zeros((1, D_MAX + 1), np.int16)
    with pytest.raises(RangeError, match="width"):
        layer_norm.reference(wide, wide[0], wide[0], **good)
    with pytest.raises(RangeError, match="x: "):
        layer_norm.reference(np.full((1, 4), 2**15), gamma, beta, **good)


def test_rejections() -> None:
    x, gamma, beta = np.zeros((2, 4), np.int16), np.ones(4, np.int16), np.zeros(4, np.int32)
    good = {"eps": 1, "shift": 0, "center": True, "dtype": "int8"}
    name = "layer_norm"
    rejects(name, [x.astype(np.int8), gamma, beta], good, "'x'", "int16[*, *]", "int8[2, 4]")
    rejects(name, [x[0], gamma, beta], good, "'x'", "int16[4]")
    rejects(name, [x, gamma[:3], beta], good, "'gamma'", "int16[4]", "int16[3]")
    rejects(name, [x, gamma, beta.astype(np.int16)], good, "'beta'", "int32[4]", "int16[4]")
    rejects(name, [x, gamma, beta], {**good, "eps": 0}, "'eps'", "[1, ")
    rejects(name, [x, gamma, beta], {**good, "shift": 25}, "'shift'", "[0, 24]", "25")
    rejects(name, [x, gamma, beta], {**good, "dtype": "int16"}, "'dtype'", "int16")
    wide = [np.zeros((1, 1025), np.int16), np.zeros(1025, np.int16), np.zeros(1025, np.int32)]
    rejects(name, wide, good, "width 1025", "[1, 1024]")
