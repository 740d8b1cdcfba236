"""Our library side by side with ONNX Runtime and OpenVINO.

``python -m benchmarks.peers --output out/benchmarks/peers.json``; run again to add rounds.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models, peer_files
from benchmarks.engines import ENGINES, OURS, Engine, find_engines
from benchmarks.export import FORMS, INTEGER_FORM
from benchmarks.flags import add_measurement_flags, thread_counts
from benchmarks.main import run_main, write_json
from benchmarks.provenance import provenance
from benchmarks.results import comparisons, read_results, rows
from benchmarks.rounds import Input, measure
from iseg_tvm.bundle import read_bundle
from iseg_tvm.cli.flags import positive_int
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import usable_cpus
from iseg_tvm.targets import TargetSpec, load_target

_NOISY_CORES = 0.1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    names = ", ".join(models.PRESETS)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Measure our library, ONNX Runtime and OpenVINO in turns.",
        epilog="Engines: " + ", ".join(engine.name for engine in ENGINES) + ".",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        default=list(models.PRESETS),
        help=f"of {names}; or quantized .safetensors files, for our library alone (default: all)",
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument(
        "--engines", nargs="+", metavar="WORD", help="those whose names contain a word, and ours"
    )
    parser.add_argument("--rounds", type=positive_int, default=5, help="turns each (default: 5)")
    parser.add_argument(
        "--output",
        type=Path,
        default=models.DEFAULT_CACHE / "peers.json",
        help="result file; rounds are added to what it holds",
    )
    parser.add_argument("--restart", action="store_true", help="forget what the file holds")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--prepare", action="store_true", help="make the model files, then stop")
    group.add_argument("--report", action="store_true", help="print what the file holds, then stop")
    parser.add_argument(
        "--quick", action="store_true", help="Seg-T in integer-only form, 1 thread, 2 rounds"
    )
    add_measurement_flags(parser)
    return parser


def prepare(
    engine: Engine, model: str, form: str, threads: int, target: TargetSpec, cache: Path
) -> Input:
    """Files of one engine, made unless the cache holds them.

    Ours computes the integer-only form beside either form of the others, and is compared with it.
    """
    if engine.name != OURS:
        path = peer_files.peer_file(engine.file, model, form, cache)
        theirs = peer_files.reference(model, form, cache)
        return Input(engine, path, peer_files.image_file(cache), threads, theirs)
    bundle = models.bundle(model, target, cache)
    size = read_bundle(bundle).manifest.image_size
    own = model.endswith(".safetensors")
    reference = None if own else peer_files.reference(model, INTEGER_FORM, cache)
    return Input(engine, bundle, peer_files.photo_file(cache, size), threads, reference)


def measure_slice(
    args: argparse.Namespace, target: TargetSpec, model: str, form: str, threads: int
) -> dict[str, Any]:
    """One slice of the result file."""
    engines = find_engines(args.engines)
    if model.endswith(".safetensors"):
        engines = [engine for engine in engines if engine.name == OURS]
    inputs = [prepare(engine, model, form, threads, target, args.cache) for engine in engines]
    head = {"model": model, "form": form, "threads": threads, "provenance": provenance()}
    measured = measure(inputs, args.rounds, _progress(model, form, threads))
    return {**head, **measured, "load_average_after": os.getloadavg()[0]}


def _progress(model: str, form: str, threads: int) -> Callable[[str, int, int], None]:
    def report(stage: str, done: int, total: int) -> None:
        line = f"{model}, {form}, {threads} thread(s): {stage} {done}/{total}"
        print(line, file=sys.stderr, flush=True)

    return report


def print_results(results: dict[str, Any]) -> None:
    """Print the table of medians, and the ratios."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="Median milliseconds, 512 x 512, batch 1", title_justify="left")
    for name in ("model", "form", "threads", "engine"):
        table.add_column(name)
    for name in ("ms", "x ours", "rounds", "peak MB", "agrees"):
        table.add_column(name, justify="right")
    previous = None
    for row in rows(results):
        if previous not in (None, row.key):
            table.add_section()
        previous = row.key
        memory, agreement = row.peak_memory_bytes, row.agreement
        table.add_row(
            *(str(part) for part in row.key),
            row.engine,
            f"{row.median_ms:.1f}",
            "" if row.ratio is None else f"{row.ratio:.2f}",
            str(row.rounds),
            "" if memory is None else f"{memory / 1e6:.0f}",
            "" if agreement is None else f"{agreement:.1%}",
        )
    console.print(table)
    ratios = Table(title="Times faster than", title_justify="left")
    for name in ("peer", "model", "threads", "which was", "ratio", "wanted"):
        ratios.add_column(name, justify="right" if name in ("ratio", "wanted") else "left")
    for line in comparisons(results):
        ratios.add_row(
            line.what,
            line.model,
            str(line.threads),
            line.peer,
            f"{line.ratio:.2f}",
            f"{line.wanted:.1f}",
        )
    if ratios.row_count:
        console.print(ratios)


def run(args: argparse.Namespace) -> int:
    """Prepare, measure, print; the result file is written after every slice."""
    if args.quick:
        args.models, args.forms, args.threads, args.rounds = ["seg-t"], [INTEGER_FORM], [1], 2
    target = load_target(args.target)
    if args.prepare:
        for model, form, engine in itertools.product(
            args.models, args.forms, find_engines(args.engines)
        ):
            given = prepare(engine, model, form, 1, target, args.cache)
            print(f"{model}, {form}, {engine.name}: {given.path}")
        return 0
    sources = models.digest(models.LIBRARY_SOURCES)
    if args.restart:
        args.output.unlink(missing_ok=True)
    results = read_results(args.output, None if args.report else sources)
    if args.report:
        if not results["slices"]:
            raise IsegError(f"{args.output} holds no measurements")
        print_results(results)
        return 0
    threads = thread_counts(args)
    if max(threads) > len(usable_cpus()):
        raise IsegError(f"this process may use {len(usable_cpus())} CPUs, not {max(threads)}")
    for model, form, count in itertools.product(args.models, args.forms, threads):
        part = measure_slice(args, target, model, form, count)
        if part["foreign_cores"] > _NOISY_CORES:
            cores = part["foreign_cores"]
            print(f"warning: other processes used {cores:.2f} CPUs meanwhile", file=sys.stderr)
        results["slices"].append(part)
        write_json(args.output, results)
    print_results(results)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
