"""Normative integer arithmetic of iseg-tvm (see docs/integer_semantics.md, section 2).

Every operator of ``relay_ops`` is defined by these functions. They work on int64 NumPy
arrays, check every range they promise, and raise :class:`RangeError` instead of wrapping:
an input that could overflow the int32 / int16 registers of a compiled kernel is an error
here, never a different number there.

No floating-point value takes part in a definition. :func:`matmul_exact` uses float64 only
as a carrier of integers below 2**53, where it is exact, because BLAS is fast.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64Array = NDArray[np.int64]

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

MULTIPLIER_MIN, MULTIPLIER_MAX = 2**14, 2**15 - 1
"""A non-zero dyadic mantissa is normalised into this range (15 significant bits)."""
SHIFT_MAX = 24
"""Largest right shift before the 16-bit multiply: its rounding constant 2**23 cannot overflow."""
POST_SHIFT_MAX = 7
"""Fraction bits kept between the 16-bit multiply and the int8 rounding."""


class RangeError(ValueError):
    """A value left the range that an operator's overflow argument assumes."""


def check_range(name: str, x: ArrayLike, low: int, high: int) -> Int64Array:
    """Return ``x`` as int64 after checking ``low <= x <= high``.

    Raises
    ------
    RangeError
        If any element is outside; the message names the value and the bounds.
    """
    a = np.asarray(x, dtype=np.int64)
    if a.size and (a.min() < low or a.max() > high):
        raise RangeError(f"{name}: values [{a.min()}, {a.max()}] leave [{low}, {high}]")
    return a


