"""A real headless browser for tests: the installed one, or Debian's, unpacked into the cache.

``python -m tests.chromium PAGE PICTURE`` takes a screenshot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from iseg_tvm.files import atomic_dir
from tests.arm.userspace import MARKER, PreparationError, unpack

_STATUS = Path("/var/lib/dpkg/status")
# No sandbox: tests may run as root. No network: a page that needs one must fail.
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


@dataclass(frozen=True)
class Browser:
    """A command and the folders of the libraries it needs beside the system's."""

    program: Path
    libraries: tuple[Path, ...] = ()

    def run(self, page: Path, *flags: str) -> str:
        """Open a page and return what the browser prints."""
        environment = dict(os.environ)
        if self.libraries:
            environment["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        with tempfile.TemporaryDirectory(prefix="iseg-browser-") as profile:
            done = subprocess.run(
                [self.program, *_FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
                capture_output=True,
                text=True,
                check=True,
                timeout=120,
                env=environment,
            )
        return done.stdout


def find_browser() -> Browser:
    """Return a browser, unpacked into the user's cache first if none is installed.

    Raises
    ------
    PreparationError
        None is installed, and Debian's packages cannot be had here.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return Browser(Path(found))
    if not _STATUS.is_file():
        raise PreparationError("no Chromium is installed, and this is no Debian system")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iseg-tvm"
    folder = cache / "chromium-1"
    if not (folder / MARKER).is_file():
        with atomic_dir(folder, marker=MARKER) as fresh:
            command = ["dpkg", "--print-architecture"]
            architecture = subprocess.run(command, capture_output=True, text=True, check=True)
            packages = ["chromium", "fonts-dejavu-core"]
            unpack(packages, architecture.stdout.strip(), fresh / "root", _STATUS)
            (fresh / MARKER).write_text("{}", encoding="utf-8")
    root = folder / "root"
    libraries = sorted({p.parent for p in root.glob("usr/lib/*-linux-*/**/*.so*")})
    return Browser(root / "usr/lib/chromium/chromium", tuple(libraries))


if __name__ == "__main__":
    page, picture = (Path(argument).resolve() for argument in sys.argv[1:3])
    find_browser().run(page, f"--screenshot={picture}", "--window-size=1280,2600")
