"""How much faster more threads are, and one bundle than another: our library beside itself.

``python -m benchmarks.scaling --models seg-t seg-s``
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models, peer_files
from benchmarks.engines import OURS, Engine, find_engines
from benchmarks.flags import add_measurement_flags, thread_counts
from benchmarks.main import run_main, write_json
from benchmarks.provenance import provenance
from benchmarks.rounds import Input, measure
from iseg_tvm.bundle import read_bundle
from iseg_tvm.cli.flags import positive_int
from iseg_tvm.targets import load_target

_TURN_RUNS = 16  # more than in the comparison with peers: caches and threads are warm in most


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="Measure our library on one thread and on more, in turns.",
    )
    names = ", ".join(models.PRESETS)
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", default=list(models.PRESETS),
        help=f"of {names}; or quantized .safetensors files (default: all presets)",
    )  # fmt: skip
    parser.add_argument(
        "--bundles", nargs="+", type=Path, help="measure these bundles instead, side by side"
    )
    parser.add_argument("--rounds", type=positive_int, default=15, help="turns each (default: 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    add_measurement_flags(parser)
    return parser


def measure_bundles(
    bundles: Sequence[Path], threads: Sequence[int], rounds: int, cache: Path
) -> dict[str, Any]:
    """Every bundle on every number of threads, in turns."""
    inputs = []
    for bundle in bundles:
        photo = peer_files.photo_file(cache, read_bundle(bundle).manifest.image_size)
        for count in threads:
            engine = replace(_ours(), name=f"{bundle.name}, {count} thread(s)")
            inputs.append(Input(engine, bundle, photo, count))
    return measure(inputs, rounds, lambda *_: None, _TURN_RUNS)


def _ours() -> Engine:
    return find_engines([OURS])[0]


def print_measured(measured: dict[str, Any]) -> None:
    """Print medians, and ratios to the first row."""
    table = Table(title="Our library, turns of one run", title_justify="left")
    table.add_column("bundle")
    for name in ("median ms", "min ms", "times faster than the first"):
        table.add_column(name, justify="right")
    first: list[float] = []
    for name, engine in measured["engines"].items():
        turns = [statistics.median(turn) for turn in engine["turns_ms"]]
        first = first or turns
        ratio = statistics.median(f / t for f, t in zip(first, turns, strict=True))
        best = min(min(turn) for turn in engine["turns_ms"])
        table.add_row(name, f"{statistics.median(turns):.2f}", f"{best:.2f}", f"{ratio:.3f}")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    console.print(f"other processes used {measured['foreign_cores']:.2f} CPUs meanwhile")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    target = load_target(args.target)
    threads = thread_counts(args)
    groups = [args.bundles] if args.bundles else [
        [models.bundle(model, target, args.cache)] for model in args.models
    ]  # fmt: skip
    results = []
    for bundles in groups:
        measured = measure_bundles(bundles, threads, args.rounds, args.cache)
        print_measured(measured)
        results.append(measured)
    if args.json:
        write_json(args.json, {"provenance": provenance(), "measured": results})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
