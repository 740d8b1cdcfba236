"""The compiled library gives the reference's class map and features, bit for bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

from iseg_tvm import build, frontend, linking, runtime
from iseg_tvm.artifact import QuantizedModel, save_model
from iseg_tvm.errors import IsegError
from iseg_tvm.host_cpu import read_host_cpu
from iseg_tvm.integer_model import IntegerSegmenter
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.passes import pipeline
from iseg_tvm.reference_model import reference_graph, run_reference
from iseg_tvm.targets import TargetSpec, load_target, targets_dir
from tests.helpers import random_image, random_quantized_model, tiny_config


class Features(torch.nn.Module):
    """The encoder alone: its features show a wrong bit that the argmax would hide."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__()
        self.segmenter = IntegerSegmenter(model)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 image to int8 features."""
        return self.segmenter.graph().encode(image)


class Scores(Features):
    """The model without its argmax."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 image to class scores."""
        graph = self.segmenter.graph()
        return graph.decode(graph.encode(image))


def compile_module(module: torch.nn.Module, size: tuple[int, int], target: TargetSpec) -> Any:
    """Compile any module of integer operators; returns a function of NumPy arrays."""
    graph, weights = frontend.trace_module(module, torch.zeros(*size, 3, dtype=torch.uint8))
    llvm = build.tvm_target(target)
    bound = frontend.bind_weights(graph, weights)
    lowered = pipeline.lower_model(bound, get_isa(target.isa), llvm)
    executable = relax.build(lowered.module, llvm, relax_pipeline=None)
    main = relax.VirtualMachine(executable, tvm.cpu())["main"]
    return lambda image: main(tvm.runtime.tensor(image)).numpy()


