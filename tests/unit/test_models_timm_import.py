"""timm's import beside a torchvision that was built for another torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from iseg_tvm.errors import IsegError
from iseg_tvm.models import timm_import
from iseg_tvm.models.timm_import import import_despite_torchvision

# A torchvision that, like the real one without its compiled library, registers a shape function
# for operators that nobody declared. Its name is torchvision, so it runs in its own interpreter.
FAKE_TORCHVISION = """
import torch
from torchvision import early
torch.library.register_fake("torchvision::iseg_first")(lambda: None)
torch.library.register_fake("torchvision::iseg_second")(lambda: None)
loaded = True
"""
CHECK = """
import sys
import iseg_tvm.models.timm_import as helper
sys.modules.pop("torchvision")
sys.path.insert(0, sys.argv[1])
for name in [m for m in sys.modules if m.startswith("torchvision.")]:
    del sys.modules[name]
module = helper.import_despite_torchvision("needs_torchvision")
import gc, torch
gc.collect()
print(module.torchvision.loaded, str(torch.ops.torchvision.iseg_second.default._schema))
"""


def test_undeclared_operators_are_declared(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(FAKE_TORCHVISION)
    (package / "early.py").touch()
    (tmp_path / "needs_torchvision.py").write_text("import torchvision\n")
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", "torchvision::iseg_second()", "->", "()"], done.stderr


def test_other_failures_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iseg_broken.py").write_text("raise RuntimeError('operator x::y does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="operator x::y does not exist"):
        import_despite_torchvision("iseg_broken")


def test_an_error_that_stays_ends_the_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_import, "_declare_operator", lambda operator: None)
    text = "operator torchvision::iseg_stays does not exist"
    (tmp_path / "iseg_stuck.py").write_text(f"raise RuntimeError('{text}')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match="iseg_stays"):
        import_despite_torchvision("iseg_stuck")


def test_missing_module_names_the_extra() -> None:
    with pytest.raises(IsegError, match="iseg_absent cannot be imported") as caught:
        import_despite_torchvision("iseg_absent")
    assert "iseg-tvm[host]" in caught.value.hint
