"""What is printed where: colours on a real terminal only, ``-v``, nothing but JSON on stdout."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from iseg_tvm.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
COLOR = "\033[3"  # 30 to 37


def on_a_terminal(*arguments: str, **variables: str) -> tuple[int, str]:
    """Run a command whose stdout and stderr are a terminal; return its status and its output."""
    keyboard, terminal = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {
        "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "150", **variables,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "iseg_tvm", *arguments],
        stdin=terminal, stdout=terminal, stderr=terminal, env=environment,
    )  # fmt: skip
    os.close(terminal)
    parts = []
    while True:
        try:
            part = os.read(keyboard, 4096)
        except OSError:  # how Linux says that a terminal's other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(keyboard)
    return process.wait(timeout=60), b"".join(parts).decode()


def test_colours_on_a_terminal() -> None:
    status, out = on_a_terminal("doctor")
    assert status == 0
    assert COLOR in out
    status, out = on_a_terminal("info", "no/such.file")
    assert status == 2
    assert f"{COLOR}1merror:" in out


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_they_are_not_wanted(variables: dict[str, str]) -> None:
    for arguments in (("doctor",), ("info", "no/such.file")):
        _, out = on_a_terminal(*arguments, **variables)
        assert "apache-tvm" in out or "error:" in out
        assert COLOR not in out


def test_verbose_logs_what_is_done(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(toy_bundle), "-v", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kind"] == "bundle"
    assert "toy for" in captured.err
    assert "'path':" in captured.err
    assert main(["info", str(toy_bundle)]) == 0
    assert "toy for" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["info"], ["info", "rpi4"], ["doctor"], ["completion", "bash"], ["bench", "--bundle", "{b}"],
     ["segment", "{photo}", "--bundle", "{b}", "-o", "{tmp}/o.png", "--repeat", "2"]],
    ids=lambda arguments: " ".join(arguments[:2]),
)  # fmt: skip
def test_json_is_all_of_stdout(
    arguments: list[str],
    toy_bundle_with_sample: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {
        "b": toy_bundle_with_sample, "tmp": tmp_path, "photo": toy_bundle_with_sample / "sample.ppm"
    }  # fmt: skip
    given = [argument.format(**places) for argument in arguments]
    assert main([*given, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)
