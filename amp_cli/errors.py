"""The exceptions that people see as a sentence instead of a traceback."""


class AmpError(Exception):
    """Something the user can mend: what is wrong, and the next thing to try.

    Printed by `amp_cli.main` as an `Error:` and a `Hint:` line, exit status 1.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RecordError(AmpError):
    """A record that cannot be used, and why. Whoever reads the file says which one it is, and mostly leaves it out."""

    def __init__(self, message: str, *, hint: str = "Correct that record, or take it out of the file") -> None:
        super().__init__(message, hint=hint)
