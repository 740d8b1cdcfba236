"""What all commands share: flags, output, progress."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from iseg_tvm.board.runner import Runner

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


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the picture a bundle carries to check its bits by."""
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--sample",
        type=Path,
        metavar="PHOTO",
        help="picture that the bundle carries, with its expected class map, for `bench` and boards "
        "to check their bits by (default: a built-in test picture)",
    )
    choice.add_argument(
        "--no-sample",
        action="store_true",
        help="carry none; saves one run of the NumPy reference, seconds to minutes",
    )


def read_sample_image(
    args: argparse.Namespace, size: tuple[int, int]
) -> "npt.NDArray[np.uint8] | None":
    """Return the picture of `add_sample_arguments` in (height, width), or None."""
    from iseg_tvm import images
    from iseg_tvm.sample import built_in_picture

    if args.no_sample:
        return None
    if args.sample is None:
        return built_in_picture(*size)
    return images.photo_to_array(images.load_photo(args.sample), size)


def tracker_of_environment() -> str | None:
    """Return the tracker that TVM's environment variables name."""
    host, port = os.environ.get("TVM_TRACKER_HOST"), os.environ.get("TVM_TRACKER_PORT")
    return f"{host}:{port}" if host and port else None


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a board; without any it is this machine."""
    group = parser.add_argument_group("board (default: this machine)")
    place = group.add_mutually_exclusive_group()
    place.add_argument(
        "--tracker",
        metavar="HOST:PORT",
        nargs="?",
        const=tracker_of_environment(),
        help="tracker to ask for a board of --key; without a value that of the environment's "
        "TVM_TRACKER_HOST and TVM_TRACKER_PORT",
    )
    place.add_argument("--rpc", metavar="HOST:PORT", help="a board's own rpc_server")
    group.add_argument(
        "--key",
        default=os.environ.get("TVM_TRACKER_KEY"),
        help="kind of board (default: the environment's TVM_TRACKER_KEY, else the key of the "
        "bundle's target)",
    )
    group.add_argument(
        "--any-cpu",
        action="store_true",
        help="also take a CPU that runs the code but is not the target's own",
    )
    group.add_argument(
        "--timeout",
        type=positive_int,
        default=60,
        metavar="S",
        help="longest time for one run on the board, and to wait for one (default: %(default)s)",
    )


def open_runner(args: argparse.Namespace, stack: ExitStack) -> "Runner":
    """Load ``--bundle`` where `add_board_arguments` says; `stack` closes the session.

    Raises
    ------
    IsegError
        No board, another board than the bundle's, or the bundle does not load.
    """
    from iseg_tvm.board.runner import LocalRunner
    from iseg_tvm.bundle import read_bundle
    from iseg_tvm.errors import IsegError
    from iseg_tvm.network import parse_address

    if args.tracker is None and args.rpc is None:
        return LocalRunner(read_bundle(args.bundle), args.threads)
    from iseg_tvm.remote.board import connect_direct, connect_tracker
    from iseg_tvm.remote.runner import RemoteRunner

    key = args.key or read_bundle(args.bundle, runnable=False).manifest.target.rpc_key
    if key is None:
        raise IsegError("the bundle's target has no key of its own", "add --key")
    if args.tracker is not None:
        board = connect_tracker(parse_address(args.tracker), key, wait_seconds=args.timeout)
    else:
        board = connect_direct(parse_address(args.rpc), key)
    stack.enter_context(board)
    return RemoteRunner(
        board, args.bundle, args.threads, exact=not args.any_cpu, seconds=args.timeout
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
