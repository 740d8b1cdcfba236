"""The kernels that are counted: layers with their requantization, and attention."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from iseg_tvm.build import tvm_target
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.linking import export_library
from iseg_tvm.targets import load_target
from relay_ops import OPERATORS
from relay_ops.operator import LoweringContext, TensorSpec

Shape = tuple[int, int, int]
"""(rows, inner, columns) of a product."""

SHAPES: tuple[Shape, ...] = (
    (64, 384, 384),
    *((1025, 192, 576), (1025, 192, 192), (1025, 192, 768), (1025, 768, 192)),
)
"""The shape of the design notes, and the layers of a block of Seg-T at 512 x 512."""

SEG_S_SHAPES: tuple[Shape, ...] = (
    *((1025, 384, 1152), (1025, 384, 384), (1025, 384, 1536), (1025, 1536, 384)),
)
"""The layers of a block of Seg-S at 512 x 512."""

AttentionShape = tuple[int, int, int]
"""(tokens, heads, head width)."""

ATTENTIONS: tuple[AttentionShape, ...] = ((1025, 3, 64),)
"""Seg-T at 512 x 512; Seg-S has twice the heads."""

FULL_TILES: AttentionShape = (1008, 3, 64)
"""Tokens that every register block divides, so that no loop is for those left over."""

TARGETS = {
    "cortex-a53": "rpi3",
    "cortex-a72": "rpi4",
    "cortex-a76": "rpi5",
    "max": "aarch64-i8mm",
}
"""QEMU's CPU and the target that is compiled for it."""


@dataclass(frozen=True)
class Work:
    """An operator on tensors of one shape."""

    operator: str
    tensors: dict[str, np.ndarray]
    attributes: dict[str, Any]


def linear(shape: Shape) -> Work:
    """A layer with its requantization."""
    rows, inner, columns = shape
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {
        "x": random.integers(-128, 128, (rows, inner), dtype=np.int8),
        "weight": random.integers(-127, 128, (columns, inner), dtype=np.int8),
        "bias": random.integers(-(2**15), 2**15, columns, dtype=np.int32),
        "multiplier": random.integers(2**14, 2**15, columns, dtype=np.int16),
        "shift": np.full(columns, 4, np.int8),
    }
    return Work("linear_requantize", tensors, {"post_shift": 7, "dtype": "int8"})


def attention(shape: AttentionShape) -> Work:
    """Attention of all heads, from q, k, v to the heads' output."""
    tokens, heads, width = shape
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {
        "qkv": random.integers(-128, 128, (tokens, 3 * heads * width), dtype=np.int8),
        "exp_multiplier": random.integers(2**14, 2**15, heads, dtype=np.int16),
        "exp_shift": np.full(heads, 7, np.int8),
        "out_multiplier": random.integers(2**14, 2**15, heads, dtype=np.int16),
        "out_shift": np.full(heads, 14, np.int8),
    }
    attributes = {"fraction_bits": 6, "post_shift": 6, "polynomial": "quadratic"}
    return Work("shiftmax_attention", tensors, attributes)


def compile_work(target_name: str, work: Work, folder: Path | None) -> str:
    """Compile for a target; write what ``guest.py`` runs if there is a folder; return the assembly.

    The arguments are written with the output's place last.
    """
    target, record = load_target(target_name), OPERATORS[work.operator]
    ordered = {name: work.tensors[name] for name in record.tensors}
    types = {name: TensorSpec(t.shape, str(t.dtype)) for name, t in ordered.items()}
    result = record.infer_types(list(types.values()), work.attributes)
    context = LoweringContext(types, ordered, work.attributes, result, get_isa(target.isa))
    lowering = record.lower(context)
    function = lowering.function.with_attr("global_symbol", "kernel")
    executable = tvm.compile(tvm.IRModule({"kernel": function}), target=tvm_target(target))
    if folder is not None:
        export_library(executable, target, folder / "kernel.so")
        given = [work.tensors[a] if isinstance(a, str) else a for a in lowering.arguments]
        np.savez(folder / "arrays.npz", *given, np.zeros(result.shape, result.dtype))
    return str(executable.mod.inspect_source("asm"))
