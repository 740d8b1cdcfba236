"""A tiny model, its tasks, and a log of a short tuning run."""

from __future__ import annotations

from pathlib import Path

import pytest

from iseg_tvm.artifact import QuantizedModel, save_model
from iseg_tvm.targets import TargetSpec, load_target
from iseg_tvm.tuning.measure import Timing
from iseg_tvm.tuning.run import Options, TunedTask, tune
from iseg_tvm.tuning.tasks import Task, extract_tasks
from tests.helpers import random_quantized_model, tiny_config

QUICK = Timing(turns=1, seconds=0.001)
TRIALS = 18


@pytest.fixture(scope="session")
def target() -> TargetSpec:
    """The host's best with a large space: AMX tiles leave few register blocks to choose."""
    native = load_target("native")
    return load_target("x86-vnni") if native.isa == "amx" else native


@pytest.fixture(scope="session")
def model() -> QuantizedModel:
    return random_quantized_model(tiny_config(depth=1, decoder="linear"))


@pytest.fixture(scope="session")
def model_file(model: QuantizedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(model, tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def tasks(model: QuantizedModel, target: TargetSpec) -> dict[str, Task]:
    """Tasks of the model by name."""
    return {task.name: task for task in extract_tasks(model, target)}


@pytest.fixture(scope="session")
def tuned(
    model: QuantizedModel, target: TargetSpec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[TunedTask]]:
    """(folder of logs, result) of a run with the XGBoost cost model and the evolutionary search."""
    logs = tmp_path_factory.mktemp("tuning_logs")
    rows = tune(
        model, target, logs / target.name / "tiny", Options(trials=TRIALS, timing=QUICK)
    )
    return logs, rows
