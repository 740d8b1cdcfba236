"""Cycles of the inner loops by llvm-mca's models of the cores, against what each core can do.

The limits are those of the multiply instructions alone:

- Cortex-A53: one SIMD instruction a cycle (LLVM's model; ARM publishes no guide). 16 products take
  ``smull``, ``smlal2`` and ``sadalp``: 16/3 a cycle.
- Cortex-A72 Software Optimization Guide, "ASIMD multiply accumulate long": one a cycle, pipe F0;
  the ``sadalp`` go to F1. 8 products a cycle.
- Cortex-A76 Software Optimization Guide, "ASIMD dot product": two a cycle, V0 and V1: 32 products.
  LLVM describes the A76 by its model of the A57; that of the Neoverse N1, the server form of the
  same core, is used.
- Neoverse N2 Software Optimization Guide, "ASIMD matrix multiply-accumulate": two a cycle: 64.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from iseg_tvm.errors import IsegError

ITERATIONS = 200
_PRODUCTS = {
    **dict.fromkeys(("smull", "smull2", "smlal", "smlal2", "smlsl", "smlsl2"), 8),
    "sdot": 16, "smmla": 32, "usmmla": 32,
}  # fmt: skip
_OPERANDS = re.compile(r"ld(u?r|p)\s+q")
_BRANCH = re.compile(r"(b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s*(\.L\w+)")


@dataclass(frozen=True)
class Core:
    """llvm-mca's name of a core and the most products it can form in a cycle."""

    model: str
    limit: float


CORES = {
    "rpi3": Core("cortex-a53", 16 / 3),
    "rpi4": Core("cortex-a72", 8.0),
    "rpi5": Core("neoverse-n1", 32.0),
    "aarch64-i8mm": Core("neoverse-n2", 64.0),
}
"""By target."""


@dataclass(frozen=True)
class InnerLoop:
    """Body of a loop, branch included."""

    instructions: tuple[str, ...]

    @property
    def products(self) -> int:
        """Multiply-accumulates of one turn."""
        found = Counter(line.split()[0] for line in self.instructions)
        return sum(found[name] * count for name, count in _PRODUCTS.items())

    @property
    def stores(self) -> bool:
        """Whether it writes results: LLVM unrolled the inner dimension and a tile is left."""
        return any(line.startswith("st") for line in self.instructions)

    def multiplying(self) -> InnerLoop:
        """Only the products and the loads of their operands, in order."""
        kept = (x for x in self.instructions if x.split()[0] in _PRODUCTS or _OPERANDS.match(x))
        return InnerLoop(tuple(kept))


def _loops(assembly: str) -> Iterator[tuple[str, ...]]:
    """Bodies of the loops that hold no label, branch included."""
    lines = [line.partition("//")[0].strip() for line in assembly.splitlines()]
    lines = [x for x in lines if x and (not x.startswith(".") or re.match(r"\.L\w+:", x))]
    places = {line[:-1]: number for number, line in enumerate(lines) if line.endswith(":")}
    for number, line in enumerate(lines):
        found = _BRANCH.match(line)
        start = places.get(found.group(2), number) if found else number
        body = lines[start + 1 : number + 1]
        if start < number and not any(x.endswith(":") for x in body):
            yield tuple(body)


def product_loops(assembly: str) -> list[InnerLoop]:
    """Return the innermost multiplying loops, in order, of the function that multiplies the most.

    Raises
    ------
    IsegError
        No loop multiplies.
    """
    functions = re.split(r"^\s*\.type\s+(?=\S+,@function)", assembly, flags=re.MULTILINE)
    found = [[InnerLoop(body) for body in _loops(function)] for function in functions]
    best = max(found, key=lambda loops: sum(loop.products for loop in loops))
    loops = [loop for loop in best if loop.products]
    if not loops:
        raise IsegError("no inner loop found in the assembly")
    return loops


def layer_loop(assembly: str) -> InnerLoop:
    """Inner loop of a layer; others belong to the rows left over."""
    return max(product_loops(assembly), key=lambda loop: loop.products)


def attention_loops(assembly: str) -> tuple[InnerLoop, InnerLoop]:
    """Inner loops of both products of attention whose tokens fill every tile.

    Raises
    ------
    IsegError
        There are more loops, or fewer.
    """
    loops = product_loops(assembly)
    if len(loops) != 2:
        raise IsegError(f"attention has {len(loops)} inner loops instead of 2")
    return loops[0], loops[1]


def cycles(loop: InnerLoop, model: str, llvm_mca: Path, libraries: Path | None = None) -> float:
    """Cycles of one turn in the long run.

    Raises
    ------
    IsegError
        llvm-mca failed.
    """
    body = "\n".join(x for x in loop.instructions if not _BRANCH.match(x))
    command = [str(llvm_mca), "-mtriple=aarch64-linux-gnu", f"-mcpu={model}"]
    command += ["-mattr=+dotprod,+i8mm", f"-iterations={ITERATIONS}"]
    environment = {} if libraries is None else {"LD_LIBRARY_PATH": str(libraries)}
    process = subprocess.run(
        command, input=body, capture_output=True, text=True, check=False, env=environment
    )
    found = re.search(r"Total Cycles:\s+(\d+)", process.stdout)
    if process.returncode or found is None:
        raise IsegError(f"llvm-mca failed: {process.stderr.strip()[:200]}")
    return int(found.group(1)) / ITERATIONS
