"""`amp eval`: ask a model, have its answers judged where a benchmark is judged, score them. One command a benchmark."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.benchmark import OFFICIAL, Benchmark, Option
from amp_cli.benchmarks.settings import EvalSettings, settings_of
from amp_cli.commands import sweep
from amp_cli.commands.command_line import CommandLine
from amp_cli.commands.options import (
    DATA_PANEL,
    DECODING,
    DECODING_PANEL,
    JUDGE,
    MODEL,
    REQUIRED,
    RUNNING,
    RUNNING_PANEL,
    ImageRootOption,
    JsonOption,
    ModelOption,
    OutOption,
    OverwriteOption,
    command,
    number,
    typed_again,
)
from amp_cli.ranges import RANGES

if TYPE_CHECKING:
    from amp_cli.report.everything import AllResults

Options = dict[str, tuple[Any, Any]]

AnswersOption = Annotated[
    Path | None,
    typer.Option(
        "--answers", help="Answers that exist already, ours or the released code's.", rich_help_panel=DATA_PANEL
    ),
]
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


def options_of(benchmark: Benchmark[Any]) -> Options:
    """Return a benchmark's options: those of every one with its authors' protocol as defaults, and its own."""
    own = {one.name: declared(one) for one in benchmark.options}
    data = {"data": own.pop("data")}
    said = {one.name: own.pop(one.name) for one in benchmark.options if one.panel == DECODING_PANEL}
    decoding = {name: value for name, value in asdict(benchmark.decoding).items() if name in DECODING.options}
    is_judged = benchmark.judge is not None
    return {
        "out": (OutOption, REQUIRED),
        **data,
        **MODEL.with_defaults(template=benchmark.template).options,
        "image_root": (ImageRootOption, None),
        "answers": (AnswersOption, None),
        **(JUDGE.options if is_judged else {}),
        **own,
        **limits_of(benchmark),
        "only": (OnlyJudgedOption if is_judged else OnlyOption, None),
        **said,
        **DECODING.with_defaults(**decoding).options,
        **RUNNING.options,
        "overwrite": (OverwriteOption, False),
        "json": (JsonOption, False),
    }


def limits_of(benchmark: Benchmark[Any]) -> Options:
    """Return the options by which only some of a benchmark's items are asked."""
    counted = "images" if benchmark.sampling is None else benchmark.sampling.unit
    what = f"Ask about so many {counted} only" if counted else f"Ask only so many {benchmark.items}"
    return {
        "limit": declared(Option(name="limit", help=f"{what}, ever the same; a higher limit adds to them.")),
        "limit_seed": declared(Option(name="limit_seed", help="Another seed, other ones.", default=0)),
    }


def declared(option: Option) -> tuple[Any, Any]:
    """Return a benchmark's own option as typer takes it: annotated type and default."""
    kind = Literal[option.choices] if option.choices else get_type_hints(EvalSettings)[option.name]
    default = option.default.replace("\n", "\\n") if isinstance(option.default, str) else option.default
    least, most = RANGES.get(option.name, (None, None))
    return Annotated[
        kind,
        typer.Option(
            f"--{option.name.replace('_', '-')}",
            min=least,
            max=most,
            help=option.help,
            rich_help_panel=option.panel,
        ),
    ], default


def evaluate(benchmark: Benchmark[Any], options: Mapping[str, Any]) -> None:
    """Run a benchmark and show its scores; exit status 3 when items had to be left out, or none could be read.

    Args:
        options: a command's own, by name; each is a field of EvalSettings, or of a record in it, but `json`.
    """
    from amp_cli import ui
    from amp_cli.benchmarks.answering import REJECTED
    from amp_cli.benchmarks.runner import run_benchmark

    settings = settings_of(benchmark.name, as_meant(options))
    result = run_benchmark(settings)
    if options["json"]:
        ui.data(result.scores)
    elif settings.only == "answer":
        ui.note(f"{result.scores['n']:,} answers are in '{result.scores['answers']}'")
    else:
        for table in benchmark.tables(result.scores):
            ui.table(*table)
        if sentence := benchmark.about(result.scores):
            ui.note(sentence[0].upper() + sentence[1:])
    if result.rejected:
        first, reason = next(iter(result.rejected.items()))
        ui.warn(
            f"{len(result.rejected):,} items were left out (see '{result.out / REJECTED}'), first '{first}': {reason}"
        )
    if settings.only == "answer":
        next_step = {"only": "score", "overwrite": False}
        if benchmark.judge is not None:
            next_step = {"only": "judge", "overwrite": False, "judge": options["judge"] or "NAME"}
        ui.hint(typed_again(("amp", "eval", benchmark.name), options_of(benchmark), options, **next_step))
    else:
        hint_report(result.out)
    if result.undone:
        raise typer.Exit(3)


