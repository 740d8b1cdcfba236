r"""I-LayerNorm: LayerNorm of the int16 residual stream with an integer square root.

Mathematics: ``y = (x - mean) / sqrt(var + eps) * gamma + beta`` over the last axis of length D
(Ba et al. 2016; integer form: "Integer-only LayerNorm" in I-BERT, arXiv 2101.01321, and
"I-LayerNorm" in I-ViT, arXiv 2207.01405). With ``center = False`` the mean is not subtracted: an
L2 normalisation up to the factor ``sqrt(D)``.

Integer definition, per row (D <= 1024, ``f = fraction_bits(D)``,
``root = floor(sqrt(D) * 2**f) in [2**14, 2**15)``):

1. ``mean = floor((2 * sum(x) + D) / (2 * D))``, ``r = sum(x) - D * mean`` (both 0 if not centered):
   the exact mean is ``mean + r / D``
2. ``c = clamp(x - mean, -32767, 32767)``
3. ``V = sum(c * c) - floor(r * r / D) + eps``, int64, ``1 <= V < 2**41``
4. ``k = (32 - bit_length(V)) >> 1``; ``W = V * 4**k`` (floor for negative k), in [2**30, 2**32)
5. ``q = isqrt(W)`` in [2**15, 2**16); ``A = (root * 2**15) // q`` in [2**13, 2**15)
6. ``n = sat16(rshr(c * A - floor(r * A / D), 15 - k))``: ``(x - mean - r / D) / sigma`` with f
   fraction bits
7. ``u = n * gamma + beta``; result ``u`` (int32), or ``sat8(rshr(u, shift))`` (int8)

Ranges: ``eps >= 1`` (so V > 0; it is ``D * eps / s_x**2`` rounded) and ``eps <= 2**40``,
``|gamma| <= 32767``, ``|beta| <= 2**29``, ``shift <= 24``.
Overflow: ``|sum| <= 2**25``; ``c * c < 2**30`` so two of them fit uint32 and ``V < 2**41``;
``|r| <= D / 2``, so ``r * r <= 2**18`` and ``|floor(r * A / D)| <= 2**14``; ``V >= eps`` because
``sum(c * c) >= r * r / D`` (Cauchy-Schwarz, ``sum(c) = r``; where step 2 clamps, one ``c * c``
alone exceeds it); ``-5 <= k <= 15``; ``root * 2**15 < 2**30``; ``|c * A| < 2**30``; ``15 - k`` in
[0, 20], so the rounding constant is at most 2**19; ``|u| < 2**30 + 2**29`` and step 7 adds at most
2**23. As ``|c - r / D| <= sqrt(V)``, ``|n| <= root (1 + 2**-14) + 2``, which saturation catches.
Accuracy: before its rounding, n is within ``(-2**-12, 2**-14)`` (relative) and one unit of
``2**-(15 - k)`` of the exact quotient ``(c - r / D) * sqrt(D) / sqrt(V) * 2**f``. The fraction of
the mean costs nothing per element: it joins the rounding constant of the row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from iseg_tvm.operator_limits import BETA_MAX, EPS_MAX, GAMMA_MAX, fraction_bits
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

D_MAX = 1024


def root_constant(width: int) -> int:
    """``floor(sqrt(width) * 2**fraction_bits(width))``, in [2**14, 2**15)."""
    return math.isqrt(width << (2 * fraction_bits(width)))


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int16[M, D], int16[D], int32[D]) -> int8[M, D]`` or ``int32[M, D]``."""
    rows, width = require(types, "x", "int16", None, None).shape
    require(types, "gamma", "int16", width)
    require(types, "beta", "int32", width)
    if not 1 <= width <= D_MAX:
        raise OperatorError(f"width {width} is outside [1, {D_MAX}]")
    require_attribute(attributes, "eps", 1, EPS_MAX)
    require_attribute(attributes, "shift", 0, fp.SHIFT_MAX)
    if attributes["dtype"] not in ("int8", "int32"):
        raise OperatorError(f"attribute 'dtype' must be int8 or int32, is {attributes['dtype']}")
    return TensorSpec((rows, width), str(attributes["dtype"]))


