"""`amp prefs check`: preference data looked over before it is trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli.commands.options import (
    OUTPUT_PANEL,
    ImageRootOption,
    JsonOption,
    number,
    options_in,
    train_line,
    typed_again,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from amp_cli.preferences.check.check import Report
    from amp_cli.preferences.check.findings import Finding


AGAINST = "Against"


def check(
    prefs: Annotated[str, typer.Argument(metavar="PREFS", help="Preference file, in any format that can be imported.")],
    image_root: ImageRootOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Count tokens against this model's context; its weights are not loaded.",
            rich_help_panel=AGAINST,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        number(
            "--max-length",
            help="Longest item in tokens, images included; estimated without --model.",
            rich_help_panel=AGAINST,
        ),
    ] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            "--benchmark",
            help="Folder of a benchmark's images, which must not be trained on; repeat for several.",
            rich_help_panel=AGAINST,
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 3 on warnings too.", rich_help_panel=OUTPUT_PANEL)
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for check.json and findings.jsonl, the list of all.",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Check preferences: items, images, duplicates, lengths, styles, leaked prompts, context and benchmarks.

    Exit status 0: no faulty item (warnings are shown; with --strict there are none either). 3: some items are faulty.

    Example: amp prefs check preferences.jsonl --model 7b --benchmark data/pope/images
    """
    typed = dict(locals())
    from amp_cli import ui
    from amp_cli.preferences.check.check import LISTED, CheckSettings
    from amp_cli.preferences.check.check import check as run

    report = run(
        CheckSettings(
            source=prefs,
            image_root=image_root,
            model=model,
            max_length=max_length,
            benchmarks=tuple(benchmark or ()),
            out=out,
        )
    )
    if json:
        ui.data(report.to_json())
    else:
        _show(report, prefs)
    if out is not None:
        ui.note(f"All findings are in '{out / LISTED}'")
    if report.rejected or (strict and report.warnings):
        if out is None:
            options = {name: one for name, one in options_in(check).items() if name != "prefs"}
            ui.hint(typed_again(("amp", "prefs", "check", prefs), options, typed, out="findings"))
            ui.note("That lists every finding.")
        raise typer.Exit(3)
    ui.hint(train_line(prefs, image_root=image_root, model=model, max_length=max_length))


def _show(report: "Report", prefs: str) -> None:
    from amp_cli import ui

    levels = ", ".join(f"{items:,} with {count} levels" for count, items in sorted(report.levels.items()))
    share = report.lengths.longer_share
    rows: list[tuple[str, object]] = [
        ("usable items", f"{report.items:,}" + (f" ({levels})" if levels else "")),
        ("faulty items", f"{report.rejected:,}"),
        ("better answer longer", None if share is None else f"{share:.0%} of pairs"),
        ("length, level 0 to others", None if report.lengths.effect is None else f"d = {report.lengths.effect:+.2f}"),
    ]
    if report.context is not None:
        rows.append(("longest item", f"{report.context['longest']:,} of {report.context['limit']:,} tokens"))
    ui.table(f"Check of {prefs}", ("", ""), rows)
    _show_findings("Faults: these items cannot be used", report.faults)
    _show_findings("Warnings", report.warnings)
    show_style(report.pair_style.to_json())
    shifts = report.style.shifts()
    if len(shifts) > 1:
        ui.table(
            "Styles: divergences from the first source, 0 (same) to 1",
            ("source", "words a sentence", "lists", "commonest opening", "function words", "openings"),
            [
                (
                    shift.source,
                    f"{shift.words_per_sentence:.1f}",
                    f"{shift.list_share:.0%}",
                    shift.opening,
                    shift.function_words,
                    shift.openings,
                )
                for shift in shifts
            ],
        )
    if report.context is not None:
        ui.note(f"Tokens: {report.context['counted_by']}")
    for check, why in report.skipped.items():
        ui.note(f"Not checked: {check} ({why})")


def show_style(style: "Mapping[str, Any]") -> None:
    """Show how the better side of pairs is written, and why nothing is said of noun chunks where that is so."""
    from amp_cli import ui
    from amp_cli.preferences.figures import STYLE_HEADS, STYLE_TITLE, style_rows

    if rows := style_rows(style):
        ui.table(STYLE_TITLE, STYLE_HEADS, rows)
        if style["why_no_noun_chunks"] is not None:
            ui.note(f"Noun chunks are not counted: {style['why_no_noun_chunks']}")


def _show_findings(title: str, findings: "list[Finding]") -> None:
    from amp_cli import ui

    if findings:
        rows = [
            (finding.check, f"{finding.count:,}", finding.message, ", ".join(finding.examples[:3]))
            for finding in findings
        ]
        ui.table(title, ("check", "count", "what", "for example"), rows)
