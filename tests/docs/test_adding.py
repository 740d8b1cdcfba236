"""The page on adding an operator, followed step by step in a copy of the repository."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT, blocks


def test_an_operator_is_added_as_the_page_says(tmp_path: Path) -> None:
    for name in ("iseg_tvm", "relay_ops", "targets", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "data" if name == "tests" else "")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    page = [b for b in blocks() if b.page == "docs/adding_an_operator.md"]
    steps = [b for b in page if b.language == "python"]
    assert [step.note for step in steps] == ["file", "append", "append", "file"]
    for step in steps:
        with (tmp_path / step.value).open("a") as stream:
            stream.write(f"\n\n{step.text}\n" if step.note == "append" else f"{step.text}\n")
    test = ["-m", "pytest", "-p", "no:cacheprovider", "tests/ops/test_absolute.py"]
    done = subprocess.run(
        [sys.executable, *test], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.lstrip().startswith("...")
