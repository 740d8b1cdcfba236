"""The accuracy benchmark's markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

HEADINGS = {
    "calibration": "Calibration images",
    "reference": "References and the paper-faithful mode",
    "ablation": "One option changed, one calibration image",
    "spread": "Spread over single calibration images",
}


def markdown(results: Mapping[str, Any]) -> str:
    """Tables of a result file, one a group of rows."""
    rows = results["rows"]
    known = ("cosine", "miou", "miou_standardized", "miou_six")
    figures = [name for name in known if any(name in r for r in rows)]
    lines = [f"# Accuracy: {results['subject']}", ""]
    if results["float"]:
        values = ", ".join(f"{name} {value}" for name, value in results["float"].items())
        lines += [f"FP32: {values}.", ""]
    for group, heading in HEADINGS.items():
        members = [row for row in rows if row["group"] == group]
        if group in ("spread", "calibration"):
            members = [r for r in rows if r["case"] == "default, one image"] + members
        if members:
            lines += [f"## {heading}", "", *_table(members, figures), ""]
        if group == "spread" and len(members) > 1:
            lines += [*_spread(members, figures), ""]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[str]:
    lines = [
        f"| case | calibrated on | {' | '.join(figures)} |",
        f"|---|---|{'---|' * len(figures)}",
    ]
    for row in rows:
        images = row["images"]
        named = ", ".join(images) if len(images) < 3 else f"{len(images)} images"
        values = " | ".join(_figure(row, name) for name in figures)
        lines.append(f"| {row['case']} | {named} | {values} |")
    return lines


def _figure(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    if name == "cosine":
        return f"{row[name]:.5f}"
    low_high = row.get(f"{name}_range")
    suffix = f" ({low_high[0]:.4f} to {low_high[1]:.4f})" if low_high else ""
    return f"{row[name]:.4f}{suffix}"


def _spread(rows: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[str]:
    lines = []
    for name in figures:
        values = [row[name] for row in rows if name in row]
        if len(values) > 1:
            lines.append(
                f"{name} over {len(values)} calibration images: mean {statistics.mean(values):.4f},"
                f" standard deviation {statistics.stdev(values):.4f}, {min(values):.4f} to"
                f" {max(values):.4f}."
            )
    return lines
