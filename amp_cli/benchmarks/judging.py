"""The judging stage: answers become prompts, prompts verdicts, and each verdict is on disk before the next one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.addresses import stored
from amp_cli.asking.faults import EnoughError
from amp_cli.asking.judge import Judge, JudgeRequest, JudgeSettings, count_usage, estimate, open_judge
from amp_cli.benchmarks.answering import REJECTED
from amp_cli.benchmarks.benchmark import Judged, Wording
from amp_cli.benchmarks.judged import JudgedScore
from amp_cli.benchmarks.ratings import Reading
from amp_cli.benchmarks.replies import why_unheard
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.jsonl import RecordLog, content_hash, write_records
from amp_cli.disk.left_out import LeftOutLog
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem, Verdict

VERDICTS = "verdicts.jsonl"
HOPELESS = 20
"""After so many verdicts that cannot be read, and not one that can, the judge or its wording is at fault."""
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Where verdicts come from: a judge with its instructions, or a file. `facts` is what another one differs in."""

    facts: dict[str, Any]
    judge: Judge | None = None
    wording: Wording | None = None
    verdicts: tuple[Verdict, ...] = ()


def prepare_judging(
    judged: Judged,
    items: Sequence[BenchmarkItem],
    data: Path,
    settings: EvalSettings,
    judge: Judge | None,
) -> Judging:
    """Open the judge and choose its instructions, or read the verdicts at hand, before a model is loaded.

    Args:
        judge: stands in for the one that the settings name.

    Raises:
        AmpError: nobody is to judge, or the judge, the template or the verdicts are not usable.
    """
    judging = settings.judging
    if judging.verdicts is not None:
        path = judging.verdicts
        if not path.is_file():
            raise AmpError(f"There is no file '{path}'", hint="--verdicts takes a JSONL or JSON file of verdicts")
        verdicts = judged.adopt_verdicts(path, items)
        file = {"kind": "verdicts", "file": path.name, "sha256": content_hash(path), "template": None}
        return Judging(facts=file, verdicts=tuple(verdicts))
    if judge is None:
        if judging.judge is None:
            raise AmpError(
                f"{settings.benchmark} is rated by a judge, and none is given",
                hint="Give --judge MODEL (or local:MODEL, replay:FILE) or --verdicts FILE; "
                "--only answer stops before it",
            )
        judge = open_judge(judging, items=[item.id for item in items])
    wording = judged.wording(data, judging.judge_template)
    temperature = judged.temperature if judging.judge_temperature is None else judging.judge_temperature
    is_replay = judge.identity["kind"] == "replay"  # nobody is told anything now, and what they were told is not known
    template = None if is_replay else dict(wording.identity)
    facts = {**judge.identity, "temperature": temperature, "template": template}
    if judging.repeat > 1 and temperature == 0 and not is_replay:
        ui.warn("At temperature 0 the verdicts on an item hardly differ: --repeat shows more with --judge-temperature")
    return Judging(facts=facts, judge=judge, wording=wording)


def refuse_other_judge(out: Path, judging: Judging) -> None:
    """Refuse to mix verdicts of two judges, or by two templates, in one folder, before anything in it is changed."""
    if not (out / VERDICTS).is_file() or not RecordLog(out / VERDICTS).read():
        return
    old = Run.read(out).facts.get("judging")
    if old is not None:
        before, now = _flat(stored(old)), _flat(stored(judging.facts))
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                raise AmpError(
                    f"The verdicts in '{out}' were given with {name} = {before.get(name)!r:.100}, "
                    f"not {now.get(name)!r:.100}",
                    hint=f"Judge in a new folder, with --answers {out / 'answers.jsonl'}",
                )


def _flat(facts: Mapping[str, Any], prefix: str = "judge") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        key = f"{prefix}.{name}"
        flat |= _flat(value, key) if isinstance(value, Mapping) else {key: value}
    return flat


