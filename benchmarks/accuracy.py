"""Accuracy of post-training quantization: ablations, calibration sets, spread.

``python -m benchmarks.accuracy --subject demo`` measures held-out mean IoU of the demo model,
``--subject pretrained`` the fidelity of a pretrained ViT-S/14 (see ``tests/pretrained.py``). Each
row is written as soon as it is measured; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy_cases import Case, cases
from benchmarks.accuracy_subjects import SUBJECTS, Subject
from benchmarks.accuracy_table import markdown
from benchmarks.main import run_main, write_json
from benchmarks.models import ROOT, digest
from benchmarks.provenance import provenance
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

RESULTS = ROOT / "benchmarks" / "results"
_SOURCES = (
    *("iseg_tvm/quantization", "iseg_tvm/models", "iseg_tvm/activation_tables.py", "relay_ops"),
    *("benchmarks/accuracy_subjects.py", "benchmarks/paper_mode.py", "tests/pretrained.py"),
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Measure what quantization costs, option by option and image by image.",
    )
    parser.add_argument("--subject", choices=sorted(SUBJECTS), required=True)
    parser.add_argument("--only", metavar="TEXT", help="only the rows whose name holds this")
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N new rows")
    parser.add_argument("--restart", action="store_true", help="forget the rows measured before")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="JSON (default: results/accuracy-*.json)"
    )
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser


def read_rows(path: Path, sources: str) -> list[dict[str, Any]]:
    """Rows measured before.

    Raises
    ------
    IsegError
        The file is of another kind, or was measured with other sources of the quantizer.
    """
    if not path.is_file():
        return []
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found, rows = results["sources"], results["rows"]
    except (ValueError, KeyError, TypeError) as error:
        raise IsegError(f"{path} is no result file of this benchmark") from error
    if found != sources:
        raise IsegError(
            f"{path} was measured with other sources of the quantizer",
            "name a new file with --output, or --restart this one",
        )
    return list(rows)


def measure(subject: Subject, case: Case) -> dict[str, Any]:
    """One row."""
    start = time.perf_counter()
    values = subject.measure(case)
    return {
        "case": case.name,
        "group": case.group,
        "images": [] if case.emulation in ("weights", "bfloat16") else subject.names(case),
        "options": case.options,
        **values,
        "seconds": round(time.perf_counter() - start, 1),
    }


def run(args: argparse.Namespace) -> int:
    """Measure what is missing."""
    subject = SUBJECTS[args.subject]()
    path = args.output or RESULTS / f"accuracy-{args.subject}.json"
    sources = digest(_SOURCES)
    rows = [] if args.restart else read_rows(path, sources)
    known = {row["case"] for row in rows}
    missing = [
        case
        for case in cases(subject.many)
        if case.name not in known and (args.only is None or args.only in case.name)
    ][: args.limit]
    for done, case in enumerate(missing, start=1):
        rows.append(measure(subject, case))
        print(f"{done}/{len(missing)} {rows[-1]}", file=sys.stderr, flush=True)
        results = {
            "subject": args.subject,
            "sources": sources,
            "float": subject.float_values(),
            "rows": rows,
            "provenance": provenance(),
        }
        write_json(path, results)
        with atomic_write(path.with_suffix(".md")) as stream:
            stream.write(markdown(results).encode())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_main(build_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
