"""`amp download`: models and benchmark data, fetched before they are needed."""

from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli.commands import completing
from amp_cli.commands.options import OUTPUT_PANEL, JsonOption

if TYPE_CHECKING:
    from amp_cli.downloads.reports import Download, FileReport

SOURCE = "Source"
FEW = 12
"""Folders with more files than this are one row of the table."""


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            autocompletion=completing.downloads,
            help="Models, adapters, benchmarks, or hub ids (owner/name).",
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror",
            metavar="URL",
            help="Hub endpoint to ask instead; files of other hosts are taken from URL/HOST/PATH.",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            "--revision",
            help="Branch, tag or commit of a hub repository (default: the main branch's commit)",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    list_files: Annotated[
        bool,
        typer.Option(
            "--list-files",
            help="Fetch nothing: print addresses, checksums and where the files belong, to carry them by hand.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fetch models, adapters and benchmarks: resumable, at one commit, every file verified.

    An adapter brings its base along, and an original-layout model its vision tower.
    Models go to the Hugging Face cache (HF_HOME), benchmarks below AMP_HOME (default ~/.cache/amp).
    HF_TOKEN opens restricted repositories. Without NAME: what there is.

    Example: amp download 7b pope
    """
    from amp_cli import ui
    from amp_cli.downloads.fetch import fetch_target, list_target, resolve_targets
    from amp_cli.errors import AmpError

    if not names:
        _show_names(json)
        return
    if revision and len(names) > 1:
        raise AmpError(f"--revision '{revision}' fits one NAME, not {len(names)}", hint="Run one command for each")
    downloads = []
    for target in resolve_targets(names):
        if target.why:
            ui.note(f"{target.name}: {target.why}")
        its_revision = None if target.why else revision
        if list_files:
            one = list_target(target, mirror=mirror, revision=its_revision)
        else:
            one = fetch_target(target, mirror=mirror, revision=its_revision, progress=ui.byte_progress)
        downloads.append(one)
        if not json:
            _show(one, listed=list_files)
    if json:
        ui.data({"downloads": [one.to_json() for one in downloads]})


def _show_names(json: bool) -> None:
    from amp_cli import ui
    from amp_cli.downloads.places import benchmark_folder
    from amp_cli.downloads.sources import BENCHMARK_FILES
    from amp_cli.downloads.zoo import KNOWN

    models = [model for model in KNOWN if model.hub_id and not model.obstacle]
    if json:
        ui.data(
            {
                "models": [{"name": model.name, "hub_id": model.hub_id, "what": model.what} for model in models],
                "benchmarks": [
                    {"name": one.name, "what": one.what, "folder": str(benchmark_folder(one.name))}
                    for one in BENCHMARK_FILES
                ],
            }
        )
        return
    ui.table("Models", ["name", "what"], [(model.name, model.what) for model in models])
    ui.table("Benchmarks", ["name", "what"], [(one.name, one.what) for one in BENCHMARK_FILES])
    ui.hint("amp download 7b pope")


def _show(one: "Download", *, listed: bool) -> None:
    from amp_cli import ui
    from amp_cli.downloads.places import size_text

    if one.files and listed:
        _show_list(one)
    elif one.files:
        rows = [
            (file.file, size_text(file.bytes), _shown_checksum(file), file.verified, file.state)
            for file in _grouped(one.files)
        ]
        title = f"{one.name}: {one.source}" + (f" at {one.revision}" if one.revision else "") + f", in {one.folder}"
        ui.table(title, ["file", "size", "sha256", "verified", ""], rows)
    for note in one.notes:
        ui.note(note)


def _show_list(one: "Download") -> None:
    """Show each file as a block of lines: addresses and checksums have to be copied, whole."""
    from amp_cli import ui

    rows: list[tuple[str, object]] = []
    for file in one.files:
        rows += [
            ("from", file.url),
            ("to", file.place),
            ("bytes", "not known" if file.bytes is None else f"{file.bytes:,}"),
            ("checksum", file.expected or "no published checksum"),
            ("", ""),
        ]
    title = f"{one.name}: {one.source}" + (f" at {one.revision}" if one.revision else "")
    ui.table(title, ["", f"{len(one.files)} files"], rows[:-1])


def _shown_checksum(file: "FileReport") -> str:
    return file.sha256 or "-"


def _grouped(files: "tuple[FileReport, ...]") -> "list[FileReport]":
    """Return the files with each large folder as one entry."""
    from dataclasses import replace

    folders: dict[str, list[FileReport]] = {}
    for file in files:
        folders.setdefault(file.file.rpartition("/")[0], []).append(file)
    shown: list[FileReport] = []
    for folder, inside in folders.items():
        if not folder or len(inside) <= FEW:
            shown += inside
            continue
        kinds = dict.fromkeys(file.verified or "" for file in inside)
        states = dict.fromkeys(file.state for file in inside)
        shown.append(
            replace(
                inside[0],
                file=f"{folder}/ ({len(inside)} files)",
                bytes=sum(file.bytes or 0 for file in inside),
                sha256=None,
                verified=", ".join(kinds),
                state=", ".join(states),
            )
        )
    return shown