MODELS = {
    "mask": (tiny_config(depth=1), (16, 16), "quadratic"),
    "linear": (tiny_config(decoder="linear", num_classes=150, depth=1), (21, 30), "linear"),
    "distilled_l2": (
        tiny_config(distilled=True, l2_norm=True, normalization="deit", patch_size=5,
                    image_size=(15, 20), embed_dim=40, num_heads=2, depth=1),
        (13, 33),
        "quadratic",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_the_reference(name: str) -> None:
    config, size, polynomial = MODELS[name]
    model = random_quantized_model(config, 1, input_size=size, polynomial=polynomial)
    run = compile_module(Scores(model), size, load_target("native"))
    graph = reference_graph(model)
    for seed in range(3):
        image = random_image(*size, seed)
        np.testing.assert_array_equal(run(image), graph.decode(graph.encode(image)))


def test_features_equal_the_reference_on_generic_kernels() -> None:
    model = random_quantized_model(tiny_config(depth=1), 2, input_size=(19, 10))
    run = compile_module(Features(model), (19, 10), load_target("x86-generic"))
    image = random_image(19, 10)
    np.testing.assert_array_equal(run(image), reference_graph(model).encode(image))


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedModel, Path, Path, list]:
    """A model, its bundle for this machine, the debug dump, and the progress reports."""
    folder = tmp_path_factory.mktemp("bundle")
    model = random_quantized_model(tiny_config(depth=1), 3)
    reports: list[tuple[str, int, int]] = []
    build.compile_bundle(
        model, load_target("native"), folder / "bundle", image_size=(18, 27),
        debug_dump=folder / "dump", progress=lambda *report: reports.append(report),
    )  # fmt: skip
    return model.with_input_size(18, 27), folder / "bundle", folder / "dump", reports


def test_bundle_equals_the_reference(bundled: tuple) -> None:
    model, bundle, _, _ = bundled
    segmenter = runtime.load(bundle, num_threads=2)
    for seed in range(5):
        image = random_image(18, 27, seed)
        np.testing.assert_array_equal(segmenter.run(image), run_reference(model, image))


def test_manifest(bundled: tuple) -> None:
    model, bundle, _, _ = bundled
    manifest = runtime.load(bundle).manifest
    assert manifest.input.shape == (18, 27, 3)
    assert manifest.output.shape == (18, 27)
    assert manifest.model_config == model.config.to_dict()
    assert manifest.classes == model.classes
    assert manifest.kernels[0].startswith("patch_embed_residual_")
    assert manifest.kernels[-1] == "argmax_upsample_18x27"
    tokens, width = 1 + 5 * 7, 24
    # At least the widest pair of tensors alive at once: the residual stream and fc1's result.
    assert manifest.peak_activation_bytes >= tokens * (2 * width + 4 * width)


def test_progress(bundled: tuple) -> None:
    stages = list(dict.fromkeys(stage for stage, _, _ in bundled[3]))
    assert stages == ["tracing", "generating kernels", "compiling", "linking"]
    assert bundled[3][-1] == ("linking", 1, 1)


def test_debug_dump_is_readable(bundled: tuple) -> None:
    texts = {path.name: path.read_text() for path in bundled[2].iterdir()}
    graph = texts["00_graph.py"]
    assert (
        "encoder_blocks_0_fc1_linear: R.Tensor((36, 96), dtype=\"int32\") = R.iseg.linear("
        "encoder_blocks_0_norm2_layer_norm, encoder__blocks__0__fc1__weight, "
        "encoder__blocks__0__fc1__bias)"
    ) in graph
    assert "R.iseg.norm_linear_gelu(" in texts["01_fuse_epilogue.py"]
    assert "R.iseg." not in texts["02_lower_operators.py"]
    assert len(texts) == 14


def test_stock_intrinsics_are_never_imported(tmp_path: Path) -> None:
    # Importing them costs 40 seconds.
    model = save_model(random_quantized_model(tiny_config(depth=1)), tmp_path / "m.safetensors")
    arguments = ["compile", "--model", str(model), "--no-sample", "-q", "-o", str(tmp_path / "b")]
    script = (
        "import sys; from iseg_tvm.cli.main import main\n"
        f"assert main({arguments!r}) == 0\n"
        "assert 'tvm' in sys.modules and 'tvm.s_tir.tensor_intrin' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


FAMILIES = ["x86-avx512", "x86-vnni", "x86-amx", "rpi4", "rpi5", "aarch64-i8mm"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kernel_family_builds(name: str) -> None:
    model = random_quantized_model(tiny_config(decoder="linear", depth=1))
    built = build.build_library(model, load_target(name))
    assert built.lowered.kernels[-1] == "argmax_upsample_16x16"


def test_amx_equals_the_reference(tmp_path: Path) -> None:
    target = load_target("x86-amx")
    missing = sorted(target.features - read_host_cpu().features)
    if missing:
        pytest.skip(f"this machine has no {' '.join(missing)}")
    model = random_quantized_model(tiny_config(), 6)
    bundle = build.compile_bundle(model, target, tmp_path / "b", image_size=(18, 27))
    segmenter = runtime.load(bundle.path, num_threads=1)
    for seed in range(3):
        image = random_image(18, 27, seed)
        expected = run_reference(model.with_input_size(18, 27), image)
        np.testing.assert_array_equal(segmenter.run(image), expected)


def test_image_size_of_the_model_is_the_default(tmp_path: Path) -> None:
    model = random_quantized_model(tiny_config(decoder="linear", depth=1), 4)
    bundle = build.compile_bundle(model, load_target("x86-generic"), tmp_path / "b")
    assert bundle.manifest.image_size == (16, 16)


def test_missing_linker_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking.shutil, "which", lambda name: None)
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(build, "trace", lambda model: pytest.fail("traced"))
    model = random_quantized_model(tiny_config(depth=1))
    with pytest.raises(IsegError, match="no linker for aarch64"):
        build.compile_bundle(model, load_target("rpi4"), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_failed_link_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "link_command", lambda target: ["false"])
    model = random_quantized_model(tiny_config(decoder="linear", depth=1))
    with pytest.raises(IsegError, match="linking with false failed: exit status 1"):
        build.compile_bundle(model, load_target("x86-generic"), tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_kernels_the_cpu_cannot_run_are_refused(tmp_path: Path) -> None:
    text = (targets_dir() / "x86-avx2.toml").read_text()
    text = text.replace('isa = "avx2"', 'isa = "avx512vnni"')
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(IsegError, match="x86-64-v3 lacks avx512bw, avx512vnni"):
        build.tvm_target(load_target(str(tmp_path / "mine.toml")))


def test_unknown_cpu_is_refused(tmp_path: Path) -> None:
    text = (targets_dir() / "x86-avx2.toml").read_text().replace("x86-64-v3", "x86-64-v33")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(IsegError, match="LLVM knows no CPU 'x86-64-v33'"):
        build.tvm_target(load_target(str(tmp_path / "mine.toml")))


def test_model_that_is_not_integer_is_refused() -> None:
    class Wrong(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.to(torch.float32)

    with pytest.raises(IsegError, match="which is no integer operator"):
        frontend.trace_module(Wrong(), torch.zeros(4, 4, 3, dtype=torch.uint8))
