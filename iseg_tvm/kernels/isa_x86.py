"""x86 kernel families: ``vpmaddwd`` (AVX2, AVX-512BW), ``vpdpbusd`` (AVX-VNNI, AVX-512), VBMI."""

from __future__ import annotations

import numpy as np

from iseg_tvm.kernels.isa import (
    Dot,
    Isa,
    MultiplyHigh,
    MultiplyWide,
    Narrow,
    PairDot,
    RoundShift,
    WeightSum,
)
from iseg_tvm.kernels.isa_generic import (
    generic_multiply_high,
    generic_round_shift,
    generic_shift_right,
)
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    T,
    cast,
    constant_vector,
    load,
    reinterpret,
    splat,
)


def _x86_multiply_high(intrinsics: dict[int, str]) -> MultiplyHigh:
    """``vpmulhrsw`` for the listed lane counts, plain arithmetic for others."""

    def multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
        if lanes not in intrinsics:
            return generic_multiply_high(a, b, lanes)
        return T.call_llvm_pure_intrin(f"int16x{lanes}", intrinsics[lanes], a, b)

    return multiply_high


_MULHRS_128, _MULHRS_256, _MULHRS_512 = (
    "llvm.x86.ssse3.pmul.hr.sw.128",
    "llvm.x86.avx2.pmul.hr.sw",
    "llvm.x86.avx512.pmul.hr.sw.512",
)


def _madd_dot(lanes: int, intrinsic: str) -> Dot:
    """``vpmaddwd``: int16 pairs, exact (``pmaddubsw`` would saturate)."""

    def dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
        pair = reinterpret(T.broadcast(left, lanes), "int16", 2 * lanes)
        wide = cast(right, "int16", 2 * lanes)
        return accumulator + T.call_llvm_pure_intrin(f"int32x{lanes}", intrinsic, pair, wide)

    return dot


def _vnni_dot(lanes: int) -> Dot:
    """``vpdpbusd``: four uint8 x int8 products into an int32 lane, without saturation.

    LLVM 22 types its byte operands ``<64 x i8>``; the intrinsic shipped with TVM passes i32.
    """

    def dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
        quad = reinterpret(T.broadcast(left, lanes), "int8", 4 * lanes)
        return _vpdpbusd(lanes, accumulator, quad, right)

    return dot


def _vpdpbusd(lanes: int, accumulator: Expr, quads: Expr, right: Expr) -> Expr:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
    return T.call_llvm_pure_intrin(f"int32x{lanes}", name, accumulator, quads, right)


def _avx2_shift_right(g: Expr, i: Expr, lanes: int) -> Expr:
    """``g >> i = (2 g * 2**(15 - i)) >> 16``, the power looked up by byte shuffle.

    AVX2 has no 16-bit variable shift. A word's upper byte looks up 2**(7 - i), its lower one
    2**(15 - i); the bytes' indices i and i + 8 meet zeros where the power is not theirs.
    """
    if lanes != 16:
        return generic_shift_right(g, i, lanes)
    amount = T.min(i, splat(15, "int16", lanes))
    index = T.Bind(amount * splat(257, "int16", lanes) + splat(8, "int16", lanes))
    powers = np.array([128, 64, 32, 16, 8, 4, 2, 1] + [0] * 8, np.uint8)
    power = T.call_llvm_pure_intrin(
        "int8x32", "llvm.x86.avx2.pshuf.b", constant_vector(np.tile(powers, 2)),
        reinterpret(index, "int8", 32),
    )  # fmt: skip
    return T.call_llvm_pure_intrin(
        "int16x16", "llvm.x86.avx2.pmulhu.w", g + g, reinterpret(power, "int16", lanes)
    )


def _avx512_shift_right(g: Expr, i: Expr, lanes: int) -> Expr:
    """``vpsrlvw``."""
    if lanes != 32:
        return generic_shift_right(g, i, lanes)
    return T.call_llvm_pure_intrin("int16x32", "llvm.x86.avx512.psrlv.w.512", g, i)


def _avx512_lookup64(table: Buffer, x: Expr, lanes: int) -> Expr:
    """``vpermi2w``."""
    halves = [load(table, 32 * h, 32) for h in range(2)]
    name = "llvm.x86.avx512.vpermi2var.hi.512"
    return T.call_llvm_pure_intrin("int16x32", name, halves[0], x, halves[1])


def _madd_weight_sum(intrinsic: str) -> WeightSum:
    """``vpmaddwd`` with ones."""

    def weight_sum(accumulator: Expr, weights: Expr, lanes: int) -> Expr:
        ones = splat(1, "int16", lanes)
        pairs = T.call_llvm_pure_intrin(f"int32x{lanes // 2}", intrinsic, weights, ones)
        return accumulator + pairs

    return weight_sum


