"""What all commands share: flags, output, progress."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all

_LOG_SECONDS = 2.0


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags every command has."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print the result as one JSON object")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("-v", "--verbose", action="store_true", help="show tracebacks of errors")


def positive_int(text: str) -> int:
    """Parse an integer of at least 1, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def add_image_size(parser: argparse.ArgumentParser, default: str) -> None:
    """Add ``--image-size H W``; `default` says what happens without it."""
    parser.add_argument(
        "--image-size",
        nargs=2,
        type=positive_int,
        metavar=("H", "W"),
        help=f"height and width in pixels, any size (default: {default})",
    )


def add_bind_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Add the flags of a command that listens on the network."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=port,
        help="port to listen on, 0 for any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--i-know",
        action="store_true",
        help="listen on an address others reach: they can then run any code on this machine",
    )


def _port(text: str) -> int:
    """Parse a port, for argparse."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return int(text)


def log(args: argparse.Namespace, message: str) -> None:
    """Say what is being done, on stderr, unless ``--quiet``."""
    if not args.quiet:
        print(message, file=sys.stderr, flush=True)


def print_json(values: Mapping[str, Any]) -> None:
    """Print a result for machines."""
    print(json.dumps(values, indent=2, ensure_ascii=False))


def print_generated(args: argparse.Namespace, values: Mapping[str, Any], *paths: Path) -> None:
    """Print what was written: the JSON object, or a line for every path."""
    if args.json:
        print_json({**values, "generated": [str(path) for path in paths]})
        return
    for path in paths:
        print(f"Generated: {path}")


@contextmanager
def progress_bar(args: argparse.Namespace, *, timing: bool = False) -> Iterator[Progress]:
    """Give a function that shows progress on stderr.

    On a terminal it is a bar for every stage; elsewhere a line when a stage begins and then every
    two seconds. With `timing`, nothing is drawn but in calls of that function.
    """
    if args.quiet:
        yield lambda stage, done, total: None
    elif sys.stderr.isatty():
        with _bars(moving=not timing) as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars(*, moving: bool) -> Iterator[Progress]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    with progress.Progress(*columns, console=console, auto_refresh=moving) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total, refresh=not moving)

        yield report


def _lines() -> Progress:
    last_stage, last_time = "", 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last_stage, last_time
        now = time.monotonic()
        if stage != last_stage or now - last_time >= _LOG_SECONDS:
            print(f"{stage} {done}/{total}", file=sys.stderr, flush=True)
            last_stage, last_time = stage, now

    return report
