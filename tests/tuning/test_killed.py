"""``kill -9`` of a tuning run, and going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from iseg_tvm.tuning_files import PROVENANCE, RECORDS

_SECONDS = 120.0


def command(model: Path, folder: Path, *flags: str) -> list[str]:
    return [
        *(sys.executable, "-m", "iseg_tvm.tune", "--target", "native", "--model", str(model)),
        *("-o", str(folder), "--threads", "1", *flags),
    ]


def records(folder: Path) -> list[str]:
    path = folder / RECORDS
    return path.read_text().splitlines() if path.exists() else []


def decisions(line: str) -> str:
    """Workload and parameters of a record."""
    workload, content = json.loads(line)
    return json.dumps([workload, content[0]])


def test_kill_and_resume(model_file: Path, tmp_path: Path) -> None:
    folder, environment = tmp_path / "log", os.environ | {"TVM_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(model_file, folder, "--trials", "10000"),
        env=environment, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        end = time.monotonic() + _SECONDS
        while len(records(folder)) < 12 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    before = records(folder)
    assert len(before) >= 12
    # As if it had been killed inside a write, too.
    with (folder / RECORDS).open("a") as stream:
        stream.write(before[-1][:50])
    flags = ("--resume", "--trials", "10000", "--budget-seconds", "3")
    done = subprocess.run(
        command(model_file, folder, *flags), env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = records(folder)
    assert after[: len(before)] == before
    assert len(after) > len(before)
    assert len({decisions(line) for line in after}) == len(after)
    progress = [line for line in done.stderr.splitlines() if line.startswith("task ")]
    assert any("default" in line and "ETA" in line for line in progress)
    assert len(json.loads((folder / PROVENANCE).read_text())["sessions"]) == 2


def test_log_is_not_mixed_up_by_accident(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / RECORDS).write_text("")
    done = subprocess.run(
        command(model_file, tmp_path / "log"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith("error: ")
    assert "holds a tuning log already" in error
    assert "--resume" in hint
