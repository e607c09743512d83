"""`amp loop`: rounds in which a model answers, its answers are ranked, and the base is trained anew on them.

As RLAIF-V (arXiv 2405.17220) collects feedback on the newest model in several iterations; here auto-check gives it.
A loop is a pipeline with `rounds`: nothing but its file is made here.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from amp_cli import ui
from amp_cli.commands.options import (
    DATA_PANEL,
    DECODING_PANEL,
    ImageRootOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    SeedOption,
    number,
)
from amp_cli.commands.run import AgainOption, DryRunOption
from amp_cli.errors import AmpError


def loop(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Images, questions and standard answers, as generate-prefs takes them.")],
    out: OutOption,
    rounds: Annotated[int, number("--rounds", help="How often.")] = 3,
    base: Annotated[
        str, typer.Option("--base", help="Model to train: a folder, a hub id, or a name of `amp models`.")
    ] = "7b",
    samples: Annotated[int, number("--samples", help="Answers of the model to each question.")] = 3,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of each training, as amp train has it; repeatable."),
    ] = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option(
            "--eval",
            metavar="NAME[=DIR]",
            help="Benchmark before and after each round, and where its files are; repeatable (default: none)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    image_root: ImageRootOption = None,
    temperature: Annotated[
        float, number("--temperature", help="Of the answers that are ranked.", rich_help_panel=DECODING_PANEL)
    ] = 0.7,
    seed: SeedOption = 0,
    again: AgainOption = None,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Train in rounds on the model's own answers: it answers, auto-check ranks, the base is trained anew, and so on.

    A killed command goes on; more --rounds may be given later. OUT/pipeline.yaml is the same as a file for amp run,
    where every option of every command can be set; amp init --rounds writes such a file too.

    Example: amp loop data.json --base 7b --rounds 3 --out runs/loop --eval pope
    """
    import yaml

    from amp_cli.commands.defaults import tell_unheard
    from amp_cli.commands.init import pipeline_text
    from amp_cli.commands.pipeline_file import PipelineSource, build_pipeline
    from amp_cli.commands.run import do

    if len({text.partition("=")[0] for text in evaluate or ()}) < len(evaluate or ()):
        raise typer.BadParameter("a benchmark is named twice", param_hint="--eval")
    text = pipeline_text(
        file=out / "pipeline.yaml",
        base=base,
        out=str(out),
        data=data,
        evaluations=dict(_evaluation(text, base) for text in evaluate or ()),
        rounds=rounds,
        experts=(),
        samples=samples,
        temperature=temperature,
        image_root=image_root,
        seed=seed,
        settings=dict(_setting(text) for text in changes) if changes else None,
    )
    if not data.exists():
        raise AmpError(f"There is no file '{data}'", hint="docs/data.md shows what it looks like")
    root = context.find_root().command
    pipeline = build_pipeline(yaml.safe_load(text), root, out=out, source=PipelineSource(), text=text)
    tell_unheard(context, [stage.words for stage in pipeline.stages])
    do(pipeline, again=again or (), dry_run=dry_run, overwrite=overwrite, as_json=json)
    ui.note(f"'{out / 'pipeline.yaml'}' is the same for amp run, to be changed")


def _evaluation(text: str, base: str) -> tuple[str, dict[str, Any]]:
    """Read `NAME` or `NAME=DIR`."""
    from amp_cli.commands.init import ASKED_OF_TINY, TINY

    name, equals, folder = text.partition("=")
    if equals and not Path(folder).is_dir():
        raise AmpError(f"There is no folder '{folder}'", hint=f"Give --eval {name}=DIR, a folder that exists")
    given = {"data": folder} if equals else {}
    return name, {**given, **(ASKED_OF_TINY.get(name, {}) if base == TINY else {})}


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise typer.BadParameter(f"'{text}' is not of the form KEY=VALUE", param_hint="--set")
    return key.strip(), value.strip()
