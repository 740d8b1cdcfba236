"""What can go wrong with a board. All are `IsegError`: two lines for the user, no traceback."""

from iseg_tvm.errors import IsegError


class BoardError(IsegError):
    """Anything that is the board's or the network's fault."""


class TrackerUnreachable(BoardError):
    """Nothing answers at the tracker's address, or something else does."""


class NoBoard(BoardError):
    """No board is registered under the key, all are busy, or none answers at the address."""


class WrongBoard(BoardError):
    """The board is not of the kind its key promises."""


class BoardLost(BoardError):
    """The connection broke: power, network, or a server that was stopped."""


class BoardTimeout(BoardError):
    """The board did not answer in time."""


class SessionCrashed(BoardError):
    """A kernel ended the session's process on the board; the server lives on.

    Parameters
    ----------
    cause : str
        The signal's name, such as ``SIGILL``.
    """

    def __init__(self, message: str, hint: str, cause: str) -> None:
        super().__init__(message, hint)
        self.cause = cause


class RemoteCallFailed(BoardError):
    """The called function raised an exception on the board; the session lives on."""
