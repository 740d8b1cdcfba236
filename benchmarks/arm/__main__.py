"""``python -m benchmarks.arm``: instructions and modelled cycles of ARM kernels, and of others."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arm.counting import build_plugin, count
from benchmarks.arm.kernels import SHAPES, TARGETS, Shape, compile_work, linear
from benchmarks.arm.mca import CORES, cycles, inner_loop
from benchmarks.arm.peers import PACKAGES, PEERS, prepare_site
from benchmarks.main import run_main, write_json
from benchmarks.provenance import provenance
from iseg_tvm.files import atomic_dir
from tests.arm.userspace import UserSpace, prepare, unpack

RESULT = Path(__file__).parents[1] / "results" / "arm_counts.json"
LLVM_MCA_PACKAGE = "llvm-19"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iseg-tvm"


def _llvm_mca() -> tuple[Path, Path]:
    """Debian's llvm-mca, unpacked once, and the folder of its libraries."""
    folder = _cache() / LLVM_MCA_PACKAGE
    if not (folder / "root").is_dir():
        dpkg = ["dpkg", "--print-architecture"]
        architecture = subprocess.run(dpkg, capture_output=True, text=True, check=True).stdout
        with atomic_dir(folder, marker="root") as fresh:
            # It runs on the host's C library: only what is not installed there is downloaded.
            installed = Path("/var/lib/dpkg/status")
            unpack([LLVM_MCA_PACKAGE], architecture.strip(), fresh / "root", installed)
    tool = next(folder.glob("root/usr/lib/llvm-*/bin/llvm-mca"))
    return tool, next(folder.glob("root/usr/lib/*-linux-gnu"))


def inner_loops() -> list[dict[str, Any]]:
    """Every target's inner loop by llvm-mca."""
    tool, libraries = _llvm_mca()
    rows = []
    for target, core in CORES.items():
        loop = inner_loop(compile_work(target, linear(SHAPES[0]), None))
        turn = cycles(loop, core.model, tool, libraries)
        rows.append(
            {
                "target": target,
                "model": core.model,
                "instructions": len(loop.instructions),
                "mac_per_instruction": round(loop.products / len(loop.instructions), 2),
                "mac_per_cycle": round(loop.products / turn, 2),
                "limit": round(core.limit, 2),
                "share_of_limit": round(loop.products / turn / core.limit, 3),
            }
        )
    return rows


def instruction_counts(shapes: Sequence[Shape], peers: bool) -> list[dict[str, Any]]:
    """Instructions of a call on every emulated CPU: ours, and the other runtimes."""
    space, rows = prepare(), []
    site = prepare_site(_cache() / "arm-peers") if peers else None
    with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
        plugin = build_plugin(Path(name))
        for cpu, target in TARGETS.items():
            for shape in shapes:
                rows.append(_ours(space, plugin, cpu, target, shape))
                if site is not None:
                    rows += _others(space, plugin, cpu, shape, site)
                print(*(_line(row) for row in rows if row["cpu"] == cpu and row["shape"] == shape),
                      sep="\n", flush=True)  # fmt: skip
    return rows


def _ours(space: UserSpace, plugin: Path, cpu: str, target: str, shape: Shape) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
        compile_work(target, linear(shape), Path(name))
        counts = count(space, plugin, cpu, "ours", Path(name)).to_dict()
    return {"cpu": cpu, "shape": shape, "engine": f"ours, {target}", "requantizes": True} | counts


def _others(
    space: UserSpace, plugin: Path, cpu: str, shape: Shape, site: Path
) -> list[dict[str, Any]]:
    rows = []
    for peer in PEERS:
        with tempfile.TemporaryDirectory(prefix="iseg-arm-") as name:
            peer.write(shape, Path(name), site)
            counts = count(space, plugin, cpu, peer.engine, Path(name), [site]).to_dict()
        row = {"cpu": cpu, "shape": shape, "engine": peer.name, "requantizes": peer.requantizes}
        rows.append(row | counts)
    return rows


def _line(row: dict[str, Any]) -> str:
    shape = " x ".join(map(str, row["shape"]))
    return f"{row['cpu']:11} {shape:16} {row['engine']:45} {row['all']:>10,} instructions"


def run(args: argparse.Namespace) -> int:
    """Measure, print, write the JSON file."""
    loops = inner_loops()
    for row in loops:
        print(
            f"{row['target']:13} {row['model']:12} {row['mac_per_instruction']:6} MAC/instruction"
            f" {row['mac_per_cycle']:6} MAC/cycle, {row['share_of_limit']:.1%} of {row['limit']}"
        )
    counts = instruction_counts(SHAPES[:1] if args.quick else SHAPES, not args.no_peers)
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
    parser.add_argument("--quick", action="store_true", help="the first shape only")
    parser.add_argument("--no-peers", action="store_true", help="our kernels only")
    parser.add_argument("-o", "--output", type=Path, default=RESULT, help="JSON file")
    parser.add_argument("-v", "--verbose", action="store_true", help="traceback after an error")
    return run_main(parser, run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
