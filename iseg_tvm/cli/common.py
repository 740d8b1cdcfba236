"""What all commands print: the result, tables, JSON; and what they say on stderr meanwhile."""

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Progress = Callable[[str, int, int], None]  # stage, steps done, steps in all

_LOG_SECONDS = 2.0
_FILE_WIDTH = 160
_LONG = 16  # more numbers than this are not written one by one
_COLORS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "bold": 1}


def colored(text: str, color: str, stream: IO[str]) -> str:
    """Return the text in a colour if `stream` is a terminal that wants colours."""
    return f"\033[{_COLORS[color]}m{text}\033[0m" if wants_color(stream) else text


def wants_color(stream: IO[str]) -> bool:
    """Whether colours may be written: a terminal, and no NO_COLOR in the environment."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


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


def print_address(args: argparse.Namespace, what: str, address: object) -> None:
    """Print where a service listens; scripts wait for this line and read the port from it."""
    if args.json:
        print(json.dumps({"kind": what, "address": str(address)}), flush=True)
    else:
        print(f"{what} at {address}", flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; the first `left` columns are words, the others figures."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text.from_ansi(cell) for cell in row))
    # A file or pipe has no width to keep to.
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    console = Console(
        file=sys.stdout,
        markup=False,
        highlight=False,
        width=width,
        color_system="auto" if wants_color(sys.stdout) else None,
    )
    console.print(table)


def print_values(values: Mapping[str, Any], indent: str = "") -> None:
    """Print nested values, one a line."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        # A kernel's name ends in its shape and stays as it is.
        name = key if re.search(r"\d+x\d+", key) else key.replace("_", " ")
        if isinstance(value, Mapping) and value:
            print(f"{indent}{name}:")
            print_values(value, indent + "  ")
        else:
            print(f"{indent}{name + ':':<{width + 1}} {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value != 0 and not value:
        return "-"
    if isinstance(value, list | tuple):
        if len(value) > _LONG and all(isinstance(v, int | float) for v in value):
            return f"{len(value)} values from {_text(min(value))} to {_text(max(value))}"
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def named_values(options: Any) -> str:
    """Return a dataclass' fields on one line, for people; what is None is left out."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    known = {name: value for name, value in values.items() if value is not None}
    return "; ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in known.items())


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
    console = Console(stderr=True, color_system="auto" if wants_color(sys.stderr) else None)
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
