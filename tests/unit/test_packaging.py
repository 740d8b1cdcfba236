"""The wheel: every module and data file is in it, and it finds its targets without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("iseg_tvm", "relay_ops", "targets", "tuning_logs", "pyproject.toml", "setup.py")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the sources, as building leaves files beside them."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("packaging")
    copy = folder / "copy"
    copy.mkdir()
    for name in (*SOURCES, "README.md"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, copy / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "-w", str(folder), str(copy)], check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_every_file_is_in_it(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT))
        for package in ("iseg_tvm", "relay_ops")
        for suffix in ("py", "json", "css", "js")
        for path in (ROOT / package).rglob(f"*.{suffix}")
    }
    expected |= {f"iseg_tvm/installed_targets/{p.name}" for p in (ROOT / "targets").glob("*.toml")}
    logs = ROOT / "tuning_logs"
    expected |= {
        f"iseg_tvm/installed_tuning_logs/{p.relative_to(logs)}" for p in logs.glob("*/*/*.json")
    }
    assert len(expected) > 40
    assert expected <= inside
    foreign = {name.split("/")[0] for name in inside} - {"iseg_tvm", "relay_ops"}
    assert all(name.endswith(".dist-info") for name in foreign)


def test_it_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    command = [sys.executable, "-m", "iseg_tvm.info", "rpi4"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=tmp_path, env=environment
    )
    assert "cortex-a72" in done.stdout
    code = "import iseg_tvm; print(iseg_tvm.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert where.stdout.startswith(str(tmp_path / "site"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the programs of a fresh environment with the wheel; the rest is this one's."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # Its dependencies; the checkout's own packages come after the wheel's.
    (site / "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python")]
    command = [*pip, "install", "-q", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*command, str(wheel)], check=True)
    return folder / "bin"


_LOOK = """
import iseg_tvm, relay_ops
from iseg_tvm.palettes import palette_for
from iseg_tvm.schedules import load_schedules
from iseg_tvm.targets import load_target
from iseg_tvm.tuning_files import tuning_logs_dir
print(iseg_tvm.__file__)
assert relay_ops.OPERATORS and len(palette_for(150, "ade20k").classes) == 150
assert tuning_logs_dir().name == "installed_tuning_logs"
assert load_schedules(load_target("x86-vnni")).databases
"""


def test_the_installed_wheel_has_all_it_needs(installed: Path, tmp_path: Path) -> None:
    """Operators, targets, palettes and tuning logs, in a folder that is no checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = {"check": True, "capture_output": True, "text": True, "cwd": tmp_path}
    done = subprocess.run([installed / "python", "-c", _LOOK], env=environment, **run)
    assert done.stdout.startswith(str(installed.parent))
    doctor = subprocess.run(
        [installed / "iseg-tvm", "doctor", "--json"], env=environment, **{**run, "check": False}
    )
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_a_board_gets_no_torch(wheel: Path) -> None:
    """What pip would install for the wheel alone, and with the host's extra."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    done = subprocess.run(
        [*command, "--report", "-", str(wheel)], capture_output=True, text=True, check=True
    )
    report = json.loads(done.stdout)
    names = {entry["metadata"]["name"].lower() for entry in report["install"]}
    assert {"iseg-tvm", "apache-tvm", "apache-tvm-ffi", "numpy", "pillow"} <= names
    assert not names & {"torch", "torchvision", "timm", "xgboost", "safetensors", "onnx", "scipy"}
    assert len(names) < 20, sorted(names)
