"""Multi-size Expert Generation: lets every expert answer every item, one model in memory at a time."""

import hashlib
import json
import re
import shutil
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from operator import or_
from pathlib import Path
from typing import Protocol, Self

from amp_cli import ui
from amp_cli.asking.answerer import Answerer, Request, Running, bundled_places, open_answerer
from amp_cli.asking.endpoint import is_endpoint
from amp_cli.asking.processes import take_over
from amp_cli.disk.jsonl import RecordLog, disk_errors_explained, write_lines
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.levels import STANDARD
from amp_cli.records import Answer, Candidate, SourceItem

FOLDER = "answering"
"""Where the processes of an expert leave what they have finished, as long as it is at work."""


@dataclass(frozen=True, kw_only=True)
class Expert:
    """A named model, with an adapter or without, that writes one candidate per item."""

    name: str
    model: str
    adapter: str | None = None

    def __post_init__(self) -> None:
        if not self.name or not self.model:
            raise AmpError(
                f"An expert needs a name and a model, not '{self.name}={self.model}'", hint="--expert big=13b"
            )
        if self.name == STANDARD:
            raise AmpError(f"No expert can be called '{STANDARD}': that is level 0", hint="Choose another name")


class Answering(Protocol):
    """Opens who answers for an expert (tests fake it).

    Args:
        folder: where several processes leave what they have finished.
    """

    def __call__(self, expert: Expert, folder: Path) -> Answerer: ...


@dataclass(frozen=True, kw_only=True)
class ModelAnswering:
    """Every expert is asked alike; its seed is its own: with the same one, models of one base would sample the same."""

    loading: Loading
    decoding: Decoding
    running: Running

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        digest = hashlib.sha256(f"{self.running.seed}:{expert.name}".encode()).digest()
        running = replace(self.running, seed=int.from_bytes(digest[:4]))
        return open_answerer(
            self.loading.of(expert.model, expert.adapter), self.decoding, running, folder=folder, record=_forget
        )


def _forget(**facts: object) -> None:
    """Leave out what an answerer says of itself: `run.json` names the experts' models before any is loaded."""


def parse_expert(text: str) -> Expert:
    """Read `NAME=MODEL` or `NAME=MODEL+ADAPTER`; a plus in a folder that exists, or in an endpoint, is no separator."""
    name, equals, model = text.partition("=")
    if not equals:
        raise AmpError(f"'{text}' is not an expert", hint="--expert NAME=MODEL or NAME=MODEL+ADAPTER, strong to weak")
    if "+" not in model or is_endpoint(model) or Path(model).exists():
        return Expert(name=name, model=model)
    splits = [place for place, letter in enumerate(model) if letter == "+"]
    split = next((place for place in splits if Path(model[:place]).exists()), splits[0])
    if not model[split + 1 :]:
        raise AmpError(f"'{text}' names no adapter after the plus", hint="--expert NAME=MODEL+ADAPTER")
    return Expert(name=name, model=model[:split], adapter=model[split + 1 :])


def sampled(experts: Sequence[Expert], samples: int, decoding: Decoding) -> tuple[Expert, ...]:
    """Return the experts that give `samples` answers for each of these: NAME-1 to NAME-N of one model, one by one.

    They are experts like others, as if each had been typed, so that whatever is on disk, or goes on, knows nothing
    of samples. The seed of an expert follows from its name.

    Raises:
        AmpError: all of an expert's answers would be the same, there is no expert, or two share a name.
    """
    if samples == 1:
        return tuple(experts)
    if not experts:
        raise AmpError(
            f"--samples {samples} asks for several answers of each --expert, and none is given",
            hint="Give --expert NAME=MODEL with --method meg, or leave out --samples",
        )
    if decoding.temperature == 0:
        raise AmpError(
            f"At temperature 0 the {samples} samples of an expert would be one and the same answer",
            hint="Give a --temperature above 0, such as 0.7, or leave out --samples",
        )
    refuse_repeated_names(experts)
    return tuple(replace(one, name=f"{one.name}-{number}") for one in experts for number in range(1, samples + 1))


def refuse_repeated_names(experts: Sequence[Expert]) -> None:
    """Candidates are joined by the expert's name, so two experts cannot share one."""
    names = [expert.name for expert in experts]
    for name in names:
        if names.count(name) > 1:
            raise AmpError(f"Two experts are called '{name}'", hint="Give each --expert its own name")


