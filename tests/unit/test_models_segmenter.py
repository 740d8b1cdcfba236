"""The float model: equal to the official one, any size, and every tensor within reach of a hook.

``tests/data/segmenter_golden.npz`` holds outputs of the official implementation
(https://github.com/rstrudel/segmenter, commit history of 2022; PyTorch 2.13, CPU, float32) with the
weights of `formula_weights` for the picture `formula_image`, every third row and column, under
``<model>_<height>x<width>``. Names and shapes of the weights are the official ones.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from models_support import formula_image, formula_model, small_config
from torch import Tensor, nn
from torch.nn import functional

from iseg_tvm.errors import IsegError
from iseg_tvm.models.config import SegmenterConfig, segmenter_preset
from iseg_tvm.models.encoder import resize_position_embedding
from iseg_tvm.models.segmenter import Segmenter, build_segmenter, normalize_uint8

GOLDEN = Path(__file__).parents[1] / "data" / "segmenter_golden.npz"
MODELS = {
    "mask": small_config(),
    "linear": small_config("linear"),
    "distilled": small_config(distilled=True),
}
SIZES = [(24, 40), (37, 51)]  # the native size; one that is padded, with resized positions


def run(model: Segmenter, height: int, width: int) -> Tensor:
    with torch.no_grad():
        return model(model.normalize_uint8(formula_image(height, width)))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", MODELS)
def test_equals_the_official_implementation(
    name: str, height: int, width: int, fused: bool
) -> None:
    model = formula_model(MODELS[name])
    model.set_fused_attention(fused)
    found = run(model, height, width)
    assert found.shape == (1, 5, height, width)
    with np.load(GOLDEN) as golden:
        expected = golden[f"{name}_{height}x{width}"]
    np.testing.assert_allclose(found[0, :, ::3, ::3].numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"layer_norm_eps": 1e-2}, {"normalization": "deit"}], ids=lambda c: next(iter(c))
)
def test_golden_outputs_notice_small_changes(changes: dict[str, object]) -> None:
    values = MODELS["mask"].to_dict()
    values["encoder"].update(changes)
    found = run(formula_model(SegmenterConfig.from_dict(values)), 24, 40)
    with np.load(GOLDEN) as golden:
        difference = np.abs(found[0, :, ::3, ::3].numpy() - golden["mask_24x40"]).max()
    assert difference > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_what_is_upsampled(name: str) -> None:
    model = formula_model(MODELS[name])
    image = model.normalize_uint8(formula_image(37, 51))
    with torch.no_grad():
        scores = model.forward_scores(image)
        pixels = model(image)
    assert scores.shape == (1, 5, 5, 7)
    upsampled = functional.interpolate(scores, size=(40, 56), mode="bilinear")
    torch.testing.assert_close(pixels, upsampled[:, :, :37, :51], rtol=0, atol=0)


def test_padding_is_zero_after_normalisation() -> None:
    model = formula_model(MODELS["mask"])
    image = model.normalize_uint8(formula_image(37, 51))
    padded = torch.zeros(1, 3, 40, 56)
    padded[:, :, :37, :51] = image
    with torch.no_grad():
        torch.testing.assert_close(model.forward_scores(image), model.forward_scores(padded))


def test_images_of_a_batch_do_not_mix() -> None:
    model = formula_model(MODELS["distilled"])
    both = torch.cat([torch.zeros(1, 3, 24, 40), torch.ones(1, 3, 24, 40)])
    with torch.no_grad():
        alone = torch.cat([model(both[:1]), model(both[1:])])
        torch.testing.assert_close(model(both), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (8, 200), (23, 9)])
def test_any_size(size: tuple[int, int]) -> None:
    assert run(build_segmenter(small_config()), *size).shape == (1, 5, *size)


def test_without_l2_norm_features_are_multiplied_as_they_are() -> None:
    model = formula_model(small_config(l2_norm=False))
    decoder = model.decoder
    seen = record(model, "decoder.patch_features", "decoder.class_features", "decoder.mask_norm")
    run(model, 24, 40)
    patches, classes = seen["decoder.patch_features"][1], seen["decoder.class_features"][1]
    torch.testing.assert_close(seen["decoder.mask_norm"][0], patches @ classes.transpose(1, 2))
    assert isinstance(decoder.mask_norm, nn.LayerNorm)
    assert (run(model, 24, 40) - run(formula_model(MODELS["mask"]), 24, 40)).abs().max() > 1e-2


def record(model: nn.Module, *names: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Keep input and output of the named modules at every run."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name in names:

        def keep(_: nn.Module, args: tuple[Tensor], out: Tensor, key: str = name) -> None:
            seen[key] = (args[0], out)

        model.get_submodule(name).register_forward_hook(keep)
    return seen


@pytest.mark.parametrize("block", ["encoder.blocks.1", "decoder.blocks.0"])
def test_hooks_see_every_tensor_of_a_block(block: str) -> None:
    model = formula_model(MODELS["mask"])
    parts = ["norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.attn_drop", "attn.proj"]
    parts += ["norm2", "mlp.fc1", "mlp.act", "mlp.fc2"]
    seen = record(model, block, *(f"{block}.{part}" for part in parts))
    run(model, 24, 40)
    into = {part: seen[f"{block}.{part}"][0] for part in parts}
    out = {part: seen[f"{block}.{part}"][1] for part in parts}
    start, end = seen[block]
    torch.testing.assert_close(into["norm1"], start)
    torch.testing.assert_close(into["norm2"], start + out["attn.proj"])
    torch.testing.assert_close(end, into["norm2"] + out["mlp.fc2"])
    torch.testing.assert_close(into["mlp.act"], out["mlp.fc1"])
    queries, keys, values = out["attn.qkv"].unflatten(2, (3, 2, 64)).permute(2, 0, 3, 1, 4)
    torch.testing.assert_close(out["attn.q_norm"], queries)
    torch.testing.assert_close(out["attn.k_norm"], keys)
    probabilities = (queries @ keys.transpose(-2, -1) / 8).softmax(dim=-1)
    torch.testing.assert_close(out["attn.attn_drop"], probabilities)
    mixed = (probabilities @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(into["attn.proj"], mixed)


def test_hooks_see_the_ends_of_the_decoder() -> None:
    model = formula_model(MODELS["mask"])
    names = ["proj_dec", "tokens", "decoder_norm", "patch_features", "class_features", "mask_norm"]
    seen = record(model.decoder, *names)
    run(model, 24, 40)
    patches, classes = seen["patch_features"][1], seen["class_features"][1]
    assert (patches.shape, classes.shape) == ((1, 15, 128), (1, 5, 128))
    torch.testing.assert_close(seen["tokens"][1][:, :15], seen["proj_dec"][1])
    torch.testing.assert_close(seen["tokens"][1][:, 15:], model.decoder.cls_emb)
    torch.testing.assert_close(seen["decoder_norm"][1][:, :15] @ model.decoder.proj_patch, patches)
    cosine = functional.cosine_similarity(patches[:, :, None], classes[:, None], dim=-1)
    torch.testing.assert_close(seen["mask_norm"][0], cosine, rtol=0, atol=1e-5)


def test_positions_are_kept_at_the_native_size_and_resized_elsewhere() -> None:
    encoder = formula_model(MODELS["distilled"]).encoder
    assert encoder.position_embedding((3, 5)) is encoder.pos_embed
    resized = encoder.position_embedding((6, 10))
    assert resized.shape == (1, 62, 128)
    torch.testing.assert_close(resized[:, :2], encoder.pos_embed[:, :2])
    # Bilinear, corners not aligned: the corner stays, its neighbour is 3/4 and 1/4 of two.
    grid = encoder.pos_embed[0, 2:]
    torch.testing.assert_close(resized[0, 2], grid[0])
    torch.testing.assert_close(resized[0, 3], 0.75 * grid[0] + 0.25 * grid[1])


def test_resizing_a_linear_ramp_gives_a_ramp() -> None:
    ramp = torch.arange(4.0).repeat(4).reshape(1, 16, 1)
    out = resize_position_embedding(ramp, (4, 4), (2, 2), 0)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.5, 2.5, 0.5, 2.5]))


def test_prefix_tokens() -> None:
    plain, distilled = (formula_model(MODELS[n]).encoder for n in ("mask", "distilled"))
    torch.testing.assert_close(plain.prefix_tokens(), plain.cls_token)
    assert distilled.prefix_tokens().shape == (1, 2, 128)


@pytest.mark.parametrize("name", ["mask", "distilled"])
def test_normalisation(name: str) -> None:
    config = MODELS[name].encoder
    image = np.zeros((2, 3, 4, 3), np.uint8)
    image[1, 2, 3] = (255, 51, 0)
    out = normalize_uint8(image, config)
    assert (out.shape, out.dtype, out.is_contiguous()) == ((2, 3, 3, 4), torch.float32, True)
    scaled = np.array([1.0, 0.2, 0.0])
    expected = (scaled - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(out[1, :, 2, 3].numpy(), expected, atol=1e-6)
    torch.testing.assert_close(normalize_uint8(torch.from_numpy(image), config), out)


@pytest.mark.parametrize(
    ("shape", "kind"), [((4, 4, 3), "uint8"), ((1, 4, 4, 3), "float64"), ((1, 3, 4, 4), "uint8")]
)
def test_normalisation_refuses_other_arrays(shape: tuple[int, ...], kind: str) -> None:
    with pytest.raises(IsegError, match=r"images must be uint8 of shape \(B, H, W, 3\)"):
        normalize_uint8(np.zeros(shape, kind), MODELS["mask"].encoder)


def test_forward_refuses_other_shapes() -> None:
    with pytest.raises(IsegError, match=r"shape \(B, 3, H, W\), found \(3, 8, 8\)"):
        build_segmenter(small_config())(torch.zeros(3, 8, 8))


def test_random_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_segmenter(small_config(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["decoder.cls_emb"], other["decoder.cls_emb"])
    assert not torch.equal(first["encoder.pos_embed"], other["encoder.pos_embed"])


def test_preset_has_the_published_size() -> None:
    with torch.device("meta"):
        model = Segmenter(segmenter_preset("seg_tiny_mask"))
    # The official repository's model table: 7 million parameters.
    assert 6.5e6 < sum(p.numel() for p in model.parameters()) < 7.5e6


def test_a_training_step_reaches_every_parameter() -> None:
    model = build_segmenter(small_config()).train()
    model.set_fused_attention(True)
    scores = model(torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)))
    functional.cross_entropy(scores, torch.zeros(2, 24, 40, dtype=torch.long)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []
