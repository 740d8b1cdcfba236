"""Left operands of products: how a block of rows gets into packed form.

Matrix rows, rows normalised on the way (LayerNorm), patches of an image. Each names the kernel
parameters that it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from iseg_tvm.kernels.gemm import Gemm, LeftRows
from iseg_tvm.kernels.layer_norm import LayerNorm, LayerNormRows, emit_layer_norm
from iseg_tvm.kernels.packing import (
    emit_pack_left_row,
    left_value,
    store_left,
    store_left_partial,
)
from iseg_tvm.kernels.vector import (
    Buffer,
    Expr,
    Parameter,
    T,
    cast,
    flat,
    load,
    spans,
    splat,
    when,
)


@dataclass(frozen=True)
class LeftOperand:
    """Kernel parameters of a left operand, and what packs its rows from their buffers."""

    parameters: Sequence[Parameter]
    rows: Callable[[Sequence[Buffer]], LeftRows]


def matrix(gemm: Gemm) -> LeftOperand:
    """Rows of an int8 matrix ``x``, in place where a tile unit reads rows of its width."""
    takes_rows = gemm.isa.tile_unit is not None and gemm.layout.depth == gemm.inner

    def rows(buffers: Sequence[Buffer]) -> LeftRows:
        source = flat(buffers[0], "int8", gemm.rows * gemm.inner)

        def pack(destination: Buffer, first: Expr, present: Expr) -> None:
            with T.serial(0, present) as row:
                start, depth = (first + row) * gemm.inner, gemm.layout.depth
                emit_pack_left_row(gemm.isa, destination, row, depth, source, start, gemm.inner)

        return LeftRows(pack, source if takes_rows else None)

    return LeftOperand([("x", (gemm.rows, gemm.inner), "int8")], rows)


def layer_norm(gemm: Gemm, norm: LayerNorm) -> LeftOperand:
    """LayerNorm of the rows of an int16 matrix ``x``; its result exists in packed form only."""
    isa, depth = gemm.isa, gemm.layout.depth

    def rows(buffers: Sequence[Buffer]) -> LeftRows:
        source = flat(buffers[0], "int16", gemm.rows * gemm.inner)
        normalised = LayerNormRows(norm, source, *buffers[1:])

        def pack(destination: Buffer, first: Expr, present: Expr) -> None:
            def sink(row: Expr, column: Expr, value: Expr, lanes: int, valid: int) -> None:
                packed = left_value(value, isa, lanes)
                place = (row - first, column, depth)
                store_left_partial(isa, destination, *place, packed, lanes, valid)

            emit_layer_norm(normalised, first, present, sink)

        return LeftRows(pack)

    return LeftOperand([("x", (gemm.rows, gemm.inner), "int16"), *norm.parameters], rows)


def patches(gemm: Gemm, image: Sequence[int], patch: int, pad: Sequence[int]) -> LeftOperand:
    """Patches of a uint8 ``image`` (H, W, 3), without an im2col copy of it."""
    height, width = image[:2]
    isa, depth, line = gemm.isa, gemm.layout.depth, 3 * patch
    grid_width = -(-width // patch)

    def value(pixels: Expr, lanes: int) -> Expr:
        signed = cast(pixels ^ splat(128, "uint8", lanes), "int8", lanes)
        return left_value(signed, isa, lanes)

    def rows(buffers: Sequence[Buffer]) -> LeftRows:
        pixels = flat(buffers[0], "uint8", height * width * 3)

        def put(destination: Buffer, row: Expr, k: Expr, chunk: Expr, lanes: int) -> None:
            store_left(isa, destination, row, k, depth, value(chunk, lanes), lanes)

        def whole_line(destination: Buffer, row: Expr, first: Expr, source: Expr) -> None:
            # Interleaved words must not straddle two chunks.
            lanes = 16 if not isa.interleave or line % isa.k_group == 0 else 1
            full, tail = spans(line, lanes)
            for start in range(0, full * lanes, lanes):
                put(destination, row, first + start, load(pixels, source + start, lanes), lanes)
            for k in range(tail, line):
                put(destination, row, first + k, pixels[source + k], 1)

        def padded_line(
            destination: Buffer, row: Expr, first: Expr, y: Expr, left: Expr
        ) -> None:
            with T.serial(0, patch) as dx:
                for c in range(3):
                    inside = T.And(y < height, left + dx < width)
                    pixel = pixels[(y * width + left + dx) * 3 + c]
                    either = T.if_then_else(inside, pixel, T.uint8(int(pad[c])))
                    put(destination, row, first + dx * 3 + c, either, 1)

        def pack(destination: Buffer, first: Expr, present: Expr) -> None:
            with T.serial(0, present) as row:
                top = T.Bind((first + row) // grid_width * patch)
                left = T.Bind((first + row) % grid_width * patch)
                with T.serial(0, patch) as dy:
                    y, k = T.Bind(top + dy), T.Bind(dy * line)
                    whole = T.And(y < height, left + patch <= width)
                    with when(whole):
                        whole_line(destination, row, k, (y * width + left) * 3)
                    with when(T.Not(whole)):
                        padded_line(destination, row, k, y, left)
                for k in range(gemm.inner, depth):
                    zero = splat(0, isa.a_dtype, 1)
                    store_left(isa, destination, row, T.int32(k), depth, zero, 1)

        return LeftRows(pack)

    return LeftOperand([("image", tuple(image), "uint8")], rows)
