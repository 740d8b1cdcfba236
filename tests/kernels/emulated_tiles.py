"""The tile registers of a matrix unit as plain buffers, and its products as plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from iseg_tvm.kernels.tile_unit import TILE_BYTES, TILE_ROWS
from iseg_tvm.kernels.vector import T, cast, flat, scratch, store

SIZE = TILE_ROWS * TILE_BYTES


class _Tiles:
    """``iseg_tvm.kernels.tile_unit.Tiles`` on eight buffers."""

    def __init__(self) -> None:
        self.bytes = [scratch(SIZE, "int8") for _ in range(8)]

    def _words(self, tile: int) -> Any:
        return flat(self.bytes[tile], "int32", SIZE // 4)

    def zero(self, tile: int) -> None:
        words = self._words(tile)
        with T.serial(0, SIZE // 4) as i:
            store(words, i, T.int32(0), 1)

    def load(self, tile: int, buffer: Any, index: Any, stride: int) -> None:
        self._move(self.bytes[tile], T.int32(0), TILE_BYTES, buffer, index, stride, False)

    def store(self, tile: int, buffer: Any, index: Any, stride: int) -> None:
        self._move(self.bytes[tile], T.int32(0), TILE_BYTES, buffer, index, stride, True)

    @staticmethod
    def _move(
        tile: Any, start: Any, tile_stride: int, buffer: Any, index: Any, stride: int, out: bool
    ) -> None:
        dtype = str(buffer.dtype)
        size = {"int8": 1, "uint8": 1, "int32": 4}[dtype]
        view = flat(tile, dtype, SIZE // size)
        with T.serial(0, TILE_ROWS) as row, T.serial(0, TILE_BYTES // size) as i:
            inside = start + row * (tile_stride // size) + i
            outside = index + row * (stride // size) + i
            if out:
                store(buffer, outside, view[inside], 1)
            else:
                store(view, inside, buffer[outside], 1)

    def dot(self, total: int, left: int, right: int) -> None:
        self._product(total, left, right, "int8")

    def weighted_dot(self, total: int, left: int, right: int) -> None:
        self._product(total, left, right, "uint8")

    def _product(self, total: int, left: int, right: int, dtype: str) -> None:
        sums, columns = self._words(total), self.bytes[right]
        rows = flat(self.bytes[left], dtype, SIZE)
        with T.serial(0, TILE_ROWS) as m, T.serial(0, TILE_ROWS) as n, T.serial(0, 64) as k:
            a = cast(rows[m * TILE_BYTES + k], "int32", 1)
            b = cast(columns[k // 4 * TILE_BYTES + n * 4 + k % 4], "int32", 1)
            place = m * TILE_ROWS + n
            store(sums, place, sums[place] + a * b, 1)


class EmulatedUnit:
    """``iseg_tvm.kernels.tile_unit.TileUnit`` that every CPU has."""

    def request(self) -> Any:
        """Nothing to ask for."""
        return nullcontext()

    @contextmanager
    def open(self) -> Iterator[_Tiles]:
        """A task's own buffers."""
        yield _Tiles()
