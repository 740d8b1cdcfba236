from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from iseg_tvm.activation_tables import gelu_table
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.evaluation.datasets import Dataset, open_dataset
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.integer_model import TorchBackend
from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.models.windows import window_scores
from iseg_tvm.quantization import quantize
from iseg_tvm.quantization.activation import output_grid
from iseg_tvm.quantization.context import finite_parameters
from iseg_tvm.quantization.equivalence import equivalent, recorded
from iseg_tvm.reference_model import reference_graph
from iseg_tvm.training.block_sites import ActivationSite
from iseg_tvm.training.data import Batches, patch_shares
from iseg_tvm.training.model import QatSegmenter
from iseg_tvm.training.narrow import narrow_weights
from iseg_tvm.training.options import TrainOptions
from iseg_tvm.training.session import fine_tune
from tests.helpers import random_image, tiny_config
from tests.unit.test_quantization import lively_model

SIZE = (16, 24)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Thousands of tiny operators: on busy cores a second thread makes them ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pair(config: SegmenterConfig, **options: str) -> tuple[Segmenter, QuantizedModel]:
    """A float model and the integer one made from it."""
    from iseg_tvm.quantization import QuantizeOptions

    model = lively_model(config)
    images = [random_image(*config.image_size, seed=3)]
    return model, quantize(model, images, QuantizeOptions(**options))  # type: ignore[arg-type]


def parameters_of(model: Segmenter, quantized: QuantizedModel) -> dict[str, np.ndarray]:
    """Of the float model that the integers stand for."""
    return finite_parameters(equivalent(model, recorded(quantized)))


def integer_scores(
    model: QuantizedModel, image: np.ndarray, place: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """Scores of the deployed wiring on a window of an image: (patches, classes)."""
    model = model.with_input_size(*image.shape[:2])
    rows, columns = model.config.grid_for(*model.input_size)
    tensors = {name: torch.from_numpy(value.copy()) for name, value in model.tensors.items()}
    grid = tensors["encoder.pos_embed"].unflatten(0, model.config.grid_size)
    grid = grid[place[0] : place[0] + rows, place[1] : place[1] + columns]
    tensors["encoder.pos_embed"] = grid.flatten(0, 1)
    graph = IntegerGraph(model, tensors, TorchBackend())
    return graph.decode(graph.encode(torch.from_numpy(image))).numpy()


def scores_in_steps(student: QatSegmenter, scores: Tensor) -> np.ndarray:
    """A trainable model's real scores as the integers they stand for."""
    linear = student.model.config.decoder.name == "linear"
    scale = student.grids.scale["decoder.head" if linear else "decoder.mask_norm"]
    steps = scores.detach().numpy() / float(scale)
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    return np.rint(steps).astype(np.int64)


def assert_same_model(found: QuantizedModel, expected: QuantizedModel) -> None:
    for name, tensor in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor, err_msg=name)
        assert found.tensors[name].dtype == tensor.dtype
    assert dict(found.scalars) == dict(expected.scalars)


@pytest.mark.parametrize(
    ("decoder", "l2_norm", "distilled", "options"),
    [
        ("linear", False, True, {"activation": "shiftgelu", "polynomial": "linear"}),
        ("mask_transformer", False, False, {}),
        ("mask_transformer", True, False, {}),
    ],
)
def test_training_begins_with_the_deployed_model(
    decoder: str, l2_norm: bool, distilled: bool, options: dict[str, str]
) -> None:
    config = tiny_config(decoder=decoder, l2_norm=l2_norm, distilled=distilled, image_size=SIZE)
    model, quantized = pair(config, **options)
    student = QatSegmenter(quantized, parameters_of(model, quantized))
    assert_same_model(student.export(), quantized)
    images = np.stack([random_image(*SIZE, seed) for seed in (1, 2)])
    with torch.no_grad():
        found = scores_in_steps(student, student(torch.from_numpy(images)))
    for image, steps in zip(images, found, strict=True):
        graph = reference_graph(quantized)
        np.testing.assert_array_equal(steps, graph.decode(graph.encode(image)))
    window = images[:, 4:12, 8:24].copy()
    with torch.no_grad():
        found = scores_in_steps(student, student(torch.from_numpy(window), (1, 2)))
    for image, steps in zip(window, found, strict=True):
        np.testing.assert_array_equal(steps, integer_scores(quantized, image, (1, 2)))


def test_float_windows_keep_their_place() -> None:
    model = lively_model(tiny_config(image_size=SIZE, distilled=True))
    images = np.stack([random_image(*SIZE, seed) for seed in (1, 2)])
    with torch.no_grad():
        whole = model.forward_scores(model.normalize_uint8(images))
        torch.testing.assert_close(window_scores(model, images), whole)
        model.encoder.pos_embed[:, 2:] = model.encoder.pos_embed[:, 2:].flip(1)
        flipped = window_scores(model, images[:, :4, :4], (3, 5))
        model.encoder.pos_embed[:, 2:] = model.encoder.pos_embed[:, 2:].flip(1)
        torch.testing.assert_close(window_scores(model, images[:, :4, :4], (0, 0)), flipped)


