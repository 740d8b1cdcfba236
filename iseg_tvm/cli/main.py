"""The console script ``iseg-tvm``: parse, run a command, turn errors into two lines."""

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

from iseg_tvm import __version__
from iseg_tvm.cli import (
    bench,
    completion,
    deploy,
    doctor,
    evaluate,
    import_ivit,
    info,
    qat,
    quantize,
    report,
    rpc_server,
    rpc_tracker,
    segment,
    tune,
)
from iseg_tvm.cli import compile as compile_command
from iseg_tvm.cli.common import colored
from iseg_tvm.errors import IsegError

_COMMANDS = {
    "quantize": quantize,
    "qat": qat,
    "compile": compile_command,
    "tune": tune,
    "segment": segment,
    "evaluate": evaluate,
    "report": report,
    "bench": bench,
    "import-ivit": import_ivit,
    "deploy": deploy,
    "info": info,
    "doctor": doctor,
    "rpc-tracker": rpc_tracker,
    "rpc-server": rpc_server,
    "completion": completion,
}
_DESCRIPTION = """\
Semantic segmentation with integer arithmetic alone: a trained Segmenter is quantized from one
picture, compiled by TVM into one shared library, and run on a PC or a board."""
_EPILOG = """\
The whole way:
  iseg-tvm quantize --checkpoint seg_tiny_mask/ --calibration photo.jpg -o model.safetensors
  iseg-tvm compile --model model.safetensors --target native -o bundle/
  iseg-tvm segment photo.jpg --bundle bundle/ -o overlay.png

Exit status: 0 done, 1 the work failed, 2 wrong usage or input, 130 interrupted (Ctrl-C),
143 terminated. Results go to stdout, everything else to stderr. NO_COLOR is honoured.
Something does not work: iseg-tvm doctor.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser with all commands."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="iseg-tvm", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=form
    )
    parser.add_argument("--version", action="version", version=f"iseg-tvm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
            epilog="examples:\n" + module.EXAMPLES,
            formatter_class=form,
        )
        module.add_arguments(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process if left out.
    """
    args = argparse.Namespace(verbose=False, command="iseg-tvm")
    try:
        build_parser().parse_args(_with_dashes(sys.argv[1:] if argv is None else argv), args)
        with _logging(args), _stopped_cleanly():
            status = int(_COMMANDS[args.command].run(args))
        sys.stdout.flush()
        return status
    except IsegError as error:
        return _fail(args, 2, error.message, error.hint)
    except Terminated:
        print("terminated", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (`| head`) has gone; keep Python from complaining when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        hint = "this is a bug in iseg-tvm; run again with -v and report what it prints"
        return _fail(args, 1, f"{args.command} failed: {type(error).__name__}: {first_line}", hint)


class Terminated(KeyboardInterrupt):
    """SIGTERM, cleaned up after as Ctrl-C is."""


@contextmanager
def _stopped_cleanly() -> Iterator[None]:
    """Turn SIGTERM into an exception as Ctrl-C is, so that no temporary file is left behind.

    Where either comes while TVM calls Python back, TVM raises an empty RuntimeError in its place.
    """
    stopped: list[type[KeyboardInterrupt]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        raise stopped[0]

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # in the background: ignored
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except Exception as error:
        if stopped:
            raise stopped[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Show warnings of ours on stderr, and with ``--verbose`` what is done."""
    logger, handler = logging.getLogger("iseg_tvm"), _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.setLevel(logging.DEBUG if args.verbose else logging.WARNING)
    logger.addHandler(handler)
    shown = {name: value for name, value in vars(args).items() if value is not None}
    logger.debug("iseg-tvm %s: %s", __version__, shown)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Stderr(logging.StreamHandler):
    """Writes to whatever stderr is at that moment."""

    @property
    def stream(self) -> IO[str]:
        """Where to write."""
        return sys.stderr

    @stream.setter
    def stream(self, value: IO[str]) -> None:
        pass


def _with_dashes(argv: Sequence[str]) -> list[str]:
    """Spell the command as the parser does: ``rpc_server`` is TVM's spelling of it."""
    return [argument.replace("_", "-") if i == 0 else argument for i, argument in enumerate(argv)]


def _fail(args: argparse.Namespace, status: int, message: str, hint: str) -> int:
    """Print the error, with the traceback if it was asked for."""
    if args.verbose:
        traceback.print_exc()
    print(f"{colored('error:', 'red', sys.stderr)} {message}", file=sys.stderr)
    if hint:
        print(f"{colored('hint:', 'cyan', sys.stderr)} {hint}", file=sys.stderr)
    return status