@dataclass(frozen=True, kw_only=True)
class NodeShare:
    """One node's part of the items: every `count`-th bundle, so that a batch is whole on one node.

    Attributes:
        number: from 1. batch_size: items of the batches that have to stay whole.
    """

    number: int
    count: int
    batch_size: int

    @classmethod
    def parse(cls, text: str, batch_size: int) -> Self:
        """Read `I/N`.

        Raises:
            AmpError: it is not a number from 1 to N and N.
        """
        found = re.fullmatch(r"([1-9]\d{0,4})/([1-9]\d{0,4})", text)
        if found is None or int(found[1]) > int(found[2]):
            raise AmpError(f"'{text:.40}' is not a shard", hint="--shard 2/3 is the second of three")
        return cls(number=int(found[1]), count=int(found[2]), batch_size=batch_size)

    def others(self, requests: Sequence[Request]) -> bytearray:
        """Return 1 at each place that another node has."""
        flags = bytearray(b"\1") * len(requests)
        for bundle in islice(bundled_places(requests, self.batch_size), self.number - 1, None, self.count):
            for place in chain.from_iterable(bundle):
                flags[place] = 0
        return flags


class Candidates(Mapping[str, tuple[Candidate, ...]]):
    """Item id -> candidates in the experts' order, read from `candidates.jsonl` when asked for.

    Attributes:
        places: where in the data the items stand that have a candidate of every expert.
    """

    def __init__(
        self, log: RecordLog, ids: Mapping[str, int], starts: "list[array[int]]", places: "array[int]"
    ) -> None:
        self.places = places
        self._log = log
        self._ids = ids
        self._starts = starts
        self._has = bytearray(len(ids))
        for place in places:
            self._has[place] = 1

    def __getitem__(self, item_id: str) -> tuple[Candidate, ...]:
        place = self._ids[item_id]
        if not self._has[place]:
            raise KeyError(item_id)
        lines = self._log.lines_at(starts[place] for starts in self._starts)
        return tuple(Candidate.from_json(json.loads(line)) for line in lines)

    def __iter__(self) -> Iterator[str]:
        return (item_id for item_id, place in self._ids.items() if self._has[place])

    def __len__(self) -> int:
        return len(self.places)


class _Done(Collection[str]):
    """The items that need not be asked, by id; a byte of memory each."""

    def __init__(self, ids: Mapping[str, int], flags: bytearray) -> None:
        self._ids = ids
        self._flags = flags

    def __contains__(self, item_id: object) -> bool:
        place = self._ids.get(item_id) if isinstance(item_id, str) else None
        return place is not None and self._flags[place] == 1

    def __iter__(self) -> Iterator[str]:
        return (item_id for item_id, place in self._ids.items() if self._flags[place])

    def __len__(self) -> int:
        return self._flags.count(1)


def collect_candidates(
    experts: Sequence[Expert],
    requests: Sequence[Request],
    *,
    log: RecordLog,
    answering: Answering,
    rejected: LeftOutLog,
    share: NodeShare | None = None,
) -> Candidates:
    """Return the candidates of all requests that every expert could answer; in the file they stand as one process asks.

    What stands in `log` is not asked again, and an expert with nothing left to do is not loaded. An item that one
    expert cannot answer is not put to the next.
    """
    ids = {request.id: place for place, request in enumerate(requests)}
    written = {expert.name: bytearray(len(ids)) for expert in experts}
    for _, candidate in log.scan(Candidate.from_json):
        if candidate.source not in written:
            raise AmpError(
                f"'{log.path}' holds a candidate of {candidate.source!r:.80}, which is not one of the experts",
                hint="Remove that line, or start afresh with --overwrite",
            )
        if candidate.id in ids:
            written[candidate.source][ids[candidate.id]] = 1
    out_of_it = bytearray(len(ids)) if share is None else share.others(requests)
    for number, expert in enumerate(experts, start=1):
        asking = _Asking(expert, ids, written[expert.name], out_of_it, log, rejected)
        asking.ask(requests, answering, log.path.parent / FOLDER / str(number))
        for item_id in rejected.by_source(expert.name) & ids.keys():
            out_of_it[ids[item_id]] = 1
    bundles = chain.from_iterable(bundled_places(requests, 1))  # as one process asks, whatever its batch size
    turns = array("I", chain.from_iterable(bundles))
    _sort_rejections(experts, ids, turns, rejected)
    starts = _sorted_candidates(experts, ids, turns, log)
    complete = (n for n in range(len(ids)) if not out_of_it[n] and all(one[n] >= 0 for one in starts))
    return Candidates(log, ids, starts, array("I", complete))


def request_of(item: SourceItem) -> Request:
    """Return an item as an expert is asked it."""
    return Request(id=item.id, images=tuple(map(Path, item.images)), questions=item.questions, frame=item.frame)


