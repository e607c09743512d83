"""Batched generation over items: resumable by id, one bad item never stops the rest, out of memory halves the batch."""

import gc
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import LogitsProcessorList

from amp_cli import ui
from amp_cli.asking.answerer import Record, Request, Running, batches
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.precision import refuse_not_finite
from amp_cli.models.prompts import encode_prompts, end_token_ids
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer, Frame

if TYPE_CHECKING:
    from PIL.Image import Image


BEAM_LENGTH_PENALTY = 0.0
"""Beams are compared by their summed log-probability. The released code divided it by the length of prompt
and answer together, nearly the same for all beams; today's would divide by the answer's length alone."""


class LocalAnswerer:
    """A model in this process. Its memory is given back before the next one comes."""

    def __init__(self, spec: ModelSpec, decoding: Decoding, running: Running, record: Record) -> None:
        self._spec = spec
        self._decoding = decoding
        self._running = running
        self._record = record

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        """Answer what is not in `done`."""
        loaded = load_model(self._spec)
        for note in loaded.notes:
            ui.warn(note)
        self._record(model=loaded.identity, device=str(loaded.device))
        answer_requests(
            loaded,
            requests,
            self._decoding,
            batch_size=self._running.batch_size,
            seed=self._running.seed,
            done=done,
            on_answer=on_answer,
            on_reject=on_reject,
        )
        del loaded
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def answer_requests(
    loaded: LoadedModel,
    requests: Sequence[Request],
    decoding: Decoding,
    *,
    batch_size: int,
    seed: int,
    done: Collection[str],
    on_answer: Callable[[Answer], None],
    on_reject: Callable[[str, str], None],
    share: tuple[int, int] = (0, 1),
) -> None:
    """Answer every request that is not in `done`; rounds are asked in turn, own earlier answers in the history.

    Batches are formed over all requests, so that a resumed run samples the same texts as one that was never stopped.

    Args:
        on_answer: called once for each finished item, as soon as its batch is done.
        on_reject: called with id and reason for an item that cannot be asked (bad image, special token in its text).
        share: number and count of the processes that share the batches with something left to do; whole batches, so
            that the texts are those of one process.
    """
    pending = [batch for batch in batches(requests, batch_size) if any(one.id not in done for one in batch)]
    number, count = share
    for batch in pending[number::count]:
        usable = list(_with_images(loaded, batch, on_reject))
        if not usable:
            continue
        answers = _answer_within_memory(loaded, usable, decoding, _batch_seed(seed, batch))
        for (request, _), told in zip(usable, answers, strict=True):
            if request.id not in done:
                texts = tuple(one.text for one in told)
                on_answer(Answer(id=request.id, answers=texts, is_whole=all(one.is_whole for one in told)))


def _with_images(
    loaded: LoadedModel, batch: Sequence[Request], on_reject: Callable[[str, str], None]
) -> Iterator[tuple[Request, list["Image"]]]:
    from amp_cli.models.prompts import render

    for request in batch:
        try:
            images = [open_image(path) for path in request.images]
            render(loaded, request.questions, request.questions[:-1], len(images), request.frame)
        except AmpError as error:
            on_reject(request.id, error.message)
        else:
            yield request, images


def _batch_seed(seed: int, batch: Sequence[Request]) -> int:
    text = f"{seed}:" + "\n".join(request.id for request in batch)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


@dataclass(frozen=True)
class Told:
    """What a model wrote in one round, and whether it ended it itself, before the limit of tokens did."""

    text: str
    is_whole: bool


def _answer_within_memory(
    loaded: LoadedModel, items: Sequence[tuple[Request, list["Image"]]], decoding: Decoding, seed: int
) -> list[list[Told]]:
    """Answer a batch; when memory runs out, its halves one after the other."""
    torch.manual_seed(seed)
    try:
        return _answer_batch(loaded, items, decoding)
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise AmpError(
                f"Memory ran out on the single item '{items[0][0].id}'",
                hint="Use --quantization nf4, fewer --num-beams, or a smaller model",
            ) from error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    first = _answer_within_memory(loaded, items[:middle], decoding, seed)
    return first + _answer_within_memory(loaded, items[middle:], decoding, seed + 1)


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def _answer_batch(
    loaded: LoadedModel, items: Sequence[tuple[Request, list["Image"]]], decoding: Decoding
) -> list[list[Told]]:
    answers: list[list[Told]] = [[] for _ in items]
    frames = [request.frame for request, _ in items]
    count = 0
    for number in range(len(items[0][0].questions)):
        count += frames[0].images_in(number, len(items[0][1]))  # a batch has its images in the same rounds
        shown = [images[:count] for _, images in items]
        dialogues = [
            (request.questions[: number + 1], [one.text for one in told])
            for (request, _), told in zip(items, answers, strict=True)
        ]
        for told, answer in zip(answers, _generate(loaded, dialogues, shown, frames, decoding), strict=True):
            told.append(answer)
    return answers


def _generate(
    loaded: LoadedModel,
    dialogues: Sequence[Any],
    shown: Sequence[Sequence["Image"]],
    frames: Sequence[Frame],
    decoding: Decoding,
) -> list[Told]:
    batch = encode_prompts(loaded, dialogues, shown, frames).to(loaded.device, dtype=loaded.model.dtype)
    with torch.inference_mode():
        ids = loaded.model.generate(
            **batch,
            generation_config=_generation_config(loaded, decoding),
            logits_processor=LogitsProcessorList([lambda _, scores: _finite(scores, loaded)]),
        )
    new = ids[:, batch["input_ids"].shape[1] :]  # (batch, new tokens)
    ends = end_token_ids(loaded)
    texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [Told(text.strip(), not ends.isdisjoint(row)) for text, row in zip(texts, new.tolist(), strict=True)]


def _finite(scores: torch.Tensor, loaded: LoadedModel) -> torch.Tensor:
    """Pass on a step's scores, (sequences, vocabulary), unless they are not finite: their text would be noise."""
    refuse_not_finite(scores, loaded.name, loaded.identity["dtype"])
    return scores


def _generation_config(loaded: LoadedModel, decoding: Decoding) -> Any:
    """A complete generation config: nothing is taken over from the model's own defaults but its special tokens."""
    from transformers import GenerationConfig

    settings = asdict(decoding)
    samples = settings["temperature"] > 0
    if not samples:
        del settings["temperature"], settings["top_p"]
    image = _image_token_id(loaded)
    return GenerationConfig(
        **settings,
        length_penalty=BEAM_LENGTH_PENALTY,
        do_sample=samples,
        top_k=0 if samples else None,
        bos_token_id=loaded.model.generation_config.bos_token_id,
        eos_token_id=sorted(end_token_ids(loaded)),
        pad_token_id=loaded.tokenizer.pad_token_id,
        suppress_tokens=None if image is None else [image],
    )


def _image_token_id(loaded: LoadedModel) -> int | None:
    """A model must never write the image token: it would be read back as an image."""
    config = loaded.model.config
    for name in ("image_token_id", "image_token_index"):
        if isinstance(getattr(config, name, None), int):  # families name it differently
            return int(getattr(config, name))
    return None
