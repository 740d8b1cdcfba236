"""Look-ups in the tables of ``shift_gelu``: int8 (G, 256), one for all columns or one a group."""

from __future__ import annotations

from iseg_tvm.kernels.isa import Isa
from iseg_tvm.kernels.vector import Buffer, Expr, T, cast, load, store
from iseg_tvm.operator_limits import ACTIVATION_GROUP

TABLE_SIZE = 256
"""Values of int8."""


def table_start(column: Expr) -> Expr:
    """Where the table of a column starts, if its group has one of its own."""
    return T.floordiv(column, ACTIVATION_GROUP) * TABLE_SIZE


def emit_tables(
    isa: Isa, groups: int, tables: Buffer, out: Buffer, first: Expr, rows: Expr, columns: int
) -> None:
    """Replace finished rows of a result, still in cache, by their table's values.

    Parameters
    ----------
    groups : tables in the flat buffer ``tables``: 1, or ceil(columns / 64)
    out : int8, flat; rows of ``columns`` values
    first, rows : the first row to replace, and how many
    """
    if groups == 1:
        _emit_look_ups(isa, tables, T.int32(0), out, first * columns, rows * columns)
        return
    full, rest = divmod(columns, ACTIVATION_GROUP)
    # Groups outside, rows inside: a table that fits registers is loaded once.
    with T.serial(0, full) as group, T.serial(0, rows) as row:
        start = T.Bind((first + row) * columns + group * ACTIVATION_GROUP)
        _emit_look_ups(isa, tables, group * TABLE_SIZE, out, start, T.int32(ACTIVATION_GROUP))
    if rest:
        with T.serial(0, rows) as row:
            start = T.Bind((first + row) * columns + full * ACTIVATION_GROUP)
            _emit_look_ups(isa, tables, T.int32(full * TABLE_SIZE), out, start, T.int32(rest))


def _emit_look_ups(
    isa: Isa, tables: Buffer, table: Expr, out: Buffer, start: Expr, count: Expr
) -> None:
    """``count`` neighbouring values through the table that starts at ``tables[table]``."""
    done = T.int32(0)
    if isa.table_lookup is not None:
        lanes = isa.vector_bytes
        done = T.Bind(count // lanes * lanes)
        with T.serial(0, count // lanes) as i:
            index = start + i * lanes
            values = T.Bind(load(out, index, lanes))
            store(out, index, isa.table_lookup(tables, table, values, lanes), lanes)
    with T.serial(done, count) as i:
        index = start + i
        store(out, index, tables[table + (cast(out[index], "int32", 1) + 128)], 1)
