"""Multi-size Expert Generation: lets every expert answer every item, one model in memory at a time."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amp_cli import ui
from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.endpoint import EndpointModel, is_endpoint
from amp_cli.disk.jsonl import RecordLog
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.left_out import RejectedItems
from amp_cli.preferences.levels import STANDARD
from amp_cli.records import Answer, Candidate, SourceItem


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
    """How one expert answers items (tests fake it; `answer_with_model` is the real one)."""

    def __call__(
        self,
        expert: Expert,
        items: Sequence[SourceItem],
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ModelAnswering:
    """Loads the expert's model, answers, and gives the memory back before the next expert comes; asks an endpoint."""

    loading: Loading
    decoding: Decoding
    running: Running

    def __call__(
        self,
        expert: Expert,
        items: Sequence[SourceItem],
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        requests = [
            Request(id=item.id, images=tuple(Path(image) for image in item.images), questions=item.questions)
            for item in items
        ]
        if is_endpoint(expert.model):
            self._ask_endpoint(expert, requests, done, on_answer, on_reject)
        else:
            self._ask_model(expert, requests, done, on_answer, on_reject)

    def _ask_endpoint(
        self,
        expert: Expert,
        requests: Sequence[Request],
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        endpoint = EndpointModel(expert.model, self.decoding, seed=_seed_of(expert, self.running.seed))
        for note in endpoint.notes:
            ui.warn(note)
        endpoint.answer_requests(
            requests, concurrency=self.running.concurrency, done=done, on_answer=on_answer, on_reject=on_reject
        )
        for note in endpoint.late_notes:
            ui.warn(note)

    def _ask_model(
        self,
        expert: Expert,
        requests: Sequence[Request],
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        from amp_cli.asking.local import answer_requests
        from amp_cli.models.load import load_model

        loaded = load_model(self.loading.of(expert.model, expert.adapter))
        for note in loaded.notes:
            ui.warn(note)
        answer_requests(
            loaded,
            requests,
            self.decoding,
            batch_size=self.running.batch_size,
            seed=_seed_of(expert, self.running.seed),
            done=done,
            on_answer=on_answer,
            on_reject=on_reject,
        )
        del loaded
        _free_memory()


def _seed_of(expert: Expert, seed: int) -> int:
    """Return a seed of the expert's own: with the same one, models of one base would sample the same texts."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{expert.name}".encode()).digest()[:4])


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def refuse_repeated_names(experts: Sequence[Expert]) -> None:
    """Candidates are joined by the expert's name, so two experts cannot share one."""
    names = [expert.name for expert in experts]
    for name in names:
        if names.count(name) > 1:
            raise AmpError(f"Two experts are called '{name}'", hint="Give each --expert its own name")


def collect_candidates(
    experts: Sequence[Expert],
    items: Sequence[SourceItem],
    *,
    log: RecordLog,
    answering: Answering,
    rejected: RejectedItems,
) -> dict[str, tuple[Candidate, ...]]:
    """Return item id -> candidates in the experts' order, for all items that every expert could answer.

    What stands in `log` is not asked again, and an expert with nothing left to do is not loaded. An item that one
    expert cannot answer is not put to the next.
    """
    written: dict[str, dict[str, Candidate]] = {expert.name: {} for expert in experts}
    for record in log.read():
        candidate = Candidate.from_json(record)
        written[candidate.source][candidate.id] = candidate
    refused_before: set[str] = set()
    for expert in experts:
        asked = [item for item in items if item.id not in refused_before]
        refused = rejected.by_expert(expert.name)
        done = written[expert.name].keys() | refused
        pending = sum(item.id not in done for item in asked)
        if pending:
            with ui.progress(f"{expert.name} answers", len(asked), len(asked) - pending) as advance:
                answering(
                    expert, asked, done, _keeper(expert, log, written, advance), _refuser(expert, rejected, advance)
                )
        refused_before |= rejected.by_expert(expert.name)
    return {
        item.id: tuple(written[expert.name][item.id] for expert in experts)
        for item in items
        if item.id not in refused_before
    }


def _keeper(
    expert: Expert, log: RecordLog, written: dict[str, dict[str, Candidate]], advance: Callable[[], None]
) -> Callable[[Answer], None]:
    def keep(answer: Answer) -> None:
        candidate = Candidate(id=answer.id, source=expert.name, answers=answer.answers)
        log.append(candidate.to_json())
        written[expert.name][answer.id] = candidate
        advance()

    return keep


def _refuser(expert: Expert, rejected: RejectedItems, advance: Callable[[], None]) -> Callable[[str, str], None]:
    def refuse(item_id: str, reason: str) -> None:
        if rejected.add(item_id, reason, expert.name):
            advance()

    return refuse
