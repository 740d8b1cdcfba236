"""The README's commands: `make demo` here, and what a first `make install` asks pip for."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests.docs.blocks import ROOT

# Stands for a Python that makes environments: they get a program that notes how it is called.
_PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/sh
case $1 in -c) exec {python} "$@" ;; esac
echo "$@" >> calls
END
chmod +x "$3/bin/python"
"""


def test_a_first_installation_takes_the_tested_versions(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "setup.py", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python3"
    python.write_text(_PYTHON.replace("{python}", sys.executable))
    python.chmod(0o755)
    command = ["make", "install", f"PYTHON={python}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "No such file" not in done.stderr
    lock = "-c requirements.lock" if sys.version_info >= (3, 11) else ""
    call = (tmp_path / "calls").read_text()
    assert call.split() == (
        f"-m pip install -q --disable-pip-version-check {lock} -e .[host,test]".split()
    )
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout
    assert (tmp_path / "calls").read_text() == call


def test_make_demo_draws_its_picture(tmp_path: Path) -> None:
    """The Makefile's own recipe, in the environment that runs this test."""
    installed, out = tmp_path / "installed", tmp_path / "out"
    installed.touch()
    settings = [f"PY={sys.executable}", f"INSTALLED={installed}", f"OUT={out}"]
    done = subprocess.run(
        ["make", "demo", *settings], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "median" in done.stdout
    assert f"Look at {out}/overlay.png" in done.stdout
    mask = np.array(Image.open(out / "mask.png"))
    photo = Image.open(ROOT / "demo/photo.jpg")
    assert mask.shape == (photo.height, photo.width)
    assert len(np.unique(mask)) > 2
