r"""Shiftmax attention: self-attention with a shift exponential and deferred normalisation.

Mathematics: ``softmax(q k^T / sqrt(d_h)) v`` per head with ``exp(x) = 2**(x log2 e)`` and
``2**-f`` a polynomial on the fraction ("Shiftmax" in I-ViT, arXiv 2207.01405). Unlike I-ViT the
probabilities are never stored normalised: ``e`` is uint8 relative to the row maximum and the
division by the row sum comes after the product with ``v``. With 1,000 tokens most probabilities
are below 1/512, and rounding them to 8 bits destroys the model.

Input ``qkv`` int8 (N, 3 * H * d_h), columns ordered q, k, v and head-major inside each. Integer
definition, per head h and query i, with F = ``fraction_bits``:

1. ``x[j] = sum_d q[i, d] * k[j, d]``; ``top = max_j x[j]``
2. ``t[j] = sat16(rshr(top - x[j], exp_shift[h]))``
3. ``p[j] = (t[j] * exp_multiplier[h] + 2**14) >> 15``: the exponent, F fraction bits, in [0, 32767]
4. ``n = p >> F``; ``u = (p & (2**F - 1)) << (15 - F)``
5. ``g = 32640 + mulh(u, C1 + mulh(u, C2))``: ``255 * 2**7 * 2**-u``;
   ``mulh(a, b) = (a * b + 2**14) >> 15``
6. ``e[j] = ((g >> n) + dither(i, j)) >> 7``, uint8; 255 at the maximum;
   ``dither(i, j) = (76 * j + 44 * i + 2) mod 128``
7. ``S = sum_j e[j]``; ``o[d] = sum_j e[j] * v[j, d]``
8. ``b = bit_length(S)``; ``Sn = S * 2**(15 - b)`` (floor), in [2**14, 2**15)
9. ``r = (out_multiplier[h] * 2**15) // Sn``; ``(m, a) = (r >> 1, 1)`` if ``r >= 2**15`` else
   ``(r, 0)``
10. ``w = out_shift[h] + b - a - post_shift - 15``;
    ``y[d] = sat8(rshr((sat16(rshr(o[d], w)) * m + 2**14) >> 15, post_shift))``

``exp_multiplier * 2**-(15 + exp_shift) = s_q s_k log2(e) 2**F / sqrt(d_h)``;
``out_multiplier * 2**-out_shift = s_v / s_out``. Multipliers lie in [2**14, 2**15).
``polynomial = "quadratic"`` is the default (C1, C2 fitted, relative error below 0.24 %);
``"linear"`` is the paper's ``1 - f/2`` (6.2 %); its companion ``log2 e ~ 1 + 1/2 - 1/16`` is a
matter of the converter's ``exp_multiplier``.

Overflow, d_h <= 128 and N <= 65535: ``|x| <= 2**21``, ``top - x <= 2**22``, rounding constant at
most 2**23; where ``t`` saturates, ``p >= 2**14``, an exponent of at least 16 (F <= 10), where e is
0 as ``g < 2**15``; ``C1 + mulh(u, C2)``, g and ``(g >> n) + dither <= 32640 + 126`` stay in int16;
``S <= 255 N < 2**24``; ``out_multiplier * 2**15 < 2**30``; r in [2**14, 2**16), m in
[2**14, 2**15). Row shift: ``S >= 255`` (the maximum's own e), so w is never negative if it is not
negative at S = 255: :func:`minimum_row_shift`. It is at most 24 if
``out_shift + bit_length(255 N) - post_shift - 15 <= 24``: :func:`maximum_row_shift`. Both are
checked; then ``|o| + 2**(w - 1) <= 128 * 255 * N + 2**23 < 2**31``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from iseg_tvm.operator_limits import (
    FRACTION_BITS_MAX,
    FRACTION_BITS_MIN,
    OUT_SHIFT_MAX,
    OUT_SHIFT_MIN,
    minimum_row_shift,
)
from relay_ops import torch_arithmetic as ta
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    OperatorError,
    Space,
    TensorSpec,
    register,
    require,
    require_attribute,
)

PEAK = 255 * 128
POLYNOMIALS = {"quadratic": (-21926, 5646), "linear": (-16320, 0)}
"""(C1, C2) of step 5."""
DITHER_KEY, DITHER_QUERY = 76, 44
HEAD_WIDTH_MAX = 128
TOKENS_MAX = 65535


def dither(query: Any, key: Any) -> Any:
    """Step 6's summand, in [2, 126] with mean 64 over 32 keys; any integer arrays."""
    return (key * DITHER_KEY + query * DITHER_QUERY + 2) & 127


