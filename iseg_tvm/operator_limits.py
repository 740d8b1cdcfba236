"""Ranges of the operators' constants that the converter must keep and the operators check.

The arguments why they suffice are in the docstrings of ``relay_ops``; this leaf module lets
quantization know the numbers without importing the operators.
"""

from __future__ import annotations

import math

BIAS_MAX = 2**29
"""``linear``: largest magnitude of a bias."""

GAMMA_MAX = 2**15 - 1
BETA_MAX = 2**29
EPS_MAX = 2**40
"""``layer_norm``: largest magnitudes of gamma and beta, largest eps."""

FRACTION_BITS_MIN, FRACTION_BITS_MAX = 4, 10
OUT_SHIFT_MIN, OUT_SHIFT_MAX = 8, 24
"""``shiftmax_attention``: fraction bits of the exponent, shifts of the output scale."""

ACTIVATION_GROUP = 64
"""``shift_gelu``: neighbouring columns that share a table where there is more than one.

No SIMD register is longer, so a register that starts at a multiple of its size has one table.
"""


def table_groups(columns: int) -> int:
    """Tables of ``shift_gelu`` if every group of columns has its own, the last one maybe narrow."""
    return -(-columns // ACTIVATION_GROUP)


def fraction_bits(width: int) -> int:
    """Largest f with ``floor(sqrt(width) * 2**f) < 2**15``: ``layer_norm``'s normalised value."""
    f = 0
    while math.isqrt(width << (2 * (f + 1))) < 2**15:
        f += 1
    return f


def minimum_row_shift(out_shift: int, out_multiplier: int, post_shift: int) -> int:
    """Shift of ``shiftmax_attention``'s step 10 at the least row sum, 255 (b = 8, Sn = 32640)."""
    a = int((out_multiplier << 15) // (255 << 7) >= 2**15)
    return out_shift + 8 - a - post_shift - 15
