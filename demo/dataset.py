"""Write generated scenes as a data set of the layout ``folder``: pictures, masks, class names.

``python -m demo.dataset --scenes 400 -o out/demo/data`` writes training scenes that the shipped
model has not seen; ``--split held_out`` writes those it is measured on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from PIL import Image

from demo.model import SIZE
from demo.scenes import scene
from iseg_tvm.errors import IsegError
from iseg_tvm.images import save_image

FRESH = 2_000_000
"""First training seed: far from the 3,000 that the shipped model was trained on."""


def write_scenes(split: str, count: int, folder: Path) -> None:
    """Write scenes to ``images/`` and ``masks/`` of a folder; those already there are kept.

    Parameters
    ----------
    split : {"train", "held_out"}
    count : int
        Number of scenes.
    folder : Path
        Created if missing.
    """
    first = FRESH if split == "train" else 0
    for index in range(count):
        files = [folder / kind / f"{index:05}.png" for kind in ("images", "masks")]
        if not all(file.is_file() for file in files):
            arrays = scene(split, first + index, (SIZE, SIZE))
            for array, file in zip(arrays, files, strict=True):
                save_image(Image.fromarray(array), file)
    shutil.copyfile(Path(__file__).with_name("classes.json"), folder / "classes.json")


def main() -> int:
    """Write one split."""
    parser = argparse.ArgumentParser(prog="python -m demo.dataset", description=__doc__)
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    try:
        write_scenes(args.split, args.scenes, args.output)
    except IsegError as error:
        sys.stderr.write(f"error: {error.message}\n" + f"hint: {error.hint}\n" * bool(error.hint))
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
