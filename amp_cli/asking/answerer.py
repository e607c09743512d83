"""Who answers: a model on this machine, several processes with it, or an endpoint. Needs no torch until it answers."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol, Self

from amp_cli.disk.settings import free
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.ranges import refuse_out_of_range
from amp_cli.records import PLAIN, Answer, Frame


@dataclass(frozen=True, kw_only=True)
class Request:
    """One item to answer: its images' files and one question per round.

    `is_yes_no` asks a model that is loaded here how probable yes and no were, beside its texts.
    """

    id: str
    images: tuple[Path, ...]
    questions: tuple[str, ...]
    frame: Frame = PLAIN
    is_yes_no: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as another process reads it, wherever that one runs."""
        return {
            "id": self.id,
            "images": [str(path.resolve()) for path in self.images],
            "questions": list(self.questions),
            **self.frame.to_json(),
            "is_yes_no": self.is_yes_no,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Self:
        return cls(
            id=record["id"],
            images=tuple(map(Path, record["images"])),
            questions=tuple(record["questions"]),
            frame=Frame.from_json(record),
            is_yes_no=record["is_yes_no"],
        )


@dataclass(frozen=True, kw_only=True)
class Running:
    """How many at once, and the seed. Batches change no greedy text; a sampled one depends on what it is sampled with.

    Attributes:
        batch_size: items per forward of a model that is loaded here.
        concurrency: items under way at once at an endpoint.
        num_processes: processes that share the items; None is one per GPU, one on a CPU.
    """

    batch_size: int = free(8, when=lambda settings: settings.decoding.temperature == 0)
    concurrency: int = free(8)
    num_processes: int | None = free(None)
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_out_of_range(self)


class Answerer(Protocol):
    """Answers requests that are not in `done`; the model, or a script in its place."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        """Answer them; rounds are asked in turn, own earlier answers in the history.

        Args:
            requests: all there are, those that are done too: a sampled text depends on what is in its batch.
            on_answer: called once for each finished item, before the next one is looked at.
            on_reject: called with id and reason for an item that cannot be asked; the rest goes on.

        Raises:
            AmpError: it has to stop; what has arrived was handed over.
        """
        ...


class Record(Protocol):
    """Takes facts about who answers, for `run.json`."""

    def __call__(self, **facts: Any) -> None: ...


def check_answerer(spec: ModelSpec, running: Running) -> dict[str, Any]:
    """Return the identity of the model that is to answer, or refuse it before anything is written or loaded."""
    from amp_cli.asking.endpoint import check_endpoint, is_endpoint
    from amp_cli.asking.processes import plan_processes
    from amp_cli.models.resolve import check_model

    if is_endpoint(spec.model):
        return check_endpoint(spec, num_processes=running.num_processes)
    plan_processes(spec.device, running.num_processes)  # refuses what cannot be started
    return check_model(spec)


def open_answerer(spec: ModelSpec, decoding: Decoding, running: Running, *, folder: Path, record: Record) -> Answerer:
    """Return who answers. A model is loaded when it is asked, and let go of when it has answered.

    Args:
        folder: where several processes leave what they have finished; see `take_over`.
    """
    from amp_cli.asking.endpoint import EndpointAnswerer, is_endpoint
    from amp_cli.asking.processes import Shares, plan_processes

    if is_endpoint(spec.model):
        return EndpointAnswerer(spec, decoding, running, record)
    launch = plan_processes(spec.device, running.num_processes)
    if launch is not None:
        return Shares(spec, decoding, running, launch, folder, record)
    from amp_cli.asking.local import LocalAnswerer

    return LocalAnswerer(spec, decoding, running, record)


def batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Yield the batches of all bundles; in whatever size they come, the order of the requests is the same."""
    for bundle in bundles(requests, batch_size):
        yield from bundle


def bundles(requests: Sequence[Request], batch_size: int) -> Iterator[list[list[Request]]]:
    """Yield batches of like items: as many images and rounds, images in the same rounds, similar length.

    Items with the same images stand together, so that these are read once: in one batch, or, where they are too many,
    in several of one bundle.
    """
    for bundle in bundled_places(requests, batch_size):
        yield [[requests[place] for place in batch] for batch in bundle]


def bundled_places(requests: Iterable[Request], batch_size: int) -> Iterator[list[list[int]]]:
    """Yield the bundles as places in `requests`, which are looked at once; of each, some 300 bytes are held."""
    groups: dict[tuple[int, int, tuple[int, ...]], list[_Asked]] = {}
    for place, request in enumerate(requests):
        like = (len(request.images), len(request.questions), request.frame.image_rounds)
        groups.setdefault(like, []).append(_asked(place, request))
    for _, members in sorted(groups.items()):
        batch: list[int] = []
        for together in _by_images(members):
            if batch and len(batch) + len(together) > batch_size:
                yield [batch]
                batch = []
            if len(together) > batch_size:
                yield _in_even_parts(together, batch_size)
            else:
                batch.extend(together)
        if batch:
            yield [batch]


_Asked = tuple[int, str, bytes | None, int]
"""What the order of a request follows from: length of its questions, id, digest of its images, its place."""


def _asked(place: int, request: Request) -> _Asked:
    digest = blake2b("\0".join(map(str, request.images)).encode(errors="surrogateescape"), digest_size=16).digest()
    return sum(map(len, request.questions)), request.id, digest if request.images else None, place


def _by_images(members: list[_Asked]) -> Iterator[list[int]]:
    """Yield the places of items with the same images, shorter questions first; items without images stand alone."""
    members.sort(key=itemgetter(0, 1))
    last = {images: number for number, (_, _, images, _) in enumerate(members) if images is not None}
    waiting: dict[bytes, list[int]] = {}
    for number, (_, _, images, place) in enumerate(members):
        if images is None:
            yield [place]
            continue
        waiting.setdefault(images, []).append(place)
        if last[images] == number:  # groups come in the order of their longest members
            yield waiting.pop(images)


def _in_even_parts(together: list[int], most: int) -> list[list[int]]:
    count = -(-len(together) // most)
    borders = [len(together) * number // count for number in range(count + 1)]
    return [together[start:end] for start, end in pairwise(borders)]
