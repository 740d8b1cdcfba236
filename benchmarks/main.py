"""What the benchmark commands share: errors, exit status, result files."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from iseg_tvm.errors import IsegError
from iseg_tvm.files import atomic_write


def run_main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse and run; an `IsegError` becomes two lines and exit status 2."""
    args = parser.parse_args(argv)
    try:
        return run(args)
    except IsegError as error:
        if args.verbose:
            traceback.print_exc()
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def write_json(path: Path, values: Any) -> None:
    """Write a result file, whole or not at all, and say so."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(values, indent=1) + "\n").encode())
    print(f"Generated: {path}")
