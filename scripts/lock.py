"""Write ``requirements.lock``: the versions that the tests passed with, of this environment.

``make install`` and the nightly script read it. Run it with the environment's Python:
``.venv/bin/python scripts/lock.py``.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
_EXTRAS = ("host", "test")


def add(lines: list[str], seen: dict[str, str]) -> None:
    """Add the installed versions of requirements to `seen`, and what those require."""
    for line in lines:
        name, marker = re.split(r"[\s<>=!~;\[(]", line, maxsplit=1)[0], line.partition(";")[2]
        key = re.sub(r"[-_.]+", "-", name).lower()
        if "extra" in marker or key in seen:
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python
        seen[key] = version.partition("+")[0]
        add(importlib.metadata.requires(name) or [], seen)


def main() -> None:
    """Write the file."""
    seen: dict[str, str] = {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    add(project["dependencies"], seen)
    for extra in _EXTRAS:
        add(project["optional-dependencies"][extra], seen)
    python = ".".join(map(str, sys.version_info[:2]))
    lines = [
        f"# Versions that were tested together, on Python {python}. Made by scripts/lock.py;",
        "# a constraints file: pip install -c requirements.lock '.[host,test]'",
        *(f"{name}=={version}" for name, version in sorted(seen.items())),
    ]
    LOCK.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"Generated: {LOCK.name}, {len(seen)} packages")


if __name__ == "__main__":
    main()
