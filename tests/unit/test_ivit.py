"""I-ViT's operators and checkpoints, against integers that its public code produced.

``tests/data/ivit_golden.npz`` was made by running that code (github.com/zkkli/I-ViT, commit
380ba99) on the CPU, ``Tensor.cuda`` replaced by the identity: ``IntSoftmax(16)``, ``IntGELU()`` and
``IntLayerNorm(24)`` on random integers at a scale that is a power of two and at one that is not,
``fixedpoint_mul`` at 8 bits; and the state dict, pictures and features (before the classifier) of
a ``VisionTransformer`` of width 24, depth 2 and random weights, after 20 steps of range statistics.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iseg_tvm.artifact import load_model
from iseg_tvm.cli.main import main
from iseg_tvm.ivit import operators
from iseg_tvm.models.checkpoint import save_checkpoint
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.reference_model import reference_graph
from tests.helpers import tiny_config

GOLDEN = np.load(Path(__file__).resolve().parents[1] / "data/ivit_golden.npz")


def case(name: str) -> tuple[np.ndarray, np.float32, np.ndarray]:
    """Input integers, scale and the code's integers."""
    x, scale, y = (GOLDEN[f"{name}_{part}"] for part in "xsy")
    return x.astype(np.int64), np.float32(scale), y.astype(np.int64)


def exact_in_float32(*values: np.ndarray) -> np.ndarray:
    """Where all of these integers are float32 numbers."""
    return np.logical_and.reduce([np.float32(v).astype(np.int64) == v for v in values])


def exact_quotient(total: np.ndarray) -> np.ndarray:
    """Where the code's ``(2**31 - 1) / total`` has the right floor: float32 makes it ``2**31``."""
    rounded = np.floor(np.float32(2**31 - 1) / np.float32(total)).astype(np.int64)
    return rounded == (2**31 - 1) // total


