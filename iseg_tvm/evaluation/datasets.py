"""Labelled data sets on disk: official layouts, their label mappings, and plain folders.

==================  ================================================================================
``ade20k``          ``images/validation/*.jpg``, ``annotations/validation/*.png`` (of
                    ``ADEChallengeData2016``): 0 is ignored, 1-150 become classes 0-149
``cityscapes``      ``leftImg8bit/val/<city>/*_leftImg8bit.png`` and, in ``gtFine/val/<city>/``,
                    ``*_gtFine_labelTrainIds.png`` (0-18; 255 ignored) or, where there is none,
                    ``*_gtFine_labelIds.png``, mapped to the 19 training classes
``pascal-context``  (of ``VOCdevkit/VOC2010``) the names in
                    ``ImageSets/SegmentationContext/val.txt``, ``JPEGImages/*.jpg``,
                    ``SegmentationClassContext/*.png``: 0-59 (0 is background) for a model of 60
                    classes; for one of 59, 0 is ignored and 1-59 become 0-58. 255 is ignored
``folder``          ``images/*`` and ``masks/*.png`` of the same names: pixel = class
==================  ================================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation import layouts
from iseg_tvm.evaluation.layouts import LABELS, REFUSED, Sample
from iseg_tvm.images import load_photo, open_picture
from iseg_tvm.palettes import load_palette, read_classes

DATASETS = ("ade20k", "cityscapes", "pascal-context", "folder")

_Lister = Callable[[Path, str], list[Sample]]
# By name, and whether its background class is left out: where its class names are, what lists it.
_OFFICIAL: Mapping[tuple[str, bool], tuple[str, _Lister]] = {
    ("ade20k", False): ("ade20k", layouts.ade20k),
    ("cityscapes", False): ("cityscapes", layouts.cityscapes),
    ("pascal-context", False): ("pascal_context", layouts.pascal_context),
    ("pascal-context", True): ("pascal_context_59", layouts.pascal_context_59),
}


class UnreadableFileError(IsegError):
    """A picture or mask of a data set that is missing or damaged."""


@dataclass(frozen=True)
class Dataset:
    """A list of samples.

    Attributes
    ----------
    name : data set, one of `DATASETS`
    split : such as ``val``; empty for a folder without splits
    root : folder that was given
    classes : class names
    samples : in a fixed order
    """

    name: str
    split: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]

    def checksum(self) -> str:
        """SHA-256 of everything that identifies the data set but the files' contents.

        That is the names and sizes of all pictures and masks, and what their values mean.
        """
        rows = [
            [s.name, _size(s.image), s.mask.name, _size(s.mask), s.labels] for s in self.samples
        ]
        text = json.dumps([self.name, self.split, len(self.classes), rows])
        return hashlib.sha256(text.encode()).hexdigest()


def _size(path: Path) -> int | None:
    """Bytes of a file; None if there is none."""
    return path.stat().st_size if path.is_file() else None


def check_request(name: str, root: Path, ignore_label: int | None) -> None:
    """Refuse what can be refused before a model is loaded.

    Raises
    ------
    IsegError
        The data set is unknown, its folder is missing, or it has its own ignored label.
    """
    if name not in DATASETS:
        raise IsegError(f"unknown data set {name!r}", f"known: {', '.join(DATASETS)}")
    if not root.is_dir():
        raise IsegError(f"data set folder {root} does not exist", "check --root")
    if ignore_label is not None and name != "folder":
        raise IsegError(
            f"{name} has its own ignored label", "give --ignore-label with --dataset folder only"
        )


def open_dataset(
    name: str,
    root: Path,
    *,
    split: str | None = None,
    classes: Sequence[str],
    ignore_label: int | None = None,
) -> Dataset:
    """List the samples of a data set.

    Parameters
    ----------
    name : str
        One of `DATASETS`.
    root : Path
        The data set's folder, or one of the folders that the official preparation puts it in.
    split : str, optional
        ``val`` if left out; a folder has splits only if they are asked for (``images/<split>``).
    classes : sequence of str
        The model's class names; they name a folder's classes if it has no ``classes.json``.
    ignore_label : int, optional
        Mask value that does not count, for ``folder``; 255 if left out.

    Raises
    ------
    IsegError
        The data set is unknown, has another layout or no pictures, or other classes than the model.
    """
    check_request(name, root, ignore_label)
    if name == "folder":
        split, names = split or "", tuple(classes)
        if (root / "classes.json").is_file():
            names = read_classes(root / "classes.json").classes
            _check_classes(str(root / "classes.json"), len(names), len(classes))
        samples = layouts.folder(root, split, len(names), ignore_label)
    else:
        palette, lister = _OFFICIAL[name, name == "pascal-context" and len(classes) == 59]
        split, names = split or "val", load_palette(palette).classes
        _check_classes(name, len(names), len(classes))
        samples = lister(root, split)
    if not samples:
        where = f" in its split {split!r}" if split else ""
        raise IsegError(f"{name} in {root} has no pictures{where}", "check --root and --split")
    return Dataset(name, split, root, names, tuple(samples))


def _check_classes(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise IsegError(
            f"the model has {wanted} classes, and {name} has {found}",
            "evaluate a model on the data set it was trained for",
        )


def read_sample(sample: Sample) -> tuple[Image.Image, npt.NDArray[np.int16]]:
    """Read a picture and its mask.

    Parameters
    ----------
    sample : Sample

    Returns
    -------
    photo : Image
        RGB.
    target : ndarray, shape (photo.height, photo.width), int16
        Class of each pixel, or `IGNORE`.

    Raises
    ------
    UnreadableFileError
        One of the files is missing or damaged.
    IsegError
        The mask is no map of the data set's labels, or has another size than the picture.
    """
    try:
        photo = load_photo(sample.image)
        with open_picture(sample.mask) as file:
            mask = file.copy()
    except IsegError as error:
        raise UnreadableFileError(error.message, error.hint) from error
    if mask.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        raise IsegError(
            f"{sample.mask} has colours ({mask.mode}), not one class index a pixel",
            "write masks as 8-bit grey or palette PNG whose pixel values are the labels",
        )
    if mask.size != photo.size:
        raise IsegError(
            f"{sample.mask} is {mask.width} x {mask.height} pixels, and {sample.image.name} is "
            f"{photo.width} x {photo.height}",
            "make masks of the same size as their pictures",
        )
    return photo, _to_target(np.asarray(mask), sample)


def _to_target(values: npt.NDArray[np.generic], sample: Sample) -> npt.NDArray[np.int16]:
    """Map the labels of a mask to classes."""
    values = values.astype(np.int64)
    inside = values.clip(0, LABELS - 1)
    target = np.array(sample.labels, np.int16)[inside]
    bad = values[(target == REFUSED) | (inside != values)]
    if bad.size:
        raise IsegError(
            f"{sample.mask}: {bad.size} pixels have a label the data set lacks, such as {bad[0]}",
            "check that --dataset and the masks fit together, and --ignore-label for a folder",
        )
    return target