def collect_verdicts(
    judged: Judged,
    items: Sequence[BenchmarkItem],
    answers: Mapping[str, Answer],
    settings: EvalSettings,
    judging: Judging,
) -> None:
    """Have judged what has no verdict yet; each verdict is on disk before the next one is looked at."""
    log = RecordLog(settings.out / VERDICTS)
    kept = log.read_as(Verdict.from_json)
    limit = settings.judging.judge_max_tokens
    done = {(one.id, one.repeat) for one in kept if not _was_cut_shorter(one, limit)}
    if judging.judge is None:
        asked = {item.id for item in items}
        given = [verdict for verdict in judging.verdicts if verdict.id in asked]
        if {(one.id, one.repeat) for one in given} - done:
            write_records(log.path, (verdict.to_json() for verdict in given))
        return
    requests = [
        JudgeRequest(
            id=item.id,
            repeat=repeat,
            messages=judged.prompt(item, answers[item.id], judging.wording),
            temperature=judging.facts["temperature"],
            max_tokens=limit,
            verdict_line=judged.verdict_line(item, judging.wording),
        )
        for repeat in range(settings.judging.repeat)
        for item in items
        if item.id in answers and (item.id, repeat) not in done
    ]
    if not requests:
        _put_in_order(log, items)
        return
    watch = _Watch(judged, items, log.path, is_free=judging.facts["kind"] == "replay")
    for one in kept:
        if (one.id, one.repeat) in done:
            watch.look_at(one)
    if settings.judging.judge is not None:
        _announce(requests, settings.judging)
    rejections = LeftOutLog.open(settings.out / REJECTED)
    with ui.progress(f"judging {settings.benchmark}", len(requests) + len(done), done=len(done)) as advance:

        def keep(verdict: Verdict) -> None:
            log.append(verdict.to_json())
            advance()
            watch.look_at(verdict)

        try:
            judging.judge.judge(
                requests,
                on_verdict=keep,
                on_reject=lambda request, reason: rejections.note(request.id, f"not judged: {reason}"),
            )
        finally:
            for note in judging.judge.notes:
                ui.warn(note)
    _put_in_order(log, items)


def _was_cut_shorter(verdict: Verdict, limit: int) -> bool:
    """Tell whether a verdict ended at a limit of tokens below the one of now: it is asked for once more."""
    return verdict.finish_reason == "length" and verdict.max_tokens is not None and verdict.max_tokens < limit


def _put_in_order(log: RecordLog, items: Sequence[BenchmarkItem]) -> None:
    """Sort the verdicts as the items, repeat by repeat: they came as they were given. The last on an item stays."""
    written = log.read()
    records = {(record["repeat"], record["id"]): record for record in written}
    places = {item.id: number for number, item in enumerate(items)}
    in_order = sorted(records.values(), key=lambda record: (record["repeat"], places.get(record["id"], len(places))))
    if in_order != written:
        write_records(log.path, in_order)


class _Watch:
    """Looks at each verdict as it comes, and ends the judging where nothing of it can be read."""

    def __init__(self, judged: Judged, items: Sequence[BenchmarkItem], path: Path, *, is_free: bool) -> None:
        self._judged = judged
        self._items = {item.id: item for item in items}
        self._path = path
        self._is_over = is_free
        self._unread: list[str] = []

    def look_at(self, verdict: Verdict) -> None:
        """Read a verdict by the strict rule.

        Raises:
            AmpError: as many as `HOPELESS` came, and not one could be read.
        """
        item = self._items.get(verdict.id)
        if self._is_over or item is None:
            return
        reading = read_verdicts(self._judged, [item], {verdict.id: verdict}, "strict")[verdict.id]
        if reading.ratings is not None:
            self._is_over = True
            return
        self._unread.append(f"'{verdict.id}' ({reading.reason}): {_end_of(verdict.text)!r}")
        if len(self._unread) >= HOPELESS:
            raise EnoughError(
                f"Not one of the first {len(self._unread)} verdicts can be read: {'; '.join(self._unread[:_SHOWN])}",
                hint=self._way_on(verdict),
            )

    def _way_on(self, verdict: Verdict) -> str:
        if verdict.finish_reason == "length":
            return "They are kept. The same command with a higher --judge-max-tokens asks for those that were cut off"
        return (
            f"They are kept in '{self._path}'. Judge in a new folder, with --answers and another --judge-template or "
            "--judge"
        )


