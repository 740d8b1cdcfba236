"""Integer operators of iseg-tvm, one file each (Relax operators; the folder's name is historical).

Importing this package registers all of them with PyTorch (``torch.ops.iseg.*``).
"""

from relay_ops import (
    argmax_upsample,
    fused_linear,
    layer_norm,
    linear,
    matmul,
    patch_embed,
    requantize,
    residual_add,
    shift_gelu,
    shiftmax_attention,
)
from relay_ops.operator import OPERATORS, Operator, OperatorError, TensorSpec

__all__ = [
    "OPERATORS",
    "Operator",
    "OperatorError",
    "TensorSpec",
    "argmax_upsample",
    "fused_linear",
    "layer_norm",
    "linear",
    "matmul",
    "patch_embed",
    "requantize",
    "residual_add",
    "shift_gelu",
    "shiftmax_attention",
]
