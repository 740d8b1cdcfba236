"""Run the model of this folder: its sample, compared bit for bit, or a picture of your own.

Needs Python 3.11 or newer, numpy, apache-tvm and apache-tvm-ffi (requirements.txt), nothing else;
with Pillow installed it reads every common picture format, without it binary PPM.
"""

import argparse
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from iseg_tvm.bundle import read_bundle  # noqa: E402
from iseg_tvm.errors import IsegError  # noqa: E402
from iseg_tvm.runtime import Segmenter  # noqa: E402
from iseg_tvm.sample import differing_pixels, read_picture, write_class_map  # noqa: E402


def main() -> int:
    """Run; return the exit status: 0 done, 1 wrong bits, 2 bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", type=Path, help="picture (default: the sample)")
    parser.add_argument("-o", "--output", type=Path, help="class map to write, as PGM")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all CPUs)")
    parser.add_argument("--repeat", type=int, default=5, help="timed runs (default: %(default)s)")
    args = parser.parse_args()
    try:
        return run(args)
    except IsegError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Do what `main` says."""
    bundle = read_bundle(HERE / "bundle")
    sample = bundle.sample()
    if sample is None:
        raise IsegError(f"{bundle.path} has lost its sample", "unpack the archive again")
    size = bundle.manifest.image_size
    image = sample.image if args.picture is None else read_picture(args.picture, size)
    segmenter = Segmenter(bundle, args.threads)
    class_map, times_ms = segmenter.run_timed(image, args.repeat)
    median, threads = statistics.median(times_ms), segmenter.num_threads
    print(f"median of {len(times_ms)} runs on {threads} threads: {median:.2f} ms")
    if args.output is not None:
        write_class_map(class_map, args.output)
    if args.picture is not None:
        return 0
    wrong = differing_pixels(class_map, sample.class_map)
    text = f"{wrong} DIFFER from the expected class map" if wrong else "equal, bit for bit"
    print(f"{class_map.size} pixels: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
