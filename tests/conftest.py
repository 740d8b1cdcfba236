"""Fixtures that tests of several folders share."""

from pathlib import Path

import numpy as np
import pytest

from iseg_tvm.bundle import Manifest, TensorInfo, write_bundle
from iseg_tvm.sample import Sample
from iseg_tvm.targets import TargetSpec, load_target

TOY_SIZE = (8, 6)  # height, width
TOY_CLASSES = ("dark", "dim", "bright")


def toy_manifest(target: TargetSpec) -> Manifest:
    """Return the manifest of the toy model, which maps a pixel to ``min(max(R, G, B), 2)``."""
    return Manifest(
        model_name="toy",
        model_config={"depth": 0},
        classes=TOY_CLASSES,
        palette=((0, 0, 0), (0, 128, 0), (255, 255, 0)),
        target=target,
        tvm_version="0.27.0.post1",
        iseg_tvm_version="0.1.0",
        input=TensorInfo((*TOY_SIZE, 3), "uint8"),
        output=TensorInfo(TOY_SIZE, "uint8"),
    )


@pytest.fixture(scope="session")
def toy_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shared library with the toy model, compiled for this machine."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType((*TOY_SIZE, 3), "uint8"))
    with builder.function("main", [image]):
        with builder.dataflow():
            brightest = builder.emit(relax.op.max(image, axis=2))
            two = relax.const(2, "uint8")
            result = builder.emit_output(relax.op.minimum(brightest, two))
        builder.emit_func_output(result)
    target = tvm.target.Target(load_target("native").tvm_target_dict())
    path = tmp_path_factory.mktemp("toy") / "toy.so"
    relax.build(builder.get(), target).export_library(str(path))
    return path


@pytest.fixture
def toy_bundle(toy_library: Path, tmp_path: Path) -> Path:
    """A bundle folder with the toy model, to run or to damage."""
    write_bundle(tmp_path / "bundle", toy_library, toy_manifest(load_target("native")))
    return tmp_path / "bundle"


@pytest.fixture
def toy_bundle_with_sample(toy_library: Path, tmp_path: Path) -> Path:
    """A bundle folder with the toy model, a picture and its class map."""
    image = np.random.default_rng(0).integers(0, 4, (*TOY_SIZE, 3), dtype=np.uint8)
    sample = Sample(image, np.minimum(image.max(axis=2), 2))
    folder = tmp_path / "bundle_with_sample"
    write_bundle(folder, toy_library, toy_manifest(load_target("native")), sample)
    return folder
