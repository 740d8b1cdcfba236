"""The command line as a whole: help, exit statuses, errors of two lines, interrupts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iseg_tvm.cli import info
from iseg_tvm.cli.main import main
from iseg_tvm.errors import IsegError

COMMANDS = ("quantize", "compile", "segment", "info")


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_teaches(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "iseg-tvm " in out.split("example" if arguments[1:] else "The whole way", 1)[1]


@pytest.mark.parametrize("arguments", [[], ["segment"], ["dance"], ["segment", "--bundle"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: iseg-tvm" in captured.err


@pytest.mark.parametrize("value", ["0", "-3", "2.5", "many"])
def test_counts_are_whole_and_positive(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["segment", "a.png", "--bundle", "b", "--out", "o.png", f"--threads={value}"])
    assert caught.value.code == 2
    assert f"'{value}' is not a whole number of at least 1" in capsys.readouterr().err


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(info, "run", run)


def test_user_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(IsegError("it is broken", "mend it"), monkeypatch)
    assert main(["info"]) == 2
    assert capsys.readouterr() == ("", "error: it is broken\nhint: mend it\n")


def test_user_error_without_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(IsegError("it is broken"), monkeypatch)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "error: it is broken\n"


def test_traceback_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(IsegError("it is broken"), monkeypatch)
    assert main(["info", "-v"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_own_bug(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(ZeroDivisionError("division by zero\nmore"), monkeypatch)
    assert main(["info"]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "error: info failed: ZeroDivisionError: division by zero"
    assert hint.startswith("hint: this is a bug")


def test_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_shims(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"iseg_tvm.{name}", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"usage: iseg-tvm {name} ")


def test_package_is_a_command() -> None:
    command = [sys.executable, "-m", "iseg_tvm", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("iseg-tvm ")


def test_closed_pipe_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "iseg_tvm", "info"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import sys; from iseg_tvm.cli.main import build_parser; build_parser();"
        "print(sorted({'torch', 'tvm', 'tvm_ffi', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shims_are_where_the_parser_is(tmp_path: Path) -> None:
    """``python -m iseg_tvm.segment`` reports errors as the console script does."""
    done = subprocess.run(
        [sys.executable, "-m", "iseg_tvm.segment", "no.png", "--bundle", "b", "--out", "o.png"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == "error: no.png does not exist"
