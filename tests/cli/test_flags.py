"""One style of flags: the same name means the same thing in every command."""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from iseg_tvm.cli import flags
from iseg_tvm.cli.main import build_parser, main


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command's parser by its name."""
    for action in build_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise AssertionError("no commands")


def long_flags() -> Iterator[tuple[str, str, argparse.Action]]:
    """(command, long name, action) of every flag."""
    for command, parser in commands().items():
        for action in parser._actions:
            for name in action.option_strings:
                if name.startswith("--") and not name.startswith("--no-"):
                    yield command, name, action


def test_the_same_name_takes_the_same_values() -> None:
    kinds = defaultdict(set)
    for _, name, action in long_flags():
        kinds[name].add((type(action).__name__, action.type, str(action.metavar), action.nargs))
    assert len(kinds) > 60
    kinds.pop("--output")  # a file or a folder
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


def test_what_several_commands_have_is_defined_once() -> None:
    users = defaultdict(set)
    for command, name, _ in long_flags():
        users[name].add(command)
    shared = {name for name, where in users.items() if len(where) > 1}
    assert shared - {"--help", "--output"} <= set(flags._FLAGS)


def test_every_flag_is_explained() -> None:
    for command, name, action in long_flags():
        assert action.help, (command, name)
        assert re.fullmatch(r"--[a-z]+(-[a-z]+)*", name), name
        takes_a_value = action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if takes_a_value and not action.choices:
            assert action.metavar, f"{command} {name} shows its own name instead of what it takes"


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_the_common_flags(name: str) -> None:
    options = commands()[name]._option_string_actions
    assert {"--json", "-q", "--quiet", "-v", "--verbose", "-h", "--help"} <= set(options)
    short = {option for option in options if not option.startswith("--")}
    assert short <= {"-h", "-q", "-v", "-o"}


def test_underscores_of_tvm_are_understood(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["rpc_server", "--help"])
    assert capsys.readouterr().out.startswith("usage: iseg-tvm rpc-server")


def test_a_tracker_that_nobody_names(
    toy_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--tracker`` without a value must never mean this machine."""
    monkeypatch.delenv("TVM_TRACKER_HOST", raising=False)
    for command in (["bench", "--bundle", str(toy_bundle), "--unchecked"], ["doctor"]):
        assert main([*command, "--tracker"]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "TVM_TRACKER_HOST" in captured.err


def test_a_tracker_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TVM_TRACKER_HOST", "127.0.0.1")
    monkeypatch.setenv("TVM_TRACKER_PORT", "1")
    assert main(["doctor", "--tracker"]) == 2
    assert "no tracker answers at 127.0.0.1:1" in capsys.readouterr().out