def as_meant(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as settings: a line break that was typed as backslash and n is one, and --json is none of them."""
    return {
        name: value.replace("\\n", "\n") if name == "prompt_suffix" else value
        for name, value in options.items()
        if name != "json"
    }


EVERYTHING: Options = {
    "model": (ModelOption, REQUIRED),
    "out": (OutOption, REQUIRED),
    "data": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--data",
                metavar="[NAME=]DIR",
                help="Files of a benchmark, or of several; repeatable (default: what `amp download` fetched)",
                rich_help_panel=DATA_PANEL,
            ),
        ],
        None,
    ),
    "image_root": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--image-root",
                metavar="NAME=DIR",
                help="Images of a benchmark, where they are not among its files; repeatable.",
                rich_help_panel=DATA_PANEL,
            ),
        ],
        None,
    ),
    "limit": (
        Annotated[
            int | None,
            number(
                "--limit",
                help="So many of each benchmark only, ever the same: images of POPE, RePOPE and CHAIR, questions of "
                "the others.",
                rich_help_panel=DATA_PANEL,
            ),
        ],
        None,
    ),
    "limit_seed": declared(Option(name="limit_seed", help="Another seed, other ones.", default=0)),
    **MODEL.only("adapter", "vision_tower").options,
    **JUDGE.only(
        "judge",
        "judge_url",
        "judge_api_version",
        "judge_max_tokens",
        "judge_concurrency",
        "judge_timeout",
        "max_cost",
        "price",
        "repeat",
    ).options,
    "rule": declared(OFFICIAL),
    **MODEL.only("dtype", "device", "quantization", "trust_remote_code").options,
    **RUNNING.options,
    "overwrite": (OverwriteOption, False),
    "json": (JsonOption, False),
}


def everything(given: Mapping[str, Any]) -> None:
    """Run every benchmark whose files are at hand, the judged ones if --judge is given, each by its authors' protocol.

    Example: amp eval all --model 7b --adapter runs/train --out runs/mdpo-all
    """
    from amp_cli import ui
    from amp_cli.asking.answerer import check_answerer
    from amp_cli.report.everything import named_folders, plan, run_all

    chosen = plan(named_folders(given["data"] or (), tuple(BENCHMARKS)), judge=given["judge"])
    roots = named_folders(given["image_root"] or (), tuple(BENCHMARKS))
    for name, reason in chosen.left_out.items():
        ui.note(f"{name} is left out: {reason}")
    settings = [settings_among_all(name, folder, roots, given) for name, folder in chosen.folders.items()]
    first = settings[0]
    if first.spec is not None:
        check_answerer(first.spec, first.running)  # else every one of them would fail
    results = run_all(chosen, settings, given["out"], overwrite=given["overwrite"])
    show_all(results, given["out"], as_json=given["json"])
    if results.failed or results.rejected:
        raise typer.Exit(3)


def settings_among_all(name: str, folder: Path, roots: Mapping[str, Path], given: Mapping[str, Any]) -> EvalSettings:
    """Return a benchmark's settings: its own defaults, and of what was given for all what it has."""
    from amp_cli.report.everything import EVERY

    benchmark = BENCHMARKS[name]
    offered = options_of(benchmark).keys()
    options = {key: value for key, value in given.items() if key in offered and key != "json"}
    if options["rule"] not in benchmark.rules:
        options["rule"] = benchmark.rules[0]
    options |= {"data": folder, "image_root": roots.get(name) or roots.get(EVERY)}
    options["overwrite"] = False  # the folder of all is emptied as a whole
    return settings_of(name, options)


def show_all(results: "AllResults", out: Path, *, as_json: bool) -> None:
    """Print one table of all benchmarks, and what is missing from it."""
    from amp_cli import ui
    from amp_cli.benchmarks.showing import shown

    if as_json:
        ui.data(results.to_json())
    else:
        rows = []
        for name, scores in results.scores.items():
            defined = [column for column in BENCHMARKS[name].columns if column.value(scores) is not None]
            for number, column in enumerate(defined):
                bounds = column.interval(scores)
                text, _, interval = shown(column.value(scores), bounds, name=column.name).partition("\n")
                rows.append([name if number == 0 else "", column.title, text, interval])
        ui.table("All benchmarks at hand", ["benchmark", "score", "value", "95 % interval"], rows)
    for name, reason in results.failed.items():
        ui.warn(f"{name} was not done: {reason}. The same command goes on with it")
    for name, count in results.rejected.items():
        ui.warn(f"{name}: {count:,} items have no score; see rejected.jsonl and items.jsonl in '{out / name}'")
    hint_report(out)


def hint_report(out: Path) -> None:
    """Suggest the report of a run, and that it may show several."""
    from amp_cli import ui

    ui.hint(
        ui.command_line("amp", "report", out, html=out.with_name(f"{out.name}.html")),
        "Name other runs too, to have them compared.",
    )


def command_of(benchmark: Benchmark[Any]) -> Callable[..., None]:
    """Return a benchmark's command."""
    return command(lambda options: evaluate(benchmark, options), options_of(benchmark), help=benchmark.help)


app = CommandLine(help="Evaluate a model: answer, judge, score. Every benchmark is a command.", no_args_is_help=True)
for _benchmark in BENCHMARKS.values():
    _panel = "Without a judge" if _benchmark.judge is None else "With a judge"
    app.command(_benchmark.name, rich_help_panel=_panel)(command_of(_benchmark))
app.command("all", rich_help_panel="More")(command(everything, EVERYTHING, help=everything.__doc__ or ""))
app.command("sweep", rich_help_panel="More")(sweep.sweep)
