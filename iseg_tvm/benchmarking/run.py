"""Measure a loaded bundle: bits first, then time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from iseg_tvm.benchmarking.result import BenchmarkResult, Check
from iseg_tvm.board.runner import Runner
from iseg_tvm.bundle import LIBRARY_NAME
from iseg_tvm.errors import IsegError
from iseg_tvm.sample import Sample, built_in_picture, differing_pixels

Progress = Callable[[str, int, int], None]

_CHUNK_MS = 2000.0  # between two signs of life


class WrongBits(Exception):
    """The machine computed another class map than the reference: nothing was measured."""


def check_bits(runner: Runner, sample: Sample, reference: str) -> Check:
    """Run the sample and compare all bits.

    Raises
    ------
    WrongBits
        A pixel differs.
    """
    got = runner.run(sample.image)
    differing = differing_pixels(got, sample.class_map)
    if differing:
        raise WrongBits(
            f"{differing} of {got.size} pixels differ from {reference} on {runner.place}"
        )
    return Check(reference, got.size, differing)


def benchmark(
    runner: Runner,
    sample: Sample | None,
    reference: str,
    *,
    repeats: int,
    warmup: int,
    profile_repeats: int,
    flags: Mapping[str, Any],
    progress: Progress | None = None,
) -> BenchmarkResult:
    """Check, warm up, measure and profile.

    Parameters
    ----------
    runner : Runner
        The loaded bundle.
    sample : Sample or None
        What to check; None measures without a check, on the built-in picture.
    reference : str
        Where the sample's class map came from.
    repeats, warmup, profile_repeats : int
        Runs measured, before them, and for the profile (0 for none).
    flags : mapping
        Noted in the result.
    progress : callable, optional
        Called with (stage, done, total), between runs.

    Raises
    ------
    WrongBits
        The class map is not the reference's.
    IsegError
        The board did not stay.
    """
    if repeats < 1:
        raise IsegError(f"{repeats} repeats asked for", "ask for at least 1")
    report = progress or (lambda stage, done, total: None)
    manifest = runner.manifest
    report("checking bits", 0, 1)
    if sample is not None:
        check = check_bits(runner, sample, reference)
    else:
        check = Check()
        runner.run(built_in_picture(*manifest.image_size))
    report("checking bits", 1, 1)
    estimate_ms = _measure(runner, max(warmup, 1), _CHUNK_MS, "warming up", report)[-1]
    before = runner.sensors()
    times_ms = _measure(runner, repeats, estimate_ms, "measuring", report)
    after = runner.sensors()
    report("profiling", 0, 1)
    kernels = runner.profile(profile_repeats) if profile_repeats else []
    report("profiling", 1, 1)
    return BenchmarkResult(
        model=manifest.model_name,
        target=manifest.target.name,
        image_size=manifest.image_size,
        iseg_tvm_version=manifest.iseg_tvm_version,
        tvm_version=manifest.tvm_version,
        llvm_version=manifest.llvm_version,
        git_commit=manifest.git_commit,
        library_sha256=manifest.files[LIBRARY_NAME].sha256,
        board=runner.identity,
        threads=runner.threads,
        warmup=max(warmup, 1),
        times_ms=tuple(times_ms),
        check=check,
        kernels=tuple(kernels),
        peak_activation_bytes=manifest.peak_activation_bytes,
        before=before,
        after=after,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        flags=dict(flags),
    )


def _measure(
    runner: Runner, repeats: int, estimate_ms: float, stage: str, report: Progress
) -> list[float]:
    """Run in chunks of about two seconds."""
    chunk = max(1, int(_CHUNK_MS / max(estimate_ms, 1e-3)))
    times: list[float] = []
    report(stage, 0, repeats)
    while len(times) < repeats:
        times += runner.times(min(chunk, repeats - len(times)))
        report(stage, len(times), repeats)
    return times
