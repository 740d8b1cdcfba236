"""Kernel family for Intel AMX (``tdpbssd``, ``tdpbusd``): tiles for products, AVX-512 for the rest.

The operating system saves the tile registers only of processes that asked for them, so a kernel
asks first; Linux answers again at the price of a system call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from iseg_tvm.host_cpu import AMX_PERMISSION
from iseg_tvm.kernels.isa_x86 import FAMILIES as X86_FAMILIES
from iseg_tvm.kernels.tile_unit import TILE_BYTES, TILE_ROWS, Tiles
from iseg_tvm.kernels.vector import Buffer, Expr, T, constant_vector, scratch, store


def _emit(name: str, *arguments: Expr) -> None:
    T.evaluate(T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments))


def _configuration() -> np.ndarray:
    """Argument of ``ldtilecfg``: palette 1, eight tiles of full size; uint8 (64,)."""
    content = np.zeros(64, np.uint8)
    content[0] = 1
    content[16:32].view(np.uint16)[:] = TILE_BYTES
    content[48:56] = TILE_ROWS
    return content


class _AmxTiles:
    """The CPU's tile registers; tile numbers are part of an instruction."""

    def zero(self, tile: int) -> None:
        _emit("tilezero", T.int8(tile))

    def load(self, tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
        _emit("tileloadd64", T.int8(tile), T.address_of(buffer[index]), T.int64(stride))

    def dot(self, total: int, left: int, right: int) -> None:
        _emit("tdpbssd", T.int8(total), T.int8(left), T.int8(right))

    def weighted_dot(self, total: int, left: int, right: int) -> None:
        _emit("tdpbusd", T.int8(total), T.int8(left), T.int8(right))

    def store(self, tile: int, buffer: Buffer, index: Expr, stride: int) -> None:
        _emit("tilestored64", T.int8(tile), T.address_of(buffer[index]), T.int64(stride))


class Amx:
    """The unit as Linux hands it out."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """``arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)``, for the whole process."""
        answer = T.call_extern("int64", "syscall", *(T.int64(n) for n in AMX_PERMISSION))
        with T.Assert(answer == T.int64(0), "the operating system refuses AMX to this process"):
            yield

    @contextmanager
    def open(self) -> Iterator[Tiles]:
        """Configure the tiles, and release them: their state is 8 KB at every task switch."""
        configuration = scratch(64, "uint8")
        store(configuration, 0, constant_vector(_configuration()), 64)
        _emit("ldtilecfg", T.address_of(configuration[0]))
        yield _AmxTiles()
        _emit("tilerelease")


_VBMI = next(isa for isa in X86_FAMILIES if isa.name == "avx512vbmi")

_LAYERS = replace(
    _VBMI,
    name="amx",
    llvm_features=(*_VBMI.llvm_features, "amx-tile", "amx-int8"),
    depth_multiple=TILE_BYTES,
    a_dtype="int8",
    a_offset=0,
    rows=TILE_ROWS,
    vectors=4,
    tile_unit=Amx(),
    choices=(1604, 3202),
    deep_block=3202,
    left_block_bytes=768 * 1024,  # every CPU with AMX has 2 MB of L2
)

FAMILIES = (_LAYERS,)
