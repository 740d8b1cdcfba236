"""``shiftmax_attention``: shift exponential, deferred normalisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iseg_tvm import fixed_point as fp
from relay_ops import shiftmax_attention as attention
from relay_ops.shiftmax_attention import (
    HEAD_WIDTH_MAX,
    POLYNOMIALS,
    TOKENS_MAX,
    maximum_row_shift,
    minimum_row_shift,
)
from tests.ops import scalar_model
from tests.ops.support import (
    PATTERNS,
    agree,
    agree_with_scalars,
    few,
    filled,
    integers,
    multipliers,
    rejects,
)

NAME = "shiftmax_attention"
EXPONENTS = np.arange(2**15)  # every p of step 3


def constants(seed: int, heads: int, low: int = 12, high: int = 15) -> list[np.ndarray]:
    """exp_multiplier, exp_shift, out_multiplier, out_shift: valid for post_shift up to 4."""
    return [
        multipliers(seed, heads),
        integers(seed + 1, "int8", heads, low=0, high=10),
        multipliers(seed + 2, heads),
        integers(seed + 3, "int8", heads, low=low, high=high),
    ]


@pytest.mark.parametrize("polynomial", POLYNOMIALS)
@pytest.mark.parametrize(("bits", "post_shift"), [(4, 0), (7, 3), (10, 4)])
@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(1, 1, 1), (2, 3, 5), (65, 3, 64), (33, 1, HEAD_WIDTH_MAX)]
)
def test_random(
    tokens: int, heads: int, width: int, bits: int, post_shift: int, polynomial: str
) -> None:
    for spread in (2, 127):
        qkv = integers(tokens, "int8", tokens, 3 * heads * width, low=-spread, high=spread)
        agree(
            NAME,
            qkv,
            *constants(bits, heads),
            fraction_bits=bits,
            post_shift=post_shift,
            polynomial=polynomial,
        )


@pytest.mark.parametrize("polynomial", POLYNOMIALS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_extreme(pattern: str, polynomial: str) -> None:
    qkv = filled(pattern, "int8", 9, 3 * 2 * 5)
    edges = [(2**14, 0, 2**14, 12), (2**15 - 1, 24, 2**15 - 1, 19)]
    exp_m, exp_s, out_m, out_s = np.array(edges).T
    tensors = exp_m.astype(np.int16), exp_s.astype(np.int8), out_m.astype(np.int16), out_s
    for bits, post_shift in ((4, 0), (10, 4)):
        agree_with_scalars(
            NAME,
            qkv,
            *tensors[:3],
            out_s.astype(np.int8),
            fraction_bits=bits,
            post_shift=post_shift,
            polynomial=polynomial,
        )


@few
@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(4, 10),
    st.integers(0, 4),
    st.sampled_from(sorted(POLYNOMIALS)),
    st.integers(0, 10**6),
)
def test_property(
    tokens: int, heads: int, width: int, bits: int, post_shift: int, polynomial: str, seed: int
) -> None:
    qkv = integers(seed, "int8", tokens, 3 * heads * width)
    given_to = {"fraction_bits": bits, "post_shift": post_shift, "polynomial": polynomial}
    tensors = constants(seed, heads)
    agree_with_scalars(NAME, qkv, *tensors, **given_to)


@few
@given(st.integers(1, 40), st.integers(-128, 127), st.integers(0, 10**6))
def test_mean_of_equal_values_is_the_value(tokens: int, value: int, seed: int) -> None:
    """s_v = s_out (multiplier 2**14, shift 14) and constant v: the weights must sum to 1."""
    qkv = integers(seed, "int8", tokens, 12)
    qkv[:, 8:] = value
    exp_m, exp_s, _, _ = constants(seed, 1)
    out = np.array([2**14], np.int16), np.array([14], np.int8)
    given_to = {"fraction_bits": 9, "post_shift": 6, "polynomial": "quadratic"}
    result = agree(NAME, qkv, exp_m, exp_s, *out, **given_to)
    assert (np.abs(result.astype(int) - value) <= 1).all()


def exponentials(bits: int, polynomial: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(g, g >> n, exact e) of steps 4 to 6 for every exponent, by the scalar model's primitives."""
    c1, c2 = POLYNOMIALS[polynomial]
    u = (EXPONENTS % 2**bits) << (15 - bits)
    g = np.array([32640 + scalar_model.mulh(v, c1 + scalar_model.mulh(v, c2)) for v in u.tolist()])
    return g, g // 2 ** np.minimum(EXPONENTS >> bits, 20), 255 * 2.0 ** -(EXPONENTS / 2**bits)


