import dataclasses

import numpy as np
import pytest
import torch
from skimage import data

from iseg_tvm.artifact import QuantizedModel, load_model, save_model
from iseg_tvm.errors import IsegError
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.models.segmenter import Segmenter, build_segmenter
from iseg_tvm.quantization import QuantizeOptions, quantize
from iseg_tvm.quantization.equivalence import equivalent, find_equivalence, real_features
from iseg_tvm.quantization.observers import OBSERVERS
from iseg_tvm.quantization.options import ACTIVATIONS, POLYNOMIALS
from iseg_tvm.reference_model import reference_graph
from tests.helpers import tiny_config

SIZE = (32, 48)


def photo(top: int = 100, left: int = 100, size: tuple[int, int] = SIZE) -> np.ndarray:
    height, width = size
    return np.ascontiguousarray(data.astronaut()[top : top + height, left : left + width])


def lively_model(config: SegmenterConfig) -> Segmenter:
    """A random model whose biases, norms and tokens are not the trivial ones it starts with."""
    model = build_segmenter(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            spread = 0.1 if parameter.dim() == 1 else 0.5 * parameter.shape[-1] ** -0.5
            parameter += spread * noise
    return model


def float_features(model: Segmenter, image: np.ndarray) -> np.ndarray:
    """Encoder output (tokens, D), padded as the model pads."""
    found = []
    handle = model.encoder.norm.register_forward_hook(lambda _m, _a, y: found.append(y[0]))
    float_scores(model, image)
    handle.remove()
    return found[0].numpy()


def float_scores(model: Segmenter, image: np.ndarray) -> np.ndarray:
    """Patch scores (patches, classes)."""
    with torch.no_grad():
        return model.forward_scores(model.normalize_uint8(image[None]))[0].flatten(1).T.numpy()


def cosine(found: np.ndarray, exact: np.ndarray) -> float:
    """Mean cosine of rows."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    return float(((found * exact).sum(axis=1) / norms).mean())


def features(model: QuantizedModel, image: np.ndarray) -> np.ndarray:
    """Encoder output of the integer model, in real units."""
    return real_features(model, reference_graph(model).encode(image))


@pytest.mark.parametrize("decoder", ["linear", "mask_transformer"])
@pytest.mark.parametrize("l2_norm", [False, True])
@pytest.mark.parametrize("distilled", [False, True])
def test_integer_model_follows_the_float_model(
    decoder: str, l2_norm: bool, distilled: bool
) -> None:
    config = tiny_config(
        decoder=decoder, l2_norm=l2_norm, distilled=distilled, embed_dim=48, image_size=SIZE
    )
    model = lively_model(config)
    quantized = quantize(model, [photo()])
    other = photo(200, 150)
    assert cosine(features(quantized, other), float_features(model, other)) > 0.995
    graph = reference_graph(quantized)
    found = graph.decode(graph.encode(other)).astype(np.float64)
    exact = float_scores(model, other)
    centred = [x - x.mean(axis=1, keepdims=True) for x in (found, exact)]
    assert cosine(*centred) > 0.97
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.8


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("polynomial", POLYNOMIALS)
def test_every_option_keeps_the_features(observer: str, activation: str, polynomial: str) -> None:
    model = lively_model(tiny_config(decoder="linear", embed_dim=48, image_size=SIZE))
    options = QuantizeOptions(observer=observer, activation=activation, polynomial=polynomial)
    quantized = quantize(model, [photo(), photo(0, 300)], options)
    assert quantized.polynomial == polynomial
    assert (
        cosine(features(quantized, photo(200, 150)), float_features(model, photo(200, 150))) > 0.98
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"rounding": "nearest"},
        {"bias_correction": False},
        {"rounding": "nearest", "bias_correction": False},
        {"equalization": 0.0},
        {"equalization": 1.0},
        {"lambda_search": False},
        {"activation_zero_point": False},
        {"feature_scales": False},
        {"centering": False},
        {"activation_groups": False},
    ],
    ids=str,
)
def test_every_switch_keeps_the_features(changed: dict) -> None:
    model = lively_model(tiny_config(l2_norm=True, embed_dim=48, image_size=SIZE))
    with torch.no_grad():
        model.encoder.blocks[1].mlp.fc1.weight[:9] *= 6  # inputs below any lambda
    quantized = quantize(model, [photo()], QuantizeOptions(**changed))
    other = photo(200, 150)
    assert cosine(features(quantized, other), float_features(model, other)) > 0.99
    default = quantize(model, [photo()])
    differs = [not np.array_equal(t, default.tensors[n]) for n, t in quantized.tensors.items()]
    assert any(differs)


def test_huge_hidden_units_do_not_coarsen_the_others_grid() -> None:
    model = lively_model(tiny_config(decoder="linear", embed_dim=48, image_size=SIZE))
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.mlp.fc1.weight[5] *= 40
            block.mlp.fc2.weight[:, 5] /= 40
    error = {}
    other = photo(200, 150)
    for switch in (False, True):
        quantized = quantize(model, [photo()], QuantizeOptions(activation_groups=switch))
        assert len(quantized.tensors["encoder.blocks.0.activation.table"]) == (3 if switch else 1)
        error[switch] = 1 - cosine(features(quantized, other), float_features(model, other))
    assert error[True] < 0.8 * error[False]


@pytest.mark.parametrize("decoder", ["linear", "mask_transformer"])
def test_the_equivalent_model_computes_the_same(decoder: str) -> None:
    config = tiny_config(decoder=decoder, embed_dim=48, image_size=SIZE, distilled=True)
    model = lively_model(config)
    change = find_equivalence(model, [photo()], QuantizeOptions())
    other = equivalent(model, change)
    picture = photo(200, 150)
    scores = [float_scores(m, picture) for m in (other, model)]
    np.testing.assert_allclose(*scores, atol=1e-4)
    found = float_features(other, picture) + change.centers["encoder.norm"]
    np.testing.assert_allclose(found, float_features(model, picture), atol=1e-4)
    changed = dict(other.named_parameters())
    for name in ("attn.qkv.bias", "attn.proj.bias", "norm1.bias", "norm2.bias", "mlp.fc1.bias"):
        name = f"encoder.blocks.1.{name}"
        assert not torch.equal(changed[name], model.get_parameter(name))


def test_channels_are_centered() -> None:
    model = lively_model(tiny_config(embed_dim=48, image_size=SIZE))
    change = find_equivalence(model, [photo()], QuantizeOptions())
    again = find_equivalence(equivalent(model, change), [photo()], QuantizeOptions())
    for site, center in again.centers.items():
        kept = np.abs(change.centers[site])
        keys = slice(48, 96) if site.endswith("qkv") else slice(None)
        assert (np.abs(center)[keys] <= 0.01 * kept[keys] + 1e-5).all(), site
    assert all((np.diff(order) == 1).all() for order in again.orders.values())


@pytest.mark.parametrize("size", [(32, 48), (30, 45), (17, 64)])
def test_numpy_and_torch_agree_on_a_quantized_model(size: tuple[int, int]) -> None:
    model = lively_model(tiny_config(l2_norm=True, image_size=(32, 32)))
    image = photo(size=size)
    quantized = quantize(model, [image])
    assert quantized.input_size == size
    expected = reference_graph(quantized).run(image)
    assert expected.shape == size
    np.testing.assert_array_equal(
        IntegerSegmenter(quantized)(torch.from_numpy(image)).numpy(), expected
    )


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((*SIZE, 3), np.uint8),
        np.full((*SIZE, 3), 255, np.uint8),
        np.full((*SIZE, 3), (124, 116, 104), np.uint8),
        np.where(np.arange(SIZE[1])[None, :, None] == 7, 255, np.zeros((*SIZE, 3))).astype(
            np.uint8
        ),
    ],
    ids=["black", "white", "mean", "line"],
)
def test_flat_calibration_images_give_a_model_that_runs(image: np.ndarray) -> None:
    model = lively_model(tiny_config(l2_norm=True, image_size=SIZE))
    quantized = quantize(model, [image])
    reference_graph(quantized).run(photo())


@pytest.mark.parametrize("decoder", ["linear", "mask_transformer"])
def test_dead_weights_give_a_model_that_runs(decoder: str) -> None:
    """Channels, heads, whole layers and norms of zeros: no zero scale, nothing out of range."""
    model = lively_model(tiny_config(decoder=decoder, image_size=SIZE))
    first, second = model.encoder.blocks
    with torch.no_grad():
        first.attn.qkv.weight[:40] = 0
        first.attn.qkv.bias[:40] = 0
        first.mlp.fc1.weight.zero_()
        first.mlp.fc1.bias.zero_()
        first.attn.proj.weight[3] = 0
        second.norm1.weight.zero_()
        second.norm1.bias.zero_()
        second.mlp.fc2.weight.zero_()
        second.mlp.fc2.bias.fill_(0.5)
        model.encoder.patch_embed.proj.weight[5] = 0
    quantized = quantize(model, [photo()])
    reference_graph(quantized).run(photo(200, 150))
    assert cosine(features(quantized, photo()), float_features(model, photo())) > 0.99


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 30.0, 1e4])
def test_extreme_weights_give_a_model_that_runs(factor: float) -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.attn.qkv.weight *= factor
            block.mlp.fc2.weight *= factor
    reference_graph(quantize(model, [photo()])).run(photo())


def test_a_huge_channel_keeps_the_rest() -> None:
    """One channel of the stream 300 times the others, as in DINOv2."""
    model = lively_model(tiny_config(decoder="linear", embed_dim=48, image_size=SIZE))
    with torch.no_grad():
        model.encoder.blocks[0].mlp.fc2.bias[7] += 60.0
    quantized = quantize(model, [photo()])
    found, exact = features(quantized, photo()), float_features(model, photo())
    rest = np.arange(48) != 7
    assert cosine(found[:, rest], exact[:, rest]) > 0.97


def test_same_input_same_bits() -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    first, second = (quantize(model, [photo(), photo(9, 9)]) for _ in range(2))
    assert first.scalars == second.scalars
    assert list(first.tensors) == list(second.tensors)
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, second.tensors[name])


def test_the_model_is_left_as_it_was() -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, [photo()])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any(m.fused_attn for m in model.modules() if hasattr(m, "fused_attn"))


def test_a_quantized_model_survives_its_file(tmp_path) -> None:
    model = lively_model(tiny_config(l2_norm=True, image_size=SIZE))
    names = tuple(f"class {i}" for i in range(7))
    colours = tuple((i, 2 * i, 3 * i) for i in range(7))
    quantized = quantize(model, [photo()], classes=names, palette=colours)
    loaded = load_model(save_model(quantized, tmp_path / "model.safetensors"))
    assert loaded.classes == names
    assert loaded.palette == colours
    assert loaded.provenance == quantized.provenance
    np.testing.assert_array_equal(
        reference_graph(loaded).run(photo()), reference_graph(quantized).run(photo())
    )


def test_progress_counts_every_image() -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    seen = []
    pictures = [photo(), photo(9, 9)]
    quantized = quantize(model, pictures, progress=lambda *step: seen.append(step))
    layers = len([name for name in quantized.tensors if name.endswith(".weight")])
    assert seen == [
        *(("observing channels", i, 2) for i in (1, 2)),
        *(("calibrating", i, 2) for i in (1, 2)),
        *(("rounding layers", i, layers) for i in range(1, layers + 1)),
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["encoder.blocks.1.mlp.fc1.weight", "decoder.mask_norm.bias"])
def test_weights_that_are_not_finite_are_refused(name: str, value: float) -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = value
    with pytest.raises(IsegError, match=f"{name} holds NaN or infinity"):
        quantize(model, [photo()])


def test_activations_that_overflow_are_refused() -> None:
    model = lively_model(tiny_config(image_size=SIZE))
    with torch.no_grad():
        model.encoder.blocks[0].mlp.fc1.weight.fill_(1e38)
    with pytest.raises(IsegError, match=r"encoder\.blocks\.0\.\w+ are not finite"):
        quantize(model, [photo()])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no calibration images"),
        ([photo().astype(np.float32)], "image 0 is no uint8 array"),
        ([photo(), photo(size=(32, 32))], r"image 1 has shape \(32, 32, 3\), not \(32, 48, 3\)"),
        ([photo()[..., 0]], r"image 0 has shape \(32, 48\)"),
    ],
)
def test_bad_images_are_refused(images: list[np.ndarray], message: str) -> None:
    with pytest.raises(IsegError, match=message):
        quantize(build_segmenter(tiny_config(image_size=SIZE)), images)


def test_images_must_have_the_input_size() -> None:
    options = QuantizeOptions(input_size=(64, 64))
    with pytest.raises(IsegError, match=r"not \(64, 64, 3\)"):
        quantize(build_segmenter(tiny_config(image_size=SIZE)), [photo()], options)


@pytest.mark.parametrize("names", [{"classes": ("a",)}, {"palette": ((0, 0, 0),)}])
def test_a_wrong_number_of_names_is_refused(names: dict) -> None:
    with pytest.raises(IsegError, match="for 7 classes"):
        quantize(build_segmenter(tiny_config(image_size=SIZE)), [photo()], **names)


@pytest.mark.parametrize(
    "wrong",
    [
        {"observer": "best"},
        {"activation": "relu"},
        {"polynomial": "cubic"},
        {"percentile": 20.0},
        {"rounding": "up"},
        {"equalization": 1.5},
    ],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(IsegError):
        QuantizeOptions(**wrong)
    with pytest.raises(IsegError):
        dataclasses.replace(QuantizeOptions(), **wrong)
