"""The whole integer-only model in NumPy: the normative result (see docs/integer_semantics.md)."""

from __future__ import annotations

from typing import Any

import numpy as np

from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.integer_graph import IntegerGraph
from iseg_tvm.position_embedding import resize_position_embedding
from relay_ops import OPERATORS


class NumpyBackend:
    """``Backend`` of the operators' normative NumPy functions."""

    def call(self, operator: str, *tensors: np.ndarray, **attributes: Any) -> np.ndarray:
        """Apply an operator's reference."""
        return OPERATORS[operator].reference(*tensors, **attributes)

    def concatenate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Stack rows."""
        return np.concatenate([first, second])

    def rows(self, x: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``."""
        return x[start:stop]


def runtime_tensors(model: QuantizedModel) -> dict[str, np.ndarray]:
    """The model's tensors with the position embedding resized to ``model.input_size``."""
    config = model.config
    embedding = resize_position_embedding(
        model.tensors["encoder.pos_embed"], config.grid_size, config.grid_for(*model.input_size)
    )
    return {**model.tensors, "encoder.pos_embed": embedding}


def reference_graph(model: QuantizedModel) -> IntegerGraph:
    """The model wired on NumPy; ``.encode`` gives the features, ``.run`` the class map."""
    return IntegerGraph(model, runtime_tensors(model), NumpyBackend())


def run_reference(model: QuantizedModel, image: np.ndarray) -> np.ndarray:
    """uint8 image (H, W, 3) of ``model.input_size`` to uint8 class map (H, W)."""
    return reference_graph(model).run(image)
