"""int8 linear layer: ``acc = x @ weight.T + bias`` in int32.

Mathematics: a linear layer whose operands are ``x = s_x * x_q`` (per tensor) and
``w[n] = s_w[n] * w_q[n]`` (per output channel), both symmetric; ``bias`` is on the grid
``s_x * s_w[n]`` (Jacob et al. 2018, arXiv 1712.05877, section 2).

Integer definition: ``acc[m, n] = bias[n] + sum_k x[m, k] * weight[n, k]``, exact.
``x`` int8 in [-128, 127], ``weight`` int8 in [-127, 127] (the symmetric range lets AVX2 kernels
use sign/abs tricks), ``bias`` int32 with ``|bias| <= 2**29``, ``K <= 32768``.
Overflow: ``|acc| <= 2**29 + 128 * 127 * 2**15 < 2**29 + 2**29 = 2**30``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from iseg_tvm.operator_limits import BIAS_MAX
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
)

K_MAX = 2**15


def check_weight(weight: np.ndarray, bias: np.ndarray) -> None:
    """Raise :class:`fixed_point.RangeError` if constants leave the overflow argument's ranges."""
    fp.check_range("weight", weight, -127, 127)
    fp.check_range("bias", bias, -BIAS_MAX, BIAS_MAX)


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int8[M, K], int8[N, K], int32[N]) -> int32[M, N]``."""
    rows, inner = require(types, "x", "int8", None, None).shape
    columns, _ = require(types, "weight", "int8", None, inner).shape
    require(types, "bias", "int32", columns)
    if not 1 <= inner <= K_MAX:
        raise OperatorError(f"inner dimension {inner} is outside [1, {K_MAX}]")
    return TensorSpec((rows, columns), "int32")


def reference(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Normative: int8 (M, K), int8 (N, K), int32 (N,) -> int32 (M, N)."""
    check_weight(weight, bias)
    fp.check_range("x", x, fp.INT8_MIN, fp.INT8_MAX)
    fp.check_range("inner dimension", x.shape[1], 1, K_MAX)
    accumulator = fp.matmul_exact(x, weight.T) + bias.astype(np.int64)
    return fp.check_range("accumulator", accumulator, -(2**30) + 1, 2**30 - 1).astype(np.int32)


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    return ta.matmul(x, weight.T, 128 * 128) + bias


def lower(context: LoweringContext) -> Lowering:
    """GEMM without a fused epilogue (int32 output)."""
    from iseg_tvm.kernels import products

    return products.lower_linear(context)


def space(context: LoweringContext) -> Space:
    """Blocking of the product."""
    from iseg_tvm.kernels import products

    return products.gemm_space(context)


OPERATOR = register(
    Operator(
        name="linear",
        tensors=("x", "weight", "bias"),
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
        space=space,
    )
)
