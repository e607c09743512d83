"""`amp push`: an adapter or a merged model goes to the Hugging Face hub, with card, licence and report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli import ui
from amp_cli.commands.options import DATA_PANEL, OUTPUT_PANEL, JsonOption


def push(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_FOLDER", help="Run of `amp train`, adapter, or merged model."),
    ],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME; made where it is not there.")],
    what: Annotated[
        Literal["adapter", "merged"] | None,
        typer.Option("--what", help="Which one, where the folder holds both.", rich_help_panel=DATA_PANEL),
    ] = None,
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Of a run: the adapter that did best on held-out items.", rich_help_panel=DATA_PANEL
        ),
    ] = False,
    base: Annotated[
        str | None,
        typer.Option("--base", help="The base's hub id (default: what the run names)", rich_help_panel=DATA_PANEL),
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            help="By the hub's name, as in apache-2.0 or llama2 (default: the base's, where it is known)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(
            "--report",
            help="Folder of `amp eval`, repeatable, the base first: they go along as report.html and report.json. "
            "Scores of this very model enter the card's metadata.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch; made if need be (default: main)", rich_help_panel=OUTPUT_PANEL),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace files of other content there.", rich_help_panel=OUTPUT_PANEL),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="List the files and show the card; send nothing.", rich_help_panel=OUTPUT_PANEL),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Put an adapter or a merged model on the Hugging Face hub, with its card, licence and scores.

    The token is read from HF_TOKEN. Only weights, configuration, processor, card and report go along: no run.json, no
    training data, no optimizer state, no path of this machine. --dry-run lists every file.

    Example: amp push runs/mdpo me/my-7b-lora --report runs/base-pope --report runs/mdpo-pope --dry-run
    """
    from amp_cli.push.card import describe
    from amp_cli.push.files import find_model, uploads_of
    from amp_cli.push.hub import PushedRepository, push_files, refuse_strange_name, token_from_environment

    refuse_strange_name(repo)
    model = find_model(source, what=what, best=best, base=base)
    described = describe(model, repo=repo, licence=licence, evaluations=report or ())
    uploads = [*uploads_of(model), *described.uploads]
    files = [{"path": one.path, "bytes": one.bytes} for one in uploads]
    told = {"repo": repo, "what": model.what, "license": described.licence, "files": files}
    if described.licence is None:
        ui.warn("The card names no licence. Give --license, as in --license apache-2.0; the base's terms may apply too")
    if dry_run:
        if json:
            ui.data({**told, "card": described.card})
            return
        rows = [(one.path, f"{one.bytes:,}") for one in uploads]
        ui.table(f"{model.what} for '{repo}': {sum(one.bytes for one in uploads):,} bytes", ("file", "bytes"), rows)
        ui.line(described.card)
        ui.note("Nothing was sent")
        return
    target = PushedRepository(repo=repo, private=private, revision=revision, overwrite=overwrite)
    pushed = push_files(target, uploads, token_from_environment())
    if json:
        ui.data({**told, "url": pushed.url, "commit": pushed.commit, "created": pushed.is_new})
        return
    ui.line(pushed.url)
    ui.note(f"{len(uploads)} files, {sum(one.bytes for one in uploads):,} bytes, commit {pushed.commit[:12]}")
    words = {"model": model.base or "BASE", "adapter": repo} if model.what == "adapter" else {"model": repo}
    ui.hint(ui.command_line("amp", "eval", "pope", **words, data="DIR", out="DIR"))
