"""Prepares what is asked next while the model answers: images opened and made ready once, questions encoded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import local
from typing import TYPE_CHECKING

from amp_cli.asking.answerer import Request
from amp_cli.asking.prefixes import Prompt, make_prompt
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import (
    ImagesOnce,
    encode_prompts,
    give_padding,
    render,
    square,
    with_own_tokenizer,
)

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