class _Asking:
    """Has one expert answer what is left.

    `written` is 1 at the place of each item that it has answered; `out_of_it` where it is not to be asked, because
    another expert could not answer or another node has the item.
    """

    def __init__(
        self,
        expert: Expert,
        ids: Mapping[str, int],
        written: bytearray,
        out_of_it: bytearray,
        log: RecordLog,
        rejected: LeftOutLog,
    ) -> None:
        self._expert = expert
        self._ids = ids
        self._written = written
        self._out_of_it = out_of_it
        self._log = log
        self._rejected = rejected

    def ask(self, requests: Sequence[Request], answering: Answering, folder: Path) -> None:
        """Ask, unless nothing is left; what the processes of a killed command left in `folder` is taken over first."""
        total, left = self._out_of_it.count(0), self._left()
        if left:
            with ui.progress(f"{self._expert.name} answers", total, total - left) as self._advance:
                take_over(folder, on_answer=self._keep, on_reject=self._refuse, done=self._done())
                if self._left():
                    answer = answering(self._expert, folder)
                    answer(requests, done=self._done(), on_answer=self._keep, on_reject=self._refuse)
        if folder.exists():
            disk_errors_explained(lambda: shutil.rmtree(folder), folder)

    def _done(self) -> _Done:
        """Return what is done by now."""
        flags = bytearray(map(or_, self._written, self._out_of_it))
        for item_id in self._rejected.by_source(self._expert.name) & self._ids.keys():
            flags[self._ids[item_id]] = 1
        return _Done(self._ids, flags)

    def _left(self) -> int:
        return len(self._ids) - len(self._done())

    def _keep(self, answer: Answer) -> None:
        place = self._ids.get(answer.id)
        if place is not None and self._out_of_it[place]:
            return  # the item only filled up a batch
        self._log.append(Candidate(id=answer.id, source=self._expert.name, answers=answer.answers).to_json())
        if place is not None:  # else its image has gone since it was asked about
            self._written[place] = 1
            self._advance()

    def _refuse(self, item_id: str, reason: str) -> None:
        place = self._ids.get(item_id)
        if place is None or self._out_of_it[place]:
            return
        source = self._expert.name
        if self._rejected.add(LeftOut(id=item_id, reason=f"{source}: {reason}", source=source)):
            self._advance()


def _sorted_candidates(
    experts: Sequence[Expert], ids: Mapping[str, int], turns: "array[int]", log: RecordLog
) -> "list[array[int]]":
    """Sort the file by expert, then by turn; return for each expert where its candidate of each item begins, or -1."""
    numbers = {expert.name: number for number, expert in enumerate(experts)}
    starts = [array("q", [-1]) * len(ids) for _ in experts]
    strangers: list[dict[str, int]] = [{} for _ in experts]  # of items that are not in the data any more
    found, in_order, owners = array("q"), array("q"), array("q")
    for start, candidate in log.scan(Candidate.from_json):
        found.append(start)
        number, place = numbers[candidate.source], ids.get(candidate.id)
        if place is None:
            strangers[number][candidate.id] = start
        else:
            starts[number][place] = start
    for number, (own, strange) in enumerate(zip(starts, strangers, strict=True)):
        written = [place for place in turns if own[place] >= 0]
        in_order.extend([*(own[place] for place in written), *strange.values()])
        owners.extend([*(number * len(ids) + place for place in written), *(-1 for _ in strange)])
    if in_order == found:
        return starts

    def lines() -> Iterator[bytes]:
        at = 0
        for owner, line in zip(owners, log.lines_at(in_order), strict=True):
            if owner >= 0:
                number, place = divmod(owner, len(ids))
                starts[number][place] = at
            at += len(line)
            yield line

    write_lines(log.path, lines())
    return starts


def _sort_rejections(
    experts: Sequence[Expert], ids: Mapping[str, int], turns: "array[int]", rejected: LeftOutLog
) -> None:
    """Sort what experts could not answer as their candidates; what the data refuse stays before it."""
    if not any(rejected.by_source(expert.name) for expert in experts):
        return
    numbers = {expert.name: number for number, expert in enumerate(experts)}
    turn_of = array("I", [0]) * len(turns)
    for turn, place in enumerate(turns):
        turn_of[place] = turn

    def order(one: LeftOut) -> tuple[int, int]:
        if one.source is None or one.source not in numbers or one.id not in ids:
            return -1, 0
        return numbers[one.source], turn_of[ids[one.id]]

    rejected.sort(order)
