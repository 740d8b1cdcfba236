"""The ARM user space, and what is compiled once for all tests."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.artifact import QuantizedModel, load_model
from iseg_tvm.build import compile_bundle
from iseg_tvm.cli.main import main
from iseg_tvm.errors import IsegError
from iseg_tvm.images import load_photo, photo_to_array
from iseg_tvm.targets import load_target
from tests.arm.jobs import KernelLibrary, compile_kernels
from tests.arm.kernel_cases import collect
from tests.arm.userspace import REPOSITORY, PreparationError, UserSpace, prepare
from tests.helpers import random_quantized_model, tiny_config

Compiled = Callable[[str], Path]
DEMO = REPOSITORY / "demo"


@pytest.fixture(scope="session")
def user_space() -> UserSpace:
    """The emulated system; without it the tests are skipped, but fail in continuous integration."""
    try:
        return prepare()
    except (PreparationError, IsegError) as error:
        reason = f"no ARM user space: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kernel_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], KernelLibrary]:
    """Function of a target's name: all kernels compiled for it, once."""
    folder = tmp_path_factory.mktemp("kernels")
    cases = collect()
    return functools.cache(lambda target: compile_kernels(target, cases, folder))


@pytest.fixture(scope="session")
def small_model() -> QuantizedModel:
    """A model that has every operator, on an image that no patch size divides."""
    return random_quantized_model(tiny_config(depth=1), 3, input_size=(18, 27))


@pytest.fixture(scope="session")
def demo_model(tmp_path_factory: pytest.TempPathFactory) -> QuantizedModel:
    """The shipped demo model, quantized as ``make demo`` does."""
    path = tmp_path_factory.mktemp("demo") / "model.safetensors"
    checkpoint, photo = DEMO / "checkpoint", DEMO / "calibration.png"
    command = ["quantize", "--checkpoint", checkpoint, "--calibration", photo]
    command += ["--classes", DEMO / "classes.json", "-o", path]
    assert main([*map(str, command), "--quiet"]) == 0
    return load_model(path)


@pytest.fixture(scope="session")
def small_bundle(small_model: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Function of a target's name: the small model's bundle for it, compiled once."""
    return _compiled(small_model, tmp_path_factory.mktemp("small_bundles"), None)


@pytest.fixture(scope="session")
def demo_bundle(demo_model: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Function of a target's name: the demo model's bundle, with the photo, compiled once."""
    photo = photo_to_array(load_photo(DEMO / "photo.jpg"), demo_model.input_size)
    return _compiled(demo_model, tmp_path_factory.mktemp("demo_bundles"), photo)


def _compiled(model: QuantizedModel, folder: Path, sample: np.ndarray | None) -> Compiled:
    def compiled(target: str) -> Path:
        place = folder / target
        return compile_bundle(model, load_target(target), place, sample_image=sample).path

    return functools.cache(compiled)
