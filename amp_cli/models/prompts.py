"""Turns questions, answers and images into token ids through the model's chat template."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import torch

from amp_cli.errors import AmpError, RecordError
from amp_cli.models.load import LoadedModel
from amp_cli.models.templates import OTHERS, template_place
from amp_cli.records import PLAIN, Frame

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class EncodedResponse:
    """One level of an item as the model reads it.

    Attributes:
        input_ids: (length,) long, image tokens expanded.
        supervised: (length,) bool, True on answer tokens and the end token that closes each answer.
        round: (length,) long, 0-based round of an answer token, -1 elsewhere.
    """

    input_ids: torch.Tensor
    supervised: torch.Tensor
    round: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class EncodedItem:
    """All levels of one item; `image_inputs` holds the processor's image tensors once (empty for text only).

    Attributes:
        beside_other_images: the best response once more, beside images that do not show what it tells; None where no
            such pair is trained on.
        pair_weights: of the item's pairs, in the order of `pairs_of`; None where all weigh the same.
    """

    responses: tuple[EncodedResponse, ...]
    image_inputs: dict[str, torch.Tensor]
    beside_other_images: "EncodedItem | None" = None
    pair_weights: tuple[float, ...] | None = None

    @property
    def parts(self) -> "tuple[EncodedItem, ...]":
        """What has a prefix of its own: the levels behind the item's images, and the best response behind others."""
        return (self,) if self.beside_other_images is None else (self, self.beside_other_images)

    @property
    def all_responses(self) -> tuple[EncodedResponse, ...]:
        """The responses of all parts, the levels first."""
        return tuple(response for part in self.parts for response in part.responses)


def render(
    loaded: LoadedModel, questions: Sequence[str], answers: Sequence[str], images: int, frame: Frame = PLAIN
) -> str:
    """Return the dialogue as text; with fewer answers than questions the last turn is left open for the model.

    Texts stand as they are; only the question beside an image loses the white space around it, as in LLaVA's own code.
    An item's own system message stands in place of the one that a template brings along.

    Args:
        images: how many images the whole item has, those of later rounds included.

    Raises:
        AmpError: a text holds one of the model's special tokens (an image token would shift every position after it),
            or the template has no place for the system message.
    """
    _refuse_special((*questions, *answers, frame.system or ""), _special_tokens(loaded))
    messages: list[dict[str, Any]] = []
    for number, question in enumerate(questions[: len(answers) + 1]):
        content: list[dict[str, str]] = [{"type": "image"}] * frame.images_in(number, images)
        said = question.strip() if content else question
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": said}]})
        if number < len(answers):
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answers[number]}]})
    is_open = messages[-1]["role"] == "user"
    if frame.system is None:
        return _rendered(loaded, messages, is_open=is_open)
    return _rendered_with_system(loaded, messages, frame.system, is_open=is_open)


def _rendered_with_system(loaded: LoadedModel, messages: list[dict[str, Any]], system: str, *, is_open: bool) -> str:
    whole = [{"role": "system", "content": [{"type": "text", "text": system}]}, *messages]
    reason = "leaves it out"
    try:
        text = _rendered(loaded, whole, is_open=is_open)
    except AmpError as error:
        text, reason = "", str(error.__cause__)
    if system.strip() not in text:
        raise AmpError(
            f"the item has a system message, and the chat template cannot render it: {reason}",
            hint="Try another --template, or take 'system' out of the data",
        )
    return text


def _rendered(loaded: LoadedModel, messages: list[dict[str, Any]], *, is_open: bool) -> str:
    try:
        text = loaded.processor.apply_chat_template(
            messages, chat_template=loaded.chat_template, add_generation_prompt=is_open, tokenize=False
        )
    except Exception as error:  # a template is a stranger's program, and may raise anything
        place = template_place(loaded.identity["template"], loaded.folder)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AmpError(f"the chat template '{place}' cannot render the dialogue: {reason:.200}", hint=OTHERS) from error
    return str(text)


