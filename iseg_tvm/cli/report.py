"""``iseg-tvm report``: where an integer model loses bits, as one HTML page."""

import argparse
from pathlib import Path

from iseg_tvm.cli.common import log, print_generated, progress_bar
from iseg_tvm.cli.flags import add_common_arguments, add_flag, add_output

SUMMARY = "compare an integer model with its checkpoint, layer by layer, in one HTML page"
EXAMPLES = """\
On pictures of your own:
  iseg-tvm report --checkpoint seg_tiny_mask/ --model model.safetensors --images photos/ \\
      -o report.html

The page needs no network and no other file. It shows the operators that lose most, signal to noise
along the model, float and integer class maps side by side, and for every tensor its signal to
noise, saturation, range and histograms before and after.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    add_flag(parser, "--checkpoint", required=True)
    add_flag(parser, "--model", required=True)
    parser.add_argument(
        "--images",
        required=True,
        nargs="+",
        type=Path,
        metavar="IMG_OR_DIR",
        help="pictures, or folders of pictures",
    )
    add_flag(parser, "--threads")
    add_output(parser, "the page to write, *.html")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report; return the exit status."""
    from iseg_tvm.files import atomic_write
    from iseg_tvm.images import find_images, load_photo, photo_to_array

    # All that is quick to refuse comes before torch is imported.
    photos = [(file.name, load_photo(file)) for file in find_images(args.images)]
    log(args, f"Loading {args.checkpoint} and {args.model}")
    import torch

    from iseg_tvm.artifact import load_model
    from iseg_tvm.models.checkpoint import load_checkpoint
    from iseg_tvm.reporting.page import render
    from iseg_tvm.reporting.statistics import examine

    if args.threads:
        torch.set_num_threads(args.threads)
    model = load_model(args.model)
    checkpoint = load_checkpoint(args.checkpoint)
    pictures = [(name, photo_to_array(photo, model.input_size)) for name, photo in photos]
    with progress_bar(args) as progress:
        findings = examine(checkpoint, model, pictures, progress)
    page = render(findings, model, f"Quantization report: {args.model.name}")
    with atomic_write(args.output) as stream:
        stream.write(page.encode())
    worst = min(findings.sites, key=lambda s: s.own_snr)
    values = {
        "pictures": len(pictures),
        "cosine": findings.cosine,
        "mean_iou": findings.mean_iou,
        "worst_operator": worst.site,
        "worst_operator_db": worst.own_snr,
    }
    print_generated(args, values, args.output)
    return 0