def reference(
    x: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    eps: int,
    shift: int,
    center: bool,
    dtype: str,
) -> np.ndarray:
    """Normative: int16 (M, D) -> int8 (M, D), or the unrounded int32 (M, D)."""
    fp.check_range("gamma", gamma, -GAMMA_MAX, GAMMA_MAX)
    fp.check_range("beta", beta, -BETA_MAX, BETA_MAX)
    fp.check_range("eps", eps, 1, EPS_MAX)
    values, width = fp.check_range("x", x, fp.INT16_MIN, fp.INT16_MAX), x.shape[-1]
    fp.check_range("width", width, 1, D_MAX)
    total = fp.check_range("sum", values.sum(axis=-1, keepdims=True), -(2**25), 2**25)
    mean = fp.floor_divide_rounding(total, width) if center else np.zeros_like(total)
    centred = np.clip(values - mean, -fp.INT16_MAX, fp.INT16_MAX)
    rest = total - width * mean if center else mean
    fp.check_range("r", rest, -(width // 2), width // 2)
    energy = (centred * centred).sum(axis=-1, keepdims=True) - rest * rest // width + eps
    fp.check_range("energy", energy, eps, 2**41 - 1)
    k = fp.check_range("k", (32 - fp.bit_length(energy)) >> 1, -5, 15)
    scaled = np.where(k >= 0, energy << np.maximum(2 * k, 0), energy >> np.maximum(-2 * k, 0))
    q = fp.isqrt(fp.check_range("scaled energy", scaled, 2**30, 2**32 - 1))
    a = fp.check_range("A", (root_constant(width) << 15) // q, 2**13, 2**15 - 1)
    product = fp.check_range("c * A", centred * a, -(2**30) + 1, 2**30 - 1)
    fraction = fp.check_range("r * A / D", rest * a // width, -(2**14), 2**14)
    n = fp.saturate(fp.rounding_shift_right(product - fraction, 15 - k), 16)
    u = n * gamma.astype(np.int64) + beta
    fp.check_range("u", u, -(2**30) - 2**29 + 1, 2**30 + 2**29 - 1)
    if dtype == "int32":
        return u.astype(np.int32)
    fp.check_range("shift", shift, 0, fp.SHIFT_MAX)
    return fp.saturate(fp.rounding_shift_right(u, shift), 8).astype(np.int8)


def forward(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    eps: int,
    shift: int,
    center: bool,
    dtype: str,
) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    values, width = x.to(torch.int64), x.shape[-1]
    total = values.sum(dim=-1, keepdim=True)
    mean = (2 * total + width) // (2 * width) if center else torch.zeros_like(total)
    centred = (values - mean).clamp(-fp.INT16_MAX, fp.INT16_MAX)
    rest = total - width * mean if center else mean
    energy = (centred * centred).sum(dim=-1, keepdim=True) - rest * rest // width + eps
    k = (32 - ta.bit_length(energy)) >> 1
    scaled = torch.where(k >= 0, energy << (2 * k).clamp(min=0), energy >> (-2 * k).clamp(min=0))
    a = (root_constant(width) << 15) // ta.isqrt(scaled)
    product = centred * a - rest * a // width
    n = ta.saturate(ta.rounding_shift_right(product, 15 - k), 16)
    u = n * gamma.to(torch.int64) + beta
    if dtype == "int32":
        return u.to(torch.int32)
    return ta.saturate(ta.rounding_shift_right(u, shift), 8).to(torch.int8)


def lower(context: LoweringContext) -> Lowering:
    """Row-parallel kernel."""
    from iseg_tvm.kernels import layer_norm

    return layer_norm.lower_layer_norm(context)


def space(context: LoweringContext) -> Space:
    """Rows of a task."""
    from iseg_tvm.kernels import layer_norm

    return layer_norm.layer_norm_space(context)


OPERATOR = register(
    Operator(
        name="layer_norm",
        tensors=("x", "gamma", "beta"),
        attributes={"eps": "int", "shift": "int", "center": "bool", "dtype": "str"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
        space=space,
    )
)
