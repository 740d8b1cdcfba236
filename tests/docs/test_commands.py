"""Every command line that README.md and docs/*.md show is run, or is parsed and says why not."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from iseg_tvm.cli.main import build_parser, main
from iseg_tvm.network import Address
from tests.docs.blocks import PAGES, ROOT, SHELL, Block, blocks, prose

SHELL_BLOCKS = [block for block in blocks() if block.language in SHELL]
RUN = [block for block in SHELL_BLOCKS if block.note != "not run"]
TRACKER = "127.0.0.1:9190"
_OURS = re.compile(r"(?:python -m iseg_tvm\.|iseg-tvm )(\S+)(.*)")


def ours(command: str) -> list[str] | None:
    """Arguments of a command of iseg-tvm; None for other programs."""
    found = _OURS.fullmatch(command)
    return None if found is None else [found[1], *shlex.split(found[2])]


def test_there_are_commands() -> None:
    commands = {ours(c)[0] for b in RUN for c in b.commands() if ours(c)}  # type: ignore[index]
    wanted = {"quantize", "compile", "segment", "evaluate", "bench", "tune", "report", "deploy"}
    assert wanted | {"info", "doctor", "qat", "completion"} <= commands
    assert len(SHELL_BLOCKS) > 15


def test_nothing_hides_from_this_test() -> None:
    """No command stands in an indented block or in a fence without a language."""
    for page in PAGES:
        for line in prose(page).split("\n"):
            assert not re.match(r" {4,}(\w*\$ )?(python|iseg-tvm|make|pip) ", line), (page, line)
    for block in blocks():
        assert block.language, f"{block.page}:{block.line} has no language"
        if block.language not in SHELL:
            assert not re.search(r"^(python -m|iseg-tvm) ", block.text, re.M), block


def test_reasons_are_reasons() -> None:
    for block in SHELL_BLOCKS:
        if block.note == "not run":
            assert len(block.value.split()) >= 3, block


@pytest.mark.parametrize(
    "block", SHELL_BLOCKS, ids=lambda block: f"{block.page}:{block.line}"
)
def test_flags_exist(block: Block) -> None:
    """Our commands are parsed by the real parser; of scripts and tests the flags are looked up."""
    for command in block.commands():
        command = command.partition(" > ")[0]
        arguments = ours(command)
        if arguments is not None:
            arguments[0] = arguments[0].replace("_", "-")
            build_parser().parse_args(arguments)
        elif script := re.match(r"python -m ((?:demo|benchmarks)[\w.]*)(.*)", command):
            path = ROOT / script[1].replace(".", "/")
            text = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
            for flag in re.findall(r"--[\w-]+", script[2]):
                assert f'"{flag}"' in text, (command, flag)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH on which ``python`` and ``iseg-tvm`` are this checkout's."""
    folder = tmp_path_factory.mktemp("bin")
    for name, module in (("python", ""), ("iseg-tvm", "-m iseg_tvm ")):
        # Not a link: a linked Python does not find its environment.
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module}"$@"\n')
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


_done: set[str] = set()


@pytest.mark.parametrize("block", RUN, ids=lambda block: f"{block.page}:{block.line}")
def test_command_runs(
    block: Block,
    workplace: Path,
    programs: str,
    board: Callable[[], Address],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In one process, as torch and TVM take seconds to load; the same line only once."""
    monkeypatch.chdir(workplace)
    for command in block.short_commands():
        key = command.replace("python -m iseg_tvm.", "iseg-tvm ")
        if key in _done:
            continue
        if TRACKER in command:
            command = command.replace(TRACKER, str(board()))
        arguments = ours(command)
        if arguments is None or re.search(r"[|<>;&]", command):
            environment = {**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT)}
            subprocess.run(["bash", "-ec", command], env=environment, check=True)
        else:
            assert main(arguments) == 0, f"{command}\n{capsys.readouterr().err}"
        _done.add(key)
        for name in written(command):
            assert (workplace / name).exists(), f"{command} has not written {name}"


def written(command: str) -> list[str]:
    """Files that a command says it writes."""
    return re.findall(r"(?:-o|--output|--mask|>) (\S+)", command)