def test_shiftmax_has_the_codes_integers_where_float32_is_exact() -> None:
    x, scale, expected = case("softmax_pow2")
    found = operators.shiftmax(x, scale)
    e = operators.exp_shift(x - x.max(axis=-1, keepdims=True), scale, 15)
    total = e.sum(axis=-1, keepdims=True)
    total = np.broadcast_to(total, e.shape)
    exact = exact_in_float32(e, total, e * ((2**31 - 1) // total)) & exact_quotient(total)
    assert exact.sum() > 100
    np.testing.assert_array_equal(found[exact], expected[exact])
    assert np.abs(found - expected).max() <= 1


def test_shift_gelu_has_the_codes_integers_where_float32_is_exact() -> None:
    x, scale, expected = case("gelu_pow2")
    found = operators.shift_gelu(x, scale)
    step = np.float32(scale * operators.SIGMOID)
    top = x.max(axis=-1, keepdims=True)
    e = operators.exp_shift(x - top, step, 23)
    total = e + operators.exp_shift(-top, step, 23)
    exact = exact_in_float32(e, total, e * ((2**31 - 1) // total)) & exact_quotient(total)
    assert exact.sum() > 100
    np.testing.assert_array_equal(found[exact], expected[exact])
    assert (np.abs(found - expected) <= np.abs(x)).all()


def test_layer_norm_is_the_codes_up_to_float32() -> None:
    x, _, expected = case("norm_pow2")
    bias = GOLDEN["norm_pow2_bias"]
    # Its weights are not stored: bias_integer holds all that the integers depend on.
    found = operators.layer_norm(x, np.ones(24, np.float32), np.zeros(24, np.float32)) + bias
    error = np.abs(found - expected)
    assert error.max() <= 2.0**-21 * np.abs(expected).max()


def test_requantize_has_the_codes_integers() -> None:
    found = operators.requantize(
        GOLDEN["requantize_x"].astype(np.int64),
        GOLDEN["requantize_in"],
        np.float32(GOLDEN["requantize_out"][0]),
    )
    np.testing.assert_array_equal(found, GOLDEN["requantize_y"])


@pytest.mark.parametrize("name", ["softmax", "gelu"])
def test_other_scales_miss_a_few_floors(name: str) -> None:
    """Dividing by a scale that is no power of two loses single steps: most integers agree."""
    x, scale, expected = case(f"{name}_plain")
    function = operators.shiftmax if name == "softmax" else operators.shift_gelu
    found = function(x, scale)
    real, wanted = found.astype(float), expected.astype(float)
    assert np.corrcoef(real.ravel(), wanted.ravel())[0, 1] > 0.9999


def golden_state() -> dict[str, torch.Tensor]:
    """The state dict as the code saves it."""
    names = [n for n in GOLDEN.files if n.startswith("state/")]
    state = {n.removeprefix("state/"): torch.from_numpy(GOLDEN[n]) for n in names}
    return {n: v.float() if n.endswith("weight_integer") else v for n, v in state.items()}


def run_import(folder: Path, state: dict[str, torch.Tensor]) -> int:
    """Import a state dict into a Segmenter of the same encoder, calibrated on one golden image."""
    torch.save({"model": state}, folder / "ivit.pth")
    save_checkpoint(build_segmenter(tiny_config()), folder / "checkpoint")
    Image.fromarray(GOLDEN["images"][0]).save(folder / "photo.png")
    flags = ["--ivit", folder / "ivit.pth", "--checkpoint", folder / "checkpoint", "--calibration"]
    flags += [folder / "photo.png", "-o", folder / "model.safetensors", "-q"]
    return main(["import-ivit", *map(str, flags)])


def test_import_keeps_weights_and_computes_their_features(tmp_path: Path) -> None:
    state = golden_state()
    assert run_import(tmp_path, state) == 0
    model = load_model(tmp_path / "model.safetensors")
    for block in range(2):
        names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        for mine, theirs in names.items():
            found = model.tensors[f"encoder.blocks.{block}.{mine}.weight"]
            expected = state[f"blocks.{block}.{theirs}.weight_integer"].numpy()
            np.testing.assert_array_equal(found, expected)
        scales = model.provenance["activation_scales"][f"encoder.blocks.{block}"]
        quantizers = "qact_gelu", "qact1"
        wanted = [
            float(state[f"blocks.{block}.mlp.{q}.act_scaling_factor"]) for q in quantizers
        ]
        # One group, and the grid of its input is symmetric.
        assert scales == [*([w] for w in wanted), [0]]
    cosines = []
    for image, expected in zip(GOLDEN["images"], GOLDEN["features"], strict=True):
        found = reference_graph(model).encode(image).astype(np.float64)
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        cosines.append(((found * expected).sum(axis=1) / norms).mean())
    print(f"cosine with I-ViT's features: {np.mean(cosines):.4f}")
    assert np.mean(cosines) > 0.99


def test_foreign_and_unfinished_states_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = golden_state()
    no_integers = {n: v for n, v in state.items() if not n.endswith("_integer")}
    no_scale = {**state, "blocks.1.qact3.act_scaling_factor": torch.zeros(1)}
    fresh = {**state, "blocks.0.mlp.fc1.weight_integer": torch.zeros(96, 24)}
    missing = {n: v for n, v in state.items() if n != "blocks.1.norm2.bias"}
    for given, reason in (
        (no_integers, "is no checkpoint of I-ViT"),
        (no_scale, "blocks.1.qact3.act_scaling_factor is missing or not positive"),
        (fresh, "blocks.0.mlp.fc1 has integers but no scale, or none"),
        (missing, "blocks.1.norm2.bias"),
    ):
        assert run_import(tmp_path, given) == 2
        message, hint = capsys.readouterr().err.splitlines()
        assert reason in message
        assert hint.startswith("hint: ")
        assert not (tmp_path / "model.safetensors").exists()