def test_gradients_are_those_of_the_float_model() -> None:
    model, quantized = pair(tiny_config(embed_dim=48, image_size=SIZE))
    student = QatSegmenter(quantized, parameters_of(model, quantized))
    images = np.stack([random_image(*SIZE, seed) for seed in range(4)])
    target = torch.randn(4, 24, 7, generator=torch.Generator().manual_seed(0))
    (student(torch.from_numpy(images)) * target).sum().backward()
    model = equivalent(model, recorded(quantized))
    exact = window_scores(model, images).flatten(2).transpose(1, 2)
    (exact * target).sum().backward()
    pairs = {
        "encoder.blocks.0.qkv": model.encoder.blocks[0].attn.qkv,
        "encoder.blocks.1.fc2": model.encoder.blocks[1].mlp.fc2,
        "encoder.blocks.1.norm2": model.encoder.blocks[1].norm2,
        "decoder.proj_dec": model.decoder.proj_dec,
        "decoder.mask_norm": model.decoder.mask_norm,
    }
    for name, layer in pairs.items():
        site = student.site(name)
        trained = (site.gamma, site.beta) if "norm" in name else (site.weight, site.bias)
        for mine, theirs in zip(trained, (layer.weight, layer.bias), strict=True):
            found, wanted = mine.grad.double().flatten(), theirs.grad.double().flatten()
            assert torch.cosine_similarity(found, wanted, dim=0) > 0.97, name
            assert 0.9 < found.norm() / wanted.norm() < 1.1, name
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_lambda_learns_as_a_step_size() -> None:
    """Esser et al. 2020, equation 3: inside ``round(v) - v``, outside the limit (here: of GELU)."""
    scale_out, zero = output_grid(5.0)
    grid = np.array([0.03]), np.array([scale_out]), np.array([zero]), np.array([0])
    site = ActivationSite(gelu_table, 3, *grid)
    site.refresh()
    real = torch.tensor([-20.0, 10.4, 500.0], dtype=torch.float64)
    divisor = site.log_change.exp()
    steps = real / divisor
    rounded = steps + ((steps + 0.5).floor() - steps).detach()
    y = site(rounded.clamp(-128, 127).to(torch.float32))
    y.sum().backward()
    points = torch.tensor([-20.0, 10.0, 127.0]).mul(0.03).requires_grad_()
    torch.nn.functional.gelu(points).sum().backward()
    slope = points.grad.double() * 0.03 / scale_out
    wanted = slope[0] * (-20.0 - -20.0) + slope[1] * (10.0 - 10.4) + slope[2] * 127.0
    assert float(site.log_change.grad) == pytest.approx(float(wanted), rel=1e-4)


