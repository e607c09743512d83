"""What a pipeline would do before it does it: what is missing, what is done, and what each stage costs."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.commands.pipeline import (
    COMMAND,
    DONE,
    Outcome,
    command_line,
    paths_read,
    standing_of,
    start_command,
)
from amp_cli.commands.pipeline_file import Pipeline, Stage
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Something that a stage needs and that is not there. Weights are fetched when they are first used."""

    stage: str
    what: str
    hint: str
    is_fetched: bool = False


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A line of the dry run; a cost that cannot be told yet is None."""

    stage: str
    standing: str
    command: str
    cost: str | None
    figures: dict[str, Any] | None = None


def refuse_missing(pipeline: Pipeline, *, redone: Collection[str] = ()) -> None:
    """Refuse a pipeline that lacks something before its first stage begins; weights to fetch are only told.

    Args:
        redone: names of stages that are done afresh.

    Raises:
        AmpError: naming the first thing, and how many there are.
    """
    lacking = missing(pipeline, redone=redone)
    for one in lacking:
        if one.is_fetched:
            ui.note(f"{one.stage}: {one.what}")
    wanted = [one for one in lacking if not one.is_fetched]
    for one in wanted[1:]:
        ui.warn(f"{one.stage}: {one.what}")
    if wanted:
        more = f" ({len(wanted) - 1} more above)" if len(wanted) > 1 else ""
        raise AmpError(f"{wanted[0].what}{more}", hint=wanted[0].hint)


def missing(pipeline: Pipeline, *, redone: Collection[str] = ()) -> list[Missing]:
    """Return what stages that are not done lack: files, data of benchmarks, a judge's key, weights."""
    records = {name: one for name, one in _records(pipeline).items() if name not in redone}
    stages = [stage for stage in pipeline.stages if standing_of(pipeline, stage, records) != DONE]
    found: list[Missing] = []
    for stage in stages:
        for one in (*_missing_paths(pipeline, stage), *_missing_of_evaluation(pipeline, stage)):
            found += [one] if one.what not in {other.what for other in found} else []
    return [*found, *_missing_models(pipeline, stages)]


def _records(pipeline: Pipeline) -> Mapping[str, Any]:
    if not (pipeline.out / NAME).is_file():
        return {}
    facts = Run.read(pipeline.out).facts
    stages = facts.get("stages", {}) if facts.get("command") == COMMAND else {}
    return stages if isinstance(stages, dict) else {}


def _missing_paths(pipeline: Pipeline, stage: Stage) -> Iterator[Missing]:
    names = {option: value for option, value in stage.options.items() if isinstance(value, str | list)}
    for asked, path in paths_read(pipeline, stage).items():
        if path.exists() or (stage.key == ("train",) and len(path.parts) == 2 and path.suffix == ""):  # a hub id
            continue
        option = next((name for name, value in names.items() if str(path) in (value, *_listed(value))), asked)
        error = AmpError(
            f"There is no file or folder '{path}' (`{option}` of `{'.'.join(stage.key)}`)",
            hint="Correct the path; it starts from the current folder, as on a command line",
        )
        told = pipeline.source.wrong((*stage.key, option), error)
        yield Missing(stage=stage.name, what=told.message, hint=told.hint)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _missing_of_evaluation(pipeline: Pipeline, stage: Stage) -> Iterator[Missing]:
    """Yield what an evaluation lacks: the benchmark's data, or a judge that can be asked."""
    from amp_cli.asking.judge import open_judge
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.runner import count_items
    from amp_cli.benchmarks.settings import EvalSettings

    settings = stage.settings
    if not isinstance(settings, EvalSettings):
        return
    looks: list[Callable[[], object]] = []
    if not _is_fetched_here(pipeline, settings.benchmark):
        looks.append(lambda: count_items(settings))
    judge = settings.judging.judge
    if BENCHMARKS[settings.benchmark].judge is not None and not str(judge).startswith("replay:"):
        looks.append(lambda: open_judge(settings.judging))
    for look in looks:
        try:
            look()
        except AmpError as error:
            told = pipeline.source.wrong(stage.key, error)
            yield Missing(stage=stage.name, what=told.message, hint=told.hint)


def _is_fetched_here(pipeline: Pipeline, benchmark: str) -> bool:
    """Whether a benchmark's files come with the pipeline's own download, which is still to be done."""
    from amp_cli.downloads.places import benchmark_folder

    fetched = next((stage for stage in pipeline.stages if stage.name == "download"), None)
    is_named = fetched is not None and benchmark in (fetched.values.get("names") or ())
    return is_named and not benchmark_folder(benchmark).is_dir()