@dataclass(frozen=True, kw_only=True)
class TextRules:
    """What the texts of an item must not hold for this model, and how many tokens they can be at most.

    Attributes:
        special: the model's special tokens; one in a text would shift every position after it.
        role_tag: what the template writes before answers; in an answer it would read as a turn of its own.
    """

    loaded: LoadedModel
    special: tuple[str, ...]
    role_tag: str
    around: dict[tuple[object, ...], int] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel) -> Self:
        """Find a model's rules."""
        messages = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        opened, closed = (_rendered(loaded, messages, is_open=is_open) for is_open in (True, False))
        return cls(loaded=loaded, special=_special_tokens(loaded), role_tag=opened.removeprefix(closed))

    def refuse(self, questions: Sequence[str], levels: Sequence[Sequence[str]], frame: Frame) -> None:
        """Refuse texts that cannot be trained on.

        Raises:
            AmpError: a text holds a special token, an answer the role tag, or an image of a later round follows answers
                that differ.
        """
        tag = self.role_tag
        held = next((answer for answers in levels for answer in answers if tag.strip() and tag in answer), None)
        if held is not None:
            raise RecordError(f"an answer holds the role tag '{tag.strip()}': {held!r:.120}")
        last = max(frame.image_rounds, default=0)
        if any(list(answers[:last]) != list(levels[0][:last]) for answers in levels):
            raise RecordError(
                f"an image is shown in round {last + 1}, after answers that differ between the levels; "
                "an item's images must stand in what its levels share"
            )
        _refuse_special((*questions, *chain.from_iterable(levels), frame.system or ""), self.special)

    def most_tokens(self, questions: Sequence[str], levels: Sequence[Sequence[str]], images: int, frame: Frame) -> int:
        """Return a number of tokens that no level exceeds, those that images add left aside: its bytes."""
        shape = (len(questions), images, frame)
        if shape not in self.around:
            text = render(self.loaded, ["?"] * len(questions), ["!"] * len(questions), images, frame)
            self.around[shape] = len(text.encode()) + ADDED
        longest = max(sum(len(answer.encode()) for answer in answers) for answers in levels)
        return self.around[shape] + sum(len(question.encode()) for question in questions) + longest


ADDED = 8
"""More tokens than any tokenizer adds of its own, at the beginning and the end."""


def _special_tokens(loaded: LoadedModel) -> tuple[str, ...]:
    return tuple(token for token in loaded.tokenizer.all_special_tokens if token)


def _refuse_special(texts: Iterable[str], special: Sequence[str]) -> None:
    for text in texts:
        held = next((token for token in special if token in text), None)
        if held is not None:
            raise RecordError(f"the text holds the special token '{held}': {text!r:.120}")


def square(loaded: LoadedModel, image: "Image") -> "Image":
    """Pad an image to a centred square with the mean colour, where the model was trained so (LLaVA-1.5)."""
    from PIL import Image

    if loaded.background is None or image.width == image.height:
        return image
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), loaded.background)
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas


def shown_size(loaded: LoadedModel, size: tuple[int, int]) -> tuple[int, int]:
    """Return the (width, height) that an image is made smaller to, its sides' ratio kept, where it has too many pixels.

    What is too many is the training's to say; see `LoadedModel.prepare_images`.
    """
    width, height = size
    if loaded.max_pixels is None or width * height <= loaded.max_pixels:
        return size
    share = (loaded.max_pixels / (width * height)) ** 0.5
    return max(1, int(width * share)), max(1, int(height * share))


def _shrink(loaded: LoadedModel, image: "Image") -> "Image":
    size = shown_size(loaded, image.size)
    return image if size == image.size else image.resize(size)  # bicubic


