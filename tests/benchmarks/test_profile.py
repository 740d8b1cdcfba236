"""The profile of a small bundle, its numbers of operations, and the peak's kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import profile
from benchmarks.peak import Peak, peak_families
from iseg_tvm.artifact import save_model
from iseg_tvm.profiling import kernel_macs
from iseg_tvm.targets import load_target
from tests.helpers import random_quantized_model, tiny_config

TOKENS, WIDTH, CLASSES = 17, 24, 7  # of `tiny_config`: 16 patches and a class token


@pytest.mark.parametrize(
    ("name", "macs"),
    [
        ("linear_gelu_1025x768x192", 1025 * 768 * 192),
        ("linear_residual_1174x192x768_v2", 1174 * 192 * 768),
        ("shiftmax_attention_1025x192", 2 * 1025 * 1025 * 192),
        ("layer_norm_1025x192", 0),
        ("slice_rows_1024x192_v2", 0),
    ],
)
def test_macs(name: str, macs: int) -> None:
    assert kernel_macs(name) == macs


def expected_macs() -> int:
    """Of `tiny_config`, from the architecture: two encoder blocks, one decoder block."""

    def block(tokens: int) -> int:
        return tokens * WIDTH * WIDTH * (3 + 1 + 4 + 4) + 2 * tokens**2 * WIDTH

    decoder = 16 * WIDTH * WIDTH * 2 + CLASSES * WIDTH * WIDTH + 16 * CLASSES * WIDTH
    return 16 * WIDTH * 48 + 2 * block(TOKENS) + block(16 + CLASSES) + decoder


def test_profile(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, result = tmp_path / "m.safetensors", tmp_path / "r.json"
    save_model(random_quantized_model(tiny_config()), path)
    arguments = ["--model", str(path), "--threads", "1", "--repeats", "3"]
    status = profile.main([*arguments, "--cache", str(tmp_path), "--json", str(result)])
    printed = capsys.readouterr().out
    assert status == 0, printed
    values = json.loads(result.read_text())
    (row,) = values["rows"]
    assert row["macs"] == sum(k["macs"] for k in row["kernels"]) == expected_macs()
    assert len(row["runs_ms"]) == 3
    assert 0 < row["kernels_ms"] < 3 * row["median_ms"]
    assert sum(k["share"] for k in row["kernels"]) == pytest.approx(1)
    assert 0 < values["vm_overhead_ms"] < row["median_ms"]
    assert values["provenance"]["packages"]["apache-tvm"]
    assert "whole run" in printed
    assert all(k["name"].split("_")[0] in printed for k in row["kernels"])
    families = peak_families(load_target("native").isa)
    assert list(row["peak_gops"]) == list(row["percent_of_peak"]) == list(families)
    assert all(0 < percent < 100 for percent in row["percent_of_peak"].values())


def test_profile_of_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert profile.main(["--model", "seg-x", "--cache", str(tmp_path)]) == 2
    assert "known: seg-t, seg-s, seg-b" in capsys.readouterr().err


def test_every_family_with_a_dot_instruction_is_known() -> None:
    assert list(peak_families("amx")) == ["tdpbssd", "vpdpbusd"]
    assert list(peak_families(load_target("x86-vnni").isa)) == ["vpdpbusd"]
    assert list(peak_families(load_target("rpi5").isa)) == ["sdot"]
    assert not peak_families(load_target("x86-avx2").isa)


@pytest.mark.parametrize("threads", [1, 2])
def test_peak_is_nothing_but_dot_products(threads: int) -> None:
    target = load_target("native")
    families = peak_families(target.isa)
    if not families:
        pytest.skip(f"the family {target.isa} has no single dot-product instruction")
    for instruction, isa in families.items():
        peak = Peak(target, isa, threads)
        lines = peak.assembly.splitlines()
        assert sum(instruction in line for line in lines) >= (48 if isa.tile_unit is None else 16)
        assert peak.sample() > 1
        assert peak.gops > 1
