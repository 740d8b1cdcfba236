"""A board that vanishes while it measures: its candidate goes to another one, or waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.network import Address
from iseg_tvm.targets import TargetSpec
from iseg_tvm.tuning import workers as module
from iseg_tvm.tuning.device import DeviceSpec
from iseg_tvm.tuning.measure import Outcome
from iseg_tvm.tuning.workers import Worker, Workers
from tests.tuning.conftest import QUICK

TRACKER = Address("127.0.0.1", 9)
LOST = Outcome(error="the board vanished", device_lost=True)
CANDIDATES = [{"block": 400 + number} for number in range(6)]


class Boards:
    """What stands in for the workers' processes.

    Attributes
    ----------
    gone : numbers of the boards whose plug is pulled
    return_at : times that a board is asked for before it answers again; None: never
    """

    def __init__(self, gone: set[int], return_at: int | None) -> None:
        self.gone, self.return_at, self.asked = gone, return_at, 0

    def measure(self, worker: Worker, *_: object) -> Outcome:
        """Give the board's number as its time."""
        return LOST if worker.device.number in self.gone else Outcome(worker.device.number)

    def describe(self, worker: Worker, _: TargetSpec) -> Outcome:
        """Answer, or not yet."""
        self.asked += 1
        if self.return_at is not None and self.asked >= self.return_at:
            self.gone.discard(worker.device.number)
        return LOST if worker.device.number in self.gone else Outcome()


@pytest.fixture
def reports() -> list[str]:
    return []


@pytest.fixture
def two_boards(
    monkeypatch: pytest.MonkeyPatch, target: TargetSpec, reports: list[str]
) -> Iterator[Workers]:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "_GONE_SECONDS", 0.5)
    devices = [DeviceSpec(tracker=TRACKER, key="rpi4", number=number) for number in (1, 2)]
    with Workers(devices, target, timeout=0.5, timing=QUICK, report=reports.append) as made:
        yield made


def measured(workers: Workers, boards: Boards, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Measure all candidates on ``boards``."""
    monkeypatch.setattr(Worker, "measure", lambda *arguments: boards.measure(*arguments))
    monkeypatch.setattr(Worker, "describe", lambda *arguments: boards.describe(*arguments))
    results: dict[int, Outcome] = {}
    workers.measure(Path("job"), CANDIDATES, results.__setitem__)
    return [results[index] for index in range(len(CANDIDATES))]


def test_the_other_board_goes_on(
    two_boards: Workers, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = measured(two_boards, Boards({1}, None), monkeypatch)
    assert [outcome.seconds for outcome in outcomes] == [2] * len(CANDIDATES)
    assert reports == [
        f"board 1 of rpi4 at {TRACKER} is lost, its candidate is tried again: the board vanished"
    ]


def test_the_run_waits_for_a_board(
    two_boards: Workers, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both vanish, and are asked for until they are back; no candidate is lost."""
    outcomes = measured(two_boards, Boards({1, 2}, 5), monkeypatch)
    assert [outcome.error for outcome in outcomes] == [None] * len(CANDIDATES)
    assert sum("is lost, its candidate is tried again" in report for report in reports) == 2
    assert sum(report.endswith("is back") for report in reports) >= 1


def test_no_board_ever_again(two_boards: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IsegError, match="no device answers any more") as caught:
        measured(two_boards, Boards({1, 2}, None), monkeypatch)
    assert "--resume" in caught.value.hint
