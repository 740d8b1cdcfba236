"""``iseg-tvm segment``: run a bundle on a photo and draw the result."""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iseg_tvm.cli.common import log, print_generated, print_table, progress_bar
from iseg_tvm.cli.flags import add_common_arguments, add_flag, add_output

if TYPE_CHECKING:
    from iseg_tvm.overlay import ClassShare

SUMMARY = "segment a photo with a bundle: overlay picture, index mask, latency"
EXAMPLES = """\
Draw the classes over a photo:
  iseg-tvm segment photo.jpg --bundle bundle/ -o overlay.png
Also write the map itself (pixel value = class), and time 50 runs on one thread:
  iseg-tvm segment photo.jpg --bundle bundle/ -o overlay.png --mask mask.png \\
      --threads 1 --repeat 50

The photo may have any size: it is resized to the bundle's, and the map back to the photo's.
"""


def _alpha(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this command's flags."""
    parser.add_argument("photo", type=Path, metavar="PHOTO", help="picture to segment")
    add_flag(parser, "--bundle", required=True)
    add_output(parser, "overlay picture to write (PNG, JPEG, ...)")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="index PNG to write as well")
    parser.add_argument(
        "--alpha",
        type=_alpha,
        default=0.5,
        metavar="A",
        help="weight of the colours in the overlay, 0 to 1 (default: %(default)s)",
    )
    add_flag(parser, "--threads")
    add_flag(parser, "--repeat", help="time N runs after one to warm up, and print a table")
    add_common_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment; return the exit status."""
    from iseg_tvm import images, overlay, runtime

    outputs = [path for path in (args.output, args.mask) if path is not None]
    images.check_output_name(args.output)
    if args.mask is not None:
        images.check_mask_name(args.mask)
    photo = images.load_photo(args.photo)
    segmenter = runtime.load(args.bundle, args.threads)
    manifest = segmenter.manifest
    height, width = manifest.image_size
    log(args, f"Segmenting {args.photo} at {height} x {width} pixels, {manifest.target.name}")
    pixels = images.photo_to_array(photo, (height, width))
    with progress_bar(args, timing=True) as progress:
        class_map, times_ms = segmenter.run_timed(
            pixels,
            args.repeat or 1,
            warmup=1 if args.repeat else 0,
            progress=lambda done, total: progress("running", done, total),
        )
    class_map = images.resize_class_map(class_map, (photo.height, photo.width))
    picture = overlay.draw_overlay(photo, class_map, manifest.classes, manifest.palette, args.alpha)
    images.save_image(picture, args.output)
    if args.mask is not None:
        images.save_mask(class_map, manifest.palette, args.mask)
    shares = overlay.class_shares(class_map, manifest.classes)
    values = {
        "photo": str(args.photo),
        "bundle": str(args.bundle),
        "model": manifest.model_name,
        "target": manifest.target.name,
        "image_size": [height, width],
        "threads": segmenter.num_threads,
        "latency_ms": _latency(times_ms) if args.repeat else None,
        "classes": [
            {"index": s.index, "name": s.name, "pixels": s.pixels, "share": s.share} for s in shares
        ],
    }
    if not args.json:
        _print_shares(shares)
        if args.repeat:
            _print_latency(
                times_ms,
                f"{manifest.model_name}, {manifest.target.name}, "
                f"{height} x {width}, {segmenter.num_threads} thread(s)",
            )
    print_generated(args, values, *outputs)
    return 0


def _latency(times_ms: Sequence[float]) -> dict[str, float | int]:
    """Return the figures of the latency table, in milliseconds."""
    ordered = sorted(times_ms)
    return {
        "repeats": len(ordered),
        "min": ordered[0],
        "median": statistics.median(ordered),
        "p90": ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))],
        "max": ordered[-1],
    }


def _print_shares(shares: Sequence["ClassShare"]) -> None:
    from iseg_tvm.overlay import share_text

    print_table(("class", "share"), [(share.name, share_text(share.share)) for share in shares])


def _print_latency(times_ms: Sequence[float], title: str) -> None:
    print(f"\nLatency in ms: {title}")
    latency = _latency(times_ms)
    figures = [str(v) if isinstance(v, int) else f"{v:.2f}" for v in latency.values()]
    print_table(tuple(latency), [figures], left=0)
