"""``iseg-tvm info``: what a file of ours is, or what this machine can do."""

import argparse
from collections.abc import Mapping
from typing import Any

from iseg_tvm.cli.common import add_common_arguments, log, print_json

SUMMARY = "describe a checkpoint, model, bundle or target; without one, this machine"
EXAMPLES = """\
  iseg-tvm info                     this machine's CPU and the list of targets
  iseg-tvm info seg_tiny_mask/      a float checkpoint
  iseg-tvm info model.safetensors   an integer model
  iseg-tvm info bundle/             a bundle (checked, and whether it runs here)
  iseg-tvm info rpi4                a target, by name or by its TOML file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="file, folder, or name of a target")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Describe; return the exit status."""
    from iseg_tvm.describe import describe, describe_machine

    if args.path is None:
        values = describe_machine()
    else:
        log(args, f"Reading {args.path}")
        values = describe(args.path)
    if args.json:
        print_json(values)
    else:
        _print(values)
    return 0


def _print(values: Mapping[str, Any], indent: str = "") -> None:
    """Print nested values, one a line."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        name = key.replace("_", " ")
        if isinstance(value, Mapping) and value:
            print(f"{indent}{name}:")
            _print(value, indent + "  ")
        else:
            print(f"{indent}{name + ':':<{width + 1}} {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value != 0 and not value:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value)
