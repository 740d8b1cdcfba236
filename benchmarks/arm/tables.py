"""Markdown tables of ``results/arm_counts.json``, as ``docs/arm.md`` shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
_PEERS = ("XNNPACK", "QLinearMatMul", "MatMulInteger")


def loop_table(rows: Sequence[Row]) -> list[str]:
    """Inner loops by llvm-mca."""
    lines = [
        "| target | model | loop | multiply-accumulates an instruction | a cycle | limit | share |",
        "|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| `{row['target']}` | {row['model']} | {row['loop']} | {row['mac_per_instruction']:.2f} "
        f"| {row['mac_per_cycle']:.2f} | {row['limit']:g} | {row['share_of_limit']:.1%} |"
        for row in rows
    ]


def count_table(rows: Sequence[Row]) -> list[str]:
    """Instructions of a layer in millions, with the ratio of each peer's to ours."""
    lines = [
        f"| CPU | shape | ours | {' | '.join(_PEERS)} |",
        f"|---|---|---|{'---|' * len(_PEERS)}",
    ]
    for cpu, shape in dict.fromkeys((row["cpu"], tuple(row["shape"])) for row in rows):
        found = [r for r in rows if (r["cpu"], tuple(r["shape"])) == (cpu, shape)]
        ours = next(row["all"] for row in found if row["engine"].startswith("ours"))
        peers = [_peer(found, peer, ours) for peer in _PEERS]
        named = " x ".join(map(str, shape))
        if any(peers):
            lines.append(f"| {cpu} | {named} | {ours / 1e6:.2f} | {' | '.join(peers)} |")
    return lines


def _peer(rows: Sequence[Row], name: str, ours: int) -> str:
    counts = [row["all"] for row in rows if name in row["engine"]]
    return f"{counts[0] / 1e6:.2f} ({counts[0] / ours:.2f})" if counts else ""
