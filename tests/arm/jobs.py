"""What an emulated board is given: kernels and bundles compiled here, inputs, expected outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from iseg_tvm.build import tvm_target
from iseg_tvm.kernels.isa import get_isa
from iseg_tvm.linking import export_library
from iseg_tvm.targets import load_target
from relay_ops import OPERATORS
from tests.arm.kernel_cases import KernelCase
from tests.kernels.harness import lower


@dataclass(frozen=True)
class KernelLibrary:
    """The kernels of all cases, compiled for one target, and how to call them."""

    path: Path
    calls: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]
    assembly: str


def compile_kernels(target_name: str, cases: list[KernelCase], folder: Path) -> KernelLibrary:
    """Compile the cases for a target and link one library.

    The boards, and the one target whose kernels no board has, get all of them. The others differ
    from a board's only in the order in which LLVM puts the same instructions, and get one kernel of
    every operator.
    """
    target = load_target(target_name)
    if target.rpc_key is None and target.isa != "neon_i8mm":
        cases = list({case.operator: case for case in cases}.values())
    functions, calls, arrays = {}, [], {}
    for case in cases:
        kernel = lower(case.operator, get_isa(target.isa), case.tensors[0], case.attributes)
        functions[case.name] = kernel.function.with_attr("global_symbol", case.name)
        operator = OPERATORS[case.operator]
        for number, tensors in enumerate(case.tensors):
            key = f"{target_name}/{case.name}/{number}"
            given = [tensors[a] if isinstance(a, str) else a for a in kernel.arguments]
            keys = [f"{key}/{position}" for position in range(len(given))]
            arrays |= dict(zip(keys, given, strict=True))
            ordered = [tensors[name] for name in operator.tensors]
            arrays[f"{key}/out"] = operator.reference(*ordered, **case.attributes)
            calls.append({"name": f"{target_name} {case.name}", "function": case.name,
                          "arguments": keys, "expected": f"{key}/out"})  # fmt: skip
    executable = tvm.compile(tvm.IRModule(functions), target=tvm_target(target))
    path = folder / f"{target_name}.so"
    export_library(executable, target, path)
    return KernelLibrary(path, calls, arrays, str(executable.mod.inspect_source("asm")))


@dataclass
class Job:
    """One job folder in the making."""

    folder: Path
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    kernels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    bundles: list[dict[str, Any]] = field(default_factory=list)

    def add_kernels(self, library: KernelLibrary) -> None:
        """Run a library's kernels."""
        self.kernels[str(library.path)] = library.calls
        self.arrays |= library.arrays

    def add_bundle(
        self,
        name: str,
        path: Path,
        images: np.ndarray,
        expected: np.ndarray,
        num_threads: int | None = 1,
    ) -> None:
        """Run a bundle on ``images`` (N, H, W, 3); ``expected`` are class maps (N, H, W)."""
        self.arrays |= {f"{name}/images": images, f"{name}/expected": expected}
        entry = {"name": name, "path": str(path), "num_threads": num_threads}
        entry |= {"images": f"{name}/images", "expected": f"{name}/expected"}
        self.bundles.append(entry)

    def write(self) -> Path:
        """Write the folder's files; return the folder."""
        np.savez(self.folder / "arrays.npz", **self.arrays)
        content = {"kernels": self.kernels, "bundles": self.bundles}
        (self.folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
        return self.folder
