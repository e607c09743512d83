"""A local model answers: prepared ahead in threads, in batches that fit the memory, resumable by id."""

import gc
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from threading import local
from typing import TYPE_CHECKING

import torch

from amp_cli import ui
from amp_cli.asking.answerer import Record, Request, Running, bundles
from amp_cli.asking.generation import Generator, Told
from amp_cli.asking.prefixes import Prompt, make_prompt, why_not_shared
from amp_cli.errors import AmpError
from amp_cli.models.foreign import is_out_of_memory
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.precision import give_back_memory
from amp_cli.models.prompts import (
    ImagesOnce,
    encode_prompts,
    give_padding,
    render,
    square,
    with_own_tokenizer,
)
from amp_cli.models.resolve import adapter_folder, check_model, model_and_adapter, whole_place
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

if TYPE_CHECKING:
    from PIL.Image import Image


THREADS = 3
"""Decoding and scaling an image takes about 15 ms of a CPU, a small part of what a model needs for an answer."""
AHEAD = THREADS + 1
"""Bundles that are prepared or under way while the model answers one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Ready:
    """A request with its images, squared where the model wants that; `once` keeps what is made of them."""

    request: Request
    images: list["Image"]
    once: ImagesOnce | None
    first: Prompt | None

    def prompt(self, loaded: LoadedModel, answers: Sequence[str]) -> Prompt | None:
        """Return the prompt of the round after these answers; None where it cannot be read in two parts."""
        if not answers and self.first is not None:
            return self.first
        return _encode(loaded, self.request, self.images, self.once, answers)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """Batches that share images. `rejected`: (id, reason) of requests that cannot be asked."""

    batches: list[list[Ready]]
    rejected: list[tuple[str, str]]


@contextmanager
def prepared(
    loaded: LoadedModel, asked: Iterable[list[list[Request]]], *, shares: bool
) -> Iterator[Iterator[tuple[list[list[Request]], Bundle]]]:
    """Give the bundles with what was prepared of them, in their order; other threads are some bundles ahead.

    Args:
        shares: encode the first questions, for a model whose prompts are read in two parts.
    """
    give_padding(loaded)
    own = local()

    def prepare(bundle: list[list[Request]]) -> Bundle:
        if not hasattr(own, "loaded"):
            own.loaded = with_own_tokenizer(loaded)
        return _prepare(own.loaded, bundle, shares=shares)

    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prepare")
    try:
        yield _in_turn(pool, prepare, iter(asked))
    finally:
        pool.shutdown(cancel_futures=True)


def _in_turn(
    pool: ThreadPoolExecutor, prepare: Callable[[list[list[Request]]], Bundle], asked: Iterator[list[list[Request]]]
) -> Iterator[tuple[list[list[Request]], Bundle]]:
    under_way: list[tuple[list[list[Request]], Future[Bundle]]] = []
    for bundle in islice(asked, AHEAD):
        under_way.append((bundle, pool.submit(prepare, bundle)))
    while under_way:
        bundle, future = under_way.pop(0)
        ready = future.result()
        for following in islice(asked, 1):
            under_way.append((following, pool.submit(prepare, following)))
        yield bundle, ready


def _prepare(loaded: LoadedModel, bundle: list[list[Request]], *, shares: bool) -> Bundle:
    opened: dict[object, tuple[list[Image], ImagesOnce | None] | AmpError] = {}
    rejected: list[tuple[str, str]] = []

    def ready(request: Request) -> Ready | None:
        if request.images not in opened:
            opened[request.images] = _open(loaded, request)
        found = opened[request.images]
        try:
            if isinstance(found, AmpError):
                raise found
            images, once = found
            render(loaded, request.questions, request.questions[:-1], len(images), request.frame)
            first = _encode(loaded, request, images, once, ()) if shares else None
        except AmpError as error:
            rejected.append((request.id, error.message))
            return None
        return Ready(request=request, images=images, once=once, first=first)

    batches = [[one for request in batch if (one := ready(request)) is not None] for batch in bundle]
    return Bundle(batches=batches, rejected=rejected)


def _open(loaded: LoadedModel, request: Request) -> "tuple[list[Image], ImagesOnce | None] | AmpError":
    try:
        images = [square(loaded, open_image(path)) for path in request.images]
    except AmpError as error:
        return error
    return images, ImagesOnce(loaded.processor.image_processor) if images else None


def _encode(
    loaded: LoadedModel, request: Request, images: list["Image"], once: ImagesOnce | None, answers: Sequence[str]
) -> Prompt | None:
    number = len(answers)
    count = sum(request.frame.images_in(earlier, len(images)) for earlier in range(number + 1))
    reader = loaded if once is None else once.read_by(loaded)
    dialogue = (request.questions[: number + 1], answers)
    encoded = encode_prompts(reader, [dialogue], [images[:count]], [request.frame])
    return make_prompt(loaded, encoded, tuple(map(str, request.images[:count])))


ALONE_TOO_LARGE = 20
"""So many items that do not fit alone, and none that does, are a fault of the set-up."""


class LocalAnswerer:
    """A model in this process. Its memory is given back before the next one comes.

    Args:
        load: gives the model; one that it keeps stays in memory.
    """

    def __init__(
        self,
        spec: ModelSpec,
        decoding: Decoding,
        running: Running,
        record: Record,
        *,
        load: "Callable[[ModelSpec], LoadedModel] | None" = None,
    ) -> None:
        self._spec = spec
        self._decoding = decoding
        self._running = running
        self._record = record
        self._load = load or load_to_answer

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        """Answer what is not in `done`."""
        loaded = self._load(self._spec)
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
        give_back_memory()


def load_to_answer(spec: ModelSpec) -> LoadedModel:
    """Load a model; an adapter becomes part of the weights in memory, which saves its products for every token.

    A quantised base keeps it apart: packed weights cannot take it up without a loss.
    """
    loaded = load_model(spec)
    _merge_in_memory(loaded, spec)
    return loaded


def _merge_in_memory(loaded: LoadedModel, spec: ModelSpec) -> None:
    if hasattr(loaded.model, "merge_and_unload") and spec.quantization is None:
        with torch.no_grad():
            loaded.model = loaded.model.merge_and_unload().eval()


class KeptBase:
    """Loads models to answer in turn; a base that its adapter comes right after is loaded once for both.

    Args:
        specs: the models in the order in which they will be loaded; one that has answered already may be left out.
    """

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        self._specs = specs
        self._kept: tuple[ModelSpec, LoadedModel] | None = None

    def __call__(self, spec: ModelSpec) -> LoadedModel:
        """Return the model; an adapter is attached to the base that answered before it, and merged there."""
        base, adapter = _base_and_adapter(spec)
        kept, self._kept = self._kept, None
        if adapter is None:
            loaded = load_to_answer(spec)
            following = [_base_and_adapter(one) for one in self._specs[self._specs.index(spec) + 1 :][:1]]
            if any(next_base == base and its_adapter is not None for next_base, its_adapter in following):
                self._kept = (base, loaded)
            return loaded
        if kept is None or kept[0] != base:
            return load_to_answer(spec)
        from amp_cli.models.adapters import attach_adapter

        loaded = replace(kept[1], name=spec.model, identity={**kept[1].identity, **check_model(spec)})
        loaded.model = attach_adapter(loaded.model, adapter_folder(adapter), adapter).eval()
        _merge_in_memory(loaded, spec)
        return loaded


def _base_and_adapter(spec: ModelSpec) -> tuple[ModelSpec, str | None]:
    base, adapter = model_and_adapter(spec.model, spec.adapter)
    return replace(spec, model=whole_place(base), adapter=None), adapter


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
        on_reject: called with id and reason for an item that cannot be asked (bad image, special token in its text, too
            large for the memory).
        share: number and count of the processes that share the bundles with something left to do; whole batches, so
            that the texts are those of one process.

    Raises:
        AmpError: memory runs out on each single item, or the model computes numbers that are not finite.
    """

    def left(bundle: list[list[Request]]) -> list[list[Request]]:
        return [batch for batch in bundle if any(one.id not in done for one in batch)]

    number, count = share
    pending = (rest for bundle in bundles(requests, batch_size) if (rest := left(bundle)))
    shares = why_not_shared(loaded) is None
    with prepared(loaded, islice(pending, number, None, count), shares=shares) as ready:
        batches = _Batches(loaded, decoding, shares=shares)
        for asked, bundle in ready:
            for item, reason in bundle.rejected:
                on_reject(item, reason)
            for all_of_it, usable in zip(asked, bundle.batches, strict=True):
                answers, too_large = batches.answer(usable, _batch_seed(seed, all_of_it))
                for item, reason in too_large:
                    on_reject(item, reason)
                for answer in answers:
                    if answer.id not in done:
                        on_answer(answer)
            batches.end_of_bundle()


