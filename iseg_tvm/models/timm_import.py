"""The classes of timm that are used here, imported on every combination of torch builds.

timm imports torchvision. If torchvision was built for another torch (the usual case: a CPU build
of torch beside the CUDA build of torchvision that pip picks), its compiled library does not load,
its operators stay undeclared, and ``import torchvision`` fails while it registers shape functions
for them: ``RuntimeError: operator torchvision::nms does not exist``. The operators (box
suppression) are never called here, so a declaration is all that the import needs.
"""

import importlib
import re
import sys
from types import ModuleType

import torch

from iseg_tvm.errors import IsegError

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")

# Declarations vanish with the Library object that made them, so it must outlive this module.
_DECLARATIONS: list[torch.library.Library] = []


def import_despite_torchvision(name: str) -> ModuleType:
    """Import a module that imports torchvision, declaring operators torchvision lacks.

    Parameters
    ----------
    name : str
        The module, such as ``"timm"``.

    Returns
    -------
    ModuleType
        The imported module.

    Raises
    ------
    IsegError
        The module, or one it needs, is not installed.
    RuntimeError
        The import fails for another reason; it is not hidden.
    """
    declared: set[str] = set()
    while True:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise IsegError(
                f"{name} cannot be imported: {error}",
                "install the host tools: pip install 'iseg-tvm[host]'",
            ) from error
        except RuntimeError as error:
            match = _MISSING_OPERATOR.search(str(error))
            if match is None or match[1] in declared:
                raise
            declared.add(match[1])
            _declare_operator(match[1])


def _declare_operator(operator: str) -> None:
    """Declare ``torchvision::<operator>`` and forget the half-imported torchvision."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    # No argument: a call is a mistake, and the dispatcher says so.
    library.define(f"{operator}() -> ()")
    _DECLARATIONS.append(library)
    for module in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[module]


import_despite_torchvision("timm")

from timm.layers import Attention  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402

__all__ = ["Attention", "Block", "VisionTransformer", "VisionTransformerDistilled"]
