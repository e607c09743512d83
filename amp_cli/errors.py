"""The one exception that people see as a sentence instead of a traceback."""

from amp_cli.addresses import masked


class AmpError(Exception):
    """Something the user can mend: what is wrong, and the next thing to try. Addresses in it are without secrets.

    Printed by `amp_cli.main` as an `Error:` and a `Hint:` line, with this exit status.
    """

    status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = masked(message)
        super().__init__(message)
        self.message = message
        self.hint = None if hint is None else masked(hint)


class OccupiedError(AmpError):
    """Another process works where the results should go."""

    status = 2
