"""What is measured: our library and every form of the other runtimes, as plain records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from iseg_tvm.errors import IsegError

OURS = "iseg-tvm int8"


@dataclass(frozen=True)
class Engine:
    """One runtime with one form of the model.

    Attributes
    ----------
    name : as in the tables
    runtime : what a worker loads it with
    precision : of the linear layers; ``fp32``, ``bf16`` or ``int8``
    file : which prepared file it takes, see `peer_files`
    hint : OpenVINO's INFERENCE_PRECISION_HINT
    min_agreement : share of the pixels that must have the float model's class
    """

    name: str
    runtime: Literal["iseg-tvm", "onnxruntime", "openvino"]
    precision: str
    file: str
    hint: str | None = None
    min_agreement: float = 0.6


ENGINES = (
    Engine(OURS, "iseg-tvm", "int8", "bundle"),
    Engine("ONNX Runtime fp32", "onnxruntime", "fp32", "fused", min_agreement=0.999),
    Engine("ONNX Runtime int8 dynamic", "onnxruntime", "int8", "dynamic"),
    Engine("ONNX Runtime int8 QDQ", "onnxruntime", "int8", "qdq"),
    Engine("OpenVINO fp32", "openvino", "fp32", "plain", "f32", 0.999),
    Engine("OpenVINO bf16", "openvino", "bf16", "plain", "bf16", 0.9),
    Engine("OpenVINO int8 + f32", "openvino", "int8", "nncf", "f32"),
    Engine("OpenVINO int8 + bf16", "openvino", "int8", "nncf", "bf16"),
)
"""The last two are one NNCF model; the hint says in what its other operators compute."""


def find_engines(words: list[str] | None) -> list[Engine]:
    """Engines whose name contains one of the words; all without words; ours is always there.

    Raises
    ------
    IsegError
        A word that no name contains.
    """
    for word in words or ():
        if not any(word.lower() in engine.name.lower() for engine in ENGINES):
            names = ", ".join(engine.name for engine in ENGINES)
            raise IsegError(f"no engine is named like {word!r}", f"engines: {names}")
    return [
        engine
        for engine in ENGINES
        if not words
        or engine.name == OURS
        or any(word.lower() in engine.name.lower() for word in words)
    ]