def test_narrow_weights_are_min_max_rounding() -> None:
    model, quantized = pair(tiny_config(image_size=SIZE), rounding="nearest")
    parameters = parameters_of(model, quantized)
    # With 15 levels no row meets the largest step that its multiplier can express.
    narrow = narrow_weights(quantized, parameters, 15)
    for name, tensor in narrow.tensors.items():
        if not name.endswith(".weight"):
            continue
        if ".blocks." not in name:
            np.testing.assert_array_equal(tensor, quantized.tensors[name])
            continue
        assert np.abs(tensor).max(axis=1).tolist() == [15] * len(tensor)
        coarse = quantized.tensors[name] * (15 / 127)
        assert np.abs(coarse - tensor).max() < 0.6
    assert narrow_weights(quantized, parameters, 127) is quantized
    student = QatSegmenter(narrow, parameters, 15)
    assert_same_model(student.export(), narrow)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Four pictures whose left half is class 1 and red, the right half class 2."""
    for part in ("images", "masks"):
        (tmp_path / "data" / part).mkdir(parents=True)
    for index in range(4):
        image = random_image(20, 30, index)
        image[:, :15, 0] = 255
        mask = np.full((20, 30), 2, np.uint8)
        mask[:, :15] = 1
        mask[0] = 255
        Image.fromarray(image).save(tmp_path / f"data/images/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"data/masks/{index}.png")
    return open_dataset("folder", tmp_path / "data", classes=tuple("abcdefg"))


def test_batches_repeat_and_skip_what_is_damaged(dataset: Dataset) -> None:
    batches = Batches(dataset, SIZE, (8, 12), patch=4, batch=6, zoom=1.5, seed=1)
    first, again = batches.draw(3), batches.draw(3)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, batches.draw(4).images)
    assert first.images.shape == (6, 8, 12, 3)
    assert first.shares.shape == (6, 7, 2, 3)
    sums = first.shares.sum(dim=1)
    assert sums.max() <= 1
    dataset.samples[0].image.write_bytes(b"no picture")
    dataset.samples[1].mask.unlink()
    for step in range(5):
        batches.draw(step)
    assert sorted(batches.skipped) == ["0", "1"]
    for sample in dataset.samples:
        sample.image.unlink(missing_ok=True)
    with pytest.raises(IsegError, match="none of the 4 samples"):
        batches.draw(0)
    with pytest.raises(IsegError, match="no multiple of the patch"):
        Batches(dataset, SIZE, (10, 12), patch=4, batch=1)


def test_windows_show_what_their_labels_say(dataset: Dataset) -> None:
    """Red pixels are class 1 wherever the crop, the mirror and the window are."""
    batches = Batches(dataset, SIZE, (8, 12), patch=4, batch=8, zoom=2.0)
    for step in range(4):
        batch = batches.draw(step)
        red = (batch.images[..., 0] >= 250).float()
        share = torch.nn.functional.avg_pool2d(red[:, None], 4)[:, 0]
        sure = batch.shares.amax(dim=1) == 1
        agrees = (share > 0.5) == (batch.shares[:, 1] > 0.5)
        assert sure.any()
        assert agrees[sure].float().mean() > 0.95


def test_patch_shares() -> None:
    target = np.array([[[0, 0, 1, 1], [0, -1, 2, 2]]], np.int16)
    shares = patch_shares(target, 3, 2)
    assert shares[0, :, 0].tolist() == [[0.75, 0.0], [0.0, 0.5], [0.0, 0.5]]


def options(**changes: object) -> TrainOptions:
    values = TrainOptions(steps=4, rate=2e-3, batch=4, window=SIZE, save_every=2)
    return dataclasses.replace(values, **changes)  # type: ignore[arg-type]


def test_a_trained_model_is_exactly_what_was_trained(dataset: Dataset, tmp_path: Path) -> None:
    model, quantized = pair(tiny_config(image_size=SIZE))
    trained, _ = fine_tune(model, quantized, dataset, options(), state_file=tmp_path / "state")
    changed = [n for n in trained.tensors if (trained.tensors[n] != quantized.tensors[n]).any()]
    assert any(name.endswith(".activation.table") for name in changed)
    assert any(name.endswith(".qkv.weight") for name in changed)
    assert any(name.endswith(".multiplier") for name in changed)
    student = QatSegmenter(quantized, parameters_of(model, quantized))
    state = torch.load(tmp_path / "state", weights_only=True)
    student.load_state_dict(state["model"])
    assert_same_model(student.export(), trained)
    image = random_image(*SIZE, 9)
    with torch.no_grad():
        found = scores_in_steps(student, student(torch.from_numpy(image[None])))[0]
    graph = reference_graph(trained)
    np.testing.assert_array_equal(found, graph.decode(graph.encode(image)))


class Killed(BaseException):
    """Stands for the process being killed."""


def test_a_killed_run_is_continued_to_the_same_bits(dataset: Dataset, tmp_path: Path) -> None:
    state = tmp_path / "state"

    def run(resume: bool, kill_at: int = 99, **changes: object) -> QuantizedModel:
        model, quantized = pair(tiny_config(image_size=SIZE))

        def report(step: int, loss: float, seconds: float) -> None:
            if step == kill_at:
                raise Killed

        chosen = options(**changes)
        return fine_tune(
            model, quantized, dataset, chosen, state_file=state, resume=resume, report=report
        )[0]

    expected = run(resume=False)
    state.unlink()
    with pytest.raises(IsegError, match="does not exist"):
        run(resume=True)
    with pytest.raises(Killed):
        run(resume=False, kill_at=3)
    assert torch.load(state, weights_only=True)["step"] == 2
    with pytest.raises(IsegError, match="another options"):
        run(resume=True, seed=5)
    assert_same_model(run(resume=True), expected)
    state.write_bytes(state.read_bytes()[:2000])
    with pytest.raises(IsegError, match="damaged"):
        run(resume=True)


def test_training_wins_back_what_few_bits_lose(dataset: Dataset, tmp_path: Path) -> None:
    """Three-bit weights, asked for the float model's scores: the disagreement shrinks."""
    model, quantized = pair(tiny_config(image_size=SIZE))
    losses: list[float] = []
    chosen = options(steps=60, rate=2e-3, distill=1.0, sharpness=4.0, weight_bits=3, batch=8)
    fine_tune(
        model,
        quantized,
        dataset,
        chosen,
        state_file=tmp_path / "state",
        report=lambda step, loss, seconds: losses.append(loss),
    )
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])


def test_bad_options_and_models(dataset: Dataset, tmp_path: Path) -> None:
    for changes in ({"rate": 0.0}, {"zoom": 0.5}, {"distill": 2.0}, {"weight_bits": 9}):
        with pytest.raises(IsegError, match="is outside"):
            options(**changes)
    model, quantized = pair(tiny_config(image_size=SIZE))
    with pytest.raises(IsegError, match="--device nowhere"):
        fine_tune(model, quantized, dataset, options(), state_file=tmp_path / "s", device="nowhere")
    other = lively_model(tiny_config(image_size=SIZE, depth=1))
    with pytest.raises(IsegError, match="another checkpoint's architecture"):
        fine_tune(other, quantized, dataset, options(), state_file=tmp_path / "s")
    nameless = dataclasses.replace(quantized, provenance={})
    with pytest.raises(IsegError, match="does not say how"):
        QatSegmenter(nameless, parameters_of(model, quantized))
