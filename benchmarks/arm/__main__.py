"""``python -m benchmarks.arm``: instructions and modelled cycles of ARM kernels, and of others."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arm.counting import build_plugin, count
from benchmarks.arm.kernels import (
    ATTENTIONS,
    FULL_TILES,
    SEG_S_SHAPES,
    SHAPES,
    TARGETS,
    AttentionShape,
    Shape,
    Work,
    attention,
    compile_work,
    linear,
)
from benchmarks.arm.mca import CORES, attention_loops, cycles, layer_loop
from benchmarks.arm.peers import PACKAGES, PEERS, prepare_site
from benchmarks.main import run_main, write_json
from benchmarks.provenance import provenance
from tests.arm.userspace import UserSpace, cache_folder, host_tools, prepare

RESULT = Path(__file__).parents[1] / "results" / "arm_counts.json"
LLVM_MCA_PACKAGE = "llvm-19"


def _llvm_mca() -> tuple[Path, Path]:
    """Debian's llvm-mca, unpacked once, and the folder of its libraries."""
    root = host_tools(LLVM_MCA_PACKAGE, [LLVM_MCA_PACKAGE])
    tool = next(root.glob("usr/lib/llvm-*/bin/llvm-mca"))
    return tool, next(root.glob("usr/lib/*-linux-gnu"))


def inner_loops() -> list[dict[str, Any]]:
    """Every target's inner loops by llvm-mca: of a layer, and of both products of attention."""
    tool, libraries = _llvm_mca()
    rows = []
    for target, core in CORES.items():
        layer = layer_loop(compile_work(target, linear(SHAPES[0]), None))
        logits, weighted = attention_loops(compile_work(target, attention(FULL_TILES), None))
        loops = [("layer", layer), ("logits", logits), ("weighted sum", weighted)]
        if logits.stores:
            loops[1:2] = [("logits", logits.multiplying()), ("logits and their results", logits)]
        for name, loop in loops:
            turn = cycles(loop, core.model, tool, libraries)
            rows.append(
                {
                    "target": target,
                    "loop": name,
                    "model": core.model,
                    "instructions": len(loop.instructions),
                    "mac_per_instruction": round(loop.products / len(loop.instructions), 2),
                    "mac_per_cycle": round(loop.products / turn, 2),
                    "limit": round(core.limit, 2),
                    "share_of_limit": round(loop.products / turn / core.limit, 3),
                }
            )
    return rows


def instruction_counts(
    shapes: Sequence[Shape], attentions: Sequence[AttentionShape], peers: bool
) -> list[dict[str, Any]]:
    """Instructions of a call on every emulated CPU: ours, and the other runtimes."""
    space, rows = prepare(), []
    site = prepare_site(cache_folder() / "arm-peers") if peers else None
    with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
        plugin = build_plugin(Path(name))
        for cpu, target in TARGETS.items():
            for shape in shapes:
                found = [_ours(space, plugin, cpu, target, shape, linear(shape))]
                if site is not None:
                    found += _others(space, plugin, cpu, shape, site)
                rows += _printed(found)
            for shape in attentions:
                rows += _printed([_ours(space, plugin, cpu, target, shape, attention(shape))])
    return rows


def _ours(
    space: UserSpace, plugin: Path, cpu: str, target: str, shape: Shape, work: Work
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
        compile_work(target, work, Path(name))
        counts = count(space, plugin, cpu, "ours", Path(name)).to_dict()
    row = {"cpu": cpu, "operator": work.operator, "shape": shape, "engine": f"ours, {target}"}
    return row | {"requantizes": True} | counts


def _others(
    space: UserSpace, plugin: Path, cpu: str, shape: Shape, site: Path
) -> list[dict[str, Any]]:
    rows = []
    for peer in PEERS:
        with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
            peer.write(shape, Path(name), site)
            counts = count(space, plugin, cpu, peer.engine, Path(name), [site]).to_dict()
        row = {"cpu": cpu, "operator": "linear_requantize", "shape": shape, "engine": peer.name}
        rows.append(row | {"requantizes": peer.requantizes} | counts)
    return rows


def _printed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row in rows:
        shape = " x ".join(map(str, row["shape"]))
        print(f"{row['cpu']:11} {row['operator']:18} {shape:18} {row['engine']:42}"
              f" {row['all']:>13,} instructions", flush=True)  # fmt: skip
    return rows


def run(args: argparse.Namespace) -> int:
    """Measure, print, write the JSON file."""
    loops = inner_loops()
    for row in loops:
        print(
            f"{row['target']:13} {row['loop']:24} {row['model']:12}"
            f" {row['mac_per_instruction']:6} MAC/instruction {row['mac_per_cycle']:6} MAC/cycle,"
            f" {row['share_of_limit']:.1%} of {row['limit']}"
        )
    chosen = (SHAPES[:1], ()) if args.quick else (SHAPES, ATTENTIONS)
    if args.all:
        chosen = (SHAPES + SEG_S_SHAPES, ATTENTIONS)
    counts = instruction_counts(*chosen, not args.no_peers)
    values = {
        "what": "instructions executed under QEMU user emulation and llvm-mca cycles; no board",
        "provenance": provenance() | {"peers": PACKAGES, "llvm_mca": LLVM_MCA_PACKAGE},
        "inner_loops": loops,
        "instructions": counts,
    }
    write_json(args.output, values)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the first shape only")
    size.add_argument("--all", action="store_true", help="the layers of Seg-S too")
    parser.add_argument("--no-peers", action="store_true", help="our kernels only")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON file")
    parser.add_argument("-v", "--verbose", action="store_true", help="traceback after an error")
    return run_main(parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