def _vnni_weight_sum(accumulator: Expr, weights: Expr, lanes: int) -> Expr:
    """``vpdpbusd`` with ones."""
    quads = reinterpret(weights, "int8", lanes)
    return _vpdpbusd(lanes // 4, accumulator, quads, splat(1, "int8", lanes))


def _mulhrs_round_shift(multiply_high: MultiplyHigh, widths: tuple[int, ...]) -> RoundShift:
    """``rshr(x, s) = mulhrs(x, 2**(15 - s))``: one instruction, no 17th bit."""

    def round_shift(x: Expr, shift: int, lanes: int) -> Expr:
        if shift == 0 or lanes not in widths:
            return generic_round_shift(x, shift, lanes)
        return multiply_high(x, splat(1 << (15 - shift), "int16", lanes), lanes)

    return round_shift


def _x86_multiply_wide(high: str) -> MultiplyWide:
    """``vpmullw``, ``vpmulhw`` and two unpacks, which ``vpackssdw`` undoes."""

    def multiply_wide(a: Expr, b: Expr, lanes: int) -> tuple[Expr, Expr]:
        halves = [T.Bind(a * b), T.Bind(T.call_llvm_pure_intrin(f"int16x{lanes}", high, a, b))]
        results = []
        for first in (0, 4):
            # Words first..first + 3 of every 128 bits, low and high part of a product in turn.
            words = [
                T.int32(unit + first + i // 2 + (i % 2) * lanes)
                for unit in range(0, lanes, 8)
                for i in range(8)
            ]
            results.append(T.Bind(reinterpret(T.Shuffle(halves, words), "int32", lanes // 2)))
        return results[0], results[1]

    return multiply_wide


def _madd(intrinsic: str) -> PairDot:
    """``vpmaddwd``."""

    def pair_dot(a: Expr, b: Expr, lanes: int) -> Expr:
        return T.call_llvm_pure_intrin(f"int32x{lanes // 2}", intrinsic, a, b)

    return pair_dot


def _packs(intrinsic: str, dtype: str) -> Narrow:
    """``vpackssdw`` / ``vpacksswb``: within each 128 bits, first operand then second."""

    def narrow(a: Expr, b: Expr, lanes: int) -> Expr:
        return T.call_llvm_pure_intrin(f"{dtype}x{2 * lanes}", intrinsic, a, b)

    return narrow


def _vbmi_table_lookup(tables: Buffer, start: Expr, x: Expr, lanes: int) -> Expr:
    """``vpermi2b`` in each half of the table (its index is 7 bits), chosen by the sign."""
    quarters = [load(tables, start + 64 * q, 64) for q in range(4)]
    negative, positive = (
        T.call_llvm_pure_intrin("int8x64", "llvm.x86.avx512.vpermi2var.qi.512", low, x, high)
        for low, high in (quarters[:2], quarters[2:])
    )
    return T.Select(x < splat(0, "int8", lanes), negative, positive)


_MULHRS_AVX2 = _x86_multiply_high({8: _MULHRS_128, 16: _MULHRS_256})
_MULHRS_AVX512 = _x86_multiply_high({8: _MULHRS_128, 16: _MULHRS_256, 32: _MULHRS_512})
_ROUND_AVX2 = _mulhrs_round_shift(_MULHRS_AVX2, (8, 16))
_ROUND_AVX512 = _mulhrs_round_shift(_MULHRS_AVX512, (8, 16, 32))
_PACKS_AVX2 = (
    _packs("llvm.x86.avx2.packssdw", "int16"),
    _packs("llvm.x86.avx2.packsswb", "int8"),
    _packs("llvm.x86.avx2.packuswb", "uint8"),
)
_WIDE_AVX2 = (
    _x86_multiply_wide("llvm.x86.avx2.pmulh.w"),
    _madd("llvm.x86.avx2.pmadd.wd"),
)
_WIDE_AVX512 = (
    _x86_multiply_wide("llvm.x86.avx512.pmulh.w.512"),
    _madd("llvm.x86.avx512.pmaddw.d.512"),
)
_PACKS_AVX512 = (
    _packs("llvm.x86.avx512.packssdw.512", "int16"),
    _packs("llvm.x86.avx512.packsswb.512", "int8"),
    _packs("llvm.x86.avx512.packuswb.512", "uint8"),
)


FAMILIES = (
    Isa(
        "avx2", ("avx2",), 32, 2, "int16", 0, 6, 2,
        _madd_dot(8, "llvm.x86.avx2.pmadd.wd"), _MULHRS_AVX2, _avx2_shift_right,
        _ROUND_AVX2, *_PACKS_AVX2, _madd_weight_sum("llvm.x86.avx2.pmadd.wd"), 4,
        *_WIDE_AVX2,
        registers=16,
    ),
    Isa(
        "avxvnni", ("avx2", "avxvnni"), 32, 4, "uint8", 128, 6, 2,
        _vnni_dot(8), _MULHRS_AVX2, _avx2_shift_right,
        _ROUND_AVX2, *_PACKS_AVX2, _vnni_weight_sum, 4,
        *_WIDE_AVX2,
        registers=16,
    ),
    Isa(
        "avx512bw", ("avx512bw",), 64, 2, "int16", 0, 6, 4,
        _madd_dot(16, "llvm.x86.avx512.pmaddw.d.512"), _MULHRS_AVX512, _avx512_shift_right,
        _ROUND_AVX512, *_PACKS_AVX512, _madd_weight_sum("llvm.x86.avx512.pmaddw.d.512"), 4,
        *_WIDE_AVX512,
        lookup64=_avx512_lookup64,
    ),
    Isa(
        "avx512vnni", ("avx512bw", "avx512vnni"), 64, 4, "uint8", 128, 6, 4,
        _vnni_dot(16), _MULHRS_AVX512, _avx512_shift_right,
        _ROUND_AVX512, *_PACKS_AVX512, _vnni_weight_sum, 4,
        *_WIDE_AVX512,
        lookup64=_avx512_lookup64,
    ),
    Isa(
        "avx512vbmi", ("avx512bw", "avx512vnni", "avx512vbmi"), 64, 4, "uint8", 128, 6, 4,
        _vnni_dot(16), _MULHRS_AVX512, _avx512_shift_right,
        _ROUND_AVX512, *_PACKS_AVX512, _vnni_weight_sum, 4,
        *_WIDE_AVX512, None, _vbmi_table_lookup,
        _avx512_lookup64,
    ),
)  # fmt: skip
