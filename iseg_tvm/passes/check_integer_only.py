"""Fail the build if anything in a module computes with, stores or passes floating-point values.

Two checkers: one walks every node of the IR (types, constants, buffers, expressions), one reads the
LLVM IR that the code generator made of it.
"""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm_ffi.structural import structural_walk

from iseg_tvm.errors import IsegError

_INTEGER = re.compile(r"(u?int|bool|handle|void)")
_LLVM_FLOAT = re.compile(r"\b(half|bfloat|float|double|fp128|x86_fp80|f(add|sub|mul|div|cmp))\b")
_LLVM_HELPERS = 'section ".text.tvm.fp16.conv"'  # in every library of TVM; a call would be found
_BUG = "this is a bug of iseg-tvm: please report it with the model's configuration"


def check_integer_only(module: tvm.IRModule) -> tvm.IRModule:
    """Return ``module`` unchanged if it holds no floating-point type.

    Raises
    ------
    IsegError
        Naming the function and the first line of it that has a floating-point type.
    """
    for symbol, function in module.functions_items():
        found = _float_dtype(function)
        if found:
            line = _first_line(function.script(), found)
            raise IsegError(f"{symbol.name_hint} is not integer-only ({found}): {line}", _BUG)
    return module


def _float_dtype(node: Any) -> str:
    """A dtype in ``node`` that is no integer type, or an empty string."""
    found: list[str] = []

    def check_type(prim_type: tvm.ir.PrimType) -> None:
        if not _INTEGER.match(str(prim_type)):
            found.append(str(prim_type))

    def check_expr(expr: tvm.ir.Expr) -> None:
        if isinstance(expr.ty, tvm.ir.PrimType):
            check_type(expr.ty)

    structural_walk(node, [(tvm.ir.PrimType, check_type), (tvm.ir.Expr, check_expr)])
    return found[0] if found else ""


def _first_line(script: str, text: str) -> str:
    """First line of a script in which ``text`` occurs."""
    lines = (line.strip() for line in script.splitlines())
    return next((line for line in lines if text in line), "no printable line")


def check_llvm_integer_only(llvm_ir: str) -> None:
    """Check the code generator's output.

    Raises
    ------
    IsegError
        Naming the LLVM function and the instruction.
    """
    function, skipped = "", False
    for line in llvm_ir.splitlines():
        if line.startswith("define"):
            function = line.split("@", 1)[-1].split("(", 1)[0]
            skipped = _LLVM_HELPERS in line
        elif line.startswith("}"):
            function = ""
        code = line.split(";", 1)[0]
        if function and not skipped and _LLVM_FLOAT.search(code):
            raise IsegError(f"{function} is not integer-only: {line.strip()}", _BUG)
