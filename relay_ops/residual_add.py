"""Residual addition on the int16 stream.

Mathematics: ``h' = h + z`` where ``h`` is on the grid ``s`` and both ``z`` and ``h'`` on
``s * 2**skip_shift``. Scales of the stream only grow with depth, by powers of two.

Integer definition: ``h' = sat16(rshr(h, skip_shift) + z)``, int16 in, int16 out,
``skip_shift`` in [0, 14].
Overflow: ``rshr(h, s)`` is an int16 value (its rounding constant needs a 17th bit; ``srshr`` has
it, and ``vpmulhrsw`` by ``2**(15 - s)`` is the same number for s >= 1); the sum of two int16 values
needs 17 bits and saturation is the native ``vpaddsw`` / ``sqadd``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from relay_ops import torch_arithmetic as ta
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    TensorSpec,
    register,
    require,
    require_attribute,
)

SKIP_SHIFT_MAX = 14


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int16[M, D], int16[M, D]) -> int16[M, D]``."""
    spec = require(types, "skip", "int16", None, None)
    require(types, "branch", "int16", *spec.shape)
    require_attribute(attributes, "skip_shift", 0, SKIP_SHIFT_MAX)
    return spec


def reference(skip: np.ndarray, branch: np.ndarray, skip_shift: int) -> np.ndarray:
    """Normative: int16 (M, D) twice -> int16 (M, D)."""
    fp.check_range("skip_shift", skip_shift, 0, SKIP_SHIFT_MAX)
    scaled = fp.rounding_shift_right(skip, skip_shift)
    return fp.saturate(scaled + branch.astype(np.int64), 16).astype(np.int16)


def forward(skip: torch.Tensor, branch: torch.Tensor, skip_shift: int) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    scaled = ta.rounding_shift_right(skip.to(torch.int32), skip_shift)
    return ta.saturate(scaled + branch.to(torch.int32), 16).to(torch.int16)


def lower(context: LoweringContext) -> Lowering:
    """Element-wise kernel; after a linear layer it is part of the GEMM's epilogue."""
    from iseg_tvm.kernels import elementwise

    return elementwise.lower_residual_add(context)


OPERATOR = register(
    Operator(
        name="residual_add",
        tensors=("skip", "branch"),
        attributes={"skip_shift": "int"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
    )
)
