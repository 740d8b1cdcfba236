"""``iseg-tvm qat``: fine-tune through the integer operators."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from iseg_tvm.cli.common import log, named_values, print_generated
from iseg_tvm.cli.flags import (
    add_common_arguments,
    add_dataset_arguments,
    add_flag,
    add_output,
    positive_int,
)

if TYPE_CHECKING:
    from iseg_tvm.artifact import QuantizedModel
    from iseg_tvm.evaluation.datasets import Dataset
    from iseg_tvm.models.segmenter import Segmenter

SUMMARY = "fine-tune an integer model on labelled pictures, through the integer operators"
EXAMPLES = """\
A data set of your own: images/ and index PNGs of the same names in masks/:
  iseg-tvm qat --checkpoint seg_tiny_mask/ --root mine/ --epochs 5 -o model.safetensors
It was interrupted (the state is in model.safetensors.state): the same again, and
  iseg-tvm qat --checkpoint seg_tiny_mask/ --root mine/ --epochs 5 -o model.safetensors --resume
From an integer model you have, on ADE20K, on a graphics card:
  iseg-tvm qat --checkpoint seg_tiny_mask/ --model ptq.safetensors --dataset ade20k \\
      --root ADEChallengeData2016/ --split train --steps 2000 --window 512 512 --device cuda \\
      -o model.safetensors
"""
_LOG_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_flag(parser, "--checkpoint", required=True)
    add_flag(
        parser,
        "--model",
        help="integer model of that checkpoint to begin with (default: quantize it first)",
    )
    add_flag(
        parser,
        "--calibration",
        help="pictures to quantize with, without --model (default: the data set's first)",
    )
    add_dataset_arguments(parser, split="train")
    training = parser.add_argument_group("training")
    length = training.add_mutually_exclusive_group(required=True)
    length.add_argument(
        "--steps", type=int, metavar="N", help="optimizer steps; 0 only quantizes"
    )
    length.add_argument(
        "--epochs", type=positive_int, metavar="N", help="N times as many windows as samples"
    )
    training.add_argument(
        "--lr",
        type=float,
        default=1e-4,
        metavar="RATE",
        help="peak learning rate (default: %(default)s)",
    )
    training.add_argument(
        "--batch",
        type=positive_int,
        default=8,
        metavar="N",
        help="windows a step (default: %(default)s)",
    )
    add_flag(
        training,
        "--window",
        help="windows cut out of the pictures, multiples of the patch (default: whole pictures)",
    )
    training.add_argument(
        "--zoom",
        type=float,
        default=1.0,
        metavar="ZOOM",
        help="pictures are cropped to between all and 1/ZOOM of them (default: %(default)s)",
    )
    training.add_argument(
        "--distill",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the loss that asks for the float model's scores (default: %(default)s)",
    )
    training.add_argument(
        "--sharpness",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="factor of the scores before the softmax, as in float training (default: %(default)s)",
    )
    training.add_argument(
        "--weight-bits",
        type=int,
        default=8,
        metavar="BITS",
        help="of the weights inside the blocks, 2 to 8 (default: %(default)s)",
    )
    add_flag(training, "--seed")
    training.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="PyTorch's name, such as cuda (default: %(default)s)",
    )
    add_flag(training, "--threads")
    training.add_argument(
        "--save-every",
        type=positive_int,
        default=10,
        metavar="N",
        help="steps between two writes of the state (default: %(default)s)",
    )
    add_flag(training, "--resume", help="continue from FILE.state of an interrupted run")
    add_output(
        parser, "the model to write, *.safetensors; the state of the run is kept in FILE.state"
    )
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train; return the exit status."""
    from iseg_tvm.errors import IsegError
    from iseg_tvm.evaluation.datasets import check_request, open_dataset

    # All that is quick to refuse comes before torch is imported.
    check_request(args.dataset, args.root, None)
    if args.model is not None and args.calibration is not None:
        raise IsegError("--model is quantized already", "leave --calibration out")
    log(args, f"Loading {args.checkpoint}")
    import torch

    from iseg_tvm.artifact import save_model
    from iseg_tvm.evaluation.engines import checkpoint_palette
    from iseg_tvm.models.checkpoint import load_checkpoint
    from iseg_tvm.training.options import TrainOptions
    from iseg_tvm.training.session import fine_tune

    if args.threads:
        torch.set_num_threads(args.threads)
    checkpoint = load_checkpoint(args.checkpoint)
    classes = checkpoint_palette(args.checkpoint, checkpoint.config).classes
    split = args.split or (None if args.dataset == "folder" else "train")
    dataset = open_dataset(args.dataset, args.root, split=split, classes=classes)
    steps = args.steps
    if steps is None:
        steps = args.epochs * -(-len(dataset.samples) // args.batch)
    options = TrainOptions(
        steps=steps,
        rate=args.lr,
        batch=args.batch,
        window=tuple(args.window) if args.window else checkpoint.config.image_size,
        zoom=args.zoom,
        distill=args.distill,
        sharpness=args.sharpness,
        weight_bits=args.weight_bits,
        seed=args.seed,
        save_every=args.save_every,
    )
    start = _start(args, checkpoint, dataset)
    log(args, f"Training on {len(dataset.samples)} samples: {named_values(options)}")
    model, skipped = fine_tune(
        checkpoint,
        start,
        dataset,
        options,
        state_file=args.output.with_name(args.output.name + ".state"),
        device=args.device,
        resume=args.resume,
        report=_reporter(args, steps),
    )
    for name, reason in sorted(skipped.items()):
        print(f"skipped {name}: {reason}", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} samples were skipped", file=sys.stderr)
    path = save_model(model, args.output)
    print_generated(args, {**model.provenance["qat"], "skipped": sorted(skipped)}, path)
    return 1 if args.strict and skipped else 0


def _start(
    args: argparse.Namespace, checkpoint: "Segmenter", dataset: "Dataset"
) -> "QuantizedModel":
    """The integer model that training begins with."""
    from iseg_tvm.artifact import load_model
    from iseg_tvm.evaluation.engines import checkpoint_palette
    from iseg_tvm.images import find_images, load_photo, photo_to_array
    from iseg_tvm.quantization import quantize
    from iseg_tvm.training.data import first_photo

    if args.model is not None:
        return load_model(args.model)
    if args.calibration:
        photos = [load_photo(file) for file in find_images(args.calibration)]
    else:
        photos = [first_photo(dataset)]
    log(args, f"Quantizing from {len(photos)} picture(s)")
    images = [photo_to_array(photo, checkpoint.config.image_size) for photo in photos]
    palette = checkpoint_palette(args.checkpoint, checkpoint.config)
    return quantize(checkpoint, images, classes=palette.classes, palette=palette.colors)


def _reporter(args: argparse.Namespace, steps: int) -> Callable[[int, float, float], None]:
    """Say on stderr how far training is, and how long it will take."""
    last, first = 0.0, None

    def report(step: int, loss: float, seconds: float) -> None:
        nonlocal last, first
        if first is None:
            first = (step - 1, seconds)
        now = time.monotonic()
        if now - last < _LOG_SECONDS and step < steps:
            return
        last = now
        done = step - first[0]
        left = (seconds - first[1]) / max(done - 1, 1) * (steps - step)
        log(args, f"step {step}/{steps}  loss {loss:.4f}  {seconds:.0f} s, {left:.0f} s to go")

    return report
