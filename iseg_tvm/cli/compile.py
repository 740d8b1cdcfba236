"""``iseg-tvm compile``: an integer model becomes a bundle for one kind of CPU."""

import argparse
from pathlib import Path

from iseg_tvm.cli.common import log, print_generated, progress_bar
from iseg_tvm.cli.flags import (
    add_common_arguments,
    add_flag,
    add_output,
    add_sample_arguments,
)
from iseg_tvm.cli.inputs import read_sample_image

SUMMARY = "compile an integer model into a bundle: a folder with one shared library"
EXAMPLES = """\
For this machine:
  iseg-tvm compile --model model.safetensors --target native -o bundle/
For a Raspberry Pi 4, and for pictures of 480 x 640 pixels:
  iseg-tvm compile --model model.safetensors --target rpi4 --image-size 480 640 -o bundle-rpi4/

`iseg-tvm info` lists the targets. A bundle runs only on CPUs that have its target's instructions,
and says so anywhere else.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_flag(parser, "--model", required=True)
    add_flag(parser, "--target", default="native")
    add_flag(parser, "--image-size")
    add_output(parser, "the bundle to write", metavar="DIR")
    add_sample_arguments(parser)
    parser.add_argument(
        "--debug-dump",
        type=Path,
        metavar="DIR",
        help="write the module as text after every phase of the compiler",
    )
    parser.add_argument(
        "--tuning-logs",
        metavar="DIR",
        help="folder of tuning logs (<DIR>/<target>/<model>/), or none: block all kernels by "
        "default (default: those that come with iseg-tvm)",
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compile; return the exit status."""
    from iseg_tvm.artifact import load_model
    from iseg_tvm.bundle import check_output
    from iseg_tvm.targets import load_target

    check_output(args.output)
    target = load_target(args.target)
    model = load_model(args.model)
    height, width = args.image_size or model.input_size
    log(args, f"Compiling {args.model} for {target.name} at {height} x {width} pixels")
    from iseg_tvm.build import compile_bundle
    from iseg_tvm.schedules import TunedSchedules, load_schedules

    untuned = args.tuning_logs == "none"
    logs = Path(args.tuning_logs) if args.tuning_logs and not untuned else None
    schedules = TunedSchedules() if untuned else load_schedules(target, logs)
    with progress_bar(args) as progress:
        bundle = compile_bundle(
            model,
            target,
            args.output,
            image_size=(height, width),
            debug_dump=args.debug_dump,
            progress=progress,
            schedules=schedules,
            sample_image=read_sample_image(args, (height, width)),
        )
    if not untuned:
        log(args, schedules.summary(target))
    manifest = bundle.manifest
    values = {
        "target": target.name,
        "image_size": [height, width],
        "kernels": list(manifest.kernels),
        "tuned_kernels": len(schedules.found),
        "peak_activation_bytes": manifest.peak_activation_bytes,
        "bytes": sum(file.bytes for file in manifest.files.values()),
    }
    print_generated(args, values, bundle.path)
    return 0