def saturate(x: ArrayLike, bits: int) -> Int64Array:
    """Clamp to the signed ``bits``-bit range ``[-2**(bits-1), 2**(bits-1) - 1]``."""
    return np.clip(np.asarray(x, dtype=np.int64), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def rounding_shift_right(x: ArrayLike, shift: ArrayLike) -> Int64Array:
    """``floor((x + 2**(shift-1)) / 2**shift)``: round half up; ``shift = 0`` is the identity.

    This is ``srshr`` / ``sqrshrn`` on ARM and add-then-arithmetic-shift on x86.
    """
    a = np.asarray(x, dtype=np.int64)
    s = check_range("shift", shift, 0, 62)
    return (a + ((np.int64(1) << s) >> 1)) >> s


def multiply_high_rounding(a: ArrayLike, b: ArrayLike) -> Int64Array:
    """``floor((a * b + 2**14) / 2**15)`` for int16 operands, not both -32768.

    This is ``vpmulhrsw`` on x86 and ``sqrdmulh`` on ARM; the excluded pair is the only
    one on which those two instructions differ.
    """
    x = check_range("multiply_high a", a, INT16_MIN, INT16_MAX)
    y = check_range("multiply_high b", b, INT16_MIN, INT16_MAX)
    return (x * y + (1 << 14)) >> 15


def check_multiplier(name: str, x: ArrayLike) -> Int64Array:
    """Return dyadic mantissas as int64: each 0 or in ``[2**14, 2**15 - 1]``, else RangeError."""
    m = check_range(name, x, 0, MULTIPLIER_MAX)
    if ((m > 0) & (m < MULTIPLIER_MIN)).any():
        raise RangeError(f"{name}: a non-zero value is below {MULTIPLIER_MIN} (not normalised)")
    return m


def requantize(
    acc: ArrayLike,
    multiplier: ArrayLike,
    shift: ArrayLike,
    post_shift: int,
    bits: int,
) -> Int64Array:
    """Scale an int32 accumulator by ``multiplier * 2**-(15 + shift + post_shift)``.

    ``t = sat16(rshr(acc, shift))``; ``z = (t * multiplier + 2**14) >> 15``;
    ``y = sat_bits(rshr(z, post_shift))``.

    Parameters
    ----------
    acc : int32 values in [-2**31 + 2**24, 2**31 - 1 - 2**24], so that rounding cannot overflow
    multiplier : 0 or in [2**14, 2**15 - 1], broadcast against ``acc``
    shift : in [0, 24], broadcast against ``acc``
    post_shift : in [0, 7]; 7 for int8 outputs unless the scale is near 1, 0 for int16
    bits : 8 or 16, width of the signed result

    Notes
    -----
    Overflow: ``|t * multiplier| <= 2**15 * (2**15 - 1)`` and ``|z| <= 32767``.

    Saturation: if ``t`` saturates and ``multiplier`` is not 0, ``|z| >= 2**14`` and an int8
    result saturates as it would have without the bound on ``t`` (``rshr(2**14, 7) = 128``). An
    int16 result (``post_shift = 0``) saturates early, at about ``+-multiplier``: it reaches
    2**14 for every multiplier, so converters map the calibrated maximum to at most 2**14.

    Rounding: the result is within 1/2 + 2**-post_shift of the exact product (below 1 for
    ``post_shift = 0``) and never decreases when ``acc`` increases.

    Raises
    ------
    RangeError
        If an operand leaves its range.
    """
    m = check_multiplier("multiplier", multiplier)
    s = check_range("shift", shift, 0, SHIFT_MAX)
    check_range("post_shift", post_shift, 0, POST_SHIFT_MAX)
    a = check_range("accumulator", acc, INT32_MIN + (1 << SHIFT_MAX), INT32_MAX - (1 << SHIFT_MAX))
    t = saturate(rounding_shift_right(a, s), 16)
    return saturate(rounding_shift_right(multiply_high_rounding(t, m), post_shift), bits)


def dyadic(scale: float, post_shift: int) -> tuple[int, int]:
    """Nearest ``(multiplier, shift)`` with ``scale ~ multiplier * 2**-(15 + shift + post_shift)``.

    Used when a model is quantized, never at run time. ``scale`` must be in ``[0, 2**-post_shift)``.

    Returns
    -------
    (multiplier, shift) : multiplier 0 (scale below about 2**-(25 + post_shift)) or in
        [2**14, 2**15 - 1]; the relative error is then at most 2**-15

    Raises
    ------
    RangeError
        If ``scale`` is negative, not finite, or too large for a right shift.
    """
    if not math.isfinite(scale) or scale < 0:
        raise RangeError(f"dyadic: scale {scale} is not a finite non-negative number")
    if scale == 0.0:
        return 0, 0
    mantissa, exponent = math.frexp(scale * 2.0**post_shift)
    multiplier = math.floor(mantissa * 2**15 + 0.5)
    if multiplier == 2**15:
        multiplier, exponent = (2**14, exponent + 1) if exponent < 0 else (2**15 - 1, exponent)
    shift = -exponent
    if shift < 0:
        raise RangeError(f"dyadic: scale {scale:g} is not below 2**-{post_shift}")
    return (0, 0) if shift > SHIFT_MAX else (multiplier, shift)


def dyadic_to_float(multiplier: int, shift: int, post_shift: int) -> float:
    """Real number that :func:`requantize` multiplies by, for analysis and tests."""
    return math.ldexp(multiplier, -(15 + shift + post_shift))


def bit_length(x: ArrayLike) -> Int64Array:
    """Bits needed for each non-negative value below 2**53 (0 for 0); 32 or 64 minus ``clz``."""
    a = check_range("bit_length", x, 0, 2**53 - 1)
    return np.frexp(a.astype(np.float64))[1].astype(np.int64)


def isqrt(x: ArrayLike) -> Int64Array:
    """``floor(sqrt(x))`` for 0 <= x < 2**32, digit by digit (16 steps, no division)."""
    rest = check_range("isqrt", x, 0, 2**32 - 1).copy()
    root = np.zeros_like(rest)
    for k in range(15, -1, -1):
        trial = (root + root + (1 << k)) << k
        take = rest >= trial
        rest = np.where(take, rest - trial, rest)
        root = np.where(take, root + (1 << k), root)
    return root


def floor_divide_rounding(a: ArrayLike, b: int) -> Int64Array:
    """``floor((2a + b) / (2b))``: a / b rounded to nearest, half up; ``b > 0``."""
    return (2 * np.asarray(a, dtype=np.int64) + b) // (2 * b)


def matmul_exact(a: ArrayLike, b: ArrayLike) -> Int64Array:
    """Integer matrix product ``a @ b``, exact.

    float64 BLAS adds integers without rounding while every partial sum is below 2**53;
    that bound is checked from the operands' extremes.
    """
    x, y = np.asarray(a, dtype=np.int64), np.asarray(b, dtype=np.int64)
    bound = int(np.abs(x).max(initial=0)) * int(np.abs(y).max(initial=0)) * max(x.shape[-1], 1)
    if bound >= 2**53:
        raise RangeError(f"matmul_exact: partial sums may reach {bound} >= 2**53")
    return np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(np.int64)
