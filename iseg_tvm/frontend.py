"""From the quantized model to a Relax module that a person can read.

``torch.export`` traces the PyTorch integer model, so what is compiled is what the PyTorch reference
computes. The traced graph holds only the operators of ``relay_ops``, row concatenation and row
slices; each node becomes one Relax binding named after its layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import tvm
from torch import fx
from tvm import relax

from iseg_tvm import graph_ops
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.errors import IsegError
from iseg_tvm.integer_model import IntegerSegmenter
from relay_ops import OPERATORS

Expr = Any


def lower_to_relax(model: QuantizedModel) -> tvm.IRModule:
    """Relax module of a quantized model, weights bound as constants.

    Returns
    -------
    IRModule with ``main(image: uint8 (H, W, 3)) -> uint8 (H, W)`` for ``model.input_size``
    """
    module, weights = trace(model)
    return bind_weights(module, weights)


def bind_weights(
    module: tvm.IRModule, weights: Mapping[str, tvm.runtime.Tensor]
) -> tvm.IRModule:
    """Replace the parameters of ``main`` that are weights by constants."""
    return relax.transform.BindParams("main", dict(weights))(module)


def trace(model: QuantizedModel) -> tuple[tvm.IRModule, dict[str, tvm.runtime.Tensor]]:
    """Relax module whose weights are parameters with the layers' names, and the weights.

    This is the form to read: ``print(trace(model)[0])``.
    """
    module = IntegerSegmenter(model)
    height, width = model.input_size
    return trace_module(module, torch.zeros(height, width, 3, dtype=torch.uint8))


def trace_module(
    module: torch.nn.Module, example: torch.Tensor
) -> tuple[tvm.IRModule, dict[str, tvm.runtime.Tensor]]:
    """As :func:`trace`, for any module of integer operators with one input and one output.

    Raises
    ------
    IsegError
        If the module does something that is not an integer operator.
    """
    program = torch.export.export(module, (example,))
    return _Translator(program).translate()


class _Translator:
    """One FX graph to one Relax function."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.buffers = dict(program.named_buffers())
        self.targets = dict(program.graph_signature.inputs_to_buffers)
        self.values: dict[fx.Node, Expr] = {}
        self.weights: dict[str, tvm.runtime.Tensor] = {}
        self.builder = relax.BlockBuilder()
        self.handlers: dict[Any, Callable[[fx.Node], Expr]] = {
            torch.ops.aten.cat.default: self._concatenate,
            torch.ops.aten.slice.Tensor: self._rows,
        }

    def translate(self) -> tuple[tvm.IRModule, dict[str, tvm.runtime.Tensor]]:
        """Translate the whole graph."""
        nodes = list(self.program.graph.nodes)
        parameters = [self._parameter(n) for n in nodes if n.op == "placeholder" and n.users]
        # Relax wants the image first; torch.export lists buffers before inputs.
        parameters.sort(key=lambda v: str(v.name) in self.weights)
        calls = [n for n in nodes if n.op == "call_function"]
        foreign = [str(n.target) for n in calls if not self._is_known(n.target)]
        if foreign:
            raise IsegError(f"the traced model calls {foreign[0]}, which is no integer operator")
        result = next(n for n in nodes if n.op == "output").args[0][0]
        with self.builder.function("main", parameters):
            with self.builder.dataflow():
                for node in calls:
                    emit = self.builder.emit_output if node is result else self.builder.emit
                    self.values[node] = emit(self._call(node), self._name(node))
            self.builder.emit_func_output(self.values[result])
        return self.builder.get(), self.weights

    def _parameter(self, node: fx.Node) -> relax.Var:
        value = node.meta["val"]
        name = self.targets.get(node.name, node.name)
        dtype = str(value.dtype).removeprefix("torch.")
        if name in self.buffers:
            self.weights[name] = tvm.runtime.tensor(self.buffers[name].contiguous().numpy())
        variable = relax.Var(name, relax.TensorType(tuple(value.shape), dtype))
        self.values[node] = variable
        return variable

    def _name(self, node: fx.Node) -> str:
        """``<layer>_<operator>`` where an argument is a layer's weight."""
        operator = str(node.name).rstrip("0123456789").rstrip("_")
        for argument in node.all_input_nodes:
            target = self.targets.get(argument.name, "")
            layer, _, _ = target.rpartition("__")
            if layer and node.target not in self.handlers:
                name = layer.replace("__", "_")
                return name if name.endswith(operator) else f"{name}_{operator}"
        return operator

    def _is_known(self, target: Any) -> bool:
        return target in self.handlers or getattr(target, "namespace", "") == "iseg"

    def _call(self, node: fx.Node) -> Expr:
        if node.target in self.handlers:
            return self.handlers[node.target](node)
        operator = OPERATORS[node.target._opname]
        count = len(operator.tensors)
        tensors = [self.values[argument] for argument in node.args[:count]]
        values = dict(zip(operator.attributes, node.args[count:], strict=True))
        return graph_ops.call(operator.name, tensors, values)

    def _concatenate(self, node: fx.Node) -> Expr:
        return relax.op.concat([self.values[argument] for argument in node.args[0]], axis=0)

    def _rows(self, node: fx.Node) -> Expr:
        x, axis, start, stop = node.args
        value = self.values[x]
        length = int(value.ty.shape[axis])
        return relax.op.strided_slice(value, [axis], [start], [min(stop, length)])
