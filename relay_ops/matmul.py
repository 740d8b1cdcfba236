"""Matrix product of two int8 activations: ``acc = a @ b.T`` (mask logits: patches times classes).

Integer definition: ``acc[m, n] = sum_k a[m, k] * b[n, k]``, exact, ``K <= 32768``.
Overflow: ``|acc| <= 2**14 * 2**15 = 2**29``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from relay_ops import linear
from relay_ops import torch_arithmetic as ta
from relay_ops.linear import K_MAX
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    OperatorError,
    TensorSpec,
    register,
    require,
)


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int8[M, K], int8[N, K]) -> int32[M, N]``."""
    rows, inner = require(types, "a", "int8", None, None).shape
    columns, _ = require(types, "b", "int8", None, inner).shape
    if not 1 <= inner <= K_MAX:
        raise OperatorError(f"inner dimension {inner} is outside [1, {K_MAX}]")
    return TensorSpec((rows, columns), "int32")


def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Normative: int8 (M, K), int8 (N, K) -> int32 (M, N)."""
    fp.check_range("inner dimension", a.shape[1], 1, K_MAX)
    return fp.matmul_exact(a, b.T).astype(np.int32)


def forward(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    return ta.matmul(a, b.T, 128 * 128)


def lower(context: LoweringContext) -> Lowering:
    """GEMM whose right operand is packed at run time."""
    from iseg_tvm.kernels import products

    return products.lower_matmul(context)


OPERATOR = register(
    Operator(
        name="matmul",
        tensors=("a", "b"),
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
        space=linear.space,
    )
)
