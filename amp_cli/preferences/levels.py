"""Ranks the candidates of every item and gives them levels, ready for the file and for the page."""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.parsing import wrong_field
from amp_cli.errors import AmpError
from amp_cli.preferences.autocheck import ITEMS_AT_ONCE, Checker, Mark, RankedCandidate, Rounds, as_given, check_items
from amp_cli.preferences.figures import Tally
from amp_cli.preferences.page import ShownItem
from amp_cli.records import Candidate, Level, PreferenceItem, SourceItem

STANDARD = "standard"
"""The source of level 0: the data set's own answer."""


@dataclass(frozen=True, kw_only=True)
class LevelDraft:
    """A response that may become a level, and the marks of its noun chunks per round (for the page)."""

    level: Level
    marks: tuple[tuple[Mark, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What is left in quality order, and the sources that were left out."""

    kept: tuple[LevelDraft, ...]
    identical: tuple[str, ...]
    empty: tuple[str, ...]


def choose_levels(drafts: Sequence[LevelDraft]) -> Levels:
    """Keep of near-identical responses the better-ranked one, and drop responses with an empty answer.

    Near-identical: the same words in the same order in every round, whatever the case, spaces and punctuation. Such a
    pair could only teach that one text is better than itself.
    """
    kept: dict[tuple[str, ...], LevelDraft] = {}
    identical: list[str] = []
    empty: list[str] = []
    for draft in drafts:
        words = tuple(_words_only(answer) for answer in draft.level.answers)
        if not all(answer.strip() for answer in draft.level.answers):
            empty.append(draft.level.source)
        elif words in kept:
            identical.append(draft.level.source)
        else:
            kept[words] = draft
    return Levels(kept=tuple(kept.values()), identical=tuple(identical), empty=tuple(empty))


def _words_only(answer: str) -> str:
    """Return the answer in one case, punctuation as spaces, single spaces; unchanged where nothing would be left."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    spaced = "".join(" " if unicodedata.category(letter).startswith("P") else letter for letter in folded)
    return " ".join(spaced.split()) or folded.strip()


def build_preferences(
    items: Sequence[SourceItem],
    candidates: Mapping[str, tuple[Candidate, ...]],
    checker: Checker | None,
    tally: Tally,
    out: Path,
) -> Iterator[ShownItem | None]:
    """Yield each item with its levels, or None where fewer than two different ones are left."""
    orders = _initial_orders(items, candidates) if checker is None else checked_orders(items, candidates, checker, out)
    for item, ranked in zip(items, orders, strict=True):
        if checker is not None:
            tally.reordered += [candidate.index for candidate in ranked] != list(range(len(ranked)))
            if checker.can_read(item.answers, [candidate.answers for candidate in ranked]):
                tally.without_chunk += all(candidate.accuracy is None for candidate in ranked)
            else:
                tally.other_language += 1
        yield _with_levels(item, [candidate.source for candidate in candidates[item.id]], ranked, tally, out.resolve())


def _initial_orders(
    items: Sequence[SourceItem], candidates: Mapping[str, tuple[Candidate, ...]]
) -> Iterator[list[RankedCandidate]]:
    for item in items:
        yield as_given([candidate.answers for candidate in candidates[item.id]])


def checked_orders(
    items: Sequence[SourceItem], candidates: Mapping[str, tuple[Candidate, ...]], checker: Checker, out: Path
) -> Iterator[list[RankedCandidate]]:
    """Yield the candidates of each item as auto-check ranks them; what `autocheck.jsonl` holds is not checked again.

    Items are checked in the same batches whether or not the run was stopped in between: what else is in a batch moves
    the last bits of an embedding.
    """
    log = RecordLog(out / "autocheck.jsonl")
    known = {checked.id: start for start, checked in log.scan(_Checked.from_json)}
    for start in range(0, len(items), ITEMS_AT_ONCE):
        batch = items[start : start + ITEMS_AT_ONCE]
        answers = [[candidate.answers for candidate in candidates[item.id]] for item in batch]
        if all(item.id in known for item in batch):
            kept = log.lines_at([known[item.id] for item in batch])
            for item, given, line in zip(batch, answers, kept, strict=True):
                yield _as_ranked(json.loads(line)["ranked"], given, item.id, log.path)
            continue
        fresh = check_items([(item.answers, given) for item, given in zip(batch, answers, strict=True)], checker)
        for item, ranked in zip(batch, fresh, strict=True):
            if item.id not in known:
                log.append({"id": item.id, "ranked": [candidate.to_json() for candidate in ranked]})
            yield ranked


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A line of `autocheck.jsonl`."""

    id: str
    ranked: list[Any]

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "_Checked":
        return cls(id=record["id"], ranked=record["ranked"])


def _as_ranked(kept: list[Any], given: Sequence[Rounds], item_id: str, path: Path) -> list[RankedCandidate]:
    try:
        ranked = [RankedCandidate.from_json(record, given) for record in kept]
    except (LookupError, TypeError, ValueError, AttributeError):
        ranked = []
    if any(map(wrong_field, ranked)) or sorted(one.index for one in ranked) != list(range(len(given))):
        raise AmpError(
            f"'{path}' is damaged: what it says of '{item_id}' is not as amp writes it",
            hint="Remove that line, and it is checked again",
        )
    return ranked


def _with_levels(
    item: SourceItem, sources: Sequence[str], ranked: Sequence[RankedCandidate], tally: Tally, out: Path
) -> ShownItem | None:
    drafts = [LevelDraft(level=Level(answers=item.answers, source=STANDARD))]
    for one in ranked:
        level = Level(answers=one.answers, source=sources[one.index], accuracy=one.accuracy, score=one.score)
        drafts.append(LevelDraft(level=level, marks=one.marks))
    levels = choose_levels(drafts)
    for source in levels.identical:
        tally.drop_level("identical", source)
    for source in levels.empty:
        tally.drop_level("empty", source)
    if len(levels.kept) < 2:
        tally.drop_item(item.id, "no candidate differs from the standard response")
        return None
    paths = tuple(Path(image) for image in item.images)
    preference = PreferenceItem(
        id=item.id,
        images=tuple(path.relative_to(out).as_posix() if path.is_relative_to(out) else str(path) for path in paths),
        questions=item.questions,
        levels=tuple(draft.level for draft in levels.kept),
        frame=item.frame,
        meta=item.meta,
    )
    return ShownItem(item=preference, images=paths, marks=tuple(draft.marks for draft in levels.kept))
