"""``iseg-tvm tune``: measure how the kernels of a model are best blocked for one kind of CPU."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iseg_tvm.cli.common import log, print_generated, print_table
from iseg_tvm.cli.flags import (
    add_common_arguments,
    add_flag,
    add_key,
    add_output,
    add_tracker,
    positive_int,
)
from iseg_tvm.cli.inputs import tracker_address

if TYPE_CHECKING:
    from iseg_tvm.artifact import QuantizedModel
    from iseg_tvm.targets import TargetSpec
    from iseg_tvm.tuning.device import DeviceSpec
    from iseg_tvm.tuning.run import TunedTask

SUMMARY = "find the fastest blocking of a model's kernels by measuring (TVM MetaSchedule)"
EXAMPLES = """\
A model of one's own on this machine, ten minutes at most:
  iseg-tvm tune --target native --model model.safetensors --budget-seconds 600
A model of the paper with random weights (only shapes count), and going on when interrupted:
  iseg-tvm tune --target x86-vnni --architecture seg_tiny_mask --trials 400
  iseg-tvm tune --target x86-vnni --architecture seg_tiny_mask --trials 400 --resume

Two Raspberry Pi 4 that are registered at a tracker (docs/boards.md):
  iseg-tvm tune --target rpi4 --model model.safetensors --tracker 192.168.1.20:9190 --key rpi4

`iseg-tvm compile` then finds the log by target and shape.
"""

_LOCAL_SECONDS, _BOARD_SECONDS = 60, 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_flag(parser, "--target", default="native")
    source = parser.add_mutually_exclusive_group(required=True)
    add_flag(source, "--model")
    source.add_argument(
        "--architecture",
        metavar="NAME",
        help="a model of the paper with random weights, such as seg_tiny_mask",
    )
    add_flag(parser, "--image-size")
    add_output(
        parser,
        "folder of the log (default: tuning_logs/TARGET/MODEL_HEIGHTxWIDTH)",
        metavar="DIR",
        required=False,
    )
    add_flag(parser, "--resume", help="go on with the log in that folder")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="tune only kernels whose names contain this; may be repeated",
    )
    _add_search_arguments(parser.add_argument_group("search"))
    _add_board_arguments(parser.add_argument_group("boards (default: this machine)"))
    add_common_arguments(parser)


def _add_search_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trials",
        type=positive_int,
        metavar="N",
        help="candidates measured in all, shared out by the kernels' part of the time; each "
        "kernel's default is measured in any case (default: 32 a kernel)",
    )
    group.add_argument(
        "--budget-seconds", type=positive_int, metavar="S", help="longest time in all"
    )
    group.add_argument(
        "--task-seconds", type=positive_int, metavar="S", help="longest time for one kernel"
    )
    add_flag(
        group,
        "--timeout",
        help=f"longest time for one candidate (default: {_LOCAL_SECONDS}, boards {_BOARD_SECONDS})",
    )
    add_flag(group, "--seed")
    add_flag(group, "--threads")


def _add_board_arguments(group: argparse._ArgumentGroup) -> None:
    add_tracker(group)
    add_key(group)
    group.add_argument(
        "--emulated", action="store_true", help="say in the log that the boards are emulated"
    )


def run(args: argparse.Namespace) -> int:
    """Tune; return the exit status."""
    from iseg_tvm.targets import load_target

    target = load_target(args.target)
    name, model = _model(args)
    height, width = model.input_size
    folder = args.output or Path("tuning_logs") / target.name / f"{name}_{height}x{width}"
    log(args, f"Tuning {name} at {height} x {width} pixels for {target.name}; log: {folder}")
    from iseg_tvm.tuning.run import Options, tune

    timeout = args.timeout or (_LOCAL_SECONDS if args.tracker is None else _BOARD_SECONDS)
    options = Options(
        trials=args.trials,
        budget_seconds=args.budget_seconds,
        task_seconds=args.task_seconds,
        seed=args.seed,
        timeout=timeout,
        devices=_devices(args, target, timeout),
        emulated=args.emulated,
        only=args.only,
    )
    rows = tune(
        model,
        target,
        folder,
        options,
        resume=args.resume,
        flags=_flags(args),
        report=lambda line: log(args, line),
    )
    if not args.json:
        _print(rows)
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


def _devices(
    args: argparse.Namespace, target: "TargetSpec", timeout: float
) -> "tuple[DeviceSpec, ...]":
    """Every board that is registered under the key; without a tracker the machine itself."""
    from iseg_tvm.errors import IsegError
    from iseg_tvm.host_cpu import check_host, usable_cpus
    from iseg_tvm.remote.tracker import TrackerClient
    from iseg_tvm.tuning.device import DeviceSpec

    tracker, key = tracker_address(args), args.key or target.rpc_key
    if tracker is None:
        check_host(target.arch, target.features, what=f"tuning for {target.name} without boards")
        return (DeviceSpec(threads=args.threads or len(usable_cpus())),)
    if not key:
        raise IsegError(f"the target {target.name} has no board key of its own", "give --key")
    with TrackerClient(tracker) as client:
        count = client.boards()[key]
    # With no board there yet, one worker says so and waits.
    return tuple(
        DeviceSpec(tracker=tracker, key=key, call_seconds=timeout / 4, number=number + 1)
        for number in range(max(count, 1))
    )


def _print(rows: "Sequence[TunedTask]") -> None:
    """Print the table of kernels, the model's sums last."""
    columns = ("kernel", "schedule", "calls", "default ms", "best ms", "gain")
    lines, sums = [], [0.0, 0.0]
    for row in rows:
        if row.default_ms is None or row.best_ms is None:
            lines.append((row.name, "not measured", str(row.calls), "", "", ""))
            continue
        sums[0] += row.calls * row.default_ms
        sums[1] += row.calls * row.best_ms
        chosen = " ".join(f"{name}={value}" for name, value in (row.schedule or {}).items())
        lines.append((row.name, chosen, str(row.calls), *_gain(row.default_ms, row.best_ms)))
    if sums[1]:
        lines.append(("all calls", "", "", *_gain(*sums)))
    print_table(columns, lines, left=2)


def _gain(default_ms: float, best_ms: float) -> tuple[str, str, str]:
    return f"{default_ms:.4f}", f"{best_ms:.4f}", f"{default_ms / max(best_ms, 1e-9):.2f}x"


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    """Of the run, for the log; paths and addresses would only be true on this machine."""
    names = ("trials", "budget_seconds", "task_seconds", "timeout", "seed", "threads", "key")
    return {name: getattr(args, name) for name in (*names, "only", "resume")}
