"""Turns drafts into items: images named, image tokens taken out, pairs joined, ids unique."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from amp_cli.errors import AmpError
from amp_cli.preferences.formats.dialogue import without_image_token
from amp_cli.preferences.formats.draft import Draft, Format, Refused, SourceImage
from amp_cli.preferences.formats.grouping import GivenIds, PairsByPrompt, join_pairs
from amp_cli.preferences.formats.source import Source
from amp_cli.preferences.sources import IMAGE_TOKEN
from amp_cli.records import PreferenceItem, SourceItem

Item = PreferenceItem | SourceItem
NameImage = Callable[[SourceImage, Path], str]


def items_of(
    source: Source, name_image: NameImage, notes: Counter[str], *, unique_ids: bool
) -> Iterator[Item | Refused]:
    """Yield the source's items in its order (joined ones at the end) and what was refused.

    Args:
        name_image: gives the path under which an item knows an image, of the image and the folder that the
            data's paths start from; raises AmpError where the item cannot be used.
        notes: counts what was left out without refusing the record.
        unique_ids: give a repeated id a number, and refuse what repeats content and id.
    """
    given = GivenIds()
    for found in _joined_items(source, name_image, notes):
        if isinstance(found, Refused) or not unique_ids:
            yield found
            continue
        item_id = given.unique(found.id, _content(found))
        if item_id is None:
            yield Refused(id=found.id, reason=f"it repeats the item '{found.id}'")
        else:
            yield found if item_id == found.id else type(found).from_json({**found.to_json(), "id": item_id})


def _joined_items(source: Source, name_image: NameImage, notes: Counter[str]) -> Iterator[Item | Refused]:
    pairs = PairsByPrompt()
    for draft, root in source.drafts():
        found = draft if isinstance(draft, Refused) else _item(draft, source.format, name_image, root)
        if isinstance(draft, Draft) and not isinstance(found, Refused):
            notes.update(draft.notes)
        if source.format.is_grouped and isinstance(found, PreferenceItem):
            pairs.add(found)
        else:
            yield found
    for group in pairs.groups():
        yield from join_pairs(group, notes)


def _item(draft: Draft, format: Format, name_image: NameImage, root: Path) -> Item | Refused:
    item_id = draft.id or _derived_id(draft)
    try:
        questions = _questions(draft, format)
        images = tuple(name_image(image, root) for image in draft.images)
        item: Item
        if format.is_standard_only:
            answers = draft.levels[0].answers
            item = SourceItem(id=item_id, images=images, questions=questions, answers=answers, meta=draft.meta)
        else:
            item = PreferenceItem(id=item_id, images=images, questions=questions, levels=draft.levels, meta=draft.meta)
        _refuse_unwritable(item)
    except AmpError as error:
        return Refused(id=item_id.encode("utf-8", "replace").decode(), reason=error.message)
    return item


def _questions(draft: Draft, format: Format) -> tuple[str, ...]:
    if not format.has_image_tokens:
        return draft.questions
    if not draft.images and any(IMAGE_TOKEN in question for question in draft.questions):
        raise AmpError(f"a question holds {IMAGE_TOKEN} but the item names no image")
    questions = tuple(without_image_token(question) for question in draft.questions)
    for number, question in enumerate(questions, start=1):
        if not question.strip():
            raise AmpError(f"the question of round {number} is empty")
    return questions


def _content(item: Item) -> str:
    """Return what makes two items the same, whatever their ids and meta."""
    answers = [item.answers] if isinstance(item, SourceItem) else [level.answers for level in item.levels]
    return "\0".join([*item.images, *item.questions, *(answer for level in answers for answer in level)])


def _refuse_unwritable(item: Item) -> None:
    """Refuse what UTF-8 JSON cannot hold: halves of characters, numbers that are none, bytes."""
    try:
        json.dumps(item.to_json(), ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise AmpError("a text holds half a character (a lone surrogate)") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise AmpError("'meta' holds something that cannot be written as JSON") from error


def _derived_id(draft: Draft) -> str:
    """Return an id that is the same wherever and whenever the same content is read."""
    images = [
        list(image.names) if image.content is None else sha256(image.content).hexdigest() for image in draft.images
    ]
    content = json.dumps([images, draft.questions, [level.answers for level in draft.levels]])
    return f"item-{sha256(content.encode()).hexdigest()[:16]}"
