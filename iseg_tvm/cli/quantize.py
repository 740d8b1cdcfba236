"""``iseg-tvm quantize``: a float checkpoint becomes an integer-only model."""

import argparse

from iseg_tvm.cli.common import log, named_values, print_generated, progress_bar
from iseg_tvm.cli.flags import add_common_arguments, add_flag, add_output

SUMMARY = "turn a float checkpoint into an integer-only model, from one picture upwards"
EXAMPLES = """\
One picture is enough, a dozen typical ones are better:
  iseg-tvm quantize --checkpoint seg_tiny_mask/ --calibration photo.jpg -o model.safetensors
  iseg-tvm quantize --checkpoint seg_tiny_mask/ --calibration photos/ --observer mse \\
      --activation shiftgelu --image-size 512 512 -o model.safetensors

The checkpoint is a folder of the official Segmenter release: checkpoint.pth and variant.yml. Class
names and colours are those of its data set, or of a file classes.json in the folder:
  [["sky", [70, 130, 180]], ["road", [128, 64, 128]]]
"""
OBSERVERS = ("minmax", "percentile", "mse")
ACTIVATIONS = ("gelu", "shiftgelu")
POLYNOMIALS = ("quadratic", "linear")
ROUNDINGS = ("feedback", "nearest")
SWITCHES = {
    "bias-correction": (True, "biases take up what rounding adds on average"),
    "lambda-search": (True, "clip activation functions' inputs where that leaves the least error"),
    "activation-zero-point": (True, "the grid of those inputs need not be symmetric"),
    "activation-groups": (True, "every 64 hidden units of like range have a table of their own"),
    "centering": (True, "channels are moved around zero first, so that their grids are finer"),
    "feature-scales": (True, "one scale a channel for the last LayerNorm of encoder and decoder"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    for name in ("--checkpoint", "--calibration"):
        add_flag(parser, name, required=True)
    parser.add_argument(
        "--observer",
        choices=OBSERVERS,
        default="minmax",
        help="how the range of an activation is chosen: its extremes, all but the rarest values, "
        "or the least squared error (default: %(default)s)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.99,
        metavar="P",
        help="share of values inside the range, for --observer percentile (default: %(default)s)",
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        default="gelu",
        help="256-entry table of the exact GELU, or of the shift-only one (default: %(default)s)",
    )
    parser.add_argument(
        "--polynomial",
        choices=POLYNOMIALS,
        default="quadratic",
        help="shift exponential of the attention: quadratic, or I-ViT's (default: %(default)s)",
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        default="feedback",
        help="of weights: each layer's output moves least on the calibration pictures (GPTQ), or "
        "each weight by itself, which is quicker (default: %(default)s)",
    )
    parser.add_argument(
        "--equalization",
        type=float,
        default=0.75,
        metavar="T",
        help="0: one scale a tensor for what LayerNorm and attention write; 1: one a channel, the "
        "next weights take the difference (default: %(default)s)",
    )
    for flag, (default, what) in SWITCHES.items():
        parser.add_argument(
            f"--{flag}",
            action=argparse.BooleanOptionalAction,
            default=default,
            help=f"{what} (default: {'yes' if default else 'no'})",
        )
    for name in ("--image-size", "--classes"):
        add_flag(parser, name)
    add_output(parser, "the model to write, *.safetensors")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Quantize; return the exit status."""
    from iseg_tvm.images import find_images, load_photo, photo_to_array
    from iseg_tvm.palettes import palette_for, read_classes

    # All that is quick to refuse comes before torch is imported.
    files = find_images(args.calibration)
    classes_file = args.classes
    if classes_file is None and (args.checkpoint / "classes.json").is_file():
        classes_file = args.checkpoint / "classes.json"
    palette = read_classes(classes_file) if classes_file else None

    log(args, f"Loading {args.checkpoint}")
    from iseg_tvm.artifact import save_model
    from iseg_tvm.models.checkpoint import load_checkpoint
    from iseg_tvm.quantization import QuantizeOptions, quantize

    options = QuantizeOptions(
        observer=args.observer,
        percentile=args.percentile,
        activation=args.activation,
        polynomial=args.polynomial,
        rounding=args.rounding,
        equalization=args.equalization,
        **{flag.replace("-", "_"): getattr(args, flag.replace("-", "_")) for flag in SWITCHES},
    )
    model = load_checkpoint(args.checkpoint)
    height, width = args.image_size or model.config.image_size
    images = [photo_to_array(load_photo(file), (height, width)) for file in files]
    palette = palette or palette_for(model.config.num_classes, model.config.dataset)
    palette.check_count(model.config.num_classes)
    log(args, f"Quantizing for {height} x {width} pixels from {len(images)} picture(s)")
    log(args, f"Options: {named_values(options)}")
    with progress_bar(args) as progress:
        quantized = quantize(
            model,
            images,
            options,
            classes=palette.classes,
            palette=palette.colors,
            progress=progress,
        )
    path = save_model(quantized, args.output)
    values = {"image_size": [height, width], "calibration_images": len(images)}
    print_generated(args, {**values, "bytes": path.stat().st_size}, path)
    return 0
