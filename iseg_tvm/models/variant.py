"""The ``variant.yml`` of the official Segmenter release, to a configuration and back.

What the official format cannot say (no L2 norm, other head counts, other MLP widths) is kept
under one more key, ``iseg``, which the official code ignores.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import yaml

from iseg_tvm.errors import IsegError
from iseg_tvm.models.config import DecoderConfig, EncoderConfig, SegmenterConfig, decoder_preset

_EXTRA = "iseg"
_TUPLE_TAG = "tag:yaml.org,2002:python/tuple"


class _VariantLoader(yaml.SafeLoader):
    """The safe loader, and tuples (read as lists): the official `image_size` is one."""


def _sequence(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    """Read a tuple as a list; PyYAML refuses nodes that are no sequence."""
    return loader.construct_sequence(cast(yaml.SequenceNode, node))


_VariantLoader.add_constructor(_TUPLE_TAG, _sequence)


def read_variant(path: Path) -> SegmenterConfig:
    """Read ``variant.yml``.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    SegmenterConfig
        The model's configuration.

    Raises
    ------
    IsegError
        The file is missing, is no YAML, asks for Python objects, or lacks or misstates a field.
    """
    if not path.is_file():
        raise IsegError(
            f"{path} is missing",
            "the official release ships it beside checkpoint.pth: copy it into the same folder",
        )
    try:
        # _VariantLoader derives from SafeLoader: no tag of it runs code.
        variant = yaml.load(path.read_text(encoding="utf-8"), Loader=_VariantLoader)
    except yaml.constructor.ConstructorError as error:
        raise IsegError(
            f"{path} is refused: {error.problem}",
            "only plain values and tuples are read; a tag of a Python object could run code",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise IsegError(f"{path} cannot be read as YAML: {reason}") from error
    if not isinstance(variant, Mapping) or not isinstance(variant.get("net_kwargs"), Mapping):
        raise IsegError(f"{path} has no section net_kwargs", "is it a variant.yml of Segmenter?")
    try:
        return _config(variant)
    except KeyError as error:
        raise IsegError(f"{path}: {error.args[0]} is missing") from error
    except IsegError as error:
        raise IsegError(f"{path}: {error.message}", error.hint) from error


def _config(variant: Mapping[str, Any]) -> SegmenterConfig:
    """Map the official names; raises KeyError with the name of a missing field."""
    net = variant["net_kwargs"]
    decoder = _section(net, "decoder", "net_kwargs.decoder")
    extra = _section(variant, _EXTRA, _EXTRA) if _EXTRA in variant else {}
    dataset = _section(variant, "dataset_kwargs", "") if "dataset_kwargs" in variant else {}
    if extra.get("version", 1) != 1:
        raise IsegError(
            f"{_EXTRA}.version is {extra['version']!r}, only 1 is known",
            "the checkpoint was written by a newer version of iseg-tvm: update",
        )
    size = _field(net, "image_size")
    values = {
        "encoder": {
            "name": _field(net, "backbone"),
            "patch_size": _field(net, "patch_size"),
            "embed_dim": _field(net, "d_model"),
            "depth": _field(net, "n_layers"),
            "num_heads": _field(net, "n_heads"),
            "distilled": net.get("distilled", False),
            "normalization": _field(net, "normalization"),
            "dropout": net.get("dropout", 0.0),
            "drop_path_rate": net.get("drop_path_rate", 0.0),
            **_section(extra, "encoder", ""),
        },
        "decoder": {
            **_decoder(decoder, _field(net, "d_model")),
            **_section(extra, "decoder", ""),
        },
        "num_classes": _field(net, "n_cls"),
        "image_size": [size, size] if isinstance(size, int) else size,
        "l2_norm": extra.get("l2_norm", True),
        "dataset": dataset.get("dataset", ""),
    }
    return SegmenterConfig.from_dict(values)


def _field(net: Mapping[str, Any], name: str) -> Any:
    """Return a required field of ``net_kwargs``."""
    if name not in net:
        raise KeyError(f"net_kwargs.{name}")
    return net[name]


def _section(parent: Mapping[str, Any], name: str, required_as: str) -> Mapping[str, Any]:
    """Return a nested section; absent is an error only if `required_as` names it."""
    if name not in parent and required_as:
        raise KeyError(required_as)
    section = parent.get(name, {})
    if not isinstance(section, Mapping):
        raise IsegError(f"{name} must hold named fields, found {section!r}")
    return section


def _decoder(decoder: Mapping[str, Any], width: object) -> dict[str, Any]:
    """Return our fields of the official decoder section; heads and MLP follow from the width."""
    name = decoder.get("name")
    if name is None:
        raise KeyError("net_kwargs.decoder.name")
    if name != "mask_transformer":
        # The configuration refuses unknown names, and lists the known ones.
        return {"name": name}
    preset = decoder_preset(name, width if isinstance(width, int) else 0)
    return {
        **asdict(preset),
        "num_layers": decoder.get("n_layers", preset.num_layers),
        "dropout": decoder.get("dropout", preset.dropout),
        "drop_path_rate": decoder.get("drop_path_rate", preset.drop_path_rate),
    }


def variant_text(config: SegmenterConfig) -> str:
    """Return the text of a ``variant.yml`` that the official code and `read_variant` understand.

    Parameters
    ----------
    config : SegmenterConfig
        The model's configuration.

    Returns
    -------
    str
        YAML without any Python tag.
    """
    side = min(config.image_size)
    variant = {
        "net_kwargs": _net_kwargs(config.encoder, config.decoder)
        | {"image_size": list(config.image_size), "n_cls": config.num_classes},
        "dataset_kwargs": {
            "dataset": config.dataset,
            "image_size": side,
            "crop_size": side,
            "normalization": config.encoder.normalization,
        },
        "inference_kwargs": {"im_size": side, "window_size": side, "window_stride": side},
        _EXTRA: {
            "version": 1,
            "l2_norm": config.l2_norm,
            "encoder": {
                "mlp_ratio": config.encoder.mlp_ratio,
                "layer_norm_eps": config.encoder.layer_norm_eps,
            },
            "decoder": {
                "num_heads": config.decoder.num_heads,
                "mlp_ratio": config.decoder.mlp_ratio,
            },
        },
    }
    return yaml.safe_dump(variant, sort_keys=False)


def _net_kwargs(encoder: EncoderConfig, decoder: DecoderConfig) -> dict[str, Any]:
    """Return the official names of encoder and decoder fields."""
    section: dict[str, Any] = {"name": decoder.name}
    if decoder.name == "mask_transformer":
        section |= {
            "n_layers": decoder.num_layers,
            "dropout": decoder.dropout,
            "drop_path_rate": decoder.drop_path_rate,
        }
    return {
        "backbone": encoder.name,
        "patch_size": encoder.patch_size,
        "d_model": encoder.embed_dim,
        "n_layers": encoder.depth,
        "n_heads": encoder.num_heads,
        "distilled": encoder.distilled,
        "normalization": encoder.normalization,
        "dropout": encoder.dropout,
        "drop_path_rate": encoder.drop_path_rate,
        "decoder": section,
    }
