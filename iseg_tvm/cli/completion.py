"""``iseg-tvm completion``: a script that completes commands, flags, targets and files."""

import argparse
from collections.abc import Iterator, Mapping

from iseg_tvm.cli.common import print_json
from iseg_tvm.cli.flags import add_common_arguments

SUMMARY = "print a completion script for bash, zsh or fish"
EXAMPLES = """\
bash, for good:
  iseg-tvm completion bash > ~/.local/share/bash-completion/completions/iseg-tvm
bash, in this shell only:
  source <(iseg-tvm completion bash)
zsh, in a folder of $fpath:
  iseg-tvm completion zsh > ~/.zfunc/_iseg-tvm
fish:
  iseg-tvm completion fish > ~/.config/fish/completions/iseg-tvm.fish
"""
SHELLS = ("bash", "zsh", "fish")
_DATASETS = "folder ade20k cityscapes pascal-context"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to write it for")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the script; return the exit status."""
    import shtab

    from iseg_tvm.cli.main import build_parser

    parser = build_parser()
    for action in _actions(parser):
        completer = _completer(action)
        if completer is not None:
            action.complete = completer  # type: ignore[attr-defined] # shtab reads it
    script = shtab.complete(parser, args.shell)
    if args.json:
        print_json({"kind": "completion", "shell": args.shell, "script": script})
    else:
        print(script)
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every flag and argument of a parser and its commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                yield from _actions(command)
        else:
            yield action


def _completer(action: argparse.Action) -> Mapping[str, object] | None:
    """Return what shtab completes an argument's value with, by its metavar."""
    import shtab

    from iseg_tvm.targets import NATIVE, list_targets

    if "--target" in action.option_strings:
        names = [NATIVE, *(name for s in list_targets() for name in (s.name, *s.aliases))]
        return shtab.cmd(f"echo {' '.join(names)}")
    if "--dataset" in action.option_strings:
        return shtab.cmd(f"echo {_DATASETS}")
    if action.metavar == "DIR":
        return shtab.DIRECTORY
    if action.metavar in ("FILE", "PHOTO", "PATH", "IMG_OR_DIR"):
        return shtab.FILE
    return None
