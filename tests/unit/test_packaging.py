"""The wheel: every module and data file is in it, and it finds its targets without a checkout."""

import os
import shutil
import subprocess
import sys
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