def maximum_row_shift(out_shift: int, post_shift: int, tokens: int = TOKENS_MAX) -> int:
    """Bound of step 10's shift for the largest row sum, S = 255 * tokens."""
    return out_shift + (255 * tokens).bit_length() - post_shift - 15


def check_constants(
    exp_multiplier: np.ndarray,
    exp_shift: np.ndarray,
    out_multiplier: np.ndarray,
    out_shift: np.ndarray,
    *,
    post_shift: int,
    tokens: int = TOKENS_MAX,
) -> None:
    """Raise :class:`fixed_point.RangeError` if constants leave the overflow argument's ranges."""
    fp.check_range("tokens", tokens, 1, TOKENS_MAX)
    fp.check_range("post_shift", post_shift, 0, fp.POST_SHIFT_MAX)
    fp.check_range("exp_multiplier", exp_multiplier, fp.MULTIPLIER_MIN, fp.MULTIPLIER_MAX)
    fp.check_range("exp_shift", exp_shift, 0, fp.SHIFT_MAX)
    fp.check_range("out_multiplier", out_multiplier, fp.MULTIPLIER_MIN, fp.MULTIPLIER_MAX)
    fp.check_range("out_shift", out_shift, OUT_SHIFT_MIN, OUT_SHIFT_MAX)
    for multiplier, shift in zip(out_multiplier.tolist(), out_shift.tolist(), strict=True):
        least = minimum_row_shift(shift, multiplier, post_shift)
        most = maximum_row_shift(shift, post_shift, tokens)
        fp.check_range("row shift", (least, most), 0, fp.SHIFT_MAX)


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int8[N, 3 H d], int16[H], int8[H], int16[H], int8[H]) -> int8[N, H d]``."""
    tokens, columns = require(types, "qkv", "int8", None, None).shape
    (heads,) = require(types, "exp_multiplier", "int16", None).shape
    require(types, "exp_shift", "int8", heads)
    require(types, "out_multiplier", "int16", heads)
    require(types, "out_shift", "int8", heads)
    if heads < 1 or columns % (3 * heads) != 0:
        raise OperatorError(f"{columns} columns are not 3 x {heads} heads x head width")
    if not 1 <= columns // (3 * heads) <= HEAD_WIDTH_MAX:
        width = columns // (3 * heads)
        raise OperatorError(f"head width {width} is outside [1, {HEAD_WIDTH_MAX}]")
    if not 1 <= tokens <= TOKENS_MAX:
        raise OperatorError(f"{tokens} tokens are outside [1, {TOKENS_MAX}]")
    require_attribute(attributes, "fraction_bits", FRACTION_BITS_MIN, FRACTION_BITS_MAX)
    require_attribute(attributes, "post_shift", 0, fp.POST_SHIFT_MAX)
    if attributes["polynomial"] not in POLYNOMIALS:
        raise OperatorError(f"attribute 'polynomial' must be one of {sorted(POLYNOMIALS)}")
    return TensorSpec((tokens, columns // 3), "int8")


def shift_exponential(
    difference: np.ndarray,
    multiplier: int,
    shift: int,
    fraction_bits: int,
    polynomial: str,
    summand: np.ndarray | int,
) -> np.ndarray:
    """Steps 2 to 6: the row maximum less each logit (``>= 0``) to uint8, as int64."""
    c1, c2 = POLYNOMIALS[polynomial]
    t = fp.saturate(fp.rounding_shift_right(difference, shift), 16)
    p = fp.check_range("exponent", fp.multiply_high_rounding(t, multiplier), 0, fp.INT16_MAX)
    u = (p & ((1 << fraction_bits) - 1)) << (15 - fraction_bits)
    g = PEAK + fp.multiply_high_rounding(u, c1 + fp.multiply_high_rounding(u, c2))
    fp.check_range("g", g, 0, PEAK)
    total = (g >> np.minimum(p >> fraction_bits, 16)) + summand
    return fp.check_range("dithered g", total, 0, fp.INT16_MAX) >> 7


def reference(
    qkv: np.ndarray,
    exp_multiplier: np.ndarray,
    exp_shift: np.ndarray,
    out_multiplier: np.ndarray,
    out_shift: np.ndarray,
    fraction_bits: int,
    post_shift: int,
    polynomial: str,
) -> np.ndarray:
    """Normative: int8 (N, 3 H d) -> int8 (N, H d)."""
    tokens, columns = qkv.shape
    constants = exp_multiplier, exp_shift, out_multiplier, out_shift
    check_constants(*constants, post_shift=post_shift, tokens=tokens)
    fp.check_range("fraction_bits", fraction_bits, FRACTION_BITS_MIN, FRACTION_BITS_MAX)
    heads = exp_multiplier.shape[0]
    fp.check_range("head width", columns // (3 * heads), 1, HEAD_WIDTH_MAX)
    q, k, v = qkv.reshape(tokens, 3, heads, columns // (3 * heads)).transpose(1, 2, 0, 3)
    index = np.arange(tokens)
    summand = dither(index[:, None], index)
    result = []
    for h in range(heads):
        logits = fp.matmul_exact(q[h], k[h].T)
        e = shift_exponential(
            logits.max(axis=1, keepdims=True) - logits,
            int(exp_multiplier[h]),
            int(exp_shift[h]),
            fraction_bits,
            polynomial,
            summand,
        )
        total = fp.check_range("row sum", e.sum(axis=1, keepdims=True), 255, 2**24 - 1)
        o = fp.check_range("e v", fp.matmul_exact(e, v[h]), -(2**31), 2**31 - 1)
        b = fp.bit_length(total)
        aligned = np.where(b >= 15, total >> np.maximum(b - 15, 0), total << np.maximum(15 - b, 0))
        r = fp.check_range("r", (int(out_multiplier[h]) << 15) // aligned, 2**14, 2**16 - 1)
        a = (r >= 2**15).astype(np.int64)
        row_shift = int(out_shift[h]) + b - a - post_shift - 15
        fp.check_range("row shift", row_shift, 0, fp.SHIFT_MAX)
        t = fp.saturate(fp.rounding_shift_right(o, row_shift), 16)
        z = fp.multiply_high_rounding(t, r >> a)
        result.append(fp.saturate(fp.rounding_shift_right(z, post_shift), 8))
    return np.concatenate(result, axis=1).astype(np.int8)


def forward(
    qkv: torch.Tensor,
    exp_multiplier: torch.Tensor,
    exp_shift: torch.Tensor,
    out_multiplier: torch.Tensor,
    out_shift: torch.Tensor,
    fraction_bits: int,
    post_shift: int,
    polynomial: str,
) -> torch.Tensor:
    """PyTorch form of :func:`reference`, all heads at once."""
    heads, (tokens, columns) = exp_multiplier.shape[0], qkv.shape
    q, k, v = qkv.reshape(tokens, 3, heads, columns // (3 * heads)).permute(1, 2, 0, 3)
    c1, c2 = POLYNOMIALS[polynomial]

    def per_head(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.int32).reshape(heads, 1, 1)

    logits = ta.matmul(q, k.transpose(1, 2), 128 * 128)
    difference = logits.amax(dim=2, keepdim=True) - logits
    t = ta.saturate(ta.rounding_shift_right(difference, per_head(exp_shift)), 16)
    p = ta.multiply_high_rounding(t, per_head(exp_multiplier))
    u = (p & ((1 << fraction_bits) - 1)) << (15 - fraction_bits)
    g = PEAK + ta.multiply_high_rounding(u, c1 + ta.multiply_high_rounding(u, c2))
    index = torch.arange(tokens, dtype=torch.int32, device=qkv.device)
    e = ((g >> (p >> fraction_bits).clamp(max=16)) + dither(index[:, None], index)) >> 7
    total = e.sum(dim=2, keepdim=True, dtype=torch.int32)
    o = ta.matmul(e, v, 255 * 128)
    b = ta.bit_length(total)
    aligned = torch.where(b >= 15, total >> (b - 15).clamp(min=0), total << (15 - b).clamp(min=0))
    r = (per_head(out_multiplier) << 15) // aligned
    a = (r >= 2**15).to(torch.int32)
    row_shift = per_head(out_shift) + b - a - post_shift - 15
    scaled = ta.saturate(ta.rounding_shift_right(o, row_shift), 16)
    z = ta.multiply_high_rounding(scaled, r >> a)
    y = ta.saturate(ta.rounding_shift_right(z, post_shift), 8).to(torch.int8)
    return y.permute(1, 0, 2).reshape(tokens, columns // 3)


def lower(context: LoweringContext) -> Lowering:
    """Row-blocked kernel, parallel over heads and row blocks; N x N is never stored."""
    from iseg_tvm.kernels import attention

    return attention.lower_attention(context)


def space(context: LoweringContext) -> Space:
    """Blocking of the kernel."""
    from iseg_tvm.kernels import attention

    return attention.attention_space(context)


OPERATOR = register(
    Operator(
        name="shiftmax_attention",
        tensors=("qkv", "exp_multiplier", "exp_shift", "out_multiplier", "out_shift"),
        attributes={"fraction_bits": "int", "post_shift": "int", "polynomial": "str"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
        space=space,
    )
)
