"""`amp init`: writes the file of a pipeline, with comments, to be looked at and run."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from amp_cli import ui
from amp_cli.commands.options import OUTPUT_PANEL, JsonOption, number
from amp_cli.errors import AmpError

TINY = "tiny"
SCENES, TEST_SCENES = 240, 120
"""Drawn scenes to learn from, and to be tested on."""
SETTINGS_OF_TINY: Mapping[str, object] = {"max_steps": 160, "penalty": 0.05}
"""As `amp quickstart` trains; docs/demo.md has what comes of it."""
COMMAND = "init"
ASKED_OF_TINY: Mapping[str, dict[str, Any]] = {
    "pope": {"num_beams": 1, "batch_size": 100, "max_new_tokens": 2, "prompt_suffix": ""},
    "chair": {"num_beams": 1, "batch_size": 100, "max_new_tokens": 70, "no_repeat_ngram_size": 0},
}
EXPERTS = {"7b": ("13b=13b", "7b={model}")}
"""Experts in the paper's manner, for a base that has a larger sister; others are fine-tuned on parts of the data."""
BaseOption = Annotated[
    str, typer.Option("--base", help="Model to train: a folder, a hub id, or a name of `amp models`.")
]
SamplesOption = Annotated[int, number("--samples", help="Answers of the model to each question.")]


def init(
    context: typer.Context,
    base: BaseOption = "7b",
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Images, questions and standard answers (default: data.json; tiny: drawn)"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.", rich_help_panel=OUTPUT_PANEL)] = Path(
        "pipeline.yaml"
    ),
    rounds: Annotated[
        int | None,
        number("--rounds", help="Rounds: each asks the model of the round before (default: none, one training)"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Write a pipeline for `amp run`: preferences, training, merging, evaluation before and after, report.

    With --base tiny it runs offline on a CPU in minutes: its images are drawn beside the file. Nothing is replaced.

    Example: amp init --base 7b --data data.json --out pipeline.yaml
    """
    if not base.strip():
        raise typer.BadParameter("say which model is trained", param_hint="--base")
    if out.exists() or out.is_symlink():
        raise AmpError(f"'{out}' exists, and amp init replaces nothing", hint="Choose another --out, or move it away")
    if not out.parent.is_dir():
        raise AmpError(f"There is no folder '{out.parent}'", hint=f"mkdir -p {out.parent}")
    if data is not None and not data.exists():
        raise AmpError(f"There is no file '{data}'", hint="docs/data.md shows what it looks like")
    from amp_cli.disk.jsonl import write_text

    world = None
    if base == TINY and data is None:
        drawn, amp = out.parent / "drawn", context.find_root().command
        draw_world(drawn, lambda words: amp.main(words, prog_name="amp", standalone_mode=False))
        world = drawn / "world"
    text = pipeline_text(
        file=out,
        base=base,
        out=f"runs/{Path(base).name}" if base != TINY else str(out.parent / "run"),
        data=data or (Path("data.json") if world is None else world / "train" / "train.json"),
        evaluations=evaluations_of(base, world),
        rounds=rounds,
        experts=EXPERTS.get(base, ()) if rounds is None else (),
    )
    write_text(out, text)
    if json:
        ui.data({"pipeline": str(out), "world": None if world is None else str(world)})
    else:
        ui.note(f"Wrote '{out}'" + ("" if world is None else f" and the drawn images in '{world}'"))
    if data is None and world is None and not Path("data.json").exists():
        ui.note("Its data.json is not there yet: images, questions and standard answers, as docs/data.md shows")
    ui.hint(ui.command_line("amp", "run", out, dry_run=True))


def evaluations_of(base: str, world: Path | None) -> dict[str, dict[str, Any]]:
    """Return what a new pipeline evaluates: POPE, and CHAIR where the world is drawn."""
    if world is None:
        return {"pope": ASKED_OF_TINY["pope"] if base == TINY else {}}
    return {name: {"data": str(world / "test"), **options} for name, options in ASKED_OF_TINY.items()}


def draw_world(folder: Path, type_in: Callable[[list[str]], object], *, seed: int = 0) -> None:
    """Draw scenes, have the embedded model describe them, and write its answers, corrected, as the standard ones.

    Args:
        type_in: runs the words of an `amp` command line.

    Raises:
        AmpError: the folder holds anything else.
    """
    from amp_cli.commands.quickstart import Loop, Size, prepare_data
    from amp_cli.disk.run import Run
    from amp_cli.launching import use_one_thread

    use_one_thread()
    size = Size(scenes=SCENES, test_scenes=TEST_SCENES)
    with Run.start(folder, command=COMMAND, settings={**asdict(size), "seed": seed}, seed=seed) as run:
        prepare_data(Loop(folder, type_in), size, seed)
        run.finish()


def pipeline_text(
    *,
    file: Path | str,
    base: str,
    out: str,
    data: Path,
    evaluations: Mapping[str, Mapping[str, Any]],
    rounds: int | None,
    experts: Sequence[str],
    samples: int = 3,
    temperature: float = 0.7,
    image_root: Path | None = None,
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
) -> str:
    """Return the text of a pipeline's file, with its comments.

    Args:
        file: what the comments call it. evaluations: benchmark -> options. experts: of `meg`; without any the model is
            fine-tuned on parts of the data, or with rounds asked for `samples` answers. settings: of `amp train --set`;
            None are those of a new pipeline.
    """
    from jinja2 import Environment, StrictUndefined

    from amp_cli.disk.templates import template_path

    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False, keep_trailing_newline=True
    )
    environment.filters |= {"scalar": _scalar, "flow": _flow}
    template = template_path("pipelines", "pipeline.yaml.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        file=file,
        base=base,
        out=out,
        data=str(data),
        evaluations=evaluations,
        rounds=rounds,
        experts=experts,
        samples=samples,
        temperature=temperature,
        image_root=None if image_root is None else str(image_root),
        seed=seed,
        settings=(SETTINGS_OF_TINY if base == TINY else {}) if settings is None else settings,
        is_tiny=base == TINY,
    )


def _scalar(value: object) -> str:
    """Return a value as YAML reads it back: texts in quotes unless they can be nothing else."""
    if isinstance(value, str) and not re.fullmatch(r"(\.{0,2}/)?[A-Za-z_][\w./-]*", value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off", "null", "y", "n", "~"):
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value)


def _flow(options: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in options.items()) + "}"
