"""Ranks the candidates of every item and gives them levels, ready for the file and for the page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from amp_cli.preferences.autocheck import Checker, RankedCandidate, check_items
from amp_cli.preferences.levels import STANDARD, LevelDraft, choose_levels
from amp_cli.preferences.stats import Tally
from amp_cli.preferences.view import ShownItem
from amp_cli.records import Candidate, Level, PreferenceItem, SourceItem


def build_preferences(
    items: Sequence[SourceItem],
    candidates: dict[str, tuple[Candidate, ...]],
    checker: Checker | None,
    tally: Tally,
    out: Path,
) -> Iterator[ShownItem | None]:
    """Yield each item with its levels, or None where fewer than two different ones are left."""
    given = [(item.answers, [candidate.answers for candidate in candidates[item.id]]) for item in items]
    orders = map(_initial_order, given) if checker is None else check_items(given, checker)
    for item, ranked in zip(items, orders, strict=True):
        if checker is not None:
            tally.reordered += [candidate.index for candidate in ranked] != list(range(len(ranked)))
            tally.without_chunk += all(candidate.accuracy is None for candidate in ranked)
        yield _with_levels(item, [candidate.source for candidate in candidates[item.id]], ranked, tally, out)


def _initial_order(given: tuple[tuple[str, ...], Sequence[tuple[str, ...]]]) -> list[RankedCandidate]:
    return [
        RankedCandidate(index=index, answers=answers, accuracy=None, score=None, marks=())
        for index, answers in enumerate(given[1])
    ]


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
        images=tuple(str(path.relative_to(out) if path.is_relative_to(out) else path) for path in paths),
        questions=item.questions,
        levels=tuple(draft.level for draft in levels.kept),
        meta=item.meta,
    )
    return ShownItem(item=preference, images=paths, marks=tuple(draft.marks for draft in levels.kept))
