"""Other runtimes on the same product: ONNX Runtime and LiteRT (XNNPACK), their aarch64 wheels."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arm.kernels import Shape, linear
from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_dir
from tests.arm.userspace import PLATFORMS

PACKAGES = ("onnxruntime==1.32.0", "ai-edge-litert==2.3.0", "flatbuffers>=25")
MARKER = "prepared"


def prepare_site(folder: Path) -> Path:
    """Download the wheels for aarch64 and unpack them once; return the folder.

    Raises
    ------
    IsegError
        pip found none.
    """
    if (folder / MARKER).is_file():
        return folder
    with atomic_dir(folder, marker=MARKER) as fresh:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--python-version", "3.11", "--dest", str(fresh)]
        command += [f"--platform={p}" for p in [*PLATFORMS, "manylinux_2_27_aarch64"]]
        process = subprocess.run(
            [*command, *PACKAGES], capture_output=True, text=True, check=False
        )
        if process.returncode:
            words = process.stderr.strip().splitlines()[-1:]
            raise IsegError(f"the peers' wheels cannot be had: {' '.join(words)}")
        for wheel in fresh.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(fresh)
            wheel.unlink()
        (fresh / MARKER).touch()
    return folder


@dataclass(frozen=True)
class Peer:
    """A runtime and the operator it is given; ``write`` puts the model and ``x.npy`` into a folder.

    Attributes
    ----------
    requantizes : the result is int8, as ours; else int32 and the work of an epilogue is left out
    """

    name: str
    engine: str
    requantizes: bool
    write: Callable[[Shape, Path, Path], None]


def _onnx_model(nodes: list[Any], constants: dict[str, np.ndarray], shape: Shape, out: int) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, columns = shape
    graph = helper.make_graph(
        nodes, "product",
        [helper.make_tensor_value_info("x", TensorProto.INT8, (rows, inner))],
        [helper.make_tensor_value_info("y", out, (rows, columns))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _write_matmul_integer(shape: Shape, folder: Path, site: Path) -> None:
    import onnx

    given = linear(shape).tensors
    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    constants = {"w": np.ascontiguousarray(given["weight"].T)}
    onnx.save(_onnx_model([node], constants, shape, onnx.TensorProto.INT32), folder / "model.onnx")
    np.save(folder / "x.npy", given["x"])


def _write_qlinear_matmul(shape: Shape, folder: Path, site: Path) -> None:
    import onnx

    given, columns = linear(shape).tensors, shape[2]
    zeros = np.zeros(columns, np.int8)
    constants = {
        "w": np.ascontiguousarray(given["weight"].T),
        "scale": np.float32(0.02),
        "zero": np.int8(0),
        "w_scale": np.full(columns, 0.01, np.float32),
        "w_zero": zeros,
        "y_scale": np.float32(1.0),
    }
    names = ["x", "scale", "zero", "w", "w_scale", "w_zero", "y_scale", "zero"]
    node = onnx.helper.make_node("QLinearMatMul", names, ["y"])
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    onnx.save(_onnx_model([node], arrays, shape, onnx.TensorProto.INT8), folder / "model.onnx")
    np.save(folder / "x.npy", given["x"])


def _write_fully_connected(shape: Shape, folder: Path, site: Path) -> None:
    """An int8 FULLY_CONNECTED, weights quantized per channel, built with LiteRT's own schema."""
    sys.path.insert(0, str(site))
    try:
        flatbuffers = importlib.import_module("flatbuffers")
        schema = _load_schema(site)
    finally:
        sys.path.remove(str(site))
    given, (rows, inner, columns) = linear(shape).tensors, shape
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT() for _ in range(5)]
    model.buffers[2].data = given["weight"].view(np.uint8).reshape(-1)
    model.buffers[3].data = given["bias"].view(np.uint8).reshape(-1)

    def tensor(name: str, size: tuple[int, ...], kind: int, buffer: int, scales: Any) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(size), kind, buffer
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = list(scales)
        made.quantization.zeroPoint = [0] * len(made.quantization.scale)
        made.quantization.quantizedDimension = 0
        return made

    kinds, scales = schema.TensorType, np.full(columns, 0.01, np.float32)
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", (rows, inner), kinds.INT8, 1, [0.02]),
        tensor("w", (columns, inner), kinds.INT8, 2, scales),
        tensor("b", (columns,), kinds.INT32, 3, scales * np.float32(0.02)),
        tensor("y", (rows, columns), kinds.INT8, 4, [1.0]),
    ]
    graph.inputs, graph.outputs = [0], [3]
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.operators = [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    model.operatorCodes, model.subgraphs = [code], [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "model.tflite").write_bytes(bytes(builder.Output()))
    np.save(folder / "x.npy", given["x"])


def _load_schema(site: Path) -> Any:
    """LiteRT's generated schema alone: its package imports a library for another CPU."""
    import importlib.util

    (path,) = site.glob("ai_edge_litert/schema_py_generated.py")
    spec = importlib.util.spec_from_file_location("litert_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PEERS = (
    Peer("LiteRT 2.3.0, XNNPACK, FULLY_CONNECTED", "litert", True, _write_fully_connected),
    Peer("ONNX Runtime 1.32.0, QLinearMatMul", "onnxruntime", True, _write_qlinear_matmul),
    Peer("ONNX Runtime 1.32.0, MatMulInteger", "onnxruntime", False, _write_matmul_integer),
)
