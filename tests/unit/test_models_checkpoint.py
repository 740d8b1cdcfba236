"""Official checkpoints: what is read and written, and how bad ones are refused."""

import errno
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from models_support import formula_image, formula_model, small_config

from iseg_tvm.errors import IsegError
from iseg_tvm.models.checkpoint import load_checkpoint, save_checkpoint
from iseg_tvm.models.config import SegmenterConfig

CONFIG = small_config(width=64, depth=1, image_size=(16, 24))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good checkpoint, to load or to damage."""
    return save_checkpoint(formula_model(CONFIG), tmp_path / "seg")


def edit_weights(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "checkpoint.pth"
    content = torch.load(file, weights_only=True)
    edit(content["model"])
    torch.save(content, file)


def edit_variant(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "variant.yml"
    content = yaml.safe_load(file.read_text())
    edit(content)
    file.write_text(yaml.dump(content))


def refusal(folder: Path) -> IsegError:
    """Return the error of loading; its message is one line and names a file."""
    with pytest.raises(IsegError) as caught:
        load_checkpoint(folder)
    assert "\n" not in caught.value.message
    assert str(folder) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        small_config("linear", depth=1),
        small_config(depth=1, distilled=True, l2_norm=False, dataset="ade20k"),
    ],
    ids=["mask", "linear", "distilled"],
)
def test_save_then_load(config: SegmenterConfig, tmp_path: Path) -> None:
    model = formula_model(config)
    folder = save_checkpoint(model, tmp_path / "deep" / "seg")
    assert sorted(file.name for file in folder.iterdir()) == ["checkpoint.pth", "variant.yml"]
    for path in (folder, folder / "checkpoint.pth"):
        back = load_checkpoint(path)
        assert back.config == config
        assert not back.training
        image = model.normalize_uint8(formula_image(20, 20))
        torch.testing.assert_close(back(image), model(image), rtol=0, atol=0)
        assert all(p.requires_grad and p.device.type == "cpu" for p in back.parameters())


def test_choices_beyond_the_official_format_survive(tmp_path: Path) -> None:
    values = CONFIG.to_dict()
    values["encoder"] |= {"mlp_ratio": 2.0, "layer_norm_eps": 1e-6}
    values["decoder"] |= {"num_heads": 4, "mlp_ratio": 3.0, "num_layers": 1}
    config = SegmenterConfig.from_dict(values)
    assert load_checkpoint(save_checkpoint(formula_model(config), tmp_path)).config == config


def test_what_is_written_is_what_the_official_code_expects(tmp_path: Path) -> None:
    folder = save_checkpoint(formula_model(small_config(distilled=True)), tmp_path)
    state = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    assert state["encoder.head.weight"].shape == (1000, 128)
    assert state["encoder.head_dist.bias"].shape == (1000,)
    used = sum(4 * v.numel() for k, v in state.items() if ".head" not in k)
    assert (folder / "checkpoint.pth").stat().st_size < used + 50_000
    net = yaml.safe_load((folder / "variant.yml").read_text())["net_kwargs"]
    assert net["decoder"] == {
        "name": "mask_transformer", "n_layers": 2, "dropout": 0.1, "drop_path_rate": 0.0
    }
    assert (net["d_model"], net["n_heads"], net["n_cls"], net["distilled"]) == (128, 2, 5, True)


def test_official_variant_with_tuple_and_without_our_key(folder: Path) -> None:
    def as_released(variant: dict[str, Any]) -> None:
        del variant["iseg"]
        variant["net_kwargs"]["image_size"] = (16, 24)
        del variant["net_kwargs"]["distilled"]

    edit_variant(folder, as_released)
    assert "!!python/tuple" in (folder / "variant.yml").read_text()
    # The official rule gives 64 / 64 = 1 head; CONFIG follows it.
    assert load_checkpoint(folder).config == CONFIG


def test_other_entries_half_precision_and_distributed_names_are_read(folder: Path) -> None:
    file = folder / "checkpoint.pth"
    weights = torch.load(file, weights_only=True)["model"]
    released = {f"module.{name}": value.half() for name, value in weights.items()}
    torch.save({"model": released, "optimizer": {"lr": 0.1}, "epoch": 3}, file)
    model = load_checkpoint(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    expected = weights["encoder.pos_embed"].half().float()
    torch.testing.assert_close(model.encoder.pos_embed.detach(), expected)


def test_missing_folder(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere").message


@pytest.mark.parametrize("name", ["checkpoint.pth", "variant.yml"])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    error = refusal(folder)
    assert f"{name} is missing" in error.message
    assert error.hint


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_checkpoint(folder: Path, kept: float) -> None:
    file = folder / "checkpoint.pth"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    error = refusal(folder)
    assert "damaged or no weight file" in error.message
    assert "download it again" in error.hint


def test_truncated_checkpoint_of_old_pytorch(folder: Path) -> None:
    file = folder / "checkpoint.pth"
    content = torch.load(file, weights_only=True)
    torch.save(content, file, _use_new_zipfile_serialization=False)
    assert load_checkpoint(folder).config == CONFIG
    file.write_bytes(file.read_bytes()[:-1000])
    assert "damaged" in refusal(folder).message


def test_text_instead_of_weights(folder: Path) -> None:
    (folder / "checkpoint.pth").write_text("<html>404 not found</html>")
    assert "damaged or no weight file" in refusal(folder).message


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_with_code_is_refused_and_not_run(folder: Path, legacy: bool) -> None:
    victim = folder / "executed"
    file = folder / "checkpoint.pth"
    content = torch.load(file, weights_only=True)
    content["extra"] = Malicious(victim)
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    error = refusal(folder)
    assert "loading it would run Python code (posix.mkdir)" in error.message
    assert "trust" in error.hint
    assert not victim.exists()


def test_plain_pickle_with_code_is_refused(folder: Path) -> None:
    victim = folder / "executed"
    (folder / "checkpoint.pth").write_bytes(pickle.dumps({"model": Malicious(victim)}, 2))
    assert "run Python code" in refusal(folder).message
    assert not victim.exists()


def test_zip_without_weights(folder: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/readme.txt", "hello")
    (folder / "checkpoint.pth").write_bytes(buffer.getvalue())
    assert "damaged or no weight file" in refusal(folder).message


@pytest.mark.parametrize("content", [[1, 2], {"weights": {}}, {"model": 3}])
def test_no_weights_under_the_key_model(folder: Path, content: object) -> None:
    torch.save(content, folder / "checkpoint.pth")
    error = refusal(folder)
    assert "no dictionary of weights under the key 'model'" in error.message
    assert "load_timm_encoder" in error.hint


def test_missing_and_unexpected_names(folder: Path) -> None:
    def rename(weights: dict[str, Any]) -> None:
        for name in list(weights):
            if name.startswith("encoder.blocks.0."):
                weights[name.replace("blocks.0", "layers.0")] = weights.pop(name)

    edit_weights(folder, rename)
    message = refusal(folder).message
    assert "lacks encoder.blocks.0.norm1.weight, " in message
    assert "has unexpected encoder.layers.0.norm1.weight, " in message
    assert message.count("and 8 more") == 2
    assert "encoder.layers.0.mlp.fc2.weight" not in message


def test_names_that_are_there_twice(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"module.decoder.cls_emb": w["decoder.cls_emb"]}))
    assert "decoder.cls_emb is there twice" in refusal(folder).message


def test_shapes_of_another_model(folder: Path) -> None:
    edit_weights(folder, lambda w: w.update({"decoder.cls_emb": torch.zeros(1, 7, 64)}))
    error = refusal(folder)
    assert "decoder.cls_emb (expected (1, 5, 64), found (1, 7, 64))" in error.message
    assert "variant.yml" in error.hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(64, dtype=torch.int64), "must be floating point, found int64"),
        ("text", "is no tensor but str"),
        (torch.full((64,), float("nan")), "holds NaN or infinity in 64 of 64 values"),
        (torch.tensor([float("inf")] + [0.0] * 63), "holds NaN or infinity in 1 of 64 values"),
    ],
)
def test_values_that_are_no_weights(folder: Path, value: object, message: str) -> None:
    edit_weights(folder, lambda w: w.update({"encoder.norm.bias": value}))
    assert f"encoder.norm.bias {message}" in refusal(folder).message


def test_values_too_large_for_float32(folder: Path) -> None:
    huge = torch.full((64,), 1e300, dtype=torch.float64)
    edit_weights(folder, lambda w: w.update({"encoder.norm.bias": huge}))
    assert "NaN or infinity" in refusal(folder).message


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v["net_kwargs"].pop("n_cls"), "net_kwargs.n_cls is missing"),
        (lambda v: v["net_kwargs"].pop("decoder"), "net_kwargs.decoder is missing"),
        (lambda v: v["net_kwargs"]["decoder"].pop("name"), "net_kwargs.decoder.name is missing"),
        (lambda v: v["net_kwargs"].update(decoder=[1]), "decoder must hold named fields"),
        (lambda v: v["net_kwargs"]["decoder"].update(name="deeplab_dec"), "unknown decoder"),
        (lambda v: v["net_kwargs"].update(d_model="wide"), "embed_dim must be int, found 'wide'"),
        (lambda v: v["net_kwargs"].update(image_size=[16, 20]), "16x20 is no multiple"),
        (lambda v: v["net_kwargs"].update(image_size=None), "image_size must be two ints"),
        (lambda v: v["iseg"].update(version=2), "iseg.version is 2, only 1 is known"),
        (lambda v: v["iseg"]["encoder"].update(window=7), "unknown field window"),
        (lambda v: v.pop("net_kwargs"), "has no section net_kwargs"),
    ],
)
def test_variant_that_says_nonsense(
    folder: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_variant(folder, edit)
    error = refusal(folder)
    assert message in error.message
    assert "variant.yml" in error.message


@pytest.mark.parametrize("text", ["- just\n- a list\n", "", "net_kwargs: 3\n"])
def test_variant_without_its_section(folder: Path, text: str) -> None:
    (folder / "variant.yml").write_text(text)
    assert "has no section net_kwargs" in refusal(folder).message


@pytest.mark.parametrize("text", ["net_kwargs: [1, 2", "\x00", "a: b: c"])
def test_variant_that_is_no_yaml(folder: Path, text: str) -> None:
    (folder / "variant.yml").write_text(text)
    assert "cannot be read as YAML" in refusal(folder).message


def test_variant_with_code_is_refused_and_not_run(folder: Path) -> None:
    victim = folder / "executed"
    text = f"net_kwargs: !!python/object/apply:os.mkdir ['{victim}']\n"
    (folder / "variant.yml").write_text(text)
    error = refusal(folder)
    assert "python/object/apply:os.mkdir" in error.message
    assert "could run code" in error.hint
    assert not victim.exists()


def test_full_disk_keeps_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (folder / "checkpoint.pth").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IsegError, match="cannot write .*checkpoint.pth: No space left"):
        save_checkpoint(formula_model(CONFIG), folder)
    assert (folder / "checkpoint.pth").read_bytes() == before
    assert len(list(folder.iterdir())) == 2