class ImagesOnce:
    """An image processor that remembers what it made of images, so that all questions about them share it."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._made: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        """Return what the image processor makes of images, however they are nested; the same ones are kept alive."""
        key = tuple(map(id, _flat(images)))
        if key not in self._made:
            self._made[key] = (images, self._processor(images, **options))
        return copy.copy(self._made[key][1])  # processors take entries out of it

    def read_by(self, loaded: LoadedModel) -> LoadedModel:
        """Return the model with a processor that prepares images by this one."""
        processor = copy.copy(loaded.processor)
        processor.image_processor = self
        return replace(loaded, processor=processor)


def _flat(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for one in images:
            yield from _flat(one)
    else:
        yield images


def with_own_tokenizer(loaded: LoadedModel) -> LoadedModel:
    """Return the model with a tokenizer for another thread: one tokenizer cannot be used by two at a time."""
    processor = copy.copy(loaded.processor)
    processor.tokenizer = copy.deepcopy(loaded.tokenizer)
    return replace(loaded, processor=processor)


def give_padding(loaded: LoadedModel) -> None:
    """Let the tokenizer fill up with its end token where it has none for that."""
    if loaded.tokenizer.pad_token is None:
        loaded.tokenizer.pad_token = loaded.tokenizer.eos_token


def encode_prompts(
    loaded: LoadedModel,
    dialogues: Sequence[tuple[Sequence[str], Sequence[str]]],
    images: Sequence[Sequence["Image"]],
    frames: Sequence[Frame] | None = None,
) -> Any:
    """Encode dialogues whose last round is open, left-padded: input_ids (batch, length), mask and image tensors.

    Args:
        dialogues: (questions, the answers so far: one fewer than the questions) of each item.
        images: each item's images up to its last question; all items of one batch have images, or none has.
        frames: each item's system message and places of images; plain ones when None.
    """
    texts = [
        render(loaded, questions, answers, len(shown), frame)
        for (questions, answers), shown, frame in zip(dialogues, images, frames or [PLAIN] * len(images), strict=True)
    ]
    return _process(loaded, texts, images)


def encode_dialogue(
    loaded: LoadedModel, questions: Sequence[str], answers: Sequence[str], images: Sequence["Image"]
) -> Any:
    """Encode one dialogue as it stands: input_ids (1, length), mask and image tensors.

    With fewer answers than questions the last turn is open for the model, else all rounds are closed.
    """
    return _process(loaded, [render(loaded, questions, answers, len(images))], [images])


def _process(loaded: LoadedModel, texts: Sequence[str], images: Sequence[Sequence["Image"]]) -> Any:
    squared = [[square(loaded, _shrink(loaded, image)) for image in group] for group in images]
    tokenizer = loaded.tokenizer
    give_padding(loaded)
    return loaded.processor(
        images=squared if any(squared) else None,
        text=list(texts),
        return_tensors="pt",
        padding=True,
        padding_side="left",
        add_special_tokens=_adds_special_tokens(tokenizer, texts[0]),
    )


def _adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """A template that writes the BOS token itself must not get a second one."""
    return not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def encode_item(
    loaded: LoadedModel,
    questions: Sequence[str],
    levels: Sequence[Sequence[str]],
    images: Sequence["Image"],
    frame: Frame = PLAIN,
) -> EncodedItem:
    """Encode every level of an item for training; the images are processed once.

    Supervised are the answer tokens and the end token that closes each answer; a template that writes none
    gets one after the last answer.

    Raises:
        AmpError: the template or the tokenizer gives no clean border between prompt and answer, a text holds a special
            token or the template's role tag, or an image of a later round follows answers that differ.
    """
    TextRules.of(loaded).refuse(questions, levels, frame)
    last = max(frame.image_rounds, default=0)
    opening = render(loaded, questions, levels[0][:last], len(images), frame)
    batch = dict(_process(loaded, [opening], [images]))
    expanded = batch.pop("input_ids")[0]  # (opening's length,), image tokens expanded
    opening_ids = _text_ids(loaded, opening)
    # how far the tokens of a round stand behind their places in the text: by what its images and earlier ones add
    shifts = [_added_by_images(loaded, questions, levels[0][:number], images, frame) for number in range(last)]
    shifts.append(len(expanded) - len(opening_ids))
    responses = []
    for answers in levels:
        ids, spans = _ids_and_answer_spans(loaded, questions, answers, len(images), frame)
        if ids[: len(opening_ids)] != opening_ids:
            raise AmpError(
                "the chat template changes the question when an answer follows; it cannot be trained on",
                hint="Choose another chat template with --template",
            )
        whole = torch.cat((expanded, torch.tensor(ids[len(opening_ids) :], dtype=torch.long)))
        rounds = torch.full((len(whole),), -1)
        for number, (start, end) in enumerate(spans):
            shift = shifts[min(number, last)]
            rounds[start + shift : end + shift] = number
        responses.append(EncodedResponse(input_ids=whole, supervised=rounds >= 0, round=rounds))
    kept = {
        name: value
        for name, value in batch.items()
        if isinstance(value, torch.Tensor) and name not in ("attention_mask", "token_type_ids", "mm_token_type_ids")
    }
    return EncodedItem(responses=tuple(responses), image_inputs=kept)


def _added_by_images(
    loaded: LoadedModel, questions: Sequence[str], answers: Sequence[str], images: Sequence["Image"], frame: Frame
) -> int:
    """Return how many tokens the images add to the dialogue up to the question after `answers`."""
    text = render(loaded, questions, answers, len(images), frame)
    shown = sum(frame.images_in(number, len(images)) for number in range(len(answers) + 1))
    expanded = _process(loaded, [text], [images[:shown]])["input_ids"][0]  # (length,)
    return len(expanded) - len(_text_ids(loaded, text))


def image_tokens(loaded: LoadedModel, size: tuple[int, int]) -> int:
    """Return how many tokens an image of this (width, height) adds to the text; a blank one is asked for."""
    from PIL import Image

    return _added_by_images(loaded, ["?"], [], [Image.new("RGB", size)], PLAIN)


def text_length(
    loaded: LoadedModel, questions: Sequence[str], answers: Sequence[str], images: int, frame: Frame
) -> int:
    """Return how many tokens a dialogue has, those that its images add left aside."""
    return len(_text_ids(loaded, render(loaded, questions, answers, images, frame))) + 1  # the end token may be missing


def _text_ids(loaded: LoadedModel, text: str) -> list[int]:
    tokenizer = loaded.tokenizer
    ids: list[int] = tokenizer(text, add_special_tokens=_adds_special_tokens(tokenizer, text))["input_ids"]
    return ids[:-1] if _ends_with_added_eos(loaded, ids, text) else ids


def _ends_with_added_eos(loaded: LoadedModel, ids: list[int], text: str) -> bool:
    eos = loaded.tokenizer.eos_token
    return bool(ids) and ids[-1] == loaded.tokenizer.eos_token_id and not text.rstrip().endswith(eos)


def _ids_and_answer_spans(
    loaded: LoadedModel, questions: Sequence[str], answers: Sequence[str], images: int, frame: Frame
) -> tuple[list[int], list[tuple[int, int]]]:
    """Return a whole dialogue's ids (images as one token each) and the [start, end) of each answer in them."""
    ids = _text_ids(loaded, render(loaded, questions, answers, images, frame))
    ends = end_token_ids(loaded)
    spans = []
    for number in range(len(answers)):
        start = len(_common_prefix(loaded, ids, questions, answers[:number], images, frame))
        closed = _common_prefix(loaded, ids, questions[: number + 1], answers[: number + 1], images, frame)
        end = next((place + 1 for place in range(start, len(closed)) if ids[place] in ends), None)
        if end is None and number == len(answers) - 1:
            ids = [*ids[: len(closed)], loaded.tokenizer.eos_token_id]
            end = len(ids)
        spans.append((start, len(closed) if end is None else end))
    return ids, spans


def _common_prefix(
    loaded: LoadedModel,
    ids: list[int],
    questions: Sequence[str],
    answers: Sequence[str],
    images: int,
    frame: Frame,
) -> list[int]:
    """Return the ids of the dialogue up to here, which must be how the whole dialogue starts."""
    part = _text_ids(loaded, render(loaded, questions, answers, images, frame))
    if ids[: len(part)] != part:
        raise AmpError(
            f"round {len(answers)} has no clean border in tokens between prompt and answer",
            hint="Try another --template",
        )
    return part


def end_token_ids(loaded: LoadedModel) -> set[int]:
    """Return the ids that end an answer: the tokenizer's EOS and those of the generation config."""
    configured = loaded.model.generation_config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return {number for number in (*several, loaded.tokenizer.eos_token_id) if number is not None}