@pytest.mark.parametrize("polynomial", POLYNOMIALS)
@pytest.mark.parametrize("bits", range(4, 11))
def test_exponential_of_every_exponent(bits: int, polynomial: str) -> None:
    """Documented error, range and monotonicity for every exponent and every summand."""
    g, shifted, exact = exponentials(bits, polynomial)
    relative = g / (32640 * 2.0 ** -((EXPONENTS % 2**bits) / 2**bits)) - 1
    low, high, absolute = {
        "quadratic": (-0.0020, 0.0024, 1.51),
        "linear": (0.0, 0.0615, 11.9),
    }[polynomial]
    assert low <= relative.min()
    assert relative.max() <= high
    assert g.max() + 126 < 2**15
    assert (shifted[EXPONENTS >> bits > 14] == 0).all()
    difference = np.arange(2**15)
    p = fp.multiply_high_rounding(difference, 2**15 - 1)
    for summand in range(2, 127, 4):
        e = (shifted + summand) // 128
        assert np.abs(e - exact).max() < absolute
        assert (np.diff(e) <= 0).all()
        assert e[0] == 255
        got = attention.shift_exponential(difference, 2**15 - 1, 0, bits, polynomial, summand)
        np.testing.assert_array_equal(got, e[p])


def test_dithering_is_without_bias() -> None:
    """Over 32 neighbouring keys, or queries, every summand occurs once and their mean is half."""
    index = np.arange(200)
    summands = attention.dither(index[:, None], index)
    every = list(range(2, 128, 4))
    for start in (0, 7, 100):
        assert sorted(summands[3, start : start + 32].tolist()) == every
        assert sorted(summands[start : start + 32, 3].tolist()) == every
    assert np.mean(every) == 64
    for value in range(0, 32640, 97):
        mean = np.mean((value + np.array(every)) // 128)
        assert abs(mean - value / 128) <= 1 / 64


def row_sums() -> list[int]:
    """Row sums from 255 to 255 * 65535: all small ones, around powers of 2, a dense sample."""
    largest = 255 * TOKENS_MAX
    edges = [2**k + d for k in range(8, 25) for d in (-1, 0, 1)]
    sample = np.geomspace(255, largest, 3000).astype(int).tolist()
    return sorted({s for s in [*range(255, 2000), *edges, *sample] if 255 <= s <= largest})


def test_normalisation_of_every_row_sum() -> None:
    """Steps 8 to 10: ranges, shifts within their bounds, and the quotient's accuracy."""
    for multiplier in (2**14, 2**14 + 1, 20000, 32639, 32640, 32641, 2**15 - 1):
        least = minimum_row_shift(20, multiplier, 7)
        for s in row_sums():
            b = s.bit_length()
            aligned = s * 2**15 // 2**b
            assert 2**14 <= aligned < 2**15
            r = multiplier * 2**15 // aligned
            assert 2**14 <= r < 2**16
            a = int(r >= 2**15)
            m = r >> a
            assert 2**14 <= m < 2**15
            shift = 20 + b - a - 7 - 15
            assert least <= shift <= maximum_row_shift(20, 7)
            exact = multiplier * 2.0**b / s
            assert -(2.0**-13) < m * 2.0**a / exact - 1 < 2.0**-13


@pytest.mark.parametrize("post_shift", range(8))
def test_row_shift_bounds(post_shift: int) -> None:
    """The checks accept exactly the constants whose shift stays in [0, 24] for every row sum."""
    for out_shift in range(8, 25):
        for multiplier in (2**14, 32639, 32640, 2**15 - 1):
            shifts = []
            for s in (255, 256, 300, 511, 512, 2**23, 255 * TOKENS_MAX):
                b = s.bit_length()
                a = int(multiplier * 2**15 // (s * 2**15 // 2**b) >= 2**15)
                shifts.append(out_shift + b - a - post_shift - 15)
            one = np.array([1]) * 2**14, np.array([0])
            out = np.array([multiplier]), np.array([out_shift])
            sure = min(shifts) >= 0 and maximum_row_shift(out_shift, post_shift) <= 24
            assert maximum_row_shift(out_shift, post_shift) - max(shifts) in (0, 1)
            if sure:
                attention.check_constants(*one, *out, post_shift=post_shift)
            else:
                with pytest.raises(fp.RangeError, match="row shift"):
                    attention.check_constants(*one, *out, post_shift=post_shift)


def test_int32_holds_the_worst_row() -> None:
    """The overflow argument: products, their rounding, and a row that comes close in int32."""
    assert 128 * 255 * TOKENS_MAX + 2**23 < 2**31
    tokens = 1200
    qkv = np.zeros((tokens, 3), np.int8)
    qkv[:, 2] = -128
    tensors = [np.array([v], t) for v, t in ((2**14, np.int16), (0, np.int8))]
    out = np.array([2**14], np.int16), np.array([21], np.int8)
    given_to = {"fraction_bits": 8, "post_shift": 0, "polynomial": "linear"}
    assert maximum_row_shift(21, 0, tokens) == 25
    with pytest.raises(fp.RangeError, match="row shift"):
        agree(NAME, qkv, *tensors, *out, **given_to)
    out = np.array([2**14], np.int16), np.array([20], np.int8)
    assert (agree(NAME, qkv, *tensors, *out, **given_to) == -2).all()


def test_accuracy_against_float_softmax() -> None:
    """The document's figures for 257 tokens and logits of standard deviation 2."""
    rng = np.random.default_rng(0)
    tokens, width = 257, 64
    qkv = np.clip(np.rint(rng.normal(0, 35, (tokens, 3 * width))), -127, 127).astype(np.int8)
    q, k, v = qkv.astype(np.float64).reshape(tokens, 3, width).transpose(1, 0, 2)
    logit_scale = 2.0 / (35**2 * 8)
    logits = q @ k.T * logit_scale
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    exact = weights @ v / weights.sum(axis=1, keepdims=True)
    out_scale = np.abs(exact).max() / 127
    exp_m, exp_s = fp.dyadic(logit_scale * np.log2(np.e) * 2**9, 0)
    out_m, out_s = fp.dyadic(1 / out_scale / 2**15, 0)
    tensors = [np.array([x]) for x in (exp_m, exp_s, out_m, out_s)]
    types = (np.int16, np.int8, np.int16, np.int8)
    given_to = {"fraction_bits": 9, "post_shift": 6, "polynomial": "quadratic"}
    got = agree(
        NAME, qkv, *[t.astype(d) for t, d in zip(tensors, types, strict=True)], **given_to
    )
    assert np.abs(got - exact / out_scale).mean() < 0.35
    cosine = (got * exact).sum() / np.linalg.norm(got) / np.linalg.norm(exact)
    assert cosine > 0.9995


def test_ranges() -> None:
    qkv = integers(0, "int8", 3, 6)
    good = {"fraction_bits": 8, "post_shift": 4, "polynomial": "quadratic"}
    names = ("exp_multiplier", "exp_shift", "out_multiplier", "out_shift")
    bad = ((2**14 - 1, -1), (-1, 25), (2**14 - 1, 0), (7, 25))
    for index, (name, values) in enumerate(zip(names, bad, strict=True)):
        for value in values:
            tensors = constants(0, 1)
            tensors[index] = np.array([value])
            with pytest.raises(fp.RangeError, match=name):
                attention.reference(qkv, *tensors, **good)
    with pytest.raises(fp.RangeError, match="post_shift"):
        attention.reference(qkv, *constants(0, 1), **{**good, "post_shift": 8})
    with pytest.raises(fp.RangeError, match="fraction_bits"):
        attention.reference(qkv, *constants(0, 1), **{**good, "fraction_bits": 11})
    wide = np.zeros((1, 3 * 129), np.int8)
    with pytest.raises(fp.RangeError, match="head width"):
        attention.reference(wide, *constants(0, 1), **good)
    with pytest.raises(fp.RangeError, match="tokens"):
        attention.reference(np.zeros((65536, 3), np.int8), *constants(0, 1), **good)


def test_rejections() -> None:
    qkv, tensors = np.zeros((4, 18), np.int8), constants(0, 2)
    good = {"fraction_bits": 8, "post_shift": 4, "polynomial": "quadratic"}
    rejects(NAME, [qkv.astype(np.int16), *tensors], good, "'qkv'", "int8[*, *]", "int16[4, 18]")
    rejects(NAME, [qkv[0], *tensors], good, "'qkv'", "int8[18]")
    rejects(NAME, [qkv[:, :17], *tensors], good, "17 columns", "3 x 2 heads")
    for index, name in ((1, "exp_shift"), (2, "out_multiplier"), (3, "out_shift")):
        short = [*tensors]
        short[index] = short[index][:1]
        rejects(NAME, [qkv, *short], good, f"'{name}'", "[2]", "[1]")
    wrong = [tensors[0].astype(np.int32), *tensors[1:]]
    rejects(NAME, [qkv, *wrong], good, "'exp_multiplier'", "int16[*]", "int32[2]")
    rejects(NAME, [qkv[:, :0], *tensors], good, "head width 0")
    rejects(NAME, [np.zeros((1, 6 * 129), np.int8), *tensors], good, "head width 129")
    rejects(NAME, [qkv[:0], *tensors], good, "0 tokens", "65535")
    rejects(NAME, [qkv, *tensors], {**good, "fraction_bits": 3}, "'fraction_bits'", "[4, 10]")
    rejects(NAME, [qkv, *tensors], {**good, "post_shift": 8}, "'post_shift'", "[0, 7]")
    rejects(NAME, [qkv, *tensors], {**good, "polynomial": "cubic"}, "'polynomial'", "quadratic")
