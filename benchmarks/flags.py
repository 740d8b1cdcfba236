"""Flags that every benchmark of a bundle has."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import models
from iseg_tvm.cli.flags import positive_int
from iseg_tvm.host_cpu import usable_cpus


def add_measurement_flags(parser: argparse.ArgumentParser) -> None:
    """Target, threads, cache of prepared files, tracebacks."""
    parser.add_argument("--target", default="native", help="as of `iseg-tvm compile`")
    parser.add_argument("--threads", type=positive_int, nargs="+", help="default: 1, and all")
    parser.add_argument("--cache", type=Path, default=models.DEFAULT_CACHE, help="prepared files")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")


def thread_counts(args: argparse.Namespace) -> list[int]:
    """Numbers of threads to measure on."""
    return args.threads or sorted({1, len(usable_cpus())})
