"""The one exception that people see as a sentence instead of a traceback."""


class AmpError(Exception):
    """Something the user can mend: what is wrong, and the next thing to try.

    Printed by `amp_cli.main` as an `Error:` and a `Hint:` line, with this exit status.
    """

    status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class OccupiedError(AmpError):
    """Another process works where the results should go."""

    status = 2
