"""From verdicts on disk to scores: what could not be read is listed, and who judged stands in the scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.benchmarks.answering import REJECTED
from amp_cli.benchmarks.judged import VERDICTS, JudgedBenchmark
from amp_cli.benchmarks.judged_scores import JudgedScore
from amp_cli.benchmarks.ratings import Reading
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.core.judge import count_usage, parse_price
from amp_cli.core.run import Run
from amp_cli.core.store import RecordLog, Rejections, write_records
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

UNSCORED = "unscored.jsonl"
_SHOWN = 3
_MISSING = Reading(ratings=None, reason="no verdict")


def score_verdicts(
    benchmark: JudgedBenchmark,
    items: Sequence[BenchmarkItem],
    answers: Mapping[str, Answer],
    settings: EvalSettings,
    run: Run,
) -> tuple[list[JudgedScore], dict[str, Any], dict[str, str]]:
    """Read all verdicts on disk.

    Returns:
        the items' results, the scores, and item id -> reason for items that lack an answer or a verdict.
    """
    verdicts = [Verdict.from_json(record) for record in RecordLog(settings.out / VERDICTS).read()]
    repeats = settings.repeat
    if run.facts.get("judging", {}).get("kind") == "verdicts":  # the file says how many there are
        repeats = max((repeats, *(one.repeat + 1 for one in verdicts)))
    by_repeat = [{one.id: one for one in verdicts if one.repeat == number} for number in range(repeats)]
    _refuse_strangers(items, by_repeat, settings.out)
    readings = [benchmark.read(items, given, settings.rule) for given in by_repeat]
    scores = [
        JudgedScore(
            id=item.id,
            images=item.images,
            group=benchmark.group_of(item, settings.rule),
            questions=item.questions,
            references=tuple(item.reference["answers"]),
            answers=answers[item.id].answers if item.id in answers else (),
            verdicts=tuple(given[item.id].text if item.id in given else "" for given in by_repeat),
            readings=tuple(read.get(item.id, _MISSING) for read in readings),
        )
        for item in items
        if any(item.id in given for given in by_repeat)
    ]
    reasons = Rejections(settings.out / REJECTED).reasons()
    rejected = {
        item.id: reasons.get(item.id, "no verdict" if item.id in answers else "no answer")
        for item in items
        if not all(item.id in given for given in by_repeat)
    }
    if not scores:
        first = next(iter(rejected.values()), "there are no items")
        ways = "`--only judge --judge NAME` judges the answers that are here"
        raise AmpError(
            f"Not one item could be scored: {first}",
            hint=f"See '{settings.out / REJECTED}'" if reasons else f"{ways}, --verdicts FILE takes verdicts at hand",
        )
    summary = {"benchmark": settings.benchmark, **benchmark.summarise(scores, settings.rule)}
    summary |= {"repeats": repeats, "unread_verdicts": _list_unread(scores, settings.out, benchmark.SUBSTITUTE)}
    summary["judge"] = _judge_facts(run, [one for given in by_repeat for one in given.values()], settings)
    return scores, summary, rejected


def _refuse_strangers(items: Sequence[BenchmarkItem], by_repeat: Sequence[Mapping[str, Verdict]], out: Path) -> None:
    known = {item.id for item in items}
    strangers = [item_id for given in by_repeat for item_id in given if item_id not in known]
    if strangers:
        raise AmpError(
            f"{len(strangers):,} verdicts in '{out}' are on items that --data does not hold, first '{strangers[0]}'",
            hint="Give the --data that the verdicts were given on",
        )


def _list_unread(scores: Sequence[JudgedScore], out: Path, substitute: str) -> int:
    """Write what could not be read to `unscored.jsonl`, say so with the first ones, and return how many there are."""
    unread = [
        {
            "id": one.id,
            "repeat": repeat,
            "reason": reading.reason,
            "counted_as": None if reading.ratings is None else [str(number) for number in reading.ratings],
            "text": text,
        }
        for one in scores
        for repeat, (reading, text) in enumerate(zip(one.readings, one.verdicts, strict=True))
        if reading.reason and reading is not _MISSING
    ]
    write_records(out / UNSCORED, unread)
    if unread:
        first = "; ".join(f"'{one['id']}' ({one['reason']}): {str(one['text'])[:60]!r}" for one in unread[:_SHOWN])
        total = sum(len(one.readings) for one in scores)
        is_official = any(reading.substituted for one in scores for reading in one.readings)
        fate = f"the official script {substitute}" if is_official else "they are unscored, not 0"
        listed = f"all in '{out / UNSCORED}'"
        ui.warn(f"{len(unread):,} of {total:,} verdicts could not be read: {fate} ({listed}). First: {first}")
    return len(unread)


def _judge_facts(run: Run, verdicts: Sequence[Verdict], settings: EvalSettings) -> dict[str, Any]:
    """Return what every score says of its judge: identity, the model it reported, template, rule, tokens, cost."""
    price = None if settings.price is None else parse_price(settings.price)
    return {
        **run.facts.get("judging", {}),
        "reported_models": dict(Counter(one.model for one in verdicts if one.model is not None)),
        "rule": settings.rule,
        "price": None if price is None else asdict(price),
        **asdict(count_usage(verdicts, price)),
    }