def _missing_models(pipeline: Pipeline, stages: Sequence[Stage]) -> Iterator[Missing]:
    """Yield the weights that are not on this disk, each once with the first stage that reads them."""
    from amp_cli.downloads.zoo import cached_bytes, find_model
    from amp_cli.models.resolve import is_folder_name, model_config, model_place

    cached = cached_bytes()
    fetched = {name for stage in stages if stage.name == "download" for name in stage.values.get("names") or ()}
    readers: dict[str, Stage] = {}
    for stage in stages:
        for model in _models_read(stage):
            if not Path(model).is_relative_to(pipeline.out):
                readers.setdefault(model, stage)
    for model, stage in readers.items():
        place = model_place(model)
        try:
            if is_folder_name(place):
                model_config(model)
            elif place not in cached and model not in fetched:
                known = find_model(model)
                size = f", {known.download_gb:g} GB" if known is not None and known.download_gb else ""
                what = f"The weights of '{model}' are not on this disk{size}"
                offline = os.environ.get("HF_HUB_OFFLINE") == "1"
                yield Missing(
                    stage=stage.name,
                    what=what if offline else f"{what}; they are fetched when they are first used",
                    hint=f"amp download {model}",
                    is_fetched=not offline,
                )
        except AmpError as error:
            place_of_name = ("base",) if model == pipeline.base else stage.key
            told = pipeline.source.wrong(place_of_name, error)
            yield Missing(stage=stage.name, what=told.message, hint=told.hint)


def _models_read(stage: Stage) -> list[str]:
    """Return the models that a stage loads, adapters and endpoints left out."""
    from amp_cli.asking.endpoint import is_endpoint
    from amp_cli.preferences.generate import GenerateSettings

    if isinstance(stage.settings, GenerateSettings):
        names = [one.model for one in stage.settings.models()]
    else:
        judge = str(stage.values.get("judge") or "")
        judges = [judge.removeprefix("local:")] if judge.startswith("local:") else []
        names = [*(str(stage.values[name]) for name in ("model", "base") if stage.values.get(name)), *judges]
        if stage.key == ("train",) and not stage.values.get("base"):
            names.append(str(stage.values["size"]))
    return [name for name in names if not is_endpoint(name)]


def plan_stages(pipeline: Pipeline, *, start: Callable[[Sequence[str]], Outcome] = start_command) -> list[PlannedStage]:
    """Return all stages, how each stands, and what it takes where that can be told now.

    Args:
        start: runs `amp train --dry-run`, for its figures.
    """
    records = _records(pipeline)
    planned = []
    for stage in pipeline.stages:
        standing = standing_of(pipeline, stage, records)
        cost, figures = None, None
        if standing == DONE:
            cost = f"took {ui.duration(records[stage.name]['seconds'])}"
        elif stage.key == ("train",):
            cost, figures = _cost_of_training(stage, start)
        elif stage.key[0] in ("eval", "generate_prefs"):
            cost = _cost_of_asking(pipeline, stage)
        planned.append(
            PlannedStage(stage=stage.name, standing=standing, command=command_line(stage), cost=cost, figures=figures)
        )
    return planned


def _cost_of_training(
    stage: Stage, start: Callable[[Sequence[str]], Outcome]
) -> tuple[str | None, dict[str, Any] | None]:
    """Return what `amp train --dry-run` says; nothing where the preferences are not made yet."""
    if not Path(stage.values["prefs"]).exists():
        return "steps and memory are told once the preferences are there", None
    outcome = start([*stage.words, "--dry-run"])
    if outcome.status != 0:
        return f"amp train --dry-run cannot tell: {outcome.result.get('error', 'it failed')}", None
    found = outcome.result
    fits = "" if found["fits"] else ", which may not fit"
    memory = found["estimate"]["total_checkpointed" if found["gradient_checkpointing"] else "total"]
    size = f"{memory / 1e9:.1f} GB" if memory >= 1e9 else f"{memory / 1e6:.0f} MB"
    return f"{found['steps']:,} steps, about {size} on each device ({found['device']}){fits}", found


def _cost_of_asking(pipeline: Pipeline, stage: Stage) -> str | None:
    from amp_cli.benchmarks.runner import count_items
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.disk.entries import read_entries
    from amp_cli.preferences.generate import GenerateSettings

    settings = stage.settings
    try:
        if isinstance(settings, GenerateSettings):
            answers = len(settings.experts) or (settings.levels or 1) - 1
            items = sum(1 for _ in read_entries(settings.data))
            trained = f", {(settings.levels or 2) - 2} models fine-tuned" if settings.method == "ig" else ""
            return f"{items:,} items, {answers} answers each{trained}"
        if isinstance(settings, EvalSettings) and not _is_fetched_here(pipeline, settings.benchmark):
            return f"{count_items(settings):,} items to answer"
    except AmpError:
        return None  # what is missing is told beside it
    return None


def show_plan(pipeline: Pipeline, *, as_json: bool, start: Callable[[Sequence[str]], Outcome] = start_command) -> None:
    """Print the command of each stage, to be pasted, below a comment on it; what is missing is a warning each."""
    lacking = missing(pipeline)
    planned = plan_stages(pipeline, start=start)
    if as_json:
        ui.data(
            {
                "out": str(pipeline.out),
                "stages": [asdict(one) for one in planned],
                "missing": [asdict(one) for one in lacking],
            }
        )
    else:
        for one in planned:
            ui.line(f"# {one.stage}: {one.standing}" + (f"; {one.cost}" if one.cost else ""))
            ui.line(one.command)
    for lack in lacking:
        (ui.note if lack.is_fetched else ui.warn)(f"{lack.stage}: {lack.what}")
    done = sum(one.standing == DONE for one in planned)
    wanted = sum(not one.is_fetched for one in lacking)
    still = f"; {wanted} things are missing" if wanted > 1 else "; one thing is missing" if wanted else ""
    ui.note(f"{len(planned)} stages, {done} of them done{still}. Nothing was run")
