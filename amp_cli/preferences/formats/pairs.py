"""Plain pair layouts, a row each: a question, the better and the worse answer, and perhaps an image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amp_cli.dialogues.named_images import Record, images_of
from amp_cli.dialogues.turns import own_id
from amp_cli.disk.parsing import UnreadableError, parse_json
from amp_cli.errors import AmpError, RecordError
from amp_cli.preferences.formats.draft import Choices, Draft, Format, has_texts, kept, one_round, text_of


def _as_it_is(record: Record) -> Record:
    return record


def _in_text(record: Record) -> dict[str, Any]:
    """Return what RLHF-V keeps in `text`, as a JSON string or an object."""
    text = record.get("text")
    if isinstance(text, str):
        try:
            text = parse_json(text)
        except UnreadableError as error:
            raise RecordError(f"'text' {error}") from error
    if not isinstance(text, dict):
        raise RecordError(f"'text' must be an object or one as JSON, not {text!r:.80}")
    return text


def _image_is_beside(record: Record) -> bool:
    """Whether it is VL-RLHF's: TRL's plain records have no `image`, mDPO's have `img_path`."""
    return isinstance(record.get("image"), str | dict | bytes) and not isinstance(record.get("img_path"), str)


@dataclass(frozen=True, kw_only=True)
class PairLayout:
    """Where a project keeps a pair.

    Attributes:
        question: the field; the answers are in `chosen` and `rejected`.
        images: the fields that may hold images; the first that has any is taken.
        number_prefix: what makes its `idx` an id where there is no `id`.
        meta: the fields that are kept.
        inside: returns the object that question and answers are in; raises AmpError where there is none.
        also: what else must hold of a record of this layout.
        is_grouped: whether pairs of one prompt belong together.
    """

    name: str
    title: str
    question: str
    images: tuple[str, ...]
    number_prefix: str = ""
    meta: tuple[str, ...]
    inside: Callable[[Record], Record] = _as_it_is
    also: Callable[[Record], bool] = lambda record: True
    is_grouped: bool = False

    def describes(self, record: Record) -> bool:
        """Whether a record looks like one of this layout."""
        try:
            return has_texts(self.inside(record), self.question, "chosen", "rejected") and self.also(record)
        except AmpError:
            return False

    def convert(self, record: Record, choices: Choices) -> list[Draft]:
        """Return the record's item."""
        pair = self.inside(record)
        return [
            Draft(
                id=own_id(record, "id") or own_id(record, "idx", prefix=self.number_prefix),
                images=images_of(record, *self.images),
                questions=(text_of(pair, self.question),),
                levels=tuple(one_round(text_of(pair, name), name) for name in ("chosen", "rejected")),
                meta=kept(record, *self.meta),
            )
        ]

    @property
    def format(self) -> Format:
        """The layout as `FORMATS` lists it."""
        return Format(
            name=self.name,
            title=self.title,
            describes=self.describes,
            convert=self.convert,
            is_grouped=self.is_grouped,
        )


ORIGIN = ("ds_name", "origin_dataset", "origin_split", "image_path")
PAIRS = (
    PairLayout(
        name="rlhf-v",
        title="RLHF-V: image, text with question, chosen and rejected as JSON",
        question="question",
        images=("image", "image_path"),
        number_prefix="rlhf-v-",
        meta=ORIGIN,
        inside=_in_text,
    ),
    PairLayout(
        name="rlaif-v",
        title="RLAIF-V: image, question, chosen, rejected",
        question="question",
        images=("image", "images", "image_path"),
        number_prefix="rlaif-v-",
        meta=(*ORIGIN, "logps"),
        is_grouped=True,
    ),
    PairLayout(
        name="plain-dpo",
        title="VL-RLHF's plain_dpo: image, prompt, chosen, rejected",
        question="prompt",
        images=("image",),
        meta=("dataset", "source"),
        also=_image_is_beside,
    ),
)
