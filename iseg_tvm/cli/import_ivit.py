"""``iseg-tvm import-ivit``: an encoder fine-tuned with I-ViT becomes part of an integer model."""

import argparse
from pathlib import Path

from iseg_tvm.cli.common import log, print_generated, progress_bar
from iseg_tvm.cli.flags import add_common_arguments, add_flag, add_output

SUMMARY = "make an integer model with an encoder that was fine-tuned with I-ViT's code"
EXAMPLES = """\
  iseg-tvm import-ivit --ivit deit_small_qat.pth --checkpoint seg_small_mask/ \\
      --calibration photos/ -o model.safetensors

The encoder's int8 weights and activation scales are I-ViT's; the checkpoint gives the architecture
and the decoder, the pictures the scales that I-ViT does not have.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument(
        "--ivit", required=True, type=Path, metavar="FILE", help="state dict of I-ViT's code"
    )
    for name in ("--checkpoint", "--calibration"):
        add_flag(parser, name, required=True)
    add_output(parser, "the model to write, *.safetensors")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Import; return the exit status."""
    from iseg_tvm.images import find_images, load_photo, photo_to_array

    # All that is quick to refuse comes before torch is imported.
    photos = [load_photo(file) for file in find_images(args.calibration)]
    log(args, f"Loading {args.ivit} and {args.checkpoint}")
    from iseg_tvm.artifact import save_model
    from iseg_tvm.evaluation.engines import checkpoint_palette
    from iseg_tvm.ivit.state import AS_IVIT, read_ivit
    from iseg_tvm.models.checkpoint import load_checkpoint
    from iseg_tvm.quantization import quantize

    model = load_checkpoint(args.checkpoint)
    encoder = read_ivit(args.ivit, model)
    encoder.install(model)
    palette = checkpoint_palette(args.checkpoint, model.config)
    with progress_bar(args) as progress:
        quantized = quantize(
            model,
            [photo_to_array(photo, model.config.image_size) for photo in photos],
            AS_IVIT,
            classes=palette.classes,
            palette=palette.colors,
            progress=progress,
            adjust=encoder.adjust,
        )
    path = save_model(quantized, args.output)
    print_generated(args, {"layers": model.config.encoder.depth}, path)
    return 0
