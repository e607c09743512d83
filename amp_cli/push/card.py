"""The card and the report that go along: what it is, its licence, and the scores of evaluations of this very model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import __version__, ui
from amp_cli.addresses import masked_values
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.showing import Table, shown
from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.downloads.zoo import find_model as known_model
from amp_cli.errors import AmpError
from amp_cli.models.resolve import folder_identity
from amp_cli.push.files import PushedModel, Upload, refuse_private, without_places
from amp_cli.report.page import render_summary
from amp_cli.report.plots import difference_text
from amp_cli.report.runs import GatheredRun, gather, name_runs

CARD, REPORT_JSON, REPORT_HTML = "README.md", "report.json", "report.html"
SCORES_HEADING = "## Scores"
TASK = "image-text-to-text"


@dataclass(frozen=True, kw_only=True)
class Described:
    """What is said of a model: its card, its report if there is one, and the licence on the card, if any."""

    uploads: tuple[Upload, ...]
    card: str
    licence: str | None
    scores: int


def describe(model: PushedModel, *, repo: str, licence: str | None, evaluations: Sequence[Path]) -> Described:
    """Return the card and the report of a model.

    Scores go into the card's metadata where an evaluation's `run.json` has the fingerprint of this very model. The
    report has all evaluations that are given, side by side.

    Args:
        licence: by the hub's name; None takes the base's, where it is known.

    Raises:
        AmpError: there is no such evaluation, or the card of the folder cannot be read.
    """
    gathered = gather(name_runs(evaluations)) if evaluations else []
    own = [run for run in gathered if _is_of(run, model)]
    if gathered and not own:
        ui.warn("None of the evaluations is of this very model, so that the card's metadata have no scores")
    licence = licence or _licence_of_base(model)
    card = _card(model, repo, licence, own)
    refuse_private(CARD, card, model)
    uploads = [Upload(path=CARD, content=card.encode())]
    if gathered:
        uploads += [_report_json(gathered, model), _report_html(gathered, repo, model)]
    count = sum(len(of_run.evaluations) for of_run in own)
    return Described(uploads=tuple(uploads), card=card, licence=licence, scores=count)


def _is_of(run: GatheredRun, model: PushedModel) -> bool:
    """Whether all evaluations of a run asked the model that lies in this folder, byte for byte."""
    part = "adapter" if model.what == "adapter" else "model"
    mine = folder_identity(model.folder)
    identities = [Run.read(one.folder).facts.get("identity", {}) for one in run.evaluations.values()]
    return bool(identities) and all(
        (one.get(part) or {}).get("hash") == mine and (part == "adapter" or "adapter" not in one) for one in identities
    )


NAMED = ("qwen-research", "qwen")
"""Licences of bases that are none of the hub's own: its cards say `other` and name them."""


def _licence_of_base(model: PushedModel) -> str | None:
    known = known_model(model.base) if model.base else None
    return None if known is None or known.licence is None else known.licence.lower()


def _card(model: PushedModel, repo: str, licence: str | None, own: Sequence[GatheredRun]) -> str:
    from huggingface_hub import ModelCard

    readme = model.folder / CARD
    text = readme.read_text(encoding="utf-8") if readme.is_file() else _new_card(model)
    text = without_places(text, model).replace("THIS_FOLDER", repo).split(f"\n{SCORES_HEADING}\n")[0]
    try:
        card = ModelCard(text)
    except (ValueError, TypeError) as error:
        raise AmpError(
            f"The card '{readme}' cannot be read: {str(error).splitlines()[0]}",
            hint="Mend the lines between --- at its top, or remove the file",
        ) from error
    data: Any = card.data
    data.license = licence or data.license
    if data.license in NAMED:
        data.license, data.license_name = "other", data.license
    if model.base_on_hub:
        data.base_model = data.base_model or model.base
        data.base_model_relation = "adapter" if model.what == "adapter" else "finetune"
    if own:
        data.model_name = repo.rpartition("/")[2]
        data.eval_results = _results(own)
        card.text = f"{card.text.rstrip()}\n\n{_scores_in_words(own)}\n"
    return str(card)


def _new_card(model: PushedModel) -> str:
    from jinja2 import Environment, StrictUndefined

    text = template_path("report", "pushed_card.md.jinja").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(what=model.what, base=model.base, version=__version__)


def _results(own: Sequence[GatheredRun]) -> list[Any]:
    """Return the scores as the hub's model-index has them."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=TASK,
            dataset_type=name,
            dataset_name=BENCHMARKS[name].title.partition(":")[0],
            metric_type=column.name,
            metric_name=column.title,
            metric_value=round(value, 6),
        )
        for run in own
        for name, one in run.evaluations.items()
        for column in BENCHMARKS[name].columns
        if (value := column.value(one.scores)) is not None
    ]


def _scores_in_words(own: Sequence[GatheredRun]) -> str:
    lines = [SCORES_HEADING, "", "| benchmark | score | value | 95 % interval |", "| --- | --- | --- | --- |"]
    for run in own:
        for name, one in run.evaluations.items():
            for column in BENCHMARKS[name].columns:
                if column.value(one.scores) is not None:
                    text = shown(column.value(one.scores), column.interval(one.scores), name=column.name)
                    value, _, interval = text.partition("\n")
                    rule = one.scores["rule"]
                    lines.append(f"| {name}, rule {rule} | {column.title} | {value} | {interval or '-'} |")
    return "\n".join([*lines, "", f"Side by side with other runs: `{REPORT_HTML}`, `{REPORT_JSON}`."])


def _report_json(gathered: Sequence[GatheredRun], model: PushedModel) -> Upload:
    """Return names, scores and differences; where the runs lie is nobody's business."""
    told = [run.to_json() for run in gathered]
    runs = [{key: run[key] for key in ("name", "scores", "differences")} for run in told]
    content = json.dumps(masked_values({"runs": runs}), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    refuse_private(REPORT_JSON, content, model)
    return Upload(path=REPORT_JSON, content=content.encode())


def _report_html(gathered: Sequence[GatheredRun], repo: str, model: PushedModel) -> Upload:
    """Return the tables as a page, without images of the benchmarks, whose licence is not ours to give."""
    names = [run.name for run in gathered]
    page = render_summary(
        title=f"Evaluations of {repo}",
        notes=["The first run is the one that the others are compared with."] if len(names) > 1 else [],
        tables=list(_tables(gathered)),
        sentences=[],
        curves=[],
    )
    refuse_private(REPORT_HTML, page, model)
    return Upload(path=REPORT_HTML, content=page.encode())


def _tables(gathered: Sequence[GatheredRun]) -> list[Table]:
    tables: list[Table] = []
    for name, benchmark in BENCHMARKS.items():
        having = [run for run in gathered if name in run.evaluations]
        scores = [run.evaluations[name].scores for run in having]
        rows = [
            [column.title, *(shown(column.value(of), column.interval(of), name=column.name) for of in scores)]
            for column in benchmark.columns
            if any(column.value(of) is not None for of in scores)
        ]
        if rows:
            title = f"{benchmark.title}; below each score its 95 % interval"
            tables.append((title, ["", *(run.name for run in having)], rows))
        differences = [
            [run.name, one.name, difference_text(one), "clear" if one.is_clear else "may be chance"]
            for run in having
            for one in run.evaluations[name].differences
        ]
        if differences:
            tables.append(
                (f"{name}: difference to {having[0].name}, same items", ["run", "score", "difference", ""], differences)
            )
    return tables
