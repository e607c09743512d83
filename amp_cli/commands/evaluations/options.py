"""The options that the commands of `amp eval` share, written once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli.commands.options import MODEL, RUNNING

DATA = "Data"
DECODING = "Decoding"
JUDGE = "Judge"
SCORING = "Scoring"

OptionalModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Folder, hub id, a name of `amp models` (7b, amp-meg-7b, tiny), or an endpoint's URL#NAME.",
        rich_help_panel=MODEL,
    ),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", help="Answers that exist already, ours or the released code's.", rich_help_panel=DATA),
]
BeamsOption = Annotated[int, typer.Option("--num-beams", min=1, help="Beams.", rich_help_panel=DECODING)]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0.0, help="0 is deterministic.", rich_help_panel=DECODING)
]
NewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Length limit of an answer, tokens.", rich_help_panel=DECODING)
]
NgramOption = Annotated[
    int,
    typer.Option(
        "--no-repeat-ngram-size", min=0, help="No n tokens twice in an answer; 0 is off.", rich_help_panel=DECODING
    ),
]
SuffixOption = Annotated[
    str, typer.Option("--prompt-suffix", help="Put after each question that lacks it.", rich_help_panel=DECODING)
]
ONE_WORD = "\\nAnswer the question using a single word or phrase."

ProcessesOption = Annotated[
    int | None,
    typer.Option(
        "--num-processes",
        min=1,
        help="Processes that share the questions, each with the model (default: one per GPU, one on a CPU)",
        rich_help_panel=RUNNING,
        show_default=False,
    ),
]
OnlyOption = Annotated[
    Literal["answer", "score"] | None,
    typer.Option(
        "--only",
        help="answer: stop before scoring; score: score --out again, without a model.",
        rich_help_panel=RUNNING,
    ),
]
OnlyJudgedOption = Annotated[
    Literal["answer", "judge", "score"] | None,
    typer.Option(
        "--only",
        help="answer: stop before judging; judge: judge the answers in --out, without a model; "
        "score: score its verdicts again, without model or judge.",
        rich_help_panel=RUNNING,
    ),
]
OfficialOption = Annotated[
    Literal["strict", "official"],
    typer.Option(
        "--rule", help="official is the benchmark's own script; strict leaves out and counts.", rich_help_panel=SCORING
    ),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="NAME",
        help="Model of an OpenAI-compatible endpoint (key: OPENAI_API_KEY), local:MODEL, or replay:FILE of replies.",
        rich_help_panel=JUDGE,
    ),
]
JudgeUrlOption = Annotated[
    str | None,
    typer.Option(
        "--judge-url",
        metavar="URL",
        help="The endpoint, as in http://127.0.0.1:8000/v1 (default: OPENAI_BASE_URL, else OpenAI's)",
        rich_help_panel=JUDGE,
    ),
]
JudgeTemplateOption = Annotated[
    Path | None,
    typer.Option(
        "--judge-template",
        help="What the judge is told (default: the official file beside the data, else our own wording)",
        rich_help_panel=JUDGE,
    ),
]
JudgeTemperatureOption = Annotated[
    float | None,
    typer.Option(
        "--judge-temperature", min=0.0, help="Temperature (default: the benchmark's own)", rich_help_panel=JUDGE
    ),
]
JudgeConcurrencyOption = Annotated[
    int, typer.Option("--judge-concurrency", min=1, help="Requests under way at once.", rich_help_panel=JUDGE)
]
JudgeTimeoutOption = Annotated[
    float, typer.Option("--judge-timeout", min=1.0, help="Seconds until a reply is given up.", rich_help_panel=JUDGE)
]
MaxCostOption = Annotated[
    float | None,
    typer.Option("--max-cost", min=0.0, help="Stop before it costs more, in --price's money.", rich_help_panel=JUDGE),
]
PriceOption = Annotated[
    str | None,
    typer.Option(
        "--price",
        metavar="IN,OUT",
        help="What a million prompt and completion tokens cost, as in 2.5,10.",
        rich_help_panel=JUDGE,
    ),
]
RepeatOption = Annotated[
    int, typer.Option("--repeat", min=1, help="Verdicts per item; their spread is reported.", rich_help_panel=JUDGE)
]
VerdictsOption = Annotated[
    Path | None,
    typer.Option(
        "--verdicts",
        help="Verdicts that exist already, in place of a judge: ours, or the released code's evaluation file.",
        rich_help_panel=DATA,
    ),
]
