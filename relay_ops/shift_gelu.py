r"""lambda-ShiftGELU: a pointwise function of one int8 value, evaluated through 256-byte tables.

Mathematics: ``GELU(x) ~ x * sigmoid(1.702 x)`` with shifts for the constants ("ShiftGELU" in
I-ViT, arXiv 2207.01405). I-Segmenter (arXiv 2509.10334) adds lambda against long-tailed
activations under uniform quantization; only its abstract is public, so the definition adopted here
is: the input grid is clipped at ``+-lambda`` (real units), ``s_in = lambda / 127``, lambda chosen
per layer by calibration (or learned); values beyond saturate. In I-ViT the subtraction of the row
maximum only guards overflow; here ``max(v, 0)`` does that for each value, so the function is
pointwise and every variant costs one table look-up.

Integer definition: ``y[r, c] = table[c // 64 if G > 1 else 0, x[r, c] + 128]``, int8 -> int8, for
``table`` int8 (G, 256). G is 1, one table for all N columns, or ceil(N / 64), one for every 64
neighbouring columns (the last group may be narrower): hidden units may then have grids of their
own, before and after the function. That costs no time: a kernel looks up a SIMD register of
columns at once, and none spans two groups. The tables (``iseg_tvm.activation_tables``):

* ``shift_gelu_table`` - ShiftGELU in integers. With the input in 2**-16 fixed point
  ``p = floor(x * s_in * 2**16)``: ``v = p + (p >> 1) + (p >> 3) + (p >> 4)`` (1.6875 p for
  1.702 p); ``exp2_shift(t)`` for ``t <= 0``: ``t' = t + (t >> 1) - (t >> 4)`` (1.4375 t for
  t log2 e), ``i = -t' >> 16``, ``f = -t' & 65535``, ``(2**16 - (f >> 1)) >> i``
  (``2**-f ~ 1 - f/2``). ``top = max(v, 0)``; ``a = exp2_shift(v - top)``;
  ``b = exp2_shift(-top)``; ``sigmoid = (a * 2**16) // (a + b)``;
  ``y = sat8(round(p * sigmoid / s_out) + zero_point)``, rounded half up.
* ``gelu_table`` - the exact GELU (erf), rounded half up, plus ``zero_point``; computed once when a
  model is quantized and stored.

The zero point spreads the results, all above -0.17, over the whole of int8; the layer after has it
folded into its bias.

Overflow: tables are built with Python integers (unbounded); the kernel only loads bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from iseg_tvm import fixed_point as fp
from iseg_tvm.operator_limits import ACTIVATION_GROUP, table_groups
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
    """``(int8[M, N], int8[G, 256]) -> int8[M, N]``, G = 1 or ceil(N / 64)."""
    spec = require(types, "x", "int8", None, None)
    table = require(types, "table", "int8", None, 256)
    allowed = sorted({1, table_groups(spec.shape[1])})
    if table.shape[0] not in allowed:
        wanted = " or ".join(f"int8[{groups}, 256]" for groups in allowed)
        raise OperatorError(f"'table' must be {wanted}, is {table}")
    return spec


def reference(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Normative: int8 (M, N), int8 (G, 256) -> int8 (M, N)."""
    group = np.arange(x.shape[-1]) // ACTIVATION_GROUP if len(table) > 1 else 0
    return table[group, fp.check_range("x", x, fp.INT8_MIN, fp.INT8_MAX) + 128]


def forward(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    position = x.to(torch.int64) + 128
    if table.shape[0] == 1:
        return table[0][position]
    return table[torch.arange(x.shape[-1], device=x.device) // ACTIVATION_GROUP, position]


def lower(context: LoweringContext) -> Lowering:
    """Element-wise look-up; after fc1 it is part of the GEMM's epilogue."""
    from iseg_tvm.kernels import elementwise

    return elementwise.lower_table(context)


OPERATOR = register(
    Operator(
        name="shift_gelu",
        tensors=("x", "table"),
        infer=infer,
        reference=reference,
        forward=forward,
        lower=lower,
    )
)