def _end_of(text: str) -> str:
    """Return the part of a reply where a verdict should be."""
    return text if len(text) <= 120 else f"...{text[-120:]}"


def read_verdicts(
    judged: Judged, items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str
) -> dict[str, Reading]:
    """Read one repeat's verdicts; one that is cut off, or is nothing but reasoning, counts as one without words."""
    unheard = {item_id: reason for item_id, one in verdicts.items() if (reason := why_unheard(one))}
    heard = {item_id: replace(one, text="") if item_id in unheard else one for item_id, one in verdicts.items()}
    readings = judged.read(items, heard, rule)
    return {
        item_id: replace(reading, reason=unheard.get(item_id, reading.reason)) for item_id, reading in readings.items()
    }


def _announce(requests: Sequence[JudgeRequest], settings: JudgeSettings) -> None:
    if settings.judge is None or settings.judge.startswith("replay:"):
        return
    expected = estimate(requests, settings)
    cost = "" if expected.cost is None or settings.price is None else f", at most about {expected.cost:.2f} to pay"
    ui.note(
        f"'{settings.judge}' gets {expected.requests:,} prompts of about {expected.prompt_tokens:,} tokens in all and "
        f"may write up to {expected.completion_tokens:,}{cost}"
    )


UNSCORED = "unscored.jsonl"
_MISSING = Reading(ratings=None, reason="no verdict")


def score_verdicts(
    judged: Judged,
    items: Sequence[BenchmarkItem],
    answers: Mapping[str, Answer],
    settings: EvalSettings,
    run: Run,
) -> tuple[list[JudgedScore], dict[str, Any], dict[str, str]]:
    """Read all verdicts on disk.

    Returns:
        the items' results, facts on the verdicts, and item id -> reason for items that lack an answer or a verdict.
    """
    verdicts = RecordLog(settings.out / VERDICTS).read_as(Verdict.from_json)
    repeats = settings.judging.repeat
    if run.facts.get("judging", {}).get("kind") == "verdicts":  # the file says how many there are
        repeats = max((repeats, *(one.repeat + 1 for one in verdicts)))
    by_repeat = [{one.id: one for one in verdicts if one.repeat == number} for number in range(repeats)]
    _refuse_strangers(items, by_repeat, settings.out)
    readings = [read_verdicts(judged, items, given, settings.rule) for given in by_repeat]
    scores = [
        JudgedScore(
            id=item.id,
            images=item.images,
            group=judged.group_of(item, settings.rule),
            questions=item.questions,
            references=tuple(item.reference["answers"]),
            answers=answers[item.id].answers if item.id in answers else (),
            verdicts=tuple(given[item.id].text if item.id in given else "" for given in by_repeat),
            readings=tuple(read.get(item.id, _MISSING) for read in readings),
        )
        for item in items
        if any(item.id in given for given in by_repeat)
    ]
    reasons = LeftOutLog.open(settings.out / REJECTED).reasons()
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
    facts: dict[str, Any] = {
        "repeats": repeats,
        "unread_verdicts": _list_unread(scores, settings.out, judged.substitute),
    }
    facts["judge"] = _judge_facts(run, [one for given in by_repeat for one in given.values()], settings)
    return scores, facts, rejected


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
    price = settings.judging.token_price
    return {
        **run.facts.get("judging", {}),
        "reported_models": dict(Counter(one.model for one in verdicts if one.model is not None)),
        "rule": settings.rule,
        "price": None if price is None else asdict(price),
        **asdict(count_usage(verdicts, price)),
    }
