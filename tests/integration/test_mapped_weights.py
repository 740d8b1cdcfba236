"""A bundle's weights are read where its library is mapped; none is copied."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm import runtime
from iseg_tvm.build import build_library, compile_bundle
from iseg_tvm.bundle import read_bundle
from iseg_tvm.reference_model import run_reference
from iseg_tvm.targets import load_target
from tests.helpers import random_image, random_quantized_model, tiny_config


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled tiny model."""
    folder = tmp_path_factory.mktemp("mapped") / "bundle"
    compile_bundle(random_quantized_model(tiny_config(depth=1)), load_target("native"), folder)
    return folder


def _mapped(library: Path) -> list[tuple[int, int, str]]:
    """(start, end, permissions) of the library's mappings in this process."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(str(library)):
            addresses, permissions = line.split()[:2]
            start, end = (int(part, 16) for part in addresses.split("-"))
            found.append((start, end, permissions))
    return found


def test_weights_lie_in_read_only_pages_of_the_library(bundle: Path) -> None:
    segmenter = runtime.load(bundle)
    weights = runtime.mapped_weights(segmenter._ffi, str(read_bundle(bundle).library))
    arrays = [np.from_dlpack(weight) for weight in weights]
    places = _mapped(read_bundle(bundle).library.resolve())
    for array in arrays:
        place = array.ctypes.data
        assert place % 64 == 0
        assert [p for start, end, p in places if start <= place < end] == ["r--p"]


def test_weights_are_those_of_the_model(bundle: Path) -> None:
    model = random_quantized_model(tiny_config(depth=1))
    lifted = build_library(model, load_target("native"), lift=True).lowered.weights
    handle = ctypes.CDLL(str(read_bundle(bundle).library))
    assert ctypes.c_int64.in_dll(handle, "iseg_weight_count").value == len(lifted) > 0
    mapped = runtime.mapped_weights(runtime.tvm_runtime(), str(read_bundle(bundle).library))
    for tensor, weight in zip(lifted, mapped, strict=True):
        expected, array = tensor.numpy(), np.from_dlpack(weight)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(array, expected)


def test_executable_holds_no_weight(bundle: Path) -> None:
    """A weight would be there twice, and the copy would be loaded."""
    model = random_quantized_model(tiny_config(depth=1))
    weights = build_library(model, load_target("native"), lift=True).lowered.weights
    content = read_bundle(bundle).library.read_bytes()
    largest = max((tensor.numpy() for tensor in weights), key=lambda array: array.nbytes)
    assert content.count(largest.tobytes()) == 1


def test_class_map_is_the_reference_s(bundle: Path) -> None:
    model = random_quantized_model(tiny_config(depth=1))
    segmenter = runtime.load(bundle)
    for seed in range(2):
        image = random_image(*model.input_size, seed)
        np.testing.assert_array_equal(segmenter.run(image), run_reference(model, image))


def test_library_without_weights_still_loads(toy_bundle: Path) -> None:
    """Bundles of before hold constants in the virtual machine's executable."""
    segmenter = runtime.load(toy_bundle)
    image = np.full(segmenter.manifest.input.shape, 1, np.uint8)
    assert (segmenter.run(image) == 1).all()
