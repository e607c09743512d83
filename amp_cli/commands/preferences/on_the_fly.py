"""Preferences of other formats for `amp train`: imported beside the run, once, before it starts."""

from dataclasses import dataclass
from pathlib import Path

from amp_cli import ui
from amp_cli.errors import AmpError


@dataclass(frozen=True, kw_only=True)
class UsablePrefs:
    """A file that training reads, and the folder that its image paths start from (None: the file's own)."""

    file: Path
    image_root: Path | None


def usable_prefs(prefs: Path, out: Path, *, image_root: Path | None, method: str) -> UsablePrefs:
    """Return preferences as training reads them: our own as they are, others imported into `OUT.imported`.

    The import stands beside the run's folder, not in it: `--overwrite` empties that, and it is made before the run
    is known to be able to start. It is made once and used again while the source is the same.

    Args:
        method: `sft` also takes data with one response per question.

    Raises:
        AmpError: the source cannot be read, or has no preferences.
    """
    from amp_cli.preferences.importers.importing import import_preferences
    from amp_cli.preferences.importers.source import open_source

    as_it_is = UsablePrefs(file=prefs, image_root=image_root)
    if not prefs.exists() and len(prefs.parts) != 2:  # no hub id: training says what is missing
        return as_it_is
    try:
        format = open_source(prefs, image_root=image_root).format
    except AmpError:
        if prefs.is_file():  # what training reads beyond preferences, or refuses in its own words
            return as_it_is
        raise
    if format.name == "amp" and prefs.is_file():
        return as_it_is
    if format.is_standard_only and method != "sft":
        raise AmpError(
            f"'{prefs}' has one response per question and no preferences ({format.name})",
            hint=f"Make some: amp generate-prefs {prefs} --out DIR ...; or fine-tune on it with --method sft",
        )
    place = out.parent / f"{out.name}.imported"
    result = import_preferences(prefs, place, format=format.name, image_root=image_root, overwrite=True, keep_same=True)
    again = "was imported before" if result.was_there else "is imported"
    ui.note(f"'{prefs}' is in the format {result.format}; it {again}: {result.items} items in '{result.file}'")
    for warning in result.warnings:
        ui.warn(warning)
    if result.rejected:
        ui.warn(f"{result.rejected} of its records gave no item; the reasons are in '{result.rejected_file}'")
    return UsablePrefs(file=result.file, image_root=None)
