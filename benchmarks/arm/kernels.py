"""The kernels that are counted: our GEMM with its requantization, on the shapes compared."""

from __future__ import annotations

from pathlib import Path

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

SHAPES: tuple[Shape, ...] = ((64, 384, 384), (197, 192, 768), (197, 768, 192))
"""The shape of the design notes, and both products of Seg-T's MLP."""

TARGETS = {
    "cortex-a53": "rpi3",
    "cortex-a72": "rpi4",
    "cortex-a76": "rpi5",
    "max": "aarch64-i8mm",
}
"""QEMU's CPU and the target that is compiled for it."""

ATTRIBUTES = {"post_shift": 7, "dtype": "int8"}


def operands(shape: Shape) -> dict[str, np.ndarray]:
    """Random tensors of ``linear_requantize``."""
    rows, inner, columns = shape
    random = np.random.default_rng(0)
    return {
        "x": random.integers(-128, 128, (rows, inner), dtype=np.int8),
        "weight": random.integers(-127, 128, (columns, inner), dtype=np.int8),
        "bias": random.integers(-(2**15), 2**15, columns, dtype=np.int32),
        "multiplier": random.integers(2**14, 2**15, columns, dtype=np.int16),
        "shift": np.full(columns, 4, np.int8),
    }


def compile_kernel(target_name: str, shape: Shape, folder: Path | None) -> str:
    """Compile for a target; write what ``guest.py`` runs if there is a folder; return the assembly.

    The arguments are written with the output's place last.
    """
    target, tensors = load_target(target_name), operands(shape)
    record = OPERATORS["linear_requantize"]
    ordered = {name: tensors[name] for name in record.tensors}
    types = {name: TensorSpec(t.shape, str(t.dtype)) for name, t in ordered.items()}
    result = record.infer_types(list(types.values()), ATTRIBUTES)
    context = LoweringContext(types, ordered, ATTRIBUTES, result, get_isa(target.isa))
    lowering = record.lower(context)
    function = lowering.function.with_attr("global_symbol", "kernel")
    executable = tvm.compile(tvm.IRModule({"kernel": function}), target=tvm_target(target))
    if folder is not None:
        export_library(executable, target, folder / "kernel.so")
        given = [tensors[a] if isinstance(a, str) else a for a in lowering.arguments]
        np.savez(folder / "arrays.npz", *given, np.zeros(result.shape, result.dtype))
    return str(executable.mod.inspect_source("asm"))
