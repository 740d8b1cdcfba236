"""The RPC server of a board: one client at a time, each in a process of its own.

TVM's server needs ``import tvm`` and starts an interpreter a session. This one needs TVM's runtime
library only, and forks: a kernel that crashes takes its session along and nothing else, and the
client is told which signal it was.
"""

import logging
import multiprocessing
import select
import shutil
import signal
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

from iseg_tvm.board import protocol, session
from iseg_tvm.network import Address
from iseg_tvm.runtime import tvm_runtime

CRASHED = "iseg-tvm board: the session died of"
TIMED_OUT = "iseg-tvm board: the session's time is over"

_log = logging.getLogger("iseg_tvm.rpc_server")
_PING_SECONDS = 2.0
_RETRY_SECONDS = 5.0
_POLL_SECONDS = 0.5
_GRACE_SECONDS = 2.0  # for a kernel to end after its client has left


@dataclass
class Server:
    """A board's server.

    Parameters
    ----------
    listener : socket
        Where clients connect.
    key : str
        Name of the kind of board.
    tracker : Address, optional
        Tracker to offer the board at.
    reported_host : str, optional
        Address the tracker tells clients; the one it sees this server come from if left out.
    session_seconds : float, optional
        Longest session; clients may ask for a shorter one.
    """

    listener: socket.socket
    key: str
    tracker: Address | None = None
    reported_host: str | None = None
    session_seconds: float | None = None
    _link: protocol.TrackerLink | None = None

    def run(self) -> None:
        """Serve until interrupted (KeyboardInterrupt, SystemExit)."""
        session.load_runtime()
        try:
            while True:
                client = self._next_client()
                if client is not None:
                    self._serve(client)
        finally:
            self._drop_link()

    def _next_client(self) -> protocol.Client | None:
        """Wait for a client, offered at the tracker meanwhile; None if it is turned away."""
        if self.tracker is None:
            select.select([self.listener], [], [])
            return protocol.accept(self.listener, self.key, self.key)
        try:
            if self._link is None:
                self._link = self._connect(self.tracker)
            if not self._link.match_key:
                self._link.offer()
            while not select.select([self.listener], [], [], _PING_SECONDS)[0]:
                self._link.refresh()
        except OSError as error:
            _log.warning("lost the tracker %s: %s", self.tracker, error)
            self._drop_link()
            return None
        client = protocol.accept(self.listener, self._link.match_key, self.key)
        if client is not None:
            self._link.match_key = ""  # used up; the next client gets another
        return client

    def _connect(self, tracker: Address) -> protocol.TrackerLink:
        """Connect to the tracker, for as long as it takes."""
        port = self.listener.getsockname()[1]
        said = ""
        while True:
            try:
                link = protocol.TrackerLink(tracker, self.key, port, self.reported_host)
            except OSError as error:
                if str(error) != said:
                    _log.warning("no tracker at %s yet: %s", tracker, error)
                said = str(error)
                time.sleep(_RETRY_SECONDS)
            else:
                _log.info("offered at the tracker %s under the key %s", tracker, self.key)
                return link

    def _drop_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _serve(self, client: protocol.Client) -> None:
        """Run one session in a process of its own, and clean up after it."""
        folder = Path(tempfile.mkdtemp(prefix="iseg-board-"))
        process = multiprocessing.get_context("fork").Process(
            target=self._session_process, args=(client.connection, folder), daemon=True
        )
        try:
            process.start()
            _log.info("session %s of %s", process.pid, client.peer)
            limits = [t for t in (client.timeout_seconds, self.session_seconds) if t]
            reason = _watch(process, client.connection, min(limits, default=None))
            if reason:
                _log.warning("session %s: %s", process.pid, reason)
                _tell(client.connection, reason)
            else:
                _log.info("session %s has ended", process.pid)
        finally:
            if process.is_alive():
                process.kill()
            client.connection.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _session_process(self, connection: socket.socket, folder: Path) -> None:
        # The server alone reacts to Ctrl-C, and alone speaks to tracker and other clients.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.listener.close()
        self._drop_link()
        session.serve_session(connection.fileno(), folder)


def _watch(process: ForkProcess, connection: socket.socket, seconds: float | None) -> str:
    """Wait for a session's end; return what went wrong, or an empty string."""
    end = None if seconds is None else time.monotonic() + seconds
    while process.is_alive():
        if end is not None and time.monotonic() >= end:
            return f"{TIMED_OUT} ({seconds:g} s)"
        if protocol.hung_up(connection, 0):
            process.join(_GRACE_SECONDS)
            return "" if not process.is_alive() else "the client has left, a kernel still runs"
        process.join(_POLL_SECONDS)
    code = process.exitcode or 0
    if code < 0:
        return f"{CRASHED} {_signal_name(-code)}"
    return f"{CRASHED} an error (exit status {code})" if code else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tell(connection: socket.socket, reason: str) -> None:
    """Answer the call that is under way with an exception; nobody may listen any more."""
    with suppress(RuntimeError, OSError):
        tvm_runtime().get_global_func("rpc.ReturnException")(connection.fileno(), reason)
