"""``iseg-tvm info``: what a file of ours is, or what this machine can do."""

import argparse

from iseg_tvm.cli.common import log, print_json, print_values
from iseg_tvm.cli.flags import add_common_arguments

SUMMARY = "describe any file of ours; without one, this machine and the targets"
EXAMPLES = """\
  iseg-tvm info                     this machine's CPU and the list of targets
  iseg-tvm info seg_tiny_mask/      a float checkpoint
  iseg-tvm info model.safetensors   an integer model
  iseg-tvm info bundle/             a bundle (checked, and whether it runs here)
  iseg-tvm info rpi4                a target, by name or by its TOML file
  iseg-tvm info rpi4.tar.gz         a deploy archive (checked)
  iseg-tvm info tuning_logs/rpi4/demo_256x256/
  iseg-tvm info rpi4.json           a result of bench
  iseg-tvm info result.json         a result of evaluate, or its state (result.json.state)
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
        print_values(values)
    return 0
