"""``evaluate`` with a tiny checkpoint, its quantized model and a compiled one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from iseg_tvm.artifact import load_model
from iseg_tvm.cli.main import main
from iseg_tvm.evaluation.metrics import IGNORE, compute_metrics, confusion_matrix
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.models.checkpoint import load_checkpoint, save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from tests.conftest import TOY_SIZE
from tests.helpers import noise_dataset, tiny_config


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A float model of random weights with 7 classes for 16 x 16 pixels, and its integer one."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = save_checkpoint(build_segmenter(tiny_config()), folder / "checkpoint")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    out = folder / "model.safetensors"
    arguments = ["--calibration", str(folder / "photo.png"), "-o", str(out), "-q"]
    assert main(["quantize", "--checkpoint", str(checkpoint), *arguments]) == 0
    return checkpoint, out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three pictures of noise, 16 x 16, with masks of 7 classes and ignored pixels."""
    return noise_dataset(tmp_path / "data", (16, 16), 3)


def pairs(data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Image and target of every sample."""
    result = []
    for path in sorted((data / "images").iterdir()):
        mask = np.array(Image.open(data / "masks" / path.name)).astype(np.int16)
        mask[mask == 255] = IGNORE
        result.append((np.array(Image.open(path)), mask))
    return result


def evaluate(data: Path, *more: object) -> int:
    return main(["evaluate", "--dataset", "folder", "--root", str(data), *map(str, more)])


def test_integer_model_counts_what_it_predicts(
    models: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    assert evaluate(data, "--model", models[1], "--json", "-o", out) == 0
    printed, written = json.loads(capsys.readouterr().out), json.loads(out.read_text())
    integer = IntegerSegmenter(load_model(models[1]))
    counts = sum(
        confusion_matrix(integer(torch.from_numpy(image)).numpy(), target, 7)
        for image, target in pairs(data)
    )
    assert written["confusion"] == counts.tolist()
    assert printed["mean_iou"] == compute_metrics(counts).mean_iou
    assert printed["generated"] == [str(out)]
    assert printed["protocol"] == "ownership"
    assert printed["stride"] == [16, 16]
    assert "confusion" not in printed


@pytest.mark.parametrize(
    ("protocol", "upsampling"),
    [("average", "bilinear"), ("ownership", "bilinear"), ("ownership", "nearest")],
)
def test_checkpoint_counts_what_it_predicts(
    models: tuple[Path, Path],
    data: Path,
    tmp_path: Path,
    protocol: str,
    upsampling: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "result.json"
    flags = ("--protocol", protocol, "--upsampling", upsampling)
    given = () if protocol == "average" else flags
    assert evaluate(data, "--checkpoint", models[0], "-o", out, *given) == 0
    captured = capsys.readouterr()
    model = load_checkpoint(models[0])
    counts = np.zeros((7, 7), np.int64)
    for image, target in pairs(data):
        with torch.no_grad():
            scores = model.forward_scores(model.normalize_uint8(image[None]))
        mode = "nearest-exact" if upsampling == "nearest" else upsampling
        found = functional.interpolate(scores, (16, 16), mode=mode)[0].argmax(0).numpy()
        counts += confusion_matrix(found, target, 7)
    # Two of 768 pixels may differ where fused attention rounds otherwise.
    values = json.loads(out.read_text())
    assert np.abs(np.array(values["confusion"]) - counts).sum() <= 4
    assert (values["protocol"], values["upsampling"]) == (protocol, upsampling)
    assert "evaluating 0/3" in captured.err
    assert "mIoU" in captured.out
    assert f"3 images, 0 skipped; {protocol}, {upsampling}" in captured.out
    assert captured.out.endswith(f"Generated: {out}\n")


def test_sliding_windows_and_whole_images_of_other_sizes(
    models: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stem in ("0", "1", "2"):
        for part in ("images", "masks"):
            path = data / part / f"{stem}.png"
            Image.open(path).resize((41, 23), Image.Resampling.NEAREST).save(path)
    sliding = ("--window", 12, 20, "--stride", 8, 12, "--short-side", 16)
    for flags in (sliding, ("--whole-image",), ("--short-side", 0)):
        for model in (("--checkpoint", models[0]), ("--model", models[1])):
            assert evaluate(data, *model, *flags, "--json", "-q", "--threads", 1) == 0
            values = json.loads(capsys.readouterr().out)
            assert sum(row["pixels"] for row in values["classes"]) == sum(
                int((target != IGNORE).sum()) for _, target in pairs(data)
            )
            assert (values["stride"] is None) == (flags == ("--whole-image",))


def test_bundle_gives_known_figures(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The toy model's class is min(brightest channel, 2)."""
    root = tmp_path / "toy"
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
    image, mask = np.zeros((*TOY_SIZE, 3), np.uint8), np.zeros(TOY_SIZE, np.uint8)
    image[:4], image[4:, :, 1] = 1, 7
    mask[:2], mask[2:6], mask[6:] = 1, 2, 255
    Image.fromarray(image).save(root / "images/a.png")
    Image.fromarray(mask).save(root / "masks/a.png")
    out = tmp_path / "result.json"
    assert evaluate(root, "--bundle", toy_bundle, "-o", out, "-q", "--threads", 1) == 0
    values = json.loads(out.read_text())
    assert values["confusion"] == [[0, 0, 0], [0, 12, 0], [0, 12, 12]]
    assert [row["iou"] for row in values["classes"]] == [None, 0.5, 0.5]
    assert values["mean_iou"] == 0.5
    assert values["classes_in_mean_iou"] == 2
    assert "classes not in the ground truth: 1 (" in capsys.readouterr().out


def test_bundle_needs_no_torch(toy_bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "toy"
    for part, shape in (("images", (*TOY_SIZE, 3)), ("masks", TOY_SIZE)):
        (root / part).mkdir(parents=True)
        Image.fromarray(np.zeros(shape, np.uint8)).save(root / part / "a.png")
    program = (
        "import sys; sys.modules['torch'] = None; from iseg_tvm.cli.main import main;"
        "sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["evaluate", "--bundle", toy_bundle, "--dataset", "folder", "--root", root, "-q"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "mIoU            100.00 %" in done.stdout


def test_skipped_files_are_named_and_fail_only_strict_runs(
    models: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "masks/1.png").unlink()
    (data / "images/2.png").write_bytes(b"no picture")
    assert evaluate(data, "--model", models[1], "-q", "--json") == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        f"skipped 1: {data / 'masks/1.png'} does not exist",
        f"skipped 2: {data / 'images/2.png'} is not a picture Pillow can read",
        "2 samples were skipped",
    ]
    values = json.loads(captured.out)
    assert values["images"] == 1
    assert [row["name"] for row in values["skipped"]] == ["1", "2"]
    assert evaluate(data, "--model", models[1], "-q", "--strict") == 1


def test_resume(
    models: tuple[Path, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    flags = ("-q", "--json", "-o", out)
    assert evaluate(data, "--model", models[1], *flags) == 0
    expected = capsys.readouterr().out
    assert evaluate(data, "--model", models[1], *flags, "--limit", 1) == 0  # starts again
    assert json.loads((tmp_path / "result.json.state").read_text())["done"] == 1
    capsys.readouterr()
    assert evaluate(data, "--model", models[1], *flags, "--resume") == 0
    assert capsys.readouterr().out == expected
    assert evaluate(data, "--checkpoint", models[0], *flags, "--resume") == 2
    assert "belongs to another model" in capsys.readouterr().err
    assert evaluate(data, "--model", models[1], "-o", tmp_path / "b.json", "--resume") == 2
    assert "b.json.state does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--dataset", "coco"), "unknown data set 'coco'"),
        (("--dataset", "ade20k"), "the model has 7 classes, and ade20k has 150"),
        (("--root", "nowhere"), "data set folder nowhere does not exist"),
        (("--split", "test"), "has no folder images/test"),
        (("--protocol", "average"), "a model gives class maps"),
        (("--upsampling", "bilinear"), "a model upsamples by the nearest patch"),
        (("--whole-image", "--stride", "4", "4"), "--whole-image takes neither"),
        (("--stride", "20", "4"), "stride 20 4 leaves gaps"),
        (("--dataset", "ade20k", "--ignore-label", "0"), "own ignored label"),
        (("--resume",), "--resume needs -o FILE"),
    ],
)
def test_bad_requests(
    models: tuple[Path, Path],
    data: Path,
    flags: tuple[str, ...],
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [flag.format(data=data) for flag in flags]
    assert evaluate(data, "--model", models[1], "-q", *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message, *hints = captured.err.splitlines()
    assert message.startswith("error: ")
    assert reason in message
    assert all(hint.startswith("hint: ") for hint in hints)


def test_class_names_of_a_checkpoint(
    models: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = models[0] / "classes.json"
    try:
        names.write_text(json.dumps([[f"thing {i}", [i, i, i]] for i in range(7)]))
        assert evaluate(data, "--checkpoint", models[0], "-q", "--json") == 0
        assert json.loads(capsys.readouterr().out)["classes"][6]["name"] == "thing 6"
        names.write_text('[["x", [0, 0, 0]]]')
        assert evaluate(data, "--checkpoint", models[0], "-q") == 2
        assert "names 1 classes, and the model has 7" in capsys.readouterr().err
    finally:
        names.unlink()


def test_average_is_bilinear(
    models: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(data, "--checkpoint", models[0], "-q", "--upsampling", "nearest") == 2
    assert "--protocol average upsamples bilinearly" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((16, 15), np.uint8), "is 15 x 16 pixels"),
        (np.full((16, 16), 7, np.uint8), "label the data set lacks, such as 7"),
    ],
)
def test_wrong_masks_end_the_run(
    models: tuple[Path, Path],
    data: Path,
    mask: np.ndarray,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(mask).save(data / "masks/1.png")
    assert evaluate(data, "--model", models[1], "-q") == 2
    assert reason in capsys.readouterr().err.splitlines()[0]


def test_no_pictures(
    models: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [*(data / "images").iterdir(), *(data / "masks").iterdir()]:
        path.unlink()
    assert evaluate(data, "--model", models[1], "-q") == 2
    assert "has no pictures" in capsys.readouterr().err


def test_a_bundle_has_one_size(
    toy_bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(data, "--bundle", toy_bundle, "--window", 16, 16, "-q") == 2
    assert "takes images of 8 x 6 pixels, not 16 x 16" in capsys.readouterr().err
