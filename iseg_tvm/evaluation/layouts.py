"""Where the pictures and masks of each data set are, and what the values of a mask mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.metrics import IGNORE

REFUSED = -2  # in a label table: the data set has no such label
LABELS = 256

_VOID = 255
# cityscapesScripts, helpers/labels.py: the label ids that have a training id, in its order.
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_LAST_ID = 33

LabelTable = tuple[int, ...]  # of 256: class of each mask value, IGNORE or REFUSED


@dataclass(frozen=True)
class Sample:
    """A picture and its mask; `labels` says what the mask's values mean."""

    name: str
    image: Path
    mask: Path
    labels: LabelTable


def _table(mapping: Mapping[int, int], ignored: Iterable[int]) -> LabelTable:
    table = [REFUSED] * LABELS
    for value in ignored:
        table[value] = IGNORE
    for value, index in mapping.items():
        table[value] = index
    return tuple(table)


def _pick(root: Path, nested: Sequence[str], needed: str, layout: str) -> Path:
    """Return the first of ``root`` and folders in it that holds the folder ``needed``."""
    for inner in ("", *nested):
        if (root / inner / needed).is_dir():
            return root / inner
    raise IsegError(f"{root} has no folder {needed}", f"the layout is {layout}")


def ade20k(root: Path, split: str) -> list[Sample]:
    """List ``ADEChallengeData2016``."""
    folder = {"val": "validation", "train": "training"}.get(split, split)
    layout = f"images/{folder}/*.jpg and annotations/{folder}/*.png"
    root = _pick(root, ("ADEChallengeData2016", "ade20k/ADEChallengeData2016"), "images", layout)
    images = _pick(root, (), f"images/{folder}", layout) / "images" / folder
    masks = _pick(root, (), f"annotations/{folder}", layout) / "annotations" / folder
    labels = _table({value: value - 1 for value in range(1, 151)}, (0, _VOID))
    stems = {p.stem for p in images.glob("*.jpg")} | {p.stem for p in masks.glob("*.png")}
    return [Sample(s, images / f"{s}.jpg", masks / f"{s}.png", labels) for s in sorted(stems)]


def cityscapes(root: Path, split: str) -> list[Sample]:
    """List ``leftImg8bit`` and ``gtFine``."""
    layout = f"leftImg8bit/{split}/<city>/*.png and gtFine/{split}/<city>/*.png"
    root = _pick(root, ("cityscapes",), "leftImg8bit", layout)
    images = _pick(root, (), f"leftImg8bit/{split}", layout) / "leftImg8bit" / split
    masks = _pick(root, (), f"gtFine/{split}", layout) / "gtFine" / split
    train_ids = _table({index: index for index in range(19)}, (_VOID,))
    all_ids = _table(
        {value: index for index, value in enumerate(_CITYSCAPES_IDS)},
        (*range(_CITYSCAPES_LAST_ID + 1), _VOID),  # 255 is the id -1 in 8 bits
    )
    endings = {"_leftImg8bit.png": images, "_gtFine_labelTrainIds.png": masks}
    endings["_gtFine_labelIds.png"] = masks
    names = {
        str(path.relative_to(folder)).removesuffix(ending)
        for ending, folder in endings.items()
        for path in folder.glob(f"*/*{ending}")
    }
    samples = []
    for name in sorted(names):
        mask, labels = masks / f"{name}_gtFine_labelTrainIds.png", train_ids
        if not mask.is_file():
            mask, labels = masks / f"{name}_gtFine_labelIds.png", all_ids
        samples.append(Sample(name, images / f"{name}_leftImg8bit.png", mask, labels))
    return samples


def pascal_context(root: Path, split: str) -> list[Sample]:
    """List ``VOC2010`` for models of 60 classes."""
    return _voc(root, split, _table({value: value for value in range(60)}, (_VOID,)))


def pascal_context_59(root: Path, split: str) -> list[Sample]:
    """List ``VOC2010`` for models of 59 classes."""
    return _voc(root, split, _table({value: value - 1 for value in range(1, 60)}, (0, _VOID)))


def _voc(root: Path, split: str, labels: LabelTable) -> list[Sample]:
    listed = f"ImageSets/SegmentationContext/{split}.txt"
    layout = f"JPEGImages/*.jpg, SegmentationClassContext/*.png and {listed}"
    nested = ("VOC2010", "VOCdevkit/VOC2010", "pcontext/VOCdevkit/VOC2010")
    root = _pick(root, nested, "JPEGImages", layout)
    masks = _pick(root, (), "SegmentationClassContext", layout) / "SegmentationClassContext"
    try:
        names = (root / listed).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError):
        raise IsegError(f"cannot read {root / listed}", f"the layout is {layout}") from None
    images = root / "JPEGImages"
    return [Sample(n, images / f"{n}.jpg", masks / f"{n}.png", labels) for n in names]


def folder(root: Path, split: str, num_classes: int, ignore_label: int | None) -> list[Sample]:
    """List a folder of one's own.

    Raises
    ------
    IsegError
        It has another layout, no pictures, or two pictures for one mask.
    """
    layout = "images/ with pictures and masks/ with PNGs of the same names (pixel = class)"
    images = _pick(root, (), f"images/{split}", layout) / "images" / split
    masks = _pick(root, (), f"masks/{split}", layout) / "masks" / split
    ignored = _VOID if ignore_label is None else ignore_label
    labels = _table({v: v for v in range(num_classes) if v != ignored}, (ignored,))
    suffixes = set(Image.registered_extensions())
    found: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in suffixes and path.is_file():
            if path.stem in found:
                raise IsegError(f"{found[path.stem]} and {path} share one mask", "rename one")
            found[path.stem] = path
    stems = found.keys() | {path.stem for path in masks.glob("*.png")}
    return [
        Sample(stem, found.get(stem, images / f"{stem}.*"), masks / f"{stem}.png", labels)
        for stem in sorted(stems)
    ]
