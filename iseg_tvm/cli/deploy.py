"""``iseg-tvm deploy``: one archive for a board."""

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from iseg_tvm.cli.common import log, print_generated, progress_bar
from iseg_tvm.cli.flags import (
    add_common_arguments,
    add_flag,
    add_output,
    add_sample_arguments,
)
from iseg_tvm.cli.inputs import read_sample_image

if TYPE_CHECKING:
    from iseg_tvm.bundle import Bundle

SUMMARY = "pack a model into one archive that a board runs with TVM's runtime and numpy alone"
EXAMPLES = """\
For a Raspberry Pi 4:
  iseg-tvm deploy --target rpi4 --model model.safetensors -o rpi4.tar.gz
A bundle that is compiled already:
  iseg-tvm deploy --bundle bundle-rpi4/ -o rpi4.tar.gz

On the board: tar xzf rpi4.tar.gz, and follow the README.md in it (docs/boards.md).
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    source = parser.add_mutually_exclusive_group(required=True)
    for name in ("--model", "--bundle"):
        add_flag(source, name)
    add_flag(
        parser, "--target", help="what to compile --model for: a target's name or file (*.toml)"
    )
    add_flag(parser, "--image-size")
    add_sample_arguments(parser)
    add_output(parser, "archive to write, *.tar.gz")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Pack; return the exit status."""
    from iseg_tvm.bundle import read_bundle
    from iseg_tvm.deployment import check_archive_name, write_archive
    from iseg_tvm.errors import IsegError

    check_archive_name(args.output)
    if args.no_sample:
        raise IsegError("an archive without a sample could not check itself", "drop --no-sample")
    if args.bundle is not None:
        if args.target or args.image_size or args.sample:
            raise IsegError(
                "--bundle is compiled already", "leave --target, --image-size and --sample out"
            )
        bundle = read_bundle(args.bundle, runnable=False)
        write_archive(bundle, args.output)
    else:
        if args.target is None:
            raise IsegError("no --target to compile for", "`iseg-tvm info` lists the targets")
        with tempfile.TemporaryDirectory(prefix="iseg-deploy-") as folder:
            bundle = _compile(args, Path(folder) / "bundle")
            write_archive(bundle, args.output)
    manifest = bundle.manifest
    values = {"target": manifest.target.name, "image_size": list(manifest.image_size),
              "bytes": args.output.stat().st_size}  # fmt: skip
    print_generated(args, values, args.output)
    return 0


def _compile(args: argparse.Namespace, folder: Path) -> "Bundle":
    from iseg_tvm.artifact import load_model
    from iseg_tvm.targets import load_target

    target = load_target(args.target)
    model = load_model(args.model)
    size = tuple(args.image_size or model.input_size)
    log(args, f"Compiling {args.model} for {target.name} at {size[0]} x {size[1]} pixels")
    from iseg_tvm.build import compile_bundle

    with progress_bar(args) as progress:
        return compile_bundle(
            model,
            target,
            folder,
            image_size=size,
            progress=progress,
            sample_image=read_sample_image(args, size),
        )
