"""``iseg-tvm evaluate``: mIoU of a float, integer or compiled model on a labelled data set."""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from iseg_tvm.cli.common import log, named_values, print_generated, print_table, progress_bar
from iseg_tvm.cli.flags import (
    add_board_arguments,
    add_common_arguments,
    add_dataset_arguments,
    add_flag,
    add_output,
    positive_int,
    whole_number,
)
from iseg_tvm.cli.inputs import open_runner

if TYPE_CHECKING:
    from iseg_tvm.evaluation.run import Result
    from iseg_tvm.evaluation.windows import Settings

SUMMARY = "measure the mIoU of a checkpoint, integer model or bundle on a labelled data set"
EXAMPLES = """\
The float model as the official evaluation does it, then both models by the same protocol:
  iseg-tvm evaluate --checkpoint seg_tiny_mask/ --dataset ade20k --root ADEChallengeData2016/
  iseg-tvm evaluate --checkpoint seg_tiny_mask/ --dataset ade20k --root ADEChallengeData2016/ \\
      --protocol ownership --upsampling nearest
  iseg-tvm evaluate --model model.safetensors --dataset ade20k --root ADEChallengeData2016/ \\
      -o result.json
It was interrupted (the state is in result.json.state): the same again, and --resume
Your own pictures (images/) and index PNGs of the same names (masks/), each in one piece:
  iseg-tvm evaluate --bundle bundle/ --root mine/ --whole-image
The same on a board, over RPC:
  iseg-tvm evaluate --bundle bundle-rpi4/ --tracker 127.0.0.1:9190 --root mine/

protocols, where sliding windows overlap:
  average    the official one: mean score, resized bilinearly; float checkpoints only
  ownership  each pixel's class comes from the window whose centre is nearest, and the map is
             resized by nearest neighbour; for every model, so figures can be compared
"""

