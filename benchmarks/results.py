"""The result file of the comparison: slices of measurements, medians and ratios made from them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES, OURS
from benchmarks.export import INTEGER_FORM, ORIGINAL_HEAD
from iseg_tvm.errors import IsegError

FORMAT = 1
PRECISION = {engine.name: engine.precision for engine in ENGINES}
Key = tuple[str, str, int]
"""(model, form, threads)."""


def read_results(path: Path, sources: str | None) -> dict[str, Any]:
    """Results so far, or empty ones; of whatever sources if `sources` is None.

    Raises
    ------
    IsegError
        The file is of another kind, or was measured with other sources of our library.
    """
    if not path.is_file():
        return {"format": FORMAT, "sources": sources, "slices": []}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = results["format"], results["sources"]
    except (ValueError, KeyError, TypeError) as error:
        raise IsegError(f"{path} is no result file of this benchmark") from error
    if found != (FORMAT, sources if sources is not None else found[1]):
        raise IsegError(
            f"{path} was measured with other sources of the library than those here",
            "name a new file with --output, or --restart this one",
        )
    return dict(results)


def turns(results: Mapping[str, Any], key: Key) -> dict[str, list[float]]:
    """Median milliseconds of every turn of every engine, over all slices of one key.

    The turns of one position were taken in the same round, engines that a slice left out have none
    there: only slices with the same engines as the newest count.
    """
    slices = [s for s in results["slices"] if (s["model"], s["form"], s["threads"]) == key]
    names = set(slices[-1]["engines"])
    merged: dict[str, list[float]] = {name: [] for name in slices[-1]["engines"]}
    for part in slices:
        if set(part["engines"]) == names:
            for name, values in part["engines"].items():
                merged[name] += [statistics.median(turn) for turn in values["turns_ms"]]
    return merged


def keys(results: Mapping[str, Any]) -> list[Key]:
    """Combinations measured so far, in the order of their first slice."""
    found = ((s["model"], s["form"], s["threads"]) for s in results["slices"])
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Row:
    """One engine at one key.

    Attributes
    ----------
    median_ms, rounds : over all rounds
    ratio : median over the rounds of its time divided by ours in the same round
    peak_memory_bytes, agreement : of the newest slice
    """

    key: Key
    engine: str
    median_ms: float
    rounds: int
    ratio: float | None
    peak_memory_bytes: int | None
    agreement: float | None


def rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """One row for every engine and key."""
    for key in keys(results):
        merged = turns(results, key)
        newest = next(
            s
            for s in reversed(results["slices"])
            if (s["model"], s["form"], s["threads"]) == key
        )
        ours = merged.get(OURS)
        for name, times in merged.items():
            ratio = None
            if ours is not None:
                ratio = statistics.median(t / o for t, o in zip(times, ours, strict=True))
            values = newest["engines"][name]
            yield Row(
                key,
                name,
                statistics.median(times),
                len(times),
                ratio,
                values["peak_memory_bytes"],
                values["agreement"],
            )


BARS = (
    ("fastest peer, integer-only form", INTEGER_FORM, None, (1.5, 1.3, 1.2)),
    ("OpenVINO int8 (float32 hint), integer-only form", INTEGER_FORM, "OpenVINO int8 + f32",
     (1.8, 1.6, 1.5)),
    ("fastest peer, original head", ORIGINAL_HEAD, None, (2.5, 2.0, 1.4)),
    ("fastest fp32 peer, integer-only form", INTEGER_FORM, "fp32", (3.3, 3.3, 3.0)),
)  # fmt: skip
"""(what, form, which peers, wanted ratios for Seg-T, Seg-S, Seg-B)."""


@dataclass(frozen=True)
class Comparison:
    """How many times faster ours is than the fastest of some peers."""

    what: str
    model: str
    threads: int
    peer: str
    ratio: float
    wanted: float


def comparisons(results: Mapping[str, Any]) -> Iterator[Comparison]:
    """Yield every line of `BARS` for every model and number of threads that was measured."""
    table = list(rows(results))
    wanted_by_model = ("seg-t", "seg-s", "seg-b")
    for what, form, which, wanted in BARS:
        for model, bar in zip(wanted_by_model, wanted, strict=True):
            for threads in sorted({row.key[2] for row in table}):
                peers = [
                    row
                    for row in table
                    if row.key == (model, form, threads)
                    and row.engine != OURS
                    and row.ratio is not None
                    and which in (None, row.engine, PRECISION[row.engine])
                ]
                if peers:
                    best = min(peers, key=lambda row: row.median_ms)
                    yield Comparison(what, model, threads, best.engine, best.ratio or 0.0, bar)
