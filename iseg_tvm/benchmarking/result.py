"""What a benchmark found: one JSON file, one CSV row."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iseg_tvm.board.identity import BoardIdentity
from iseg_tvm.board.sensors import Sensors
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write
from iseg_tvm.profiling import KernelTime

FORMAT_VERSION = 1
KIND = "iseg-tvm benchmark"


@dataclass(frozen=True)
class Check:
    """The comparison of one class map with the reference.

    Parameters
    ----------
    reference : str
        Where the expected class map came from; empty if none was compared.
    pixels, differing : int or None
        Compared, and of these different.
    """

    reference: str = ""
    pixels: int | None = None
    differing: int | None = None

    @property
    def equal(self) -> bool | None:
        """Whether all bits are equal; None if nothing was compared."""
        return None if self.differing is None else self.differing == 0


@dataclass(frozen=True)
class BenchmarkResult:
    """One measurement of one bundle on one machine.

    Parameters
    ----------
    model, target, image_size, iseg_tvm_version, tvm_version, llvm_version, git_commit
        From the bundle's manifest.
    library_sha256 : str
        Checksum of the library that ran.
    board : BoardIdentity
        The machine it ran on.
    threads, warmup : int
        Threads in use, and runs before the measured ones.
    times_ms : tuple of float
        Every measured run, in order: image array in, class map out.
    check : Check
        Bits compared before anything was measured.
    kernels : tuple of KernelTime
        Empty if no profile was asked for.
    peak_activation_bytes : int or None
        Planned by the compiler.
    before, after : Sensors
        Around the measured runs.
    created : str
        UTC time, ISO 8601.
    flags : dict
        Command-line flags that shaped the measurement.
    """

    model: str
    target: str
    image_size: tuple[int, int]
    iseg_tvm_version: str
    tvm_version: str
    llvm_version: str | None
    git_commit: str | None
    library_sha256: str
    board: BoardIdentity
    threads: int
    warmup: int
    times_ms: tuple[float, ...]
    check: Check
    kernels: tuple[KernelTime, ...]
    peak_activation_bytes: int | None
    before: Sensors
    after: Sensors
    created: str
    flags: dict[str, Any]

    def latency_ms(self) -> dict[str, float]:
        """Return min, p10, median, p90 and max."""
        low, p10, median, p90, high = np.percentile(self.times_ms, [0, 10, 50, 90, 100])
        return {"min": float(low), "p10": float(p10), "median": float(median), "p90": float(p90),
                "max": float(high)}  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        values = {"kind": KIND, "format_version": FORMAT_VERSION, "latency_ms": self.latency_ms()}
        return values | asdict(self) | {"board": self.board.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BenchmarkResult:
        """Rebuild a result from `to_dict`'s values.

        Raises
        ------
        KeyError, TypeError, ValueError
            The values are not a benchmark's.
        """
        keys = dict(values)
        if (keys.pop("kind"), keys.pop("format_version")) != (KIND, FORMAT_VERSION):
            raise ValueError("another kind or version of file")
        del keys["latency_ms"]
        height, width = keys["image_size"]
        return cls(
            **{
                **keys,
                "image_size": (int(height), int(width)),
                "board": BoardIdentity.from_dict(keys["board"]),
                "times_ms": tuple(map(float, keys["times_ms"])),
                "check": Check(**keys["check"]),
                "kernels": tuple(KernelTime(**row) for row in keys["kernels"]),
                "before": Sensors(**keys["before"]),
                "after": Sensors(**keys["after"]),
            }
        )

    def row(self) -> dict[str, Any]:
        """Return the CSV row; what is unknown is None, never 0."""
        latency = self.latency_ms()
        return {
            "created": self.created,
            "model": self.model,
            "height": self.image_size[0],
            "width": self.image_size[1],
            "target": self.target,
            "board": self.board.name,
            "cores": self.board.cpu.num_cores,
            "threads": self.threads,
            "tvm": self.tvm_version,
            "llvm": self.llvm_version,
            "iseg_tvm": self.iseg_tvm_version,
            "git_commit": self.git_commit,
            "library_sha256": self.library_sha256,
            "tuning_log_sha256": None,  # bundles do not say yet
            "trials": None,
            "min_ms": latency["min"],
            "p10_ms": latency["p10"],
            "median_ms": latency["median"],
            "p90_ms": latency["p90"],
            "repeats": len(self.times_ms),
            "real_weights": None,  # nor whether their weights were trained
            "miou": None,
            "images": None,
            "bits_equal": self.check.equal,
            "peak_memory_bytes": self.after.peak_memory_bytes,
            "peak_activation_bytes": self.peak_activation_bytes,
            "temperature_c": self.after.temperature_c,
            "throttled": None if self.after.throttled is None else ";".join(self.after.throttled),
        }


def write_json(result: BenchmarkResult, path: Path) -> None:
    """Write a result's file, complete or not at all.

    Raises
    ------
    IsegError
        It cannot be written.
    """
    with atomic_write(path) as stream:
        stream.write(json.dumps(result.to_dict(), indent=2, ensure_ascii=False).encode() + b"\n")


def read_json(path: str | os.PathLike[str]) -> BenchmarkResult:
    """Read a result's file.

    Raises
    ------
    IsegError
        It is missing or no result.
    """
    try:
        return BenchmarkResult.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        raise IsegError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())
        raise IsegError(
            f"{path} is no benchmark result ({detail})", "`iseg-tvm bench --output` writes them"
        ) from error


def append_csv(result: BenchmarkResult, path: Path) -> None:
    """Add a row to a CSV file, which is made with a header if it does not exist.

    Raises
    ------
    IsegError
        The file has other columns, or cannot be written.
    """
    row = result.row()
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and next(csv.reader(text.splitlines())) != list(row):
        raise IsegError(f"{path} has other columns than a benchmark's", "choose another file")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(row), lineterminator="\n")
    if not text:
        writer.writeheader()
    writer.writerow(row)
    with atomic_write(path) as stream:
        stream.write((text + buffer.getvalue()).encode())
