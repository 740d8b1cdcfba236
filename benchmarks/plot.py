"""Picture of a result file: bars of the median times, one panel a model and number of threads.

``python -m benchmarks.plot benchmarks/results/peers-amx.json peers.png``
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.engines import ENGINES, OURS
from benchmarks.export import INTEGER_FORM
from benchmarks.main import run_main
from benchmarks.results import Row, rows
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write

_COLOURS = {"iseg-tvm": "#c0392b", "onnxruntime": "#7f8c8d", "openvino": "#2e6da4"}
_RUNTIME = {engine.name: engine.runtime for engine in ENGINES}


def draw(results: dict[str, Any], form: str) -> Any:
    """Return a matplotlib figure of one form of the model.

    Raises
    ------
    IsegError
        Nothing of that form was measured.
    """
    from matplotlib.figure import Figure

    table = [row for row in rows(results) if row.key[1] == form]
    models = list(dict.fromkeys(row.key[0] for row in table))
    threads = sorted({row.key[2] for row in table})
    if not table:
        raise IsegError(f"the result file has nothing of the form {form}")
    figure = Figure(figsize=(4.2 * len(models), 2.3 * len(threads)), layout="constrained")
    panels = figure.subplots(len(threads), len(models), squeeze=False)
    for i, count in enumerate(threads):
        for j, model in enumerate(models):
            chosen = [row for row in table if row.key == (model, form, count)]
            _panel(panels[i][j], chosen, f"{model}, {count} thread{'s' if count > 1 else ''}")
    cpu = results["slices"][-1]["provenance"]["cpu"]
    figure.suptitle(f"Milliseconds an image, 512 x 512, {form}, {cpu} (median, shorter is better)")
    return figure


def _label(row: Row) -> str:
    """Milliseconds, and how many times ours they are."""
    times = "" if row.engine == OURS or row.ratio is None else f" ({row.ratio:.1f}x)"
    return f"{row.median_ms:.0f}{times}"


def _panel(axes: Any, chosen: list[Row], title: str) -> None:
    ordered = sorted(chosen, key=lambda row: -row.median_ms)
    names, times = [row.engine for row in ordered], [row.median_ms for row in ordered]
    bars = axes.barh(names, times, color=[_COLOURS[_RUNTIME[name]] for name in names])
    labels = [_label(row) for row in ordered]
    axes.bar_label(bars, labels, padding=2, fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.set_xlim(0, 1.25 * max(times, default=1))
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.plot", description="Draw a result file of benchmarks.peers."
    )
    parser.add_argument("results", type=Path, help="written by `python -m benchmarks.peers`")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--form", default=INTEGER_FORM, help="form of the model")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")
    return parser


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    try:
        results = json.loads(args.results.read_text(encoding="utf-8"))
        figure = draw(results, args.form)
    except (OSError, ValueError, KeyError) as error:
        raise IsegError(f"cannot read {args.results}: {error}") from error
    except ModuleNotFoundError as error:
        hint = "pip install 'iseg-tvm[bench]'"
        raise IsegError(f"the package {error.name} is not installed", hint) from error
    with atomic_write(args.picture) as stream:
        figure.savefig(stream, format="png", dpi=130)
    print(f"Generated: {args.picture}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
