"""``torch.export``: the integer model keeps its operators, and wrong types are refused in it."""

import pytest
import torch

from iseg_tvm.integer_model import IntegerSegmenter
from tests.helpers import random_image, random_quantized_model, tiny_config
from tests.ops import support


def test_exported_model_is_made_of_integer_operators() -> None:
    model = random_quantized_model(tiny_config(l2_norm=True), input_size=(19, 30))
    image = torch.from_numpy(random_image(19, 30))
    program = torch.export.export(IntegerSegmenter(model), (image,))
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    names = {str(node.target) for node in calls}
    structural = {name for name in names if not name.startswith("iseg.")}
    assert structural <= {"aten.cat.default", "aten.slice.Tensor"}
    for operator in ("patch_embed", "linear", "requantize", "layer_norm", "shiftmax_attention"):
        assert f"iseg.{operator}.default" in names
    dtypes = {node.meta["val"].dtype for node in program.graph.nodes if "val" in node.meta}
    assert not any(dtype.is_floating_point for dtype in dtypes)
    assert torch.equal(program.module()(image), IntegerSegmenter(model)(image))


def test_export_refuses_wrong_types_readably() -> None:
    class Wrong(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.iseg.residual_add(x, x, 0)

    x = torch.from_numpy(support.integers(0, "int8", 2, 3))
    message = r"iseg\.residual_add\(int8\[2, 3\], int8\[2, 3\]\): 'skip'"
    with pytest.raises(Exception, match=message):
        torch.export.export(Wrong(), (x,))
