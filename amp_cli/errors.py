"""The exceptions that people see as a sentence instead of a traceback."""

from amp_cli.addresses import masked


class AmpError(Exception):
    """Something the user can mend: what is wrong, and the next thing to try. Addresses in it are without secrets.

    Printed by `amp_cli.main` as an `Error:` and a `Hint:` line, with this exit status.
    """

    status = 1

    def __init__(self, message: str, *, hint: str) -> None:
        message = masked(message)
        super().__init__(message)
        self.message = message
        self.hint = masked(hint)


CORRECT_IT = "Correct that record, or take it out of the file"


class RecordError(AmpError):
    """A record that cannot be used, and why. Whoever reads the file says which one it is, and mostly leaves it out."""

    def __init__(self, message: str, *, hint: str = CORRECT_IT) -> None:
        super().__init__(message, hint=hint)


class OccupiedError(AmpError):
    """Another process works where the results should go."""

    status = 2
