"""The integer-only model as an ordinary ``nn.Module`` over integer tensors.

It calls ``torch.ops.iseg.*``; ``torch.export`` of this module is what the compiler lowers, so
the PyTorch reference and the compiled graph are the same thing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.reference_model import runtime_tensors
from relay_ops import OPERATORS


class TorchBackend:
    """``Backend`` of the PyTorch operators."""

    def call(self, operator: str, *tensors: torch.Tensor, **attributes: Any) -> torch.Tensor:
        """Apply ``torch.ops.iseg.<operator>``."""
        ordered = [attributes[name] for name in OPERATORS[operator].attributes]
        return getattr(torch.ops.iseg, operator)(*tensors, *ordered)

    def concatenate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Stack rows."""
        return torch.cat([first, second])

    def rows(self, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop``."""
        return x[start:stop]


def _buffer_name(tensor_name: str) -> str:
    """``nn.Module`` buffers may not contain dots."""
    return tensor_name.replace(".", "__")


class IntegerSegmenter(nn.Module):
    """uint8 image (H, W, 3) of ``model.input_size`` to uint8 class map (H, W)."""

    def __init__(self, model: QuantizedModel) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(model.tensors)
        for name, tensor in runtime_tensors(model).items():
            self.register_buffer(_buffer_name(name), torch.from_numpy(tensor.copy()))

    def graph(self) -> IntegerGraph:
        """The wiring on this module's buffers."""
        tensors = {name: getattr(self, _buffer_name(name)) for name in self.names}
        return IntegerGraph(self.model, tensors, TorchBackend())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.graph().run(image)
