"""The one exception type a user is meant to see."""


class IsegError(Exception):
    """Bad input or an impossible request, said in one line.

    The command line prints ``error: <message>``, then ``hint: <hint>`` if there is one, and
    exits with status 2. No traceback is shown.

    Parameters
    ----------
    message : str
        What is wrong, naming the file, flag or value.
    hint : str, optional
        What to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """Return the message alone; the hint is printed on its own line."""
        return self.message
