"""The options that the commands of `amp eval` share, written once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli.commands.options import DATA_PANEL, DECODING_PANEL, RUNNING_PANEL

SCORING_PANEL = "Scoring"

AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--answers", help="Answers that exist already, ours or the released code's.", rich_help_panel=DATA_PANEL
    ),
]
SuffixOption = Annotated[
    str, typer.Option("--prompt-suffix", help="Put after each question that lacks it.", rich_help_panel=DECODING_PANEL)
]
ONE_WORD = "\\nAnswer the question using a single word or phrase."

OnlyOption = Annotated[
    Literal["answer", "score"] | None,
    typer.Option(
        "--only",
        help="answer: stop before scoring; score: score --out again, without a model.",
        rich_help_panel=RUNNING_PANEL,
    ),
]
OnlyJudgedOption = Annotated[
    Literal["answer", "judge", "score"] | None,
    typer.Option(
        "--only",
        help="answer: stop before judging; judge: judge the answers in --out, without a model; "
        "score: score its verdicts again, without model or judge.",
        rich_help_panel=RUNNING_PANEL,
    ),
]
OfficialOption = Annotated[
    Literal["strict", "official"],
    typer.Option(
        "--rule",
        help="official is the benchmark's own script; strict leaves out and counts.",
        rich_help_panel=SCORING_PANEL,
    ),
]
