"""Requantize: int32 accumulators to int8 activations or the int16 residual grid.

Mathematics: ``y = round(acc * M)`` with ``M = s_in * s_w / s_out`` approximated by a dyadic number
(Jacob et al. 2018, arXiv 1712.05877, section 2.2; I-ViT, arXiv 2207.01405, "Dyadic Arithmetic for
Linear Operations").

Integer definition, per column ``n``: ``t = sat16(rshr(acc, shift[n]))``,
``z = (t * multiplier[n] + 2**14) >> 15``, ``y = sat(rshr(z, post_shift))``; ``rshr`` rounds half
up. ``multiplier`` is 0 or in [2**14, 2**15), so the product needs 31 bits and ``|z| <= 32767``.
``|acc| < 2**31 - 2**24``, which ``linear`` (2**30) and ``matmul`` (2**29) keep.
Rounding: ``|y - acc * M| < 1/2 + 2**-post_shift`` (1 for ``post_shift = 0``) where y is not
saturated; ``iseg_tvm.fixed_point.requantize`` says where an int16 result saturates. Steps are
single instructions: ``vpsravd``/``vpackssdw``/``vpmulhrsw`` on x86,
``srshl``/``sqxtn``/``sqrdmulh`` on ARM.
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
    OperatorError,
    TensorSpec,
    register,
    require,
    require_attribute,
)

OUTPUT_BITS = {"int8": 8, "int16": 16}


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int32[M, N], int16[N], int8[N]) -> dtype[M, N]``."""
    rows, columns = require(types, "accumulator", "int32", None, None).shape
    require(types, "multiplier", "int16", columns)
    require(types, "shift", "int8", columns)
    require_attribute(attributes, "post_shift", 0, fp.POST_SHIFT_MAX)
    if attributes["dtype"] not in OUTPUT_BITS:
        raise OperatorError(f"attribute 'dtype' must be int8 or int16, is {attributes['dtype']}")
    return TensorSpec((rows, columns), str(attributes["dtype"]))


def reference(
    accumulator: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, post_shift: int, dtype: str
) -> np.ndarray:
    """Normative: ``accumulator`` int32 (M, N) -> int8 or int16 (M, N)."""
    bits = OUTPUT_BITS[dtype]
    return fp.requantize(accumulator, multiplier, shift, post_shift, bits).astype(dtype)


def forward(
    accumulator: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    post_shift: int,
    dtype: str,
) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    y = ta.requantize(accumulator, multiplier, shift, post_shift, OUTPUT_BITS[dtype])
    return y.to(getattr(torch, dtype))


def lower(context: LoweringContext) -> Lowering:
    """Element-wise kernel; inside a linear layer the same arithmetic is the GEMM's epilogue."""
    from iseg_tvm.kernels import elementwise

    return elementwise.lower_requantize(context)


OPERATOR = register(
    Operator(
        name="requantize",
        tensors=("accumulator", "multiplier", "shift"),
        attributes={"post_shift": "int", "dtype": "str"},
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
    )
)
