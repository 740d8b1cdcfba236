"""Compile an operator's kernel for one ISA and run it on this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import tvm

from iseg_tvm.host_cpu import read_host_cpu
from iseg_tvm.kernels.isa import Isa, get_isa
from iseg_tvm.kernels.vector import T, cast, reinterpret, splat
from relay_ops import OPERATORS
from relay_ops.operator import Lowering, LoweringContext, Schedule, TensorSpec
from tests.kernels.emulated_tiles import EmulatedUnit

X86 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
TARGETS: dict[str, dict[str, Any]] = {
    "generic": {**X86, "mcpu": "x86-64-v2"},
    "avx2": {**X86, "mcpu": "x86-64-v3"},
    "avxvnni": {**X86, "mcpu": "x86-64-v3", "mattr": ["+avxvnni"]},
    "avx512bw": {**X86, "mcpu": "x86-64-v4", "mattr": ["-prefer-256-bit"]},
    "avx512vnni": {**X86, "mcpu": "x86-64-v4", "mattr": ["+avx512vnni", "-prefer-256-bit"]},
    "avx512vbmi": {
        **X86,
        "mcpu": "x86-64-v4",
        "mattr": ["+avx512vnni", "+avx512vbmi", "-prefer-256-bit"],
    },
    "amx": {
        **X86,
        "mcpu": "x86-64-v4",
        "mattr": ["+avx512vnni", "+avx512vbmi", "+amx-tile", "+amx-int8", "-prefer-256-bit"],
    },
    "neon": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    "neon_dotprod": {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
    "neon_i8mm": {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": "generic",
        "mattr": ["+v8.2a", "+dotprod", "+i8mm"],
    },
}
NEEDS = {
    "generic": set(),
    "avx2": {"avx2"},
    "avxvnni": {"avx2", "avx_vnni"},
    "avx512bw": {"avx512bw", "avx512vl"},
    "avx512vnni": {"avx512bw", "avx512vl", "avx512_vnni"},
    "avx512vbmi": {"avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi"},
    "amx": {"avx512bw", "avx512vl", "avx512_vnni", "avx512vbmi", "amx_tile", "amx_int8"},
}


def runnable(name: str) -> bool:
    """Whether this host can execute kernels of the ISA."""
    host = read_host_cpu()
    return name in NEEDS and host.arch == "x86_64" and NEEDS[name] <= set(host.features)


def _signed_byte(word: Any, j: int, lanes: int) -> Any:
    up = splat(24 - 8 * j, "int32", lanes)
    return (word << up) >> splat(24, "int32", lanes)


def _quad_dot(accumulator: Any, left: Any, right: Any) -> Any:
    """``vpdpbusd`` spelled out in plain arithmetic."""
    words = reinterpret(right, "int32", 16)
    spread = T.broadcast(left, 16)
    for j in range(4):
        a = _signed_byte(spread, j, 16) & splat(255, "int32", 16)
        accumulator = accumulator + a * _signed_byte(words, j, 16)
    return accumulator


def _pair_dot(accumulator: Any, left: Any, right: Any) -> Any:
    """``vpmaddwd`` on 16 lanes spelled out in plain arithmetic."""
    pair = reinterpret(cast(right, "int16", 32), "int32", 16)
    sixteen = splat(16, "int32", 16)
    spread = T.broadcast(left, 16)
    low = ((spread << sixteen) >> sixteen) * ((pair << sixteen) >> sixteen)
    return accumulator + low + (spread >> sixteen) * (pair >> sixteen)


def emulated(name: str) -> Isa:
    """An ISA's blocking, packing and offsets with every special instruction replaced.

    What stays untested is the instruction itself, and what is tested is all the code around it.
    The ARM families need no such stand-in: tests/arm runs these cases on emulated CPUs.
    """
    isa = get_isa(name)
    return replace(
        _plain(isa, {"avx512vnni": _quad_dot, "avx512bw": _pair_dot}.get(name, isa.dot)),
        attention=None if isa.attention is None else _plain(isa.attention, isa.attention.dot),
    )


def _plain(isa: Isa, dot: Any) -> Isa:
    """The record with generic vector instructions and the given dot product."""
    plain = get_isa("generic")
    return replace(
        isa,
        dot=dot,
        multiply_high=plain.multiply_high,
        shift_right=plain.shift_right,
        round_shift=plain.round_shift,
        narrow16=plain.narrow16,
        narrow8=plain.narrow8,
        narrow_weights=plain.narrow_weights,
        weight_sum=plain.weight_sum,
        lookup64=None,
        pack_lanes=isa.lanes,
        multiply_wide=plain.multiply_wide,
        pair_dot=plain.pair_dot,
        weight_dot=None,
        table_lookup=None,
        tile_unit=None if isa.tile_unit is None else EmulatedUnit(),
    )


ISAS: list[tuple[str, Isa, str]] = [
    *((name, get_isa(name), name) for name in NEEDS if runnable(name)),
    *(
        (f"{name}-emulated", emulated(name), "avx2" if runnable("avx2") else "generic")
        for name in ("avx512vnni", "avx512bw", "amx")
    ),
]
"""(label, record, target that compiles it) of every ISA that can be executed here."""


def context_of(
    operator: str, isa: Isa, tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> LoweringContext:
    """What an operator's ``lower`` is given for these tensors, all of them constants."""
    record = OPERATORS[operator]
    tensors = {n: tensors[n] for n in record.tensors}
    types = {n: TensorSpec(t.shape, str(t.dtype)) for n, t in tensors.items()}
    result = record.infer_types([types[n] for n in record.tensors], attributes)
    return LoweringContext(types, tensors, attributes, result, isa)


def lower(
    operator: str, isa: Isa, tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any],
    schedule: Schedule | None = None,
) -> Lowering:  # fmt: skip
    """Lower one operator on constant tensors."""
    context = context_of(operator, isa, tensors, attributes)
    return OPERATORS[operator].lower(replace(context, schedule=schedule or {}))


def build(lowering: Lowering, target: str) -> Any:
    """Compile a kernel for a target of :data:`TARGETS`."""
    function = lowering.function.with_attr("global_symbol", "main")
    return tvm.compile(tvm.IRModule({"main": function}), target=tvm.target.Target(TARGETS[target]))


def assembly(lowering: Lowering, target: str) -> str:
    """Generated assembly of a kernel."""
    return str(build(lowering, target).mod.inspect_source("asm"))


def compare(
    operator: str, isa: Isa, target: str, cases: list[dict[str, np.ndarray]],
    schedule: Schedule | None = None, **attributes: Any,
) -> None:  # fmt: skip
    """Compile once, run every case (same shapes and constants) and compare all bits.

    Only activations may differ between cases: constants are packed from the first one.
    """
    lowering = lower(operator, isa, cases[0], attributes, schedule)
    library = build(lowering, target)
    for tensors in cases:
        ordered = [tensors[n] for n in OPERATORS[operator].tensors]
        expected = OPERATORS[operator].reference(*ordered, **attributes)
        given = [tensors[a] if isinstance(a, str) else a for a in lowering.arguments]
        out = tvm.runtime.tensor(np.full(expected.shape, 77, dtype=expected.dtype))
        library["main"](*(tvm.runtime.tensor(np.ascontiguousarray(g)) for g in given), out)
        np.testing.assert_array_equal(out.numpy(), expected)