def _batch_seed(seed: int, batch: Sequence[Request]) -> int:
    text = f"{seed}:" + "\n".join(request.id for request in batch)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])


class _Batches:
    """Answers batches in the sizes that fit the memory."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding, *, shares: bool) -> None:
        self._loaded = loaded
        self._generator = Generator(loaded, decoding)
        self._shares = shares
        self._lighter = ["fewer --num-beams"] if decoding.num_beams > 1 else []  # what is not in use yet
        if loaded.identity.get("quantization") != "nf4":
            self._lighter.append("--quantization nf4")
        self._fits: int | None = None  # the largest size to try since a larger one did not fit
        self._answered = False
        self._too_large: list[tuple[str, str]] = []

    def answer(self, batch: Sequence[Ready], seed: int) -> tuple[list[Answer], list[tuple[str, str]]]:
        """Return the answers, and (id, reason) of items that do not fit alone.

        Raises:
            AmpError: none of the first items fits.
        """
        known, before = self._fits, len(self._too_large)
        answers = self._within_memory(batch, seed) if batch else []
        if len(self._too_large) > before:
            self._fits = known  # an item that is too large alone says nothing about the others
        self._answered = self._answered or bool(answers)
        if not self._answered and len(self._too_large) >= ALONE_TOO_LARGE:
            raise AmpError(
                f"Memory ran out on each of the first {len(self._too_large)} items alone",
                hint=f"Use {' or '.join([*self._lighter, 'a smaller model'])}",
            )
        return answers, self._too_large[before:]

    def end_of_bundle(self) -> None:
        """Let go of what the next bundle does not share."""
        self._generator.forget()

    def _within_memory(self, batch: Sequence[Ready], seed: int) -> list[Answer]:
        """Answer a batch; what is known not to fit, or does not, in halves one after the other."""
        if self._fits is None or len(batch) <= self._fits:
            torch.manual_seed(seed)
            try:
                return self._in_one(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._make_room()
            if len(batch) == 1:
                less = f"; {' or '.join(self._lighter)} would take less" if self._lighter else ""
                reason = f"memory runs out on it alone{less}"
                self._too_large.append((batch[0].request.id, reason))
                return []
            self._fits = (len(batch) + 1) // 2
        middle = len(batch) // 2
        return self._within_memory(batch[:middle], seed) + self._within_memory(batch[middle:], seed + 1)

    def _make_room(self) -> None:
        self._generator.forget()
        give_back_memory()

    def _in_one(self, batch: Sequence[Ready]) -> list[Answer]:
        answers: list[list[Told]] = [[] for _ in batch]
        for _ in batch[0].request.questions:
            texts = [[one.text for one in told] for told in answers]
            for told, answer in zip(answers, self._next_answers(batch, texts), strict=True):
                told.append(answer)
        return [
            Answer(
                id=one.request.id,
                answers=tuple(answer.text for answer in told),
                is_whole=all(answer.is_whole for answer in told),
                probabilities=tuple(answer.begins for answer in told if answer.begins) if one.request.is_yes_no else (),
            )
            for one, told in zip(batch, answers, strict=True)
        ]

    def _next_answers(self, batch: Sequence[Ready], answers: Sequence[Sequence[str]]) -> list[Told]:
        """Return each item's next answer; `answers` are the texts before."""
        yes_no = any(one.request.is_yes_no for one in batch)
        if self._shares:
            prompts = [one.prompt(self._loaded, said) for one, said in zip(batch, answers, strict=True)]
            whole = [prompt for prompt in prompts if prompt is not None]
            if len(whole) == len(batch):
                return self._generator.after_prefixes(whole, yes_no=yes_no)
        number = len(answers[0])
        frames = [one.request.frame for one in batch]
        # a batch has its images in the same rounds
        count = sum(frames[0].images_in(earlier, len(batch[0].images)) for earlier in range(number + 1))
        dialogues = [(one.request.questions[: number + 1], said) for one, said in zip(batch, answers, strict=True)]
        shown = [one.images[:count] for one in batch]
        return self._generator.plainly(encode_prompts(self._loaded, dialogues, shown, frames), yes_no=yes_no)
