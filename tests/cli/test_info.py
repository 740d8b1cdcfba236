"""``info``: every kind of file of ours, this machine, and what is none of them."""

import json
from pathlib import Path

import pytest

from iseg_tvm.cli.common import named_values, print_values
from iseg_tvm.cli.main import main
from iseg_tvm.evaluation.windows import Settings
from iseg_tvm.targets import list_targets, targets_dir


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert main(["info", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_machine(capsys: pytest.CaptureFixture[str]) -> None:
    values = info(capsys)
    assert values["kind"] == "machine"
    assert set(values["targets"]) == {spec.name for spec in list_targets()}
    assert values["targets"][values["native_target"]].endswith("[runs here]")


def test_target_by_name_and_by_file(capsys: pytest.CaptureFixture[str]) -> None:
    by_alias = info(capsys, "arm")
    assert (by_alias["kind"], by_alias["name"], by_alias["isa"]) == ("target", "rpi4", "neon")
    assert info(capsys, str(targets_dir() / "rpi4.toml")) == by_alias


def test_bundle(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = info(capsys, str(toy_bundle))
    assert (values["kind"], values["model_name"], values["runs_here"]) == ("bundle", "toy", True)
    assert values["classes"] == ["dark", "dim", "bright"]


def test_bundle_for_another_cpu_is_described(
    toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = toy_bundle / "manifest.json"
    values = json.loads(path.read_text())
    values["target"]["features"].append("a_feature_no_cpu_has")
    path.write_text(json.dumps(values))
    described = info(capsys, str(toy_bundle))
    assert described["runs_here"] is False
    assert "a_feature_no_cpu_has" in described["because"]


def test_text(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(toy_bundle)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["classes:", "dark,", "dim,", "bright"] in lines
    assert ["git", "commit:", "-"] in lines
    assert ["runs", "here:", "yes"] in lines


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x86-vnnni", "unknown target 'x86-vnnni'"),
        ("{tmp}/absent.safetensors", "does not exist"),
        ("{tmp}/absent.toml", "does not exist"),
        ("{tmp}/text.txt", "is none of our files"),
        ("{tmp}/empty", "holds neither a bundle"),
        ("{tmp}/broken.toml", "is not a TOML file"),
        ("{tmp}/broken.safetensors", "broken.safetensors: damaged"),
    ],
)
def test_none_of_our_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("text.txt", "broken.toml", "broken.safetensors"):
        (tmp_path / file).write_text("?")
    assert main(["info", "-q", name.format(tmp=tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_tuning_log_names_every_kernel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two kernels of one name (other types) are both there, and names are written as they are."""
    tasks = [
        {"task": "linear_64x12x12", "calls": calls, "default_ms": 2.0, "best_ms": 1.0,
         "schedule": {"block": block}}
        for calls, block in ((1, 604), (2, 802))
    ]  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps({"tasks": tasks}))
    (tmp_path / "provenance.json").write_text('{"sessions": []}')
    for name in ("database_tuning_record.json", "database_workload.json"):
        (tmp_path / name).write_text("")
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "linear_64x12x12:   1.0000 ms (2.0000 by default) block=604" in out
    assert "linear_64x12x12#2: 1.0000 ms (2.0000 by default) block=802" in out
    assert "all calls:" in out


def test_long_rows_of_numbers_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    print_values({"feature_scale": [0.25] * 191 + [0.5], "size": [3, 4], "step": 0.123456789})
    lines = [line.split(":") for line in capsys.readouterr().out.splitlines()]
    assert [(name, value.strip()) for name, value in lines] == [
        ("feature scale", "192 values from 0.25 to 0.5"), ("size", "3, 4"), ("step", "0.123457"),
    ]  # fmt: skip


def test_options_are_named() -> None:
    settings = Settings("ownership", (128, 96), None, 512)
    assert named_values(settings).startswith("protocol ownership; window 128, 96; short side 512")
