"""Every flag that more than one command has, defined once; commands only say what differs."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def whole_number(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a parser of integers in a range, for argparse."""
    limits = f"of at least {lowest}" if highest is None else f"from {lowest} to {highest}"

    def parse(text: str) -> int:
        digits = text.removeprefix("-")
        value = int(text) if digits.isascii() and digits.isdigit() else None
        if value is None or value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {limits}")
        return value

    return parse


positive_int = whole_number(1)

_BOARD_TIMEOUT = 60
_SIZE = {"nargs": 2, "type": positive_int, "metavar": ("H", "W")}
_PATHS = {"nargs": "+", "type": Path, "metavar": "IMG_OR_DIR"}
_FOLDER = {"type": Path, "metavar": "DIR"}
_FILE = {"type": Path, "metavar": "FILE"}
_COUNT = {"type": positive_int, "metavar": "N"}
_SECONDS = {"type": positive_int, "metavar": "S"}

_FLAGS: dict[str, dict[str, Any]] = {
    "--checkpoint": {**_FOLDER, "help": "folder of the float model (official Segmenter files)"},
    "--model": {**_FILE, "help": "integer model (*.safetensors), made by `iseg-tvm quantize`"},
    "--bundle": {**_FOLDER, "help": "compiled model, made by `iseg-tvm compile`"},
    "--target": {
        "metavar": "NAME",
        "help": "a target's name, or a target file (*.toml) of your own (`iseg-tvm info` lists "
        "them; default: %(default)s)",
    },
    "--calibration": {
        **_PATHS,
        "help": "pictures, or folders of pictures, whose activations set the integer scales",
    },
    "--image-size": {
        **_SIZE,
        "help": "height and width in pixels, any size (default: the model's)",
    },
    "--window": {
        **_SIZE,
        "help": "size of the windows cut out of the pictures (default: the model's image size)",
    },
    "--classes": {
        **_FILE,
        "help": "JSON file of class names and colours (default: classes.json of the checkpoint, "
        "if it exists)",
    },
    "--dataset": {
        "default": "folder",
        "metavar": "NAME",
        "help": "ade20k, cityscapes, pascal-context (official layouts) or folder: images/ and "
        "masks/ (default: %(default)s)",
    },
    "--root": {**_FOLDER, "required": True, "help": "the data set"},
    "--split": {"metavar": "NAME"},
    "--strict": {
        "action": "store_true",
        "help": "exit 1 if any file was missing or damaged",
    },
    "--threads": {**_COUNT, "help": "CPU threads (default: all CPUs)"},
    "--repeat": {**_COUNT, "help": "timed runs (default: %(default)s)"},
    "--seed": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "of everything random (default: %(default)s)",
    },
    "--resume": {"action": "store_true", "help": "continue where an interrupted run stopped"},
    "--sample": {
        "type": Path,
        "metavar": "PHOTO",
        "help": "picture that the bundle carries, with its expected class map, for `bench` and "
        "boards to check their bits by (default: a built-in test picture)",
    },
    "--no-sample": {
        "action": "store_true",
        "help": "carry none; saves one run of the NumPy reference, seconds to minutes",
    },
    "--tracker": {
        "nargs": "?",
        "metavar": "HOST:PORT",
        "help": "tracker of the boards; without a value that of the environment's "
        "TVM_TRACKER_HOST and TVM_TRACKER_PORT",
    },
    "--rpc": {"metavar": "HOST:PORT", "help": "a board's own rpc-server, without a tracker"},
    "--key": {
        "metavar": "KEY",
        "help": "kind of board, such as rpi4 (default: the environment's TVM_TRACKER_KEY, else "
        "the key of the target)",
    },
    "--any-cpu": {
        "action": "store_true",
        "help": "also take a CPU that runs the code but is not the target's own",
    },
    "--timeout": {**_SECONDS, "help": "longest time for one run (default: %(default)s)"},
    "--host": {
        "default": "127.0.0.1",
        "metavar": "ADDRESS",
        "help": "address to listen on (default: %(default)s, this machine only)",
    },
    "--port": {
        "type": whole_number(0, 65535),
        "metavar": "PORT",
        "help": "port to listen on, 0 for any free one (default: %(default)s)",
    },
    "--i-know": {
        "action": "store_true",
        "help": "listen on an address others reach: they can then run any code on this machine",
    },
    "--json": {"action": "store_true", "help": "print the result as one JSON object"},
    "--quiet": {"action": "store_true", "help": "no progress on stderr"},
    "--verbose": {
        "action": "store_true",
        "help": "log what is done, with times, and show tracebacks of errors",
    },
}
_SHORT = {"--quiet": "-q", "--verbose": "-v"}


def add_flag(parser: argparse._ActionsContainer, name: str, **changes: Any) -> None:
    """Add one of the shared flags.

    Parameters
    ----------
    parser : parser or group
    name : its long name
    changes : what this command says differently: ``default``, ``required``, ``help``
    """
    names = (_SHORT[name], name) if name in _SHORT else (name,)
    parser.add_argument(*names, **{**_FLAGS[name], **changes})


def add_output(
    parser: argparse._ActionsContainer, what: str, *, metavar: str = "FILE", required: bool = True
) -> None:
    """Add ``-o``/``--output``, which every command that writes one thing has."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar=metavar, required=required, help=what
    )


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags every command has."""
    group = parser.add_argument_group("output")
    for name in ("--json", "--quiet", "--verbose"):
        add_flag(group, name)


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the picture a bundle carries to check its bits by."""
    choice = parser.add_mutually_exclusive_group()
    add_flag(choice, "--sample")
    add_flag(choice, "--no-sample")


def add_dataset_arguments(
    parser: argparse.ArgumentParser, split: str
) -> argparse._ArgumentGroup:
    """Add the flags that name a labelled data set; return their group for more.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    split : the split that is taken where the layout has several
    """
    data = parser.add_argument_group("data")
    for name in ("--dataset", "--root", "--strict"):
        add_flag(data, name)
    add_flag(data, "--split", help=f"default: {split}; folder: images/ itself")
    return data


def add_tracker(parser: argparse._ActionsContainer) -> None:
    """Add ``--tracker``."""
    add_flag(parser, "--tracker", const=_tracker_of_environment())


def add_key(parser: argparse._ActionsContainer) -> None:
    """Add ``--key``."""
    add_flag(parser, "--key", default=os.environ.get("TVM_TRACKER_KEY"))


def add_board_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a board; without any it is this machine."""
    group = parser.add_argument_group("board (default: this machine)")
    place = group.add_mutually_exclusive_group()
    add_tracker(place)
    add_flag(place, "--rpc")
    add_key(group)
    add_flag(group, "--any-cpu")
    add_flag(
        group,
        "--timeout",
        default=_BOARD_TIMEOUT,
        help="longest time for one run on the board, and to wait for one (default: %(default)s)",
    )


def add_bind_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Add the flags of a command that listens on the network."""
    add_flag(parser, "--host")
    add_flag(parser, "--port", default=port)
    add_flag(parser, "--i-know")


def _tracker_of_environment() -> str:
    """Return the tracker that TVM's environment variables name; empty if they name none."""
    host, port = os.environ.get("TVM_TRACKER_HOST"), os.environ.get("TVM_TRACKER_PORT")
    return f"{host}:{port}" if host and port else ""
