"""Every message that the troubleshooting page quotes is one that the code prints."""

from __future__ import annotations

import ast
import re

from tests.docs.blocks import ROOT

_GAP = "\0"


def templates() -> set[str]:
    """Every string of the sources, with a mark where a value goes."""
    found = set()
    for package in ("iseg_tvm", "relay_ops"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        str(part.value) if isinstance(part, ast.Constant) else _GAP
                        for part in node.values
                    )  # fmt: skip
                    found.add("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def quoted() -> list[str]:
    """Messages of the page: bold code."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"\*\*`([^`]+)`\*\*", text)


def test_messages_occur() -> None:
    known, messages = templates(), quoted()
    assert len(messages) >= 25
    missing = []
    for message in messages:
        # What differs on the page is a value in the source, perhaps with words around it.
        pattern = "[^\n]*\0[^\n]*".join(re.escape(part) for part in message.split("…"))
        if not any(re.fullmatch(pattern, template) for template in known):
            missing.append(message)
    assert missing == []