# Shorter side in pixels, and longest side over it (the official config.yml and data/config/*.py).
_SIDES = {"ade20k": (512, 4), "cityscapes": (1024, 2), "pascal-context": (520, 8)}
_OVERLAP = 32  # the official evaluation's windows overlap by so many pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    model = parser.add_mutually_exclusive_group(required=True)
    for name in ("--checkpoint", "--model", "--bundle"):
        add_flag(model, name)
    data = add_dataset_arguments(parser, split="val")
    data.add_argument(
        "--ignore-label",
        type=whole_number(0, 255),
        metavar="N",
        help="mask value that does not count, for --dataset folder (default: 255)",
    )
    data.add_argument("--limit", type=positive_int, metavar="N", help="only the first N samples")
    cut = parser.add_argument_group("windows")
    cut.add_argument(
        "--protocol",
        choices=("ownership", "average"),
        help="how windows are merged, see below (default: average with --checkpoint, else "
        "ownership)",
    )
    cut.add_argument(
        "--upsampling",
        choices=("nearest", "bilinear"),
        help="how patches become pixels under --protocol ownership: bilinear scores, or the "
        "nearest patch, the integer models' only way (default: bilinear with --checkpoint)",
    )
    add_flag(cut, "--window")
    cut.add_argument(
        "--stride",
        nargs=2,
        type=positive_int,
        metavar=("H", "W"),
        help=f"from window to window, in pixels (default: the window less {_OVERLAP})",
    )
    cut.add_argument(
        "--short-side",
        type=whole_number(0),
        metavar="N",
        help="photos are resized until their shorter side is N pixels, 0 keeps their size "
        "(default: ade20k 512, cityscapes 1024, pascal-context 520, folder the window's)",
    )
    cut.add_argument(
        "--whole-image",
        action="store_true",
        help="no sliding: squeeze the whole photo into one window, as `segment` does",
    )
    add_flag(parser, "--threads")
    add_board_arguments(parser)
    add_flag(parser, "--resume", help="continue from FILE.state of an interrupted run")
    add_output(
        parser,
        "JSON file to write: the result of --json and the confusion matrix (rows: truth); the "
        "state of the run is kept in FILE.state",
        required=False,
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate; return the exit status."""
    with ExitStack() as stack:
        return _evaluate(args, stack)


def _evaluate(args: argparse.Namespace, stack: ExitStack) -> int:
    """Evaluate; `stack` closes the session with a board."""
    from iseg_tvm.errors import IsegError
    from iseg_tvm.evaluation.datasets import check_request, open_dataset
    from iseg_tvm.evaluation.engines import KINDS, open_engine
    from iseg_tvm.evaluation.run import evaluate
    from iseg_tvm.files import atomic_write

    # All that is quick to refuse comes before torch is imported.
    check_request(args.dataset, args.root, args.ignore_label)
    if args.whole_image and (args.stride or args.short_side is not None):
        raise IsegError(
            "--whole-image takes neither --stride nor --short-side", "leave one of them out"
        )
    kind = next(kind for kind in KINDS if getattr(args, kind) is not None)
    path = getattr(args, kind)
    if kind != "checkpoint" and args.protocol == "average":
        raise IsegError(
            f"a {kind} gives class maps, and --protocol average needs scores",
            "use --protocol ownership; the float checkpoint can be measured by it too",
        )
    if kind != "checkpoint" and args.upsampling == "bilinear":
        raise IsegError(f"a {kind} upsamples by the nearest patch", "leave --upsampling out")
    if kind == "checkpoint" and args.upsampling == "nearest" and args.protocol != "ownership":
        raise IsegError("--protocol average upsamples bilinearly", "add --protocol ownership")
    state_file = _state_file(args)
    log(args, f"Loading {path}")
    window = tuple(args.window) if args.window else None
    remote = args.tracker is not None or args.rpc is not None
    if remote and kind != "bundle":
        raise IsegError(f"a {kind} runs on this machine only", "compile it, and add --bundle")
    engine = open_engine(
        kind,
        path,
        window=window,
        threads=args.threads,
        upsampling=args.upsampling or "bilinear",
        runner=open_runner(args, stack) if remote else None,
    )
    dataset = open_dataset(
        args.dataset,
        args.root,
        split=args.split,
        classes=engine.classes,
        ignore_label=args.ignore_label,
    )
    settings = _settings(args, kind, engine.window)
    log(args, f"Evaluating on {len(dataset.samples)} samples of {args.dataset}")
    log(args, f"Settings: {named_values(settings)}")
    with progress_bar(args) as progress:
        result = evaluate(
            engine,
            dataset,
            settings,
            limit=args.limit,
            state_file=state_file,
            progress=progress,
        )
    for name, reason in result.skipped:
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if result.skipped:
        print(f"{len(result.skipped)} samples were skipped", file=sys.stderr)
    generated = []
    if args.output is not None:
        with atomic_write(args.output) as stream:
            stream.write(json.dumps(result.to_dict(with_confusion=True)).encode() + b"\n")
        generated.append(args.output)
    if not args.json:
        _print(result)
    print_generated(args, result.to_dict(with_confusion=False), *generated)
    return 1 if args.strict and result.skipped else 0


def _state_file(args: argparse.Namespace) -> Path | None:
    """Return where the run's state is kept; without ``--resume`` an older one is forgotten."""
    from iseg_tvm.errors import IsegError

    if args.output is None:
        if args.resume:
            raise IsegError("--resume needs -o FILE", "the state is in FILE.state")
        return None
    path: Path = args.output.with_name(args.output.name + ".state")
    if args.resume and not path.exists():
        raise IsegError(f"{path} does not exist", "start without --resume")
    if not args.resume:
        path.unlink(missing_ok=True)
    return path


def _settings(args: argparse.Namespace, kind: str, window: tuple[int, int]) -> "Settings":
    """Fill in the defaults."""
    from iseg_tvm.evaluation.windows import Settings

    protocol = args.protocol or ("average" if kind == "checkpoint" else "ownership")
    if args.whole_image:
        return Settings(protocol, window, None)
    short_side, max_ratio = _SIDES.get(args.dataset, (min(window), 4))
    if args.short_side is not None:
        short_side = args.short_side
    height, width = (side - _OVERLAP if side > _OVERLAP else side for side in window)
    stride = tuple(args.stride) if args.stride else (height, width)
    return Settings(protocol, window, stride, short_side or None, max_ratio)


def _print(result: "Result") -> None:
    """Print the table of classes, and the means."""
    metrics = result.metrics
    rows = zip(result.classes, metrics.iou, metrics.accuracy, metrics.pixels, strict=True)
    print_table(
        ("class", "IoU %", "accuracy %", "pixels"),
        [(n, _percent(iou), _percent(accuracy), str(pixels)) for n, iou, accuracy, pixels in rows],
    )
    counted = result.to_dict(with_confusion=False)["classes_in_mean_iou"]
    absent = sum(1 for pixels in metrics.pixels if not pixels)
    print(f"mIoU            {_percent(metrics.mean_iou)} %  (of {counted} classes)")
    print(f"pixel accuracy  {_percent(metrics.pixel_accuracy)} %")
    print(f"mean accuracy   {_percent(metrics.mean_accuracy)} %")
    print(f"{result.images} images, {len(result.skipped)} skipped; {_how(result)}")
    if absent:
        print(
            f"classes not in the ground truth: {absent} (IoU 0 where predicted all the same, as in "
            "mmsegmentation; else not counted)"
        )


def _how(result: "Result") -> str:
    """Say how windows and patches became the map."""
    return f"{result.about['protocol']}, {result.about['upsampling']}"


def _percent(value: float) -> str:
    return f"{100 * value:6.2f}" if value == value else "     -"
