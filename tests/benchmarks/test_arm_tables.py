"""The tables of ``docs/arm.md`` are those of the results file, and hold what the page claims."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.arm.tables import count_table, loop_table
from tests.docs.blocks import ROOT


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    path = ROOT / "benchmarks/results/arm_counts.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_page_shows_the_results(results: dict[str, Any]) -> None:
    page = (ROOT / "docs/arm.md").read_text(encoding="utf-8")
    assert "\n".join(loop_table(results["inner_loops"])) in page
    assert "\n".join(count_table(results["instructions"])) in page


def test_inner_loops_reach_the_bar(results: dict[str, Any]) -> None:
    """80 % of what the core can do; the page says why one tile with its results does not."""
    slow = [row for row in results["inner_loops"] if row["share_of_limit"] < 0.8]
    found = [(row["target"], row["loop"]) for row in slow]
    assert found == [("aarch64-i8mm", "logits and their results")]


def test_fewer_instructions_than_every_peer(results: dict[str, Any]) -> None:
    layers = [r for r in results["instructions"] if r["operator"] == "linear_requantize"]
    ours = {
        (row["cpu"], tuple(row["shape"])): row["all"]
        for row in layers
        if row["engine"].startswith("ours")
    }
    peers = [row for row in layers if not row["engine"].startswith("ours")]
    assert len(peers) == 3 * len(ours)
    assert [row for row in peers if row["all"] <= ours[row["cpu"], tuple(row["shape"])]] == []
