"""The fenced blocks of README.md and docs/*.md, and the notes that stand before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_OTHERS = ("README.md", "demo/README.md", "examples/cpp/README.md")
PAGES = [*(ROOT / name for name in _OTHERS), *sorted((ROOT / "docs").glob("*.md"))]
SHELL = ("sh", "console")
_NOTE = re.compile(r"<!-- (not run|shorter in the test|file|append): (.+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes
    ----------
    page : its path, line : where it begins
    language : after the fence
    text : its lines
    note, value : of the comment before it: ``not run`` and why, ``shorter in the test`` and the
        flags with small values, ``file`` or ``append`` and its path
    """

    page: str
    line: int
    language: str
    text: str
    note: str = ""
    value: str = ""

    def commands(self) -> list[str]:
        """Commands of a shell block, continued lines joined, comments and prompts left out."""
        joined = self.text.replace("\\\n", " ")
        lines = [re.sub(r"^\w*\$ ", "", line.strip()) for line in joined.split("\n")]
        lines = [" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in lines]
        return [line for line in lines if line and not line.startswith("#")]

    def short_commands(self) -> list[str]:
        """`commands`, with the small values that a note gives to flags, or with these flags."""
        result = self.commands()
        small = self.value if self.note == "shorter in the test" else ""
        for flag, value in re.findall(r"(--[\w-]+) (\S+)", small):
            if any(f"{flag} " in command for command in result):
                result = [re.sub(rf"{flag} [1-9]\S*", f"{flag} {value}", c) for c in result]
            else:
                result = [f"{command} {flag} {value}" for command in result]
        return result


def blocks() -> Iterator[Block]:
    """Every fenced block, in reading order."""
    for page in PAGES:
        note, inside = ("", ""), None
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            if inside is not None:
                if line.strip() == "```":
                    start, language, lines = inside
                    name = str(page.relative_to(ROOT))
                    yield Block(name, start, language, "\n".join(lines), *note)
                    inside, note = None, ("", "")
                else:
                    inside[2].append(line)
            elif line.startswith("```"):
                inside = (number, line[3:].strip(), [])
            elif found := _NOTE.fullmatch(line):
                note = (found[1], found[2])
            elif line.strip():
                note = ("", "")
        assert inside is None, f"{page}: a fence is not closed"


def prose(page: Path) -> str:
    """A page's text without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
