"""The paper's operators as its public code defines them, in exact integers (NumPy int64).

They are for comparison, never compiled: deployed models use the operators of ``relay_ops``, which
differ where measurements asked for it (docs/integer_semantics.md, section 6). The public code
(github.com/zkkli/I-ViT) emulates integers in float32; wherever every intermediate integer has at
most 24 significant bits that emulation is exact, and these functions give its integers:

* requantization uses float64 products of at most 53 bits and is always exact up to ties;
* Shiftmax is exact but for ``e * factor``, which may have 31 bits: results differ by at most 1;
* ShiftGELU's exponentials have few significant bits and are exact; their sum and the product with
  the factor may not be: the sigmoid differs by at most 1;
* ``2**31 - 1`` is no float32 number: the code divides ``2**31``, another factor where that is a
  multiple of the sum or nearly so;
* I-LayerNorm multiplies by a factor of about 21 bits: nearly every product is rounded to 24 bits.

Also, that code divides a float tensor by its scale to get integers back, which misses them by one
unit in the last place unless the scale is a power of two; ``floor`` may then drop a whole step.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]

_LARGEST = 2**31 - 1
_SOFTMAX_BITS, _GELU_BITS = 15, 23
"""The code's ``n``, fraction bits of the exponentials."""
SIGMOID = np.float32(1.702)


def _unit(scale: np.float32) -> int:
    """``x0 = floor(-1 / scale)``, in the code's float32."""
    return int(np.floor(np.float32(-1.0) / scale))


def exp_shift(x: Int64, scale: np.float32, bits: int) -> Int64:
    """About ``exp(x scale)`` times ``2**bits / scale``: ShiftExp, equations 13 to 15.

    Parameters
    ----------
    x : integers, normally not positive
    scale : real value of one step
    bits : fraction bits, ``n``
    """
    x0 = _unit(scale)
    x = x + (x >> 1) - (x >> 4)
    x = np.maximum(x, bits * x0)
    q = x // x0
    r = x - x0 * q
    doubled = r - 2 * x0
    shift = bits - q
    return np.maximum((doubled << np.maximum(shift, 0)) >> 1, 0)


def shiftmax(x: Int64, scale: np.float32, bits: int = 16) -> Int64:
    """Softmax over the last axis; one step of the result is ``2**-(bits - 1)``."""
    e = exp_shift(x - x.max(axis=-1, keepdims=True), scale, _SOFTMAX_BITS)
    total = np.minimum(e.sum(axis=-1, keepdims=True), _LARGEST)
    return (e * (_LARGEST // total)) >> (31 - bits + 1)


def shift_gelu(x: Int64, scale: np.float32, bits: int = 8) -> Int64:
    """GELU as ``x sigmoid(1.702 x)``; one step is ``scale * 2**-(bits - 1)``."""
    step = np.float32(scale * SIGMOID)
    top = x.max(axis=-1, keepdims=True)
    e = exp_shift(x - top, step, _GELU_BITS)
    total = np.minimum(e + exp_shift(-top, step, _GELU_BITS), _LARGEST)
    return x * ((e * (_LARGEST // total)) >> (31 - bits + 1))


def layer_norm(x: Int64, gamma: NDArray[np.float32], beta: NDArray[np.float32]) -> Int64:
    """LayerNorm over the last axis; one step is ``gamma * sqrt(D) * 2**-30``, by channel.

    The standard deviation is ten steps of Newton's iteration from 2**16.
    """
    width = x.shape[-1]
    mean = np.rint(x.sum(axis=-1, keepdims=True) / width).astype(np.int64)
    y = x - mean
    energy = (y * y).sum(axis=-1, keepdims=True)
    k = np.full_like(energy, 2**16)
    for _ in range(10):
        k = (k + energy // k) >> 1
    unit = np.float32(math.sqrt(width)) / np.float32(2**30)
    bias = np.floor((beta / gamma) / unit).astype(np.int64)
    return ((y * (_LARGEST // k)) >> 1) + bias


def requantize(
    x: Int64, scale_in: NDArray[np.float32], scale_out: np.float32, bits: int = 8
) -> Int64:
    """``round(x scale_in / scale_out)`` by 31-bit dyadic numbers, ties to even, saturated."""
    ratio = scale_in.astype(np.float64) / np.float64(scale_out)
    mantissa, exponent = np.frexp(ratio)
    multiplier = np.floor(mantissa * 2.0**31 + 0.5)
    y = np.rint(x * multiplier / 2.0 ** (31 - exponent))
    return np.clip(y, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
