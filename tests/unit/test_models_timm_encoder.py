"""Encoders from timm's state dicts: names, layer-scale, position embeddings, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
from models_support import formula_weights, small_config
from safetensors.torch import save_file
from torch import Tensor, nn

from iseg_tvm.errors import IsegError
from iseg_tvm.models.checkpoint import encoder_from_timm_state, load_timm_encoder
from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.models.timm_import import VisionTransformer, VisionTransformerDistilled

# timm's own models use this epsilon.
VALUES = small_config(width=64, image_size=(32, 32)).to_dict()
VALUES["encoder"]["layer_norm_eps"] = 1e-6
CONFIG = SegmenterConfig.from_dict(VALUES)


def timm_model(kind: type[nn.Module] = VisionTransformer, **changes: Any) -> nn.Module:
    """Return timm's own model, its classifier included, with weights from the formula."""
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    model = kind(num_classes=3, **(options | changes)).eval()
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(formula_weights(shapes))
    return model


def image(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))


def features(model: nn.Module, side: int = 32) -> Tensor:
    with torch.no_grad():
        return model.forward_features(image(side))


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "model.pth", "state_dict.pth"])
def test_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    model = timm_model()
    path = tmp_path / f"vit.{suffix}"
    if suffix == "safetensors":
        save_file(model.state_dict(), path)
    else:
        wrapper = suffix.removesuffix("pth").removesuffix(".")
        torch.save({wrapper: model.state_dict()} if wrapper else model.state_dict(), path)
    encoder = load_timm_encoder(path, CONFIG)
    assert not encoder.training
    assert not any(block.attn.fused_attn for block in encoder.blocks)
    torch.testing.assert_close(features(encoder), features(model))


def test_layer_scale_is_folded() -> None:
    model = timm_model(init_values=1e-5)
    encoder = encoder_from_timm_state(model.state_dict(), CONFIG, "test")
    assert not any("gamma" in name for name in encoder.state_dict())
    # The folded products round differently.
    torch.testing.assert_close(features(encoder), features(model), rtol=1e-5, atol=1e-5)
    unscaled = {k: v for k, v in model.state_dict().items() if "gamma" not in k}
    other = encoder_from_timm_state(unscaled, CONFIG, "test")
    assert (features(other) - features(model)).abs().max() > 0.1


def test_distillation_token() -> None:
    model = timm_model(VisionTransformerDistilled)
    values = CONFIG.to_dict()
    values["encoder"]["distilled"] = True
    config = SegmenterConfig.from_dict(values)
    encoder = encoder_from_timm_state(model.state_dict(), config, "test")
    torch.testing.assert_close(features(encoder), features(model))
    with pytest.raises(IsegError, match="has unexpected dist_token"):
        encoder_from_timm_state(model.state_dict(), CONFIG, "test")


def test_positions_of_another_grid_are_resized() -> None:
    model = timm_model(img_size=64)
    encoder = encoder_from_timm_state(model.state_dict(), CONFIG, "test")
    assert encoder.pos_embed.shape == (1, 17, 64)
    grid = model.pos_embed[0, 1:].reshape(4, 2, 4, 2, 64)
    # Halved bilinearly with corners not aligned: the mean of two by two neighbours.
    torch.testing.assert_close(encoder.pos_embed[0, 1:].reshape(4, 4, 64), grid.mean(dim=(1, 3)))
    torch.testing.assert_close(encoder.pos_embed[:, :1], model.pos_embed[:, :1])


def test_pretraining_leftovers_are_dropped() -> None:
    state = {**timm_model().state_dict(), "mask_token": torch.zeros(1, 64)}
    torch.testing.assert_close(
        features(encoder_from_timm_state(state, CONFIG, "test")), features(timm_model())
    )


def test_register_tokens_are_refused() -> None:
    state = timm_model(reg_tokens=4).state_dict()
    with pytest.raises(IsegError, match="unexpected reg_token"):
        encoder_from_timm_state(state, CONFIG, "test")


def test_positions_without_class_token_are_refused() -> None:
    state = timm_model().state_dict()
    state["pos_embed"] = state["pos_embed"][:, 1:-1]
    with pytest.raises(IsegError, match="pos_embed has 15 tokens") as caught:
        encoder_from_timm_state(state, CONFIG, "test")
    assert "register tokens" in caught.value.hint


def test_another_width_and_depth() -> None:
    with pytest.raises(IsegError, match=r"found \(1, 1, 128\)") as caught:
        encoder_from_timm_state(timm_model(embed_dim=128).state_dict(), CONFIG, "vit.pth")
    assert caught.value.message.startswith("vit.pth: wrong shape of ")
    with pytest.raises(IsegError, match=r"unexpected blocks\.2\.norm1\.weight"):
        encoder_from_timm_state(timm_model(depth=3).state_dict(), CONFIG, "vit.pth")


def test_nan_in_layer_scale() -> None:
    state = timm_model(init_values=1e-5).state_dict()
    state["blocks.1.ls2.gamma"][5] = float("nan")
    with pytest.raises(IsegError, match=r"blocks\.1\.ls2\.gamma holds NaN"):
        encoder_from_timm_state(state, CONFIG, "test")


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    with pytest.raises(IsegError, match="vit.safetensors is missing"):
        load_timm_encoder(path, CONFIG)
    save_file(timm_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IsegError, match="damaged or no weight file"):
        load_timm_encoder(path, CONFIG)
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(IsegError, match="holds no dictionary of weights"):
        load_timm_encoder(tmp_path / "list.pth", CONFIG)
