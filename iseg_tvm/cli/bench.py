"""``iseg-tvm bench``: latency and profile of a bundle, here or on a board; and comparisons."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iseg_tvm.cli.common import log, print_generated, print_json, print_table, progress_bar
from iseg_tvm.cli.flags import (
    add_board_arguments,
    add_common_arguments,
    add_flag,
    add_output,
    positive_int,
)
from iseg_tvm.cli.inputs import open_runner

if TYPE_CHECKING:
    from iseg_tvm.benchmarking.compare import Line
    from iseg_tvm.benchmarking.result import BenchmarkResult
    from iseg_tvm.sample import Sample

SUMMARY = "measure a bundle here or on a board: bits, latency, kernels, memory, temperature"
EXAMPLES = """\
On this machine:
  iseg-tvm bench --bundle bundle/
On a board that is registered at a tracker, and on one with an address of its own:
  iseg-tvm bench --bundle bundle-rpi4/ --tracker 127.0.0.1:9190 --key rpi4 -o rpi4.json
  iseg-tvm bench --bundle bundle-rpi4/ --rpc 127.0.0.1:9090 --key rpi4
Two results side by side:
  iseg-tvm bench compare before.json after.json

Before anything is measured, the class map of the bundle's sample must equal the expected one, bit
for bit; if it does not, the exit status is 1.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "compare", nargs="*", metavar="compare A.json B.json", help="compare two results instead"
    )
    add_flag(parser, "--bundle")
    add_board_arguments(parser)
    check = parser.add_mutually_exclusive_group()
    add_flag(
        check,
        "--model",
        help="integer model to compute the expected class map from, with the NumPy reference "
        "(default: the expected class map that the bundle carries)",
    )
    check.add_argument("--unchecked", action="store_true", help="measure without checking the bits")
    run_flags = parser.add_argument_group("measurement")
    add_flag(run_flags, "--threads")
    add_flag(run_flags, "--repeat", default=30)
    run_flags.add_argument(
        "--warmup",
        type=positive_int,
        default=3,
        metavar="N",
        help="runs before them (default: %(default)s)",
    )
    run_flags.add_argument(
        "--no-profile", action="store_true", help="leave out the time of every kernel"
    )
    add_output(parser, "JSON file to write", required=False)
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="CSV file to add a row to, made if missing"
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure or compare; return the exit status."""
    from iseg_tvm.errors import IsegError

    if args.compare:
        if args.compare[0] != "compare" or len(args.compare) != 3 or args.bundle:
            raise IsegError(
                f"unknown arguments {' '.join(args.compare)}",
                "either `bench --bundle DIR` or `bench compare A.json B.json`",
            )
        return _compare(args, args.compare[1:])
    if args.bundle is None:
        raise IsegError("no bundle to measure", "add --bundle DIR")
    return _measure(args)


def _measure(args: argparse.Namespace) -> int:
    from iseg_tvm.benchmarking.result import append_csv, write_json
    from iseg_tvm.benchmarking.run import WrongBits, benchmark

    sample, reference = _sample(args)
    with ExitStack() as stack:
        runner = open_runner(args, stack)
        log(args, f"Measuring {args.bundle} on {runner.place}, {runner.threads} thread(s)")
        try:
            with progress_bar(args, timing=True) as progress:
                result = benchmark(
                    runner,
                    sample,
                    reference,
                    repeats=args.repeat,
                    warmup=args.warmup,
                    profile_repeats=0 if args.no_profile else max(3, args.repeat // 3),
                    flags=_flags(args),
                    progress=progress,
                )
        except WrongBits as error:
            print(f"error: {error}", file=sys.stderr)
            print("hint: nothing was measured; please report this", file=sys.stderr)
            return 1
    outputs = [path for path in (args.output, args.csv) if path is not None]
    if args.output is not None:
        write_json(result, args.output)
    if args.csv is not None:
        append_csv(result, args.csv)
    if not args.json:
        _print(result)
    print_generated(args, result.to_dict(), *outputs)
    return 0


def _sample(args: argparse.Namespace) -> "tuple[Sample | None, str]":
    """Return what to compare with, and where it came from."""
    from iseg_tvm.bundle import read_bundle
    from iseg_tvm.errors import IsegError
    from iseg_tvm.sample import Sample, built_in_picture

    bundle = read_bundle(args.bundle, runnable=False)
    if args.unchecked:
        return None, ""
    if args.model is None:
        sample = bundle.sample()
        if sample is None:
            raise IsegError(
                f"{args.bundle} carries no sample to check its bits by",
                "compile it without --no-sample, or add --model FILE or --unchecked",
            )
        return sample, "the bundle's expected class map"
    from iseg_tvm.artifact import load_model
    from iseg_tvm.reference_model import run_reference

    model = load_model(args.model).with_input_size(*bundle.manifest.image_size)
    log(args, f"Computing the expected class map of {args.model}")
    image = built_in_picture(*model.input_size)
    return Sample(image, run_reference(model, image)), f"the NumPy reference of {args.model}"


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return the flags that shaped the measurement, without the paths of this machine."""
    names = ("threads", "repeat", "warmup", "key", "any_cpu", "unchecked")
    return {name: getattr(args, name) for name in names}


