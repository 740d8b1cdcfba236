"""The accuracy benchmark: its rows, its table, and the paper's 8-bit attention weights."""

import numpy as np
import pytest
import torch
from skimage import data

from benchmarks.accuracy import read_rows
from benchmarks.accuracy_cases import SPREAD, cases
from benchmarks.accuracy_table import markdown
from benchmarks.paper_mode import paper_mode, shiftmax_8bit
from iseg_tvm.errors import IsegError
from iseg_tvm.models.segmenter import build_segmenter
from iseg_tvm.quantization import QuantizeOptions
from tests.helpers import tiny_config


def test_rows_are_unique_and_their_options_exist() -> None:
    rows = cases((8, 32))
    assert len({row.name for row in rows}) == len(rows)
    assert sum(row.group == "spread" for row in rows) == SPREAD - 1
    for row in rows:
        QuantizeOptions(**row.options)


def test_table_holds_every_figure_and_the_spread() -> None:
    rows = [
        {"case": "default, one image", "group": "ablation", "images": ["a"], "miou": 0.5},
        {"case": "default, image 2 alone", "group": "spread", "images": ["b"], "miou": 0.25},
    ]
    text = markdown({"subject": "demo", "float": {"miou": 0.75}, "rows": rows})
    assert "FP32: miou 0.75." in text
    assert "| default, image 2 alone | b | 0.2500 |" in text
    assert "miou over 2 calibration images: mean 0.3750" in text
    assert "0.2500 to 0.5000" in text


def test_rows_of_other_sources_are_refused(tmp_path) -> None:
    path = tmp_path / "rows.json"
    assert read_rows(path, "now") == []
    path.write_text('{"sources": "before", "rows": []}')
    with pytest.raises(IsegError, match="other sources"):
        read_rows(path, "now")
    path.write_text("[]")
    with pytest.raises(IsegError, match="no result file"):
        read_rows(path, "now")


def test_eight_bits_lose_an_even_softmax() -> None:
    """Of 1,025 equal probabilities nothing is left; a single one keeps all."""
    assert not shiftmax_8bit(torch.full((1, 1025), 1 / 1025)).any()
    assert shiftmax_8bit(torch.tensor([[1.0, 0.0, 0.0]])).tolist() == [[1.0, 0.0, 0.0]]
    assert shiftmax_8bit(torch.tensor([[0.5, 0.25, 0.25]])).tolist() == [[0.5, 0.25, 0.25]]


def test_paper_mode_is_a_changed_copy() -> None:
    model = build_segmenter(tiny_config(image_size=(32, 48))).eval()
    image = np.ascontiguousarray(data.astronaut()[100:132, 100:148])
    pixels = model.normalize_uint8(image[None])
    with torch.no_grad():
        before = model.forward_scores(pixels)
        found = paper_mode(model, [image]).forward_scores(pixels)
        assert torch.equal(model.forward_scores(pixels), before)
    assert found.shape == before.shape
    assert torch.isfinite(found).all()
    assert not torch.equal(found, before)
