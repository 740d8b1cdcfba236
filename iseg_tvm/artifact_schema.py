"""Which tensors and scalars a quantized model must hold (names: see ``iseg_tvm.artifact``)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from iseg_tvm.models.config import SegmenterConfig
from iseg_tvm.operator_limits import table_groups

TensorTypes = dict[str, tuple[str, tuple[int, ...]]]
"""Name -> (dtype, shape)."""


class _Schema:
    """Collects the types of one model's tensors and the names of its scalars."""

    def __init__(self, config: SegmenterConfig) -> None:
        self.tensors: TensorTypes = {}
        self.grouped: dict[str, tuple[int, ...]] = {}  # shapes that tables may have instead
        self.scalars: list[str] = []
        encoder, decoder = config.encoder, config.decoder
        width, classes = encoder.embed_dim, config.num_classes
        rows, columns = config.grid_size
        self._linear("encoder.patch_embed", width, 3 * encoder.patch_size**2, "int16")
        self.tensors["encoder.pos_embed"] = "int16", (rows * columns, width)
        self.tensors["encoder.tokens"] = "int16", (encoder.num_prefix_tokens, width)
        hidden = int(width * encoder.mlp_ratio)
        for i in range(encoder.depth):
            self._block(f"encoder.blocks.{i}", width, encoder.num_heads, hidden)
        self._norm("encoder.norm", width)
        if decoder.name == "linear":
            self._linear("decoder.head", classes, width, "int16")
            return
        self._linear("decoder.proj_dec", width, width, "int16")
        self.tensors["decoder.cls_emb"] = "int16", (classes, width)
        hidden = int(width * decoder.mlp_ratio)
        for i in range(decoder.num_layers):
            self._block(f"decoder.blocks.{i}", width, decoder.num_heads, hidden)
        self._norm("decoder.norm", width)
        self._linear("decoder.proj_patch", width, width, "int8")
        self._linear("decoder.proj_classes", width, width, "int16" if config.l2_norm else "int8")
        if config.l2_norm:
            self._norm("decoder.class_norm", width)
        self._requantize("decoder.masks", classes, "int16")
        self._norm("decoder.mask_norm", classes, shift=False)

    def _requantize(self, name: str, columns: int, dtype: str) -> None:
        self.tensors[f"{name}.multiplier"] = "int16", (columns,)
        self.tensors[f"{name}.shift"] = "int8", (columns,)
        if dtype == "int8":
            self.scalars.append(f"{name}.post_shift")

    def _linear(self, name: str, columns: int, inner: int, dtype: str) -> None:
        self.tensors[f"{name}.weight"] = "int8", (columns, inner)
        self.tensors[f"{name}.bias"] = "int32", (columns,)
        self._requantize(name, columns, dtype)

    def _norm(self, name: str, width: int, *, shift: bool = True) -> None:
        self.tensors[f"{name}.gamma"] = "int16", (width,)
        self.tensors[f"{name}.beta"] = "int32", (width,)
        self.scalars += [f"{name}.eps", f"{name}.shift"] if shift else [f"{name}.eps"]

    def _block(self, name: str, width: int, heads: int, hidden: int) -> None:
        self._norm(f"{name}.norm1", width)
        self._linear(f"{name}.qkv", 3 * width, width, "int8")
        for part in ("exp", "out"):
            self.tensors[f"{name}.attention.{part}_multiplier"] = "int16", (heads,)
            self.tensors[f"{name}.attention.{part}_shift"] = "int8", (heads,)
        self.scalars += [f"{name}.attention.fraction_bits", f"{name}.attention.post_shift"]
        self._linear(f"{name}.proj", width, width, "int16")
        self._norm(f"{name}.norm2", width)
        self._linear(f"{name}.fc1", hidden, width, "int8")
        self.tensors[f"{name}.activation.table"] = "int8", (1, 256)
        self.grouped[f"{name}.activation.table"] = (table_groups(hidden), 256)
        self._linear(f"{name}.fc2", width, hidden, "int16")
        self.scalars += [f"{name}.skip_shift1", f"{name}.skip_shift2"]


def schema_problem(
    config: SegmenterConfig, tensors: Mapping[str, np.ndarray], scalars: Mapping[str, int]
) -> str:
    """Return the first difference from the architecture in words, or an empty string."""
    schema = _Schema(config)
    for name, (dtype, shape) in schema.tensors.items():
        if name not in tensors:
            return f"tensor {name} is missing"
        found = tensors[name]
        shapes = dict.fromkeys((shape, schema.grouped.get(name, shape)))
        if found.dtype.name != dtype or found.shape not in shapes:
            given = f"{found.dtype.name}{list(found.shape)}"
            wanted = " or ".join(f"{dtype}{list(s)}" for s in shapes)
            return f"tensor {name} is {given}, its architecture needs {wanted}"
    for name in tensors:
        if name not in schema.tensors:
            return f"tensor {name} is not part of its architecture"
    for name in schema.scalars:
        if name not in scalars:
            return f"scalar {name} is missing"
    return ""
