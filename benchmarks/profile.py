"""Per-operator profile of our library: GOPS, and percent of the measured peak.

``python -m benchmarks.profile --model seg-t --threads 1 2``
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import models
from benchmarks.flags import add_measurement_flags, thread_counts
from benchmarks.main import run_main, write_json
from benchmarks.peak import Peak, peak_families
from benchmarks.provenance import provenance
from benchmarks.vm_overhead import vm_overhead_ms
from iseg_tvm.cli.flags import positive_int
from iseg_tvm.profiling import Profile, profile
from iseg_tvm.runtime import load
from iseg_tvm.targets import TargetSpec, load_target


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description="Profile our library kernel by kernel, beside the measured peak of the CPU.",
    )
    names = ", ".join(models.PRESETS)
    parser.add_argument(
        "--model", default="seg-t", help=f"{names}, or a quantized .safetensors (default: seg-t)"
    )
    parser.add_argument(
        "--bundle", type=Path, help="profile this bundle instead of compiling the model"
    )
    parser.add_argument("--repeats", type=positive_int, default=15, help="timed runs (default 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    add_measurement_flags(parser)
    return parser


def measure(bundle: Path, target: TargetSpec, threads: int, repeats: int) -> dict[str, Any]:
    """Profile of a bundle, with a sample of every peak between any two runs."""
    segmenter = load(bundle, threads)
    height, width = segmenter.manifest.image_size
    families = peak_families(target.isa).items()
    peaks = {name: Peak(target, isa, threads) for name, isa in families}

    def between_runs(_done: int, _total: int) -> None:
        for peak in peaks.values():
            peak.sample()

    between_runs(0, repeats)
    result = profile(segmenter, models.photo((height, width)), repeats, between_runs)
    return _row(result, {name: peak.gops for name, peak in peaks.items()})


def measure_alone(*arguments: Any) -> dict[str, Any]:
    """`measure` in a process of its own: TVM sizes its pool of threads once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def _row(result: Profile, peak_gops: dict[str, float]) -> dict[str, Any]:
    kernels = [
        {
            **asdict(kernel),
            "share": kernel.total_ms / result.kernels_ms,
            "gops": kernel.gops,
            "percent_of_peak": _percent(kernel.gops, peak_gops),
        }
        for kernel in result.kernels
    ]
    gops = 2 * result.macs / result.median_ms / 1e6
    return {
        "threads": result.threads,
        "peak_gops": peak_gops,
        "median_ms": result.median_ms,
        "min_ms": min(result.run_ms),
        "runs_ms": list(result.run_ms),
        "kernels_ms": result.kernels_ms,
        "macs": result.macs,
        "gops": gops,
        "percent_of_peak": _percent(gops, peak_gops),
        "kernels": kernels,
    }


def _percent(gops: float | None, peak_gops: dict[str, float]) -> dict[str, float]:
    """Of each peak, by instruction; none for what multiplies nothing."""
    return {} if gops is None else {name: 100 * gops / peak for name, peak in peak_gops.items()}


def print_row(row: dict[str, Any], title: str) -> None:
    """Print one table: a line a kernel, and the whole model."""
    table = Table(title=f"{title}, {row['threads']} thread(s)", title_justify="left")
    table.add_column("kernel", overflow="fold")
    percents = [f"% {name}" for name in row["peak_gops"]]
    for name in ("calls", "ms", "share", "ms/call", "GMAC", "GOPS", *percents):
        table.add_column(name, justify="right")
    for kernel in sorted(row["kernels"], key=lambda k: -k["total_ms"]):
        table.add_row(
            kernel["name"],
            str(kernel["calls"]),
            f"{kernel['total_ms']:.3f}",
            f"{100 * kernel['share']:.1f} %",
            f"{kernel['total_ms'] / kernel['calls']:.4f}",
            *_product_cells(kernel),
        )
    table.add_section()
    table.add_row("whole run", "1", f"{row['median_ms']:.3f}", "", "", *_product_cells(row))
    console = Console(width=None if sys.stdout.isatty() else 132)
    console.print(table)
    for name, gops in row["peak_gops"].items():
        console.print(f"peak of {name}: {gops:.0f} GOPS (measured between runs)")
    console.print(f"all kernels: {row['kernels_ms']:.3f} ms\n")


def _product_cells(values: dict[str, Any]) -> list[str]:
    if not values["macs"]:
        return []
    percents = [f"{percent:.1f}" for percent in values["percent_of_peak"].values()]
    return [f"{values['macs'] / 1e9:.3f}", f"{values['gops']:.0f}", *percents]


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    target = load_target(args.target)
    bundle = args.bundle or models.bundle(args.model, target, args.cache)
    title = f"{args.bundle or args.model}, {target.name}"
    before = provenance()
    rows = []
    for threads in thread_counts(args):
        rows.append(measure_alone(bundle, target, threads, args.repeats))
        print_row(rows[-1], title)
    overhead = None
    if args.bundle is None:
        overhead = vm_overhead_ms(models.quantized_model(args.model, args.cache), target)
        print(f"virtual machine with empty kernels: {overhead:.4f} ms a run")
    if args.json:
        result = {"title": title, "provenance": before, "vm_overhead_ms": overhead, "rows": rows}
        write_json(args.json, result)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
