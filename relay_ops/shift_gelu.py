r"""lambda-ShiftGELU: a pointwise function of one int8 value, evaluated through a 256-byte table.

Mathematics: ``GELU(x) ~ x * sigmoid(1.702 x)`` with shifts for the constants ("ShiftGELU" in
I-ViT, arXiv 2207.01405). I-Segmenter (arXiv 2509.10334) adds lambda against long-tailed
activations under uniform quantization; only its abstract is public, so the definition adopted here
is: the input grid is clipped at ``+-lambda`` (real units), ``s_in = lambda / 127``, lambda chosen
per layer by calibration (or learned); values beyond saturate. In I-ViT the subtraction of the row
maximum only guards overflow; here ``max(v, 0)`` does that for each value, so the function is
pointwise and every variant costs one table look-up.

Integer definition: ``y = table[x + 128]``, int8 -> int8. The tables
(``iseg_tvm.activation_tables``):

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
from relay_ops.operator import (
    Attributes,
    Lowering,
    LoweringContext,
    Operator,
    TensorSpec,
    register,
    require,
)


def infer(types: Mapping[str, TensorSpec], attributes: Attributes) -> TensorSpec:
    """``(int8[M, N], int8[256]) -> int8[M, N]``."""
    spec = require(types, "x", "int8", None, None)
    require(types, "table", "int8", 256)
    return spec


def reference(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Normative: int8 (M, N) -> int8 (M, N)."""
    return table[fp.check_range("x", x, fp.INT8_MIN, fp.INT8_MAX) + 128]


def forward(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """PyTorch form of :func:`reference`."""
    return table[x.to(torch.int64) + 128]


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
