"""What a kernel generator knows about an instruction set.

One record per kernel family named in ``targets/*.toml`` (``[kernels] isa``). The GEMM and attention
generators are written once; a record supplies the dot-product instruction, the form in
which it wants the left operand, register-block sizes and the few fixed-point instructions. The
records stand in ``isa_generic``, ``isa_x86`` and ``isa_arm``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from iseg_tvm.errors import IsegError
from iseg_tvm.kernels.tile_unit import TileUnit
from iseg_tvm.kernels.vector import Buffer, Expr

Dot = Callable[..., Expr]
MultiplyHigh = Callable[[Expr, Expr, int], Expr]
VariableShift = Callable[[Expr, Expr, int], Expr]
WeightSum = Callable[[Expr, Expr, int], Expr]
RoundShift = Callable[[Expr, int, int], Expr]
Narrow = Callable[[Expr, Expr, int], Expr]
PairDot = Callable[[Expr, Expr, int], Expr]
MultiplyWide = Callable[[Expr, Expr, int], tuple[Expr, Expr]]
TableLookup = Callable[[Buffer, Expr, Expr, int], Expr]
Lookup64 = Callable[[Buffer, Expr, int], Expr]
MicroKernel = Callable[..., list[Buffer]]


DEEP = 512
"""Inner size from which a panel of the register block's default width leaves L1."""


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
    shift_right : (g int16xN >= 0, i int16xN in [0, 2**11], N) -> ``g >> i`` as int16xN, or
        0 if i > 15; where there is a ``tile_unit``, g is any bits of uint16
    round_shift : (int16xN, constant s in [0, 15], N) -> ``rshr(x, s)`` as int16xN
    narrow16 : (int32xL, int32xL, L) -> both saturated to int16, int16x2L
    narrow8 : (int16xN, int16xN, N) -> both saturated to int8, int8x2N
    narrow_weights : (int16xN, int16xN, N) of values in [0, 255] -> uint8x2N, as ``narrow8``
    weight_sum : (int32xL, uint8xN or int16xN attention weights, N) -> the first plus, in some
        order, sums of the second's lanes
    pack_lanes : int32 lanes that ``narrow16`` and ``narrow8`` take from one operand before they
        turn to the other: 4 on x86, which packs within 128 bits; else all. :mod:`packing` orders
        the columns of a panel so that packed results come out in memory order
    multiply_wide : (int16xN, int16xN, N) -> exact products as two int32x(N/2), in the order that
        ``narrow16`` turns back into memory order
    pair_dot : (int16xN, int16xN, N) -> int32x(N/2), sums of two products each, in any order
    weight_dot : faster ``dot`` that may be used if no right value is -128
    table_lookup : (int8 tables, start of one, int8xN, N) -> ``tables[start + x + 128]`` as int8xN,
        in registers
    lookup64 : (int16 (64,) table, int16xN, N) -> the element at the low 6 bits, in registers
    registers : SIMD registers of the CPU
    micro_kernel : inner kernel of its own, with the arguments and the result of
        ``micro_kernel.emit_micro_kernel``; it says what its ``dot`` takes
    interleave : words (``k_group`` values) of the ``rows`` rows of a tile lie side by side in a
        packed left operand
    depth_multiple : inner sizes are padded to a multiple of it; 0: of ``k_group``
    tile_unit : unit that computes the products in place of ``dot``, in blocks of whole tiles
    choices : register blocks worth trying where ``registers`` does not tell
    deep_block : register block of products whose inner size is at least :data:`DEEP`, where it is
        another one than of others
    left_block_bytes : packed left rows of a task, which stay in L2 beside the panel in use
    attention : record for attention's products, where their layouts differ from those of layers
    weighted : in such a record, that of the product of weights and values, where it differs
    left_flip : bits flipped in each of ``k_group`` packed left values, as ``dot`` wants them
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
    shift_right: VariableShift
    round_shift: RoundShift
    narrow16: Narrow
    narrow8: Narrow
    narrow_weights: Narrow
    weight_sum: WeightSum
    pack_lanes: int
    multiply_wide: MultiplyWide
    pair_dot: PairDot
    weight_dot: Dot | None = None
    table_lookup: TableLookup | None = None
    lookup64: Lookup64 | None = None
    registers: int = 32
    micro_kernel: MicroKernel | None = None
    interleave: bool = False
    depth_multiple: int = 0
    tile_unit: TileUnit | None = None
    choices: tuple[int, ...] = ()
    deep_block: int | None = None
    left_block_bytes: int = 192 * 1024
    attention: Isa | None = None
    weighted: Isa | None = None
    left_flip: tuple[int, ...] = ()

    @property
    def lanes(self) -> int:
        """int32 lanes of a register."""
        return self.vector_bytes // 4

    @property
    def columns(self) -> int:
        """Columns of the register block."""
        return self.vectors * self.lanes

    def depth(self, inner: int) -> int:
        """Inner size after padding."""
        multiple = self.depth_multiple or self.k_group
        return -(-inner // multiple) * multiple

    @property
    def row_group(self) -> int:
        """Rows whose words alternate in a packed left operand."""
        return self.rows if self.interleave else 1

    @property
    def block(self) -> int:
        """Register block as one number, the form schedules hold it in: 4 x 6 is 406."""
        return self.rows * 100 + self.vectors

    def with_block(self, block: int) -> Isa:
        """Return the same family with another register block, in the form of :attr:`block`."""
        return replace(self, rows=block // 100, vectors=block % 100)

    def for_depth(self, inner: int) -> Isa:
        """Return the family with the register block that suits an inner size."""
        return self if self.deep_block is None or inner < DEEP else self.with_block(self.deep_block)

    def blocks(self) -> list[int]:
        """Register blocks worth trying, the family's own first: the tallest of each width."""
        found = set(self.choices)
        for vectors in range(2, 9) if not found else ():
            # Right vectors and one broadcast word stay in registers beside the accumulators.
            most = (self.registers - vectors - 1) // vectors
            found |= {rows * 100 + vectors for rows in range(max(most - 2, 2), most + 1)}
        return [self.block, *sorted(found - {self.block})]


@cache
def _families() -> dict[str, Isa]:
    from iseg_tvm.kernels import isa_amx, isa_arm, isa_generic, isa_x86

    modules = (isa_generic, isa_x86, isa_amx, isa_arm)
    return {isa.name: isa for module in modules for isa in module.FAMILIES}


def get_isa(name: str) -> Isa:
    """Record of a kernel family.

    Raises
    ------
    IsegError
        If there is none of that name.
    """
    families = _families()
    if name not in families:
        raise IsegError(f"unknown kernel family '{name}'", f"known: {', '.join(sorted(families))}")
    return families[name]
