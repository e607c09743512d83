"""Finds the files of `templates/`, in a wheel and in a checkout alike."""

from pathlib import Path

from amp_cli.errors import AmpError

PACKAGE = Path(__file__).resolve().parent.parent
FOLDERS = (PACKAGE / "templates", PACKAGE.parent / "templates")


def template_path(*parts: str) -> Path:
    """Return the path of `templates/<parts>`.

    Raises:
        AmpError: the file is not there (a damaged installation).
    """
    for folder in FOLDERS:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise AmpError(f"The template '{'/'.join(parts)}' is not installed", hint="Reinstall with `pip install amp-cli`")
