"""``deploy``: an archive that runs where nothing of the project is installed."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from iseg_tvm.cli.main import main


@pytest.fixture
def unpacked(toy_bundle_with_sample: Path, tmp_path: Path) -> Path:
    """The toy model's archive, unpacked."""
    archive = tmp_path / "toy.tar.gz"
    assert main(["deploy", "--bundle", str(toy_bundle_with_sample), "-o", str(archive)]) == 0
    with tarfile.open(archive) as content:
        content.extractall(tmp_path / "board", filter="data")
    return tmp_path / "board/toy"


def run_there(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the archive's program; the project itself is not on the path (-P, another folder)."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-P", "run.py", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_runs_its_sample(unpacked: Path) -> None:
    process = run_there(unpacked, "--repeat", "2")
    assert process.returncode == 0, process.stderr
    assert "48 pixels: equal, bit for bit" in process.stdout
    assert "median of 2 runs" in process.stdout


def test_wrong_bits_and_damage_are_seen(unpacked: Path) -> None:
    library = unpacked / "bundle/model.so"
    library.write_bytes(library.read_bytes()[:-1])
    process = run_there(unpacked)
    assert process.returncode == 2
    assert "its checksum is not the manifest's" in process.stderr
    assert "Traceback" not in process.stderr


def test_a_picture_of_ones_own(unpacked: Path) -> None:
    process = run_there(unpacked, "bundle/sample.ppm", "-o", "classes.pgm")
    assert process.returncode == 0, process.stderr
    expected = (unpacked / "bundle/expected.pgm").read_bytes()
    assert (unpacked / "classes.pgm").read_bytes() == expected


def test_contents(unpacked: Path) -> None:
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=unpacked, check=True)
    listed = {line.split("  ")[1] for line in (unpacked / "SHA256SUMS").read_text().splitlines()}
    files = {str(p.relative_to(unpacked)) for p in unpacked.rglob("*") if p.is_file()}
    assert files == listed | {"SHA256SUMS"}
    requirements = (unpacked / "requirements.txt").read_text()
    assert requirements.split()[0].startswith("apache-tvm==")
    assert "8 x 6 pixels" in (unpacked / "README.md").read_text()


def test_equal_bundles_give_equal_archives(toy_bundle_with_sample: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name / "a.tar.gz" for name in ("one", "two")]
    for path in paths:
        assert main(["deploy", "--bundle", str(toy_bundle_with_sample), "-o", str(path)]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "m.safetensors", "-o", "a.zip"], "ends in .tar.gz"),
        (["--model", "m.safetensors", "-o", "a.tar.gz"], "no --target"),
        (["--bundle", "b", "--target", "rpi4", "-o", "a.tar.gz"], "compiled already"),
        (["--model", "m", "--target", "rpi4", "--no-sample", "-o", "a.tar.gz"], "without a sample"),
    ],
)
def test_bad_arguments(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_bundle_without_a_sample(
    toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "a.tar.gz"
    assert main(["deploy", "--bundle", str(toy_bundle), "-o", str(archive)]) == 2
    assert "carries no sample" in capsys.readouterr().err
    assert not archive.exists()
