"""From a quantized model and a target to a bundle."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

import iseg_tvm
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.bundle import Bundle, Manifest, TensorInfo, write_bundle
from iseg_tvm.errors import IsegError
from iseg_tvm.frontend import bind_weights, trace
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.linking import export_library, link_command
from iseg_tvm.palettes import palette_for
from iseg_tvm.passes.check_integer_only import check_llvm_integer_only
from iseg_tvm.passes.lower_operators import FindSchedule, default_schedules
from iseg_tvm.passes.pipeline import LoweredModel, dump, lower_model
from iseg_tvm.reference_model import run_reference
from iseg_tvm.sample import Sample
from iseg_tvm.schedules import load_schedules
from iseg_tvm.targets import TargetSpec, check_llvm_knows

Progress = Callable[[str, int, int], None]
"""(stage, steps done, steps in all)."""


@dataclass(frozen=True)
class BuiltModel:
    """A compiled model: TVM's executable and what the pipeline found out."""

    executable: Any
    lowered: LoweredModel


def tvm_target(target: TargetSpec) -> tvm.target.Target:
    """TVM's target, checked: LLVM ends the process on an instruction that the CPU lacks.

    Raises
    ------
    IsegError
        LLVM does not know the CPU, or the CPU lacks an instruction of the kernel family.
    """
    check_llvm_knows(target)
    result = tvm.target.Target(target.tvm_target_dict())
    available = {str(name) for name in tvm.target.codegen.llvm_get_cpu_features(result)}
    missing = [name for name in get_isa(target.isa).llvm_features if name not in available]
    if missing:
        raise IsegError(
            f"target {target.name}: {target.mcpu} lacks {', '.join(missing)}, which the kernels "
            f"{target.isa!r} need",
            "choose another [kernels] isa, or add the feature to mattr",
        )
    return result


def build_library(
    model: QuantizedModel,
    target: TargetSpec,
    *,
    debug_dump: Path | None = None,
    progress: Progress | None = None,
    schedules: FindSchedule = default_schedules,
    lift: bool = False,
) -> BuiltModel:
    """Compile ``model`` for its ``input_size``.

    Parameters
    ----------
    model : the integer model
    target : what to compile for
    debug_dump : folder that receives the module's text after each phase
    progress : told of each stage
    schedules : gives the blocking of each kernel
    lift : constants become parameters of ``main``

    Raises
    ------
    IsegError
        The target is inconsistent, an operator has no kernel, or something is not integer.
    """
    report = progress or (lambda stage, done, total: None)
    llvm = tvm_target(target)
    report("tracing", 0, 1)
    graph, weights = trace(model)
    dump(graph, debug_dump, 0, "graph")
    report("tracing", 1, 1)
    report("generating kernels", 0, 1)
    isa = get_isa(target.isa)
    bound = bind_weights(graph, weights)
    lowered = lower_model(bound, isa, llvm, debug_dump, schedules, lift=lift)
    report("generating kernels", 1, 1)
    report("compiling", 0, 1)
    executable = relax.build(lowered.module, llvm, relax_pipeline=None)
    for library in executable.mod.imports:
        check_llvm_integer_only(library.inspect_source("ll"))
    report("compiling", 1, 1)
    return BuiltModel(executable, lowered)


def compile_bundle(
    model: QuantizedModel,
    target: TargetSpec,
    directory: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    debug_dump: Path | None = None,
    progress: Progress | None = None,
    schedules: FindSchedule | None = None,
    sample_image: np.ndarray | None = None,
) -> Bundle:
    """Compile ``model`` and write its bundle; after an error nothing is left.

    Parameters
    ----------
    model : the integer model
    target : what to compile for
    directory : the bundle folder
    image_size : (height, width) of the images; ``model.input_size`` if left out
    debug_dump : folder that receives the module's text after each phase
    progress : told of each stage
    schedules : gives the blocking of each kernel; the project's tuning logs if left out
    sample_image : uint8 (H, W, 3), put into the bundle with its class map by the NumPy reference

    Raises
    ------
    IsegError
        As :func:`build_library`, or no linker is installed, or the folder cannot be written.
    """
    link_command(target)  # a missing linker is found before minutes of work
    if image_size is not None:
        model = model.with_input_size(*image_size)
    report = progress or (lambda stage, done, total: None)
    built = build_library(
        model,
        target,
        debug_dump=debug_dump,
        progress=progress,
        schedules=load_schedules(target) if schedules is None else schedules,
        lift=True,
    )
    manifest = _manifest(model, target, built.lowered)
    sample = None
    if sample_image is not None:
        report("computing the expected output", 0, 1)
        sample = Sample(sample_image, run_reference(model, sample_image))
        report("computing the expected output", 1, 1)
    report("linking", 0, 1)
    with tempfile.TemporaryDirectory(prefix="iseg-") as folder:
        library = Path(folder) / "model.so"
        weights = [tensor.numpy() for tensor in built.lowered.weights]
        export_library(built.executable, target, library, weights)
        bundle = write_bundle(directory, library, manifest, sample)
    report("linking", 1, 1)
    return bundle


def _manifest(model: QuantizedModel, target: TargetSpec, lowered: LoweredModel) -> Manifest:
    config = model.config
    generic = palette_for(config.num_classes, config.dataset)
    height, width = model.input_size
    return Manifest(
        model_name=f"{config.encoder.name}+{config.decoder.name}",
        model_config=config.to_dict(),
        classes=model.classes or generic.classes,
        palette=model.palette or generic.colors,
        target=target,
        tvm_version=importlib.metadata.version("apache-tvm"),
        iseg_tvm_version=iseg_tvm.__version__,
        input=TensorInfo((height, width, 3), "uint8"),
        output=TensorInfo((height, width), "uint8"),
        git_commit=git_commit(),
        llvm_version=str(tvm.target.codegen.llvm_version_major()),
        peak_activation_bytes=lowered.peak_activation_bytes,
        kernels=lowered.kernels,
    )


def git_commit() -> str | None:
    """Commit of the checkout that this package lies in, or None."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()
