"""Inner kernels of the ARM families, blocked for 32 registers of 128 bits.

Each is an ``Isa.micro_kernel``: same arguments and result as
:func:`iseg_tvm.kernels.micro_kernel.emit_micro_kernel`, which hands over to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iseg_tvm.kernels.isa import Dot, Isa
from iseg_tvm.kernels.vector import Buffer, Expr, T, flat, load, reinterpret, scratch, splat, store

Accumulators = list[Buffer]
Initial = Sequence[Expr] | None

BYTES = 16
"""Of a register."""

UNROLL = 4
"""Steps over the inner dimension in one turn of the loop: a pair of loads serves two steps."""


def _filled(count: int, vectors: int, initial: Initial = None) -> Accumulators:
    """``count`` buffers of ``vectors`` registers that start as ``initial``, or as zeros."""
    zero = splat(0, "int32", 4)
    buffers = [scratch(4 * vectors, "int32") for _ in range(count)]
    for buffer in buffers:
        for v in range(vectors):
            store(buffer, 4 * v, zero if initial is None else initial[v], 4)
    return buffers


def _add_to(buffer: Buffer, index: int, dot: Dot, *operands: Expr) -> None:
    """Replace the register at ``index`` by ``dot`` of it."""
    store(buffer, index, dot(load(buffer, index, 4), *operands), 4)


def _unrolled(steps: int, unroll: int, step: Callable[[Expr], None]) -> None:
    """Emit ``step(k)`` for k in [0, steps), at most ``unroll`` in one turn of the loop.

    A loop of one turn would become straight code, in which LLVM loads the halves of registers.
    """
    while unroll > 1 and steps // unroll < 2:
        unroll //= 2
    turns = steps // unroll
    if turns:
        with T.serial(0, turns) as turn:
            for u in range(unroll):
                step(turn * unroll + u)
    for k in range(turns * unroll, steps):
        step(T.int32(k))

def _vectors(buffer: Buffer, start: Expr, count: int) -> list[Expr]:
    """Load ``count`` consecutive registers of int8."""
    return [T.Bind(load(buffer, start + BYTES * i, BYTES)) for i in range(count)]


def _bytes(isa: Isa, words: Buffer) -> Buffer:
    """The int8 values of a view in words."""
    return flat(words, "int8", int(words.shape[0]) * isa.k_group)


def emit_lane_kernel(
    isa: Isa, dot: Dot, left: Buffer, left_start: Expr, left_stride: int, rows: int,
    right: Buffer, right_start: Expr, width: int, depth: int, initial: Initial = None,
) -> Accumulators:  # fmt: skip
    """``sdot`` by a lane: one left register holds a word of four rows, none is broadcast.

    ``dot`` takes (accumulator, left int8x16, right int8x16, lane).
    """
    values, start = _bytes(isa, left), left_start * isa.k_group
    vectors, step_bytes = width // 4, isa.row_group * isa.k_group
    accumulators = _filled(rows, vectors, initial)

    def step(k: Expr) -> None:
        quads = _vectors(values, start + k * step_bytes, -(-rows // 4))
        columns = _vectors(right, right_start + k * (width * isa.k_group), vectors)
        for r, row in enumerate(accumulators):
            for v, column in enumerate(columns):
                _add_to(row, 4 * v, dot, quads[r // 4], column, r % 4)

    _unrolled(depth // isa.k_group, UNROLL, step)
    return accumulators


def emit_row_lane_kernel(
    isa: Isa, dot: Dot, left: Buffer, left_start: Expr, left_stride: int, rows: int,
    right: Buffer, right_start: Expr, width: int, depth: int, initial: Initial = None,
) -> Accumulators:  # fmt: skip
    """``sdot`` by a lane of rows as they are: one left register holds four words of one row.

    ``dot`` as in :func:`emit_lane_kernel`.
    """
    values, start = _bytes(isa, left), left_start * isa.k_group
    vectors, word = width // 4, isa.k_group
    accumulators = _filled(rows, vectors, initial)

    def add(k: Expr, lane: int, quads: list[Expr]) -> None:
        columns = _vectors(right, right_start + k * (width * word), vectors)
        for row, quad in zip(accumulators, quads, strict=True):
            for v, column in enumerate(columns):
                _add_to(row, 4 * v, dot, quad, column, lane)

    def step(turn: Expr) -> None:
        first = start + turn * BYTES
        quads = [_vectors(values, first + r * left_stride * word, 1)[0] for r in range(rows)]
        for lane in range(BYTES // word):
            add(turn * (BYTES // word) + lane, lane, quads)

    _unrolled(depth // BYTES, 1, step)
    for k in range(depth // BYTES * BYTES // word, depth // word):
        places = [start + (r * left_stride + k) * word for r in range(rows)]
        words = [reinterpret(load(values, place, word), "int32", 1) for place in places]
        add(T.int32(k), 0, [T.Bind(reinterpret(T.broadcast(w, 4), "int8", BYTES)) for w in words])
    return accumulators


def emit_reducing_kernel(
    isa: Isa, dot: Dot, left: Buffer, left_start: Expr, left_stride: int, rows: int,
    right: Buffer, right_start: Expr, width: int, depth: int, initial: Initial = None,
    *, unroll: int, descending: bool = False,
) -> Accumulators:  # fmt: skip
    """Lanes run over the inner dimension and are added up at the end: nothing is broadcast.

    ``dot`` takes (accumulator, left int8x16, right int8x16) and may add a product to any lane.
    ``descending`` writes the products last to first, which changes the order LLVM gives them.
    """
    values, start = _bytes(isa, left), left_start * isa.k_group
    partial = _filled(rows, width)
    row_bytes = BYTES if isa.interleave else left_stride * BYTES
    tile = [(r, c) for r in range(rows) for c in range(width)]

    def step(k: Expr) -> None:
        first = start + k * (isa.row_group * BYTES)
        words = [_vectors(values, first + r * row_bytes, 1)[0] for r in range(rows)]
        columns = _vectors(right, right_start + k * (width * BYTES), width)
        for r, c in reversed(tile) if descending else tile:
            _add_to(partial[r], 4 * c, dot, words[r], columns[c])

    _unrolled(depth // BYTES, unroll, step)
    accumulators = [scratch(width, "int32") for _ in range(rows)]
    for row, result in zip(partial, accumulators, strict=True):
        for v in range(0, width, 4):
            registers = [load(row, 4 * (v + i), 4) for i in range(4)]
            low, high = (T.Bind(add_pairs(*registers[i : i + 2])) for i in (0, 2))
            total = add_pairs(low, high)
            store(result, v, total if initial is None else total + initial[v // 4], 4)
    return accumulators


def add_pairs(a: Expr, b: Expr) -> Expr:
    """``addp``: sums of neighbouring lanes, first of ``a``, then of ``b``; int32x4."""
    even, odd = (T.Shuffle([a, b], [T.int32(i) for i in range(first, 8, 2)]) for first in (0, 1))
    return even + odd


def _twice(vectors: Sequence[Expr]) -> list[Expr]:
    """Each half of each vector, repeated: what both rows of a (2, 2) register start from."""
    return [
        T.Bind(T.Shuffle([vector], [T.int32(half + i % 2) for i in range(4)]))
        for vector in vectors
        for half in (0, 2)
    ]


def emit_matrix_kernel(
    isa: Isa, dot: Dot, left: Buffer, left_start: Expr, left_stride: int, rows: int,
    right: Buffer, right_start: Expr, width: int, depth: int, initial: Initial = None,
) -> Accumulators:  # fmt: skip
    """``smmla``: two rows by two columns in a register, sorted into rows at the end.

    ``dot`` takes (accumulator, left int8x16, right int8x16); an odd last row has a neighbour of
    unspecified values, whose results are dropped.
    """
    values, start = _bytes(isa, left), left_start * isa.k_group
    pairs, vectors, step_bytes = -(-rows // 2), width // 4, isa.row_group * isa.k_group
    squares = _filled(pairs, 2 * vectors, None if initial is None else _twice(initial))

    def step(k: Expr) -> None:
        words = _vectors(values, start + k * step_bytes, pairs)
        columns = _vectors(right, right_start + k * (width * isa.k_group), 2 * vectors)
        for word, square in zip(words, squares, strict=True):
            for c, column in enumerate(columns):
                _add_to(square, 4 * c, dot, word, column)

    _unrolled(depth // isa.k_group, UNROLL, step)
    accumulators = [scratch(width, "int32") for _ in range(rows)]
    for r, row in enumerate(accumulators):
        half = [T.int32(2 * (r % 2) + i) for i in (0, 1, 4, 5)]
        for v in range(vectors):
            registers = [load(squares[r // 2], 8 * v + i, 4) for i in (0, 4)]
            store(row, 4 * v, T.Shuffle(registers, half), 4)
    return accumulators