def _print(result: "BenchmarkResult") -> None:
    board, after = result.board, result.after
    height, width = result.image_size
    print(f"{result.model}, {result.target}, {height} x {width} pixels")
    print(f"board        {board.name}, {result.threads} of {board.cpu.num_cores} CPUs")
    versions = ", ".join(f"{name} {version}" for name, version in board.versions.items())
    print(f"versions     {versions}")
    check = result.check
    print(
        f"bits         {check.pixels} pixels equal {check.reference}"
        if check.equal
        else "bits         not checked"
    )
    figures = [
        ("peak memory", after.peak_memory_bytes and f"{after.peak_memory_bytes / 1e6:.1f} MB"),
        ("activations", result.peak_activation_bytes
         and f"{result.peak_activation_bytes / 1e6:.1f} MB"),
        ("temperature", after.temperature_c and f"{after.temperature_c:.0f} C"),
        ("clock", after.frequency_mhz and f"{after.frequency_mhz:.0f} MHz, {after.governor}"),
        ("throttled", None if after.throttled is None else ", ".join(after.throttled) or "no"),
    ]  # fmt: skip
    for name, text in figures:
        print(f"{name:<12} {text or 'not readable here'}")
    columns = ("kernel", "calls", "ms", "share %", "GOPS")
    if result.kernels:
        total = sum(kernel.total_ms for kernel in result.kernels)
        print_table(columns, [
            (k.name, str(k.calls), f"{k.total_ms:.3f}", f"{100 * k.total_ms / total:.1f}",
             "" if k.gops is None else f"{k.gops:.1f}")
            for k in sorted(result.kernels, key=lambda kernel: -kernel.total_ms)
        ])  # fmt: skip
    latency = result.latency_ms()
    print(f"Latency in ms, {len(result.times_ms)} runs")
    print_table(tuple(latency), [[f"{value:.2f}" for value in latency.values()]], left=0)


def _compare(args: argparse.Namespace, paths: Sequence[str]) -> int:
    from dataclasses import asdict

    from iseg_tvm.benchmarking.compare import compare
    from iseg_tvm.benchmarking.result import read_json

    comparison = compare(*(read_json(path) for path in paths))
    if args.json:
        print_json(asdict(comparison))
        return 0
    names = ("", *(Path(path).stem for path in paths), "ratio")
    print_table(names, [_cells(line) for line in comparison.latency])
    if comparison.kernels:
        print_table(("kernel, ms", *names[1:]), [_cells(line) for line in comparison.kernels])
    for difference in comparison.differences:
        print(f"not the same: {difference}")
    print(comparison.verdict)
    return 0


def _cells(line: "Line") -> tuple[str, ...]:
    figures = (line.first, line.second, line.ratio)
    return (line.name, *("-" if value is None else f"{value:.3f}" for value in figures))
