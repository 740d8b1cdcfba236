"""What the CPU's int8 product instruction reaches when nothing else is in its way.

A kernel of independent accumulators that stay in registers, made by the helpers and with the
instruction (`Isa.dot`, or that of the tile unit) of the matrix products: percentages of it are of
this CPU, in this process, at its clock of the moment.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import tvm

from iseg_tvm.build import tvm_target
from iseg_tvm.kernels.isa import Isa, get_isa
from iseg_tvm.kernels.micro_kernel import word_dtype
from iseg_tvm.kernels.tile_unit import TILE_BYTES, TILE_ROWS, requested, tile_scratch
from iseg_tvm.kernels.vector import PrimFunc, T, kernel, load, scratch, splat, store
from iseg_tvm.runtime import set_num_threads
from iseg_tvm.targets import TargetSpec

_INSTRUCTIONS = {
    "amx-int8": "tdpbssd",
    "avx512vnni": "vpdpbusd",
    "avxvnni": "vpdpbusd",
    "dotprod": "sdot",
}


def peak_families(isa: str) -> dict[str, Isa]:
    """Instructions whose peak is measured, the one of the products first, with their families.

    None where a dot product is several instructions: LLVM moves parts of those out of the loop
    here, and a peak of what is left would mean nothing. A family with a tile unit has two, as its
    CPU's vector unit could compute the products as well.
    """
    family = get_isa(isa)
    families = [family]
    if family.tile_unit is not None:
        features = tuple(f for f in family.llvm_features if not f.startswith("amx"))
        families.append(replace(family, tile_unit=None, llvm_features=features))
    found = [(_instruction(f), f) for f in families]
    return {name: f for name, f in found if name is not None}


def _instruction(family: Isa) -> str | None:
    names = (name for feature, name in _INSTRUCTIONS.items() if feature in family.llvm_features)
    return next(names, None)


TILES = 4  # of sums, with two tiles on either side


ACCUMULATORS = 12  # more than the latency of any of them, in instructions (4 to 10)
UNROLL = 4
STEPS = 100_000


def build_peak(isa: Isa, tasks: int) -> PrimFunc:
    """``(left words, right bytes, out)``: each task repeats dot products on its own registers."""
    lanes, group = isa.lanes, isa.k_group
    parameters = [
        ("left", (ACCUMULATORS,), word_dtype(isa)),
        ("right", (lanes * group,), "int8"),
        ("out", (tasks * ACCUMULATORS * lanes,), "int32"),
    ]
    with kernel("peak", parameters) as (builder, buffers), T.parallel(0, tasks) as task:
        left, right, out = buffers
        accumulators = [scratch(lanes, "int32") for _ in range(ACCUMULATORS)]
        for accumulator in accumulators:
            store(accumulator, 0, splat(0, "int32", lanes), lanes)
        words = [T.Bind(left[i]) for i in range(ACCUMULATORS)]
        vector = T.Bind(right[T.ramp(0, 1, lanes * group)])
        with T.serial(0, STEPS):
            for _ in range(UNROLL):
                for accumulator, word in zip(accumulators, words, strict=True):
                    total = isa.dot(load(accumulator, 0, lanes), word, vector)
                    store(accumulator, 0, total, lanes)
        for i, accumulator in enumerate(accumulators):
            index = (task * ACCUMULATORS + i) * lanes
            store(out, index, load(accumulator, 0, lanes), lanes)
    return builder.get()


def build_tile_peak(isa: Isa, tasks: int) -> PrimFunc:
    """``(left words, right bytes, out)``: the same with tiles, all of them zeros.

    Zeros cost the unit the least power: on random bytes Sapphire Rapids was seen to multiply at
    about 60 % of this rate.
    """
    unit = isa.tile_unit
    assert unit is not None
    parameters = [
        ("left", (ACCUMULATORS,), "int8"),
        ("right", (isa.lanes * isa.k_group,), "int8"),
        ("out", (tasks * TILES,), "int32"),
    ]
    with (
        kernel("peak", parameters) as (builder, buffers),
        requested(unit),
        T.parallel(0, tasks) as task,
        unit.open() as tiles,
    ):
        sums = tile_scratch(TILE_ROWS * TILE_ROWS, "int32")
        for tile in range(2 * TILES):
            tiles.zero(tile)
        with T.serial(0, STEPS):
            for _ in range(UNROLL):
                for c in range(TILES):
                    tiles.dot(c, TILES + c // 2, TILES + 2 + c % 2)
        for c in range(TILES):
            tiles.store(c, sums, T.int32(0), TILE_BYTES)
            store(buffers[2], task * TILES + c, sums[0], 1)
    return builder.get()


class Peak:
    """The peak of one target at one number of threads, sampled whenever `sample` is called.

    Parameters
    ----------
    target : TargetSpec
        Of this machine.
    isa : Isa
        One of its `peak_families`.
    threads : int
        Threads that run the loop, each its own.

    Attributes
    ----------
    gops : largest sample so far, in billions of operations a second (a multiply-add is two)
    """

    def __init__(self, target: TargetSpec, isa: Isa, threads: int) -> None:
        has_tiles = isa.tile_unit is not None
        build = build_tile_peak if has_tiles else build_peak
        function = build(isa, threads).with_attr("global_symbol", "peak")
        library = tvm.compile(tvm.IRModule({"peak": function}), target=tvm_target(target))
        self.assembly = str(library.mod.inspect_source("asm"))
        self.threads, self.gops = threads, 0.0
        self._run = library["peak"]
        macs = ACCUMULATORS * isa.lanes * isa.k_group
        if has_tiles:
            macs = TILES * TILE_ROWS * TILE_ROWS * TILE_BYTES
        self._operations = 2 * threads * STEPS * UNROLL * macs
        self._arguments = self._make_arguments(isa, threads)

    @staticmethod
    def _make_arguments(isa: Isa, threads: int) -> list[Any]:
        dtype = "int8" if isa.tile_unit is not None else word_dtype(isa)
        left = np.arange(1, ACCUMULATORS + 1, dtype=dtype)
        right = np.arange(isa.lanes * isa.k_group, dtype=np.int8)
        count = TILES if isa.tile_unit is not None else ACCUMULATORS * isa.lanes
        out = np.zeros(threads * count, np.int32)
        return [tvm.runtime.tensor(array) for array in (left, right, out)]

    def sample(self) -> float:
        """Run the loop once (some milliseconds); return GOPS of this run."""
        set_num_threads(self.threads)
        start = time.perf_counter()
        self._run(*self._arguments)
        gops = self._operations / (time.perf_counter() - start) / 1e9
        self.gops = max(self.gops, gops)
        return gops
