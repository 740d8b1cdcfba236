"""``iseg-tvm tune``: measure how the kernels of a model are best blocked for one kind of CPU."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iseg_tvm.cli.common import (
    add_common_arguments,
    add_image_size,
    log,
    positive_int,
    print_generated,
)

if TYPE_CHECKING:
    from iseg_tvm.artifact import QuantizedModel

SUMMARY = "find the fastest blocking of a model's kernels by measuring (TVM MetaSchedule)"
EXAMPLES = """\
A model of one's own on this machine, ten minutes at most:
  iseg-tvm tune --target native --model model.safetensors --budget-seconds 600
A model of the paper with random weights (only shapes count), and going on when interrupted:
  iseg-tvm tune --target x86-vnni --architecture seg_tiny_mask --trials 400
  iseg-tvm tune --target x86-vnni --architecture seg_tiny_mask --trials 400 --resume

`iseg-tvm compile` then finds the log by target and shape.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "--target",
        default="native",
        metavar="NAME",
        help="a target's name, or a target file (*.toml) of your own (default: %(default)s)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", type=Path, metavar="FILE", help="integer model (*.safetensors) to tune for"
    )
    source.add_argument(
        "--architecture",
        metavar="NAME",
        help="a model of the paper with random weights, such as seg_tiny_mask",
    )
    add_image_size(parser, "the model's")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the log (default: tuning_logs/TARGET/MODEL_HEIGHTxWIDTH)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the log in that folder")
    _add_search_arguments(parser.add_argument_group("search"))
    add_common_arguments(parser)


def _add_search_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trials",
        type=positive_int,
        metavar="N",
        help="candidates measured in all, shared out by the kernels' part of the time (default: "
        "32 a kernel)",
    )
    group.add_argument(
        "--budget-seconds", type=positive_int, metavar="S", help="longest time in all"
    )
    group.add_argument(
        "--task-seconds", type=positive_int, metavar="S", help="longest time for one kernel"
    )
    group.add_argument(
        "--timeout",
        type=positive_int,
        default=60,
        metavar="S",
        help="longest time for one candidate (default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="of search and data (default: %(default)s)"
    )
    group.add_argument(
        "--threads", type=positive_int, metavar="N", help="of the kernels (default: all CPUs)"
    )


def run(args: argparse.Namespace) -> int:
    """Tune; return the exit status."""
    from iseg_tvm.host_cpu import check_host, usable_cpus
    from iseg_tvm.targets import load_target

    target = load_target(args.target)
    check_host(target.arch, target.features, what=f"tuning for {target.name}")
    name, model = _model(args)
    height, width = model.input_size
    folder = args.output or Path("tuning_logs") / target.name / f"{name}_{height}x{width}"
    log(args, f"Tuning {name} at {height} x {width} pixels for {target.name}; log: {folder}")
    from iseg_tvm.tuning.device import DeviceSpec
    from iseg_tvm.tuning.run import Options, tune

    threads = args.threads or len(usable_cpus())
    options = Options(
        trials=args.trials,
        budget_seconds=args.budget_seconds,
        task_seconds=args.task_seconds,
        seed=args.seed,
        timeout=args.timeout,
        devices=(DeviceSpec(threads=threads),),
    )
    rows = tune(
        model,
        target,
        folder,
        options,
        resume=args.resume,
        flags=_flags(args, threads),
        report=lambda line: log(args, line),
    )
    if not args.json:
        for row in rows:
            print(row)
    print_generated(args, {"target": target.name, "tasks": [row.to_dict() for row in rows]}, folder)
    return 0


def _model(args: argparse.Namespace) -> tuple[str, "QuantizedModel"]:
    """Name for the log's folder, and the model at the size to tune for."""
    if args.model is not None:
        from iseg_tvm.artifact import load_model

        model = load_model(args.model)
        name = args.model.stem
    else:
        from iseg_tvm.random_model import random_model

        model = random_model(args.architecture, args.seed)
        name = args.architecture
    return name, model.with_input_size(*args.image_size) if args.image_size else model


def _flags(args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Of the run, for the log; paths would only be true on this machine."""
    names = ("trials", "budget_seconds", "task_seconds", "timeout", "seed", "resume")
    return {name: getattr(args, name) for name in names} | {"threads": threads}
