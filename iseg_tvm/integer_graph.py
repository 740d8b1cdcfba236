"""The data's way through the integer-only Segmenter, written once.

The same wiring runs on NumPy (``reference_model``) and on PyTorch (``integer_model``, which
``torch.export`` turns into the compiled graph): a backend supplies the operators of ``relay_ops``
plus ``concatenate`` and ``rows``, and the tensors by name (see ``artifact``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from iseg_tvm.artifact import QuantizedModel


class Backend(Protocol):
    """Operators on one array library; ``call`` takes tensors in order and attributes by name."""

    def call(self, operator: str, *tensors: Any, **attributes: Any) -> Any:
        """Apply ``iseg.<operator>``."""
        ...

    def concatenate(self, first: Any, second: Any) -> Any:
        """Stack rows."""
        ...

    def rows(self, x: Any, start: int, stop: int) -> Any:
        """Rows ``start`` to ``stop``."""
        ...


class IntegerGraph:
    """Wiring of one model on one backend.

    Parameters
    ----------
    model : configuration and scalars (its tensors are not read)
    tensors : the backend's tensors by the artifact's names; ``encoder.pos_embed`` already resized
    backend : the operators
    """

    def __init__(
        self, model: QuantizedModel, tensors: Mapping[str, Any], backend: Backend
    ) -> None:
        self.model, self.tensors, self.backend = model, tensors, backend

    def run(self, image: Any) -> Any:
        """uint8 image (H, W, 3) to uint8 class map (H, W)."""
        config, (height, width) = self.model.config, self.model.input_size
        scores = self.decode(self.encode(image))
        return self.backend.call(
            "argmax_upsample",
            scores,
            patch=config.encoder.patch_size,
            height=height,
            width=width,
        )

    def encode(self, image: Any) -> Any:
        """uint8 image to the encoder's final int8 features (prefix tokens + gh * gw, D)."""
        config, tensors = self.model.config.encoder, self.tensors
        accumulator = self.backend.call(
            "patch_embed",
            image,
            tensors["encoder.patch_embed.weight"],
            tensors["encoder.patch_embed.bias"],
            patch=config.patch_size,
            pad=list(self.model.pad),
        )
        patches = self._requantize("encoder.patch_embed", accumulator, "int16")
        patches = self.backend.call(
            "residual_add", tensors["encoder.pos_embed"], patches, skip_shift=0
        )
        stream = self.backend.concatenate(tensors["encoder.tokens"], patches)
        for i in range(config.depth):
            stream = self._block(f"encoder.blocks.{i}", stream)
        return self._layer_norm("encoder.norm", stream)

    def decode(self, features: Any) -> Any:
        """Encoder features to class scores (gh * gw, C), int16 (linear) or int32 (mask)."""
        config = self.model.config
        prefix = config.encoder.num_prefix_tokens
        rows, columns = config.grid_for(*self.model.input_size)
        features = self.backend.rows(features, prefix, prefix + rows * columns)
        if config.decoder.name == "linear":
            return self._linear("decoder.head", features, "int16")
        return self._mask_transformer(features, rows * columns)

    def _mask_transformer(self, features: Any, patches: int) -> Any:
        config, tensors = self.model.config, self.tensors
        stream = self._linear("decoder.proj_dec", features, "int16")
        stream = self.backend.concatenate(stream, tensors["decoder.cls_emb"])
        for i in range(config.decoder.num_layers):
            stream = self._block(f"decoder.blocks.{i}", stream)
        tokens = self._layer_norm("decoder.norm", stream)
        left = self._linear("decoder.proj_patch", self.backend.rows(tokens, 0, patches), "int8")
        right = self._classes(
            self.backend.rows(tokens, patches, patches + config.num_classes)
        )
        masks = self._requantize(
            "decoder.masks", self.backend.call("matmul", left, right), "int16"
        )
        return self._layer_norm("decoder.mask_norm", masks, dtype="int32")

    def _classes(self, tokens: Any) -> Any:
        """Class tokens to int8 mask embeddings; a model trained with L2 norm keeps it here.

        The patches' L2 norm is a positive factor per row, which the mask LayerNorm removes; only
        the classes' norms change the result, and there are few classes.
        """
        if not self.model.config.l2_norm:
            return self._linear("decoder.proj_classes", tokens, "int8")
        embedded = self._linear("decoder.proj_classes", tokens, "int16")
        return self._layer_norm("decoder.class_norm", embedded, center=False)

    def _block(self, name: str, stream: Any) -> Any:
        tensors, scalars = self.tensors, self.model.scalars
        x = self._layer_norm(f"{name}.norm1", stream)
        x = self._linear(f"{name}.qkv", x, "int8")
        x = self.backend.call(
            "shiftmax_attention",
            x,
            tensors[f"{name}.attention.exp_multiplier"],
            tensors[f"{name}.attention.exp_shift"],
            tensors[f"{name}.attention.out_multiplier"],
            tensors[f"{name}.attention.out_shift"],
            fraction_bits=scalars[f"{name}.attention.fraction_bits"],
            post_shift=scalars[f"{name}.attention.post_shift"],
            polynomial=self.model.polynomial,
        )
        x = self._linear(f"{name}.proj", x, "int16")
        stream = self.backend.call(
            "residual_add", stream, x, skip_shift=scalars[f"{name}.skip_shift1"]
        )
        x = self._layer_norm(f"{name}.norm2", stream)
        x = self._linear(f"{name}.fc1", x, "int8")
        x = self.backend.call("shift_gelu", x, tensors[f"{name}.activation.table"])
        x = self._linear(f"{name}.fc2", x, "int16")
        return self.backend.call(
            "residual_add", stream, x, skip_shift=scalars[f"{name}.skip_shift2"]
        )

    def _linear(self, name: str, x: Any, dtype: str) -> Any:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return self._requantize(name, self.backend.call("linear", x, weight, bias), dtype)

    def _requantize(self, name: str, accumulator: Any, dtype: str) -> Any:
        return self.backend.call(
            "requantize",
            accumulator,
            self.tensors[f"{name}.multiplier"],
            self.tensors[f"{name}.shift"],
            post_shift=self.model.scalars[f"{name}.post_shift"] if dtype == "int8" else 0,
            dtype=dtype,
        )

    def _layer_norm(self, name: str, x: Any, dtype: str = "int8", center: bool = True) -> Any:
        return self.backend.call(
            "layer_norm",
            x,
            self.tensors[f"{name}.gamma"],
            self.tensors[f"{name}.beta"],
            eps=self.model.scalars[f"{name}.eps"],
            shift=self.model.scalars[f"{name}.shift"] if dtype == "int8" else 0,
            center=center,
            dtype=dtype,
        )
