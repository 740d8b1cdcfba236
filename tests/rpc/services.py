"""Trackers and board servers as processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from iseg_tvm.network import Address
from iseg_tvm.remote.tracker import TrackerClient

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"


@contextmanager
def service(
    module: str,
    *arguments: str,
    python: Sequence[str] = (sys.executable,),
    environment: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> Iterator[Address]:
    """Run ``python -m module`` on a free port until the body ends; give its address."""
    command = [*python, "-m", module, "--port", "0", *arguments]
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)} | (environment or {})
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=log, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert f" at {HOST}:" in line, f"{module} has not started: {line!r}"
        yield Address(HOST, int(line.rpartition(":")[2]))
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_board(tracker: Address, key: str, count: int = 1, seconds: float = 60) -> None:
    """Wait until boards have registered."""
    end = time.monotonic() + seconds
    with TrackerClient(tracker) as client:
        while client.boards()[key] < count:
            assert time.monotonic() < end, f"no board {key} within {seconds} s"
            time.sleep(0.1)
