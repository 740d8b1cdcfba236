"""What a kernel generator knows about an instruction set.

One record per kernel family named in ``targets/*.toml`` (``[kernels] isa``). The GEMM and attention
generators are written once; a record supplies the dot-product instruction, the form in
which it wants the left operand, register-block sizes and the few fixed-point instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from iseg_tvm.errors import IsegError
from iseg_tvm.kernels.vector import Expr, T, cast, reinterpret, splat

Dot = Callable[[Expr, Expr, Expr], Expr]
MultiplyHigh = Callable[[Expr, Expr, int], Expr]
RoundingShift = Callable[[Expr, Expr, int], Expr]


@dataclass(frozen=True)
class Isa:
    """One kernel family.

    Attributes
    ----------
    name : as in ``targets/*.toml``
    llvm_features : features, by LLVM's names, that its instructions need
    vector_bytes : width of a SIMD register
    k_group : values of the inner dimension that one dot product adds into an int32 lane
    a_dtype : how left operands are packed: ``int16``, ``int8`` or ``uint8``
    a_offset : added to an int8 left operand when it is packed (128 for ``uint8``)
    rows, vectors : register block: ``rows`` x (``vectors`` * lanes) accumulators
    dot : (accumulator int32xL, left word int32, right int8x(L * k_group)) -> int32xL
    multiply_high : (int16xN, int16xN, N) -> ``(a * b + 2**14) >> 15`` as int16xN
    exponent_shift : (g int16xN, i int16xN in [0, 9], N) -> ``rshr(g, 7 + i)`` as int16xN
    weight_dot : faster ``dot`` that may be used if no right value is -128
    """

    name: str
    llvm_features: tuple[str, ...]
    vector_bytes: int
    k_group: int
    a_dtype: str
    a_offset: int
    rows: int
    vectors: int
    dot: Dot
    multiply_high: MultiplyHigh
    exponent_shift: RoundingShift
    weight_dot: Dot | None = None

    @property
    def lanes(self) -> int:
        """int32 lanes of a register."""
        return self.vector_bytes // 4

    @property
    def columns(self) -> int:
        """Columns of the register block."""
        return self.vectors * self.lanes


def _generic_multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
    wide = cast(a, "int32", lanes) * cast(b, "int32", lanes) + splat(1 << 14, "int32", lanes)
    return cast(wide >> splat(15, "int32", lanes), "int16", lanes)


def _generic_exponent_shift(g: Expr, i: Expr, lanes: int) -> Expr:
    shift = cast(i, "int32", lanes)
    half = splat(64, "int32", lanes) << shift
    wide = (cast(g, "int32", lanes) + half) >> (shift + splat(7, "int32", lanes))
    return cast(wide, "int16", lanes)


def _generic_dot(lanes: int) -> Dot:
    """One int16 value a lane."""

    def dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
        wide = T.broadcast(cast(left, "int32", 1), lanes) * cast(right, "int32", lanes)
        return accumulator + wide

    return dot


def _x86_multiply_high(intrinsics: dict[int, str]) -> MultiplyHigh:
    """``vpmulhrsw`` for the listed lane counts, plain arithmetic for others."""

    def multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
        if lanes not in intrinsics:
            return _generic_multiply_high(a, b, lanes)
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


def _vnni_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``vpdpbusd``: four uint8 x int8 products into an int32 lane, without saturation.

    LLVM 22 types its byte operands ``<64 x i8>``; the intrinsic shipped with TVM passes i32.
    """
    quad = reinterpret(T.broadcast(left, 16), "int8", 64)
    return T.call_llvm_pure_intrin(
        "int32x16", "llvm.x86.avx512.vpdpbusd.512", accumulator, quad, right
    )


# Bytes 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 0 as little-endian words.
_POWER_WORDS = [0, 1 << 24, 2 | 4 << 8 | 8 << 16 | 16 << 24, 32 | 64 << 8 | 128 << 16]
_POWER_INDEX = 0x070F


def _pshufb_exponent_shift(shuffles: dict[int, str], multiply_high: MultiplyHigh) -> RoundingShift:
    """``rshr(g, 7 + i) = mulhrs(g, 2**(8 - i))``, the power looked up by byte shuffle.

    The low byte of a lane reads ``T[15 - i]`` and the high byte ``T[7 - i]``, which together are
    ``2**(8 - i)`` (256 does not fit one byte); a negative index gives 0. AVX2 has no 16-bit
    variable shift.
    """

    def exponent_shift(g: Expr, i: Expr, lanes: int) -> Expr:
        if lanes not in shuffles:
            return _generic_exponent_shift(g, i, lanes)
        index = splat(_POWER_INDEX, "int16", lanes) - i * splat(257, "int16", lanes)
        table = reinterpret(_repeat_words(_POWER_WORDS, lanes // 8), "int8", 2 * lanes)
        power = T.call_llvm_pure_intrin(
            f"int8x{2 * lanes}", shuffles[lanes], table, reinterpret(index, "int8", 2 * lanes)
        )
        return multiply_high(g, reinterpret(power, "int16", lanes), lanes)

    return exponent_shift


def _repeat_words(words: list[int], times: int) -> Expr:
    """Constant int32 vector holding the four ``words`` ``times`` over."""
    return T.Shuffle([T.int32(w) for w in words * times], [T.int32(k) for k in range(4 * times)])


def _neon_multiply_high(a: Expr, b: Expr, lanes: int) -> Expr:
    """``sqrdmulh``; equals the definition as no operand pair is twice -32768."""
    if lanes not in (4, 8):
        return _generic_multiply_high(a, b, lanes)
    return T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.aarch64.neon.sqrdmulh.v{lanes}i16", a, b
    )


def _neon_exponent_shift(g: Expr, i: Expr, lanes: int) -> Expr:
    """``srshl`` by a negative amount is the rounding right shift itself."""
    if lanes not in (4, 8):
        return _generic_exponent_shift(g, i, lanes)
    amount = splat(-7, "int16", lanes) - i
    return T.call_llvm_pure_intrin(
        f"int16x{lanes}", f"llvm.aarch64.neon.srshl.v{lanes}i16", g, amount
    )


def _neon_products(left: Expr, right: Expr) -> list[Expr]:
    """``smull``: values 0 and 1 of a lane's four, then 2 and 3, as int16x8 of exact products."""
    pairs = reinterpret(right, "int16", 8)
    word = reinterpret(T.broadcast(left, 2), "int16", 4)
    products = []
    for half in range(2):
        chosen = T.Shuffle([pairs], [T.int32(half + 2 * lane) for lane in range(4)])
        same = T.Shuffle([word], [T.int32(half)] * 4)
        wide = [cast(reinterpret(v, "int8", 8), "int16", 8) for v in (same, chosen)]
        products.append(wide[0] * wide[1])
    return products


def _add_pairs(accumulator: Expr, products: Expr) -> Expr:
    """``sadalp``: add neighbouring int16 lanes to the int32 lane they share."""
    added = T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", products)
    return accumulator + added


def _neon_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """Any int8 values: -128 * -128 twice would not fit an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_pairs(_add_pairs(accumulator, low), high)


def _neon_weight_dot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``smull``, ``smlal``, one ``sadalp``: 2 * 128 * 127 = 32512 fits an int16 lane."""
    low, high = _neon_products(left, right)
    return _add_pairs(accumulator, low + high)


def _sdot(accumulator: Expr, left: Expr, right: Expr) -> Expr:
    """``sdot``: four int8 x int8 products into an int32 lane (ARM dot-product extension)."""
    quad = reinterpret(T.broadcast(left, 4), "int8", 16)
    return T.call_llvm_pure_intrin(
        "int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", accumulator, right, quad
    )


_MULHRS_AVX2 = _x86_multiply_high({8: _MULHRS_128, 16: _MULHRS_256})
_MULHRS_AVX512 = _x86_multiply_high({8: _MULHRS_128, 16: _MULHRS_256, 32: _MULHRS_512})
_SHIFT_AVX2 = _pshufb_exponent_shift({16: "llvm.x86.avx2.pshuf.b"}, _MULHRS_AVX2)
_SHIFT_AVX512 = _pshufb_exponent_shift({32: "llvm.x86.avx512.pshuf.b.512"}, _MULHRS_AVX512)


_ISAS = {
    isa.name: isa
    for isa in (
        Isa(
            "generic", (), 16, 1, "int16", 0, 4, 2,
            _generic_dot(4), _generic_multiply_high, _generic_exponent_shift,
        ),
        Isa(
            "avx2", ("avx2",), 32, 2, "int16", 0, 6, 2,
            _madd_dot(8, "llvm.x86.avx2.pmadd.wd"), _MULHRS_AVX2, _SHIFT_AVX2,
        ),
        Isa(
            "avx512bw", ("avx512bw",), 64, 2, "int16", 0, 4, 6,
            _madd_dot(16, "llvm.x86.avx512.pmaddw.d.512"), _MULHRS_AVX512, _SHIFT_AVX512,
        ),
        Isa(
            "avx512vnni", ("avx512bw", "avx512vnni"), 64, 4, "uint8", 128, 4, 6,
            _vnni_dot, _MULHRS_AVX512, _SHIFT_AVX512,
        ),
        Isa(
            "neon", ("neon",), 16, 4, "int8", 0, 4, 4,
            _neon_dot, _neon_multiply_high, _neon_exponent_shift, _neon_weight_dot,
        ),
        Isa(
            "neon_dotprod", ("neon", "dotprod"), 16, 4, "int8", 0, 6, 4,
            _sdot, _neon_multiply_high, _neon_exponent_shift,
        ),
        Isa(
            "neon_i8mm", ("neon", "dotprod", "i8mm"), 16, 4, "int8", 0, 6, 4,
            _sdot, _neon_multiply_high, _neon_exponent_shift,
        ),
    )
}  # fmt: skip


def get_isa(name: str) -> Isa:
    """Record of a kernel family.

    Raises
    ------
    IsegError
        If there is none of that name.
    """
    if name not in _ISAS:
        raise IsegError(f"unknown kernel family '{name}'", f"known: {', '.join(sorted(_ISAS))}")
    return _ISAS[name]
