"""Multi-size Expert Generation: lets every expert answer every item, one model in memory at a time."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from amp_cli import ui
from amp_cli.asking.answerer import Answerer, Request, Running, batches, open_answerer
from amp_cli.asking.endpoint import is_endpoint
from amp_cli.asking.processes import take_over
from amp_cli.disk.jsonl import RecordLog, disk_errors_explained, write_records
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
    rejected: LeftOutLog,
) -> dict[str, tuple[Candidate, ...]]:
    """Return item id -> candidates in the experts' order, for all items that every expert could answer.

    What stands in `log` is not asked again, and an expert with nothing left to do is not loaded. An item that one
    expert cannot answer is not put to the next.
    """
    written: dict[str, dict[str, Candidate]] = {expert.name: {} for expert in experts}
    for candidate in log.read_as(Candidate.from_json):
        if candidate.source not in written:
            raise AmpError(
                f"'{log.path}' holds a candidate of {candidate.source!r:.80}, which is not one of the experts",
                hint="Remove that line, or start afresh with --overwrite",
            )
        written[candidate.source][candidate.id] = candidate
    refused_before: set[str] = set()
    for number, expert in enumerate(experts, start=1):
        asked = [
            Request(id=item.id, images=tuple(map(Path, item.images)), questions=item.questions, frame=item.frame)
            for item in items
            if item.id not in refused_before
        ]
        _ask(expert, asked, log.path.parent / FOLDER / str(number), log, answering, rejected, written[expert.name])
        refused_before |= rejected.by_source(expert.name)
    return {
        item.id: tuple(written[expert.name][item.id] for expert in experts)
        for item in items
        if item.id not in refused_before
    }


def _ask(
    expert: Expert,
    requests: Sequence[Request],
    folder: Path,
    log: RecordLog,
    answering: Answering,
    rejected: LeftOutLog,
    written: dict[str, Candidate],
) -> None:
    """Have an expert answer what is left; in the end its candidates stand as one process on its own writes them."""

    ids = {request.id for request in requests}

    def done() -> set[str]:
        return {*written, *rejected.by_source(expert.name)}

    pending = len(ids - done())
    if pending:
        with ui.progress(f"{expert.name} answers", len(requests), len(requests) - pending) as advance:

            def keep(answer: Answer) -> None:
                candidate = Candidate(id=answer.id, source=expert.name, answers=answer.answers)
                log.append(candidate.to_json())
                written[answer.id] = candidate
                advance()

            def refuse(item_id: str, reason: str) -> None:
                if rejected.add(LeftOut(id=item_id, reason=f"{expert.name}: {reason}", source=expert.name)):
                    advance()

            take_over(folder, on_answer=keep, on_reject=refuse, done=written)
            if ids - done():
                answer = answering(expert, folder)
                answer(requests, done=done(), on_answer=keep, on_reject=refuse)
    _put_in_order(expert, requests, log)
    if folder.exists():
        disk_errors_explained(lambda: shutil.rmtree(folder), folder)


def _put_in_order(expert: Expert, requests: Sequence[Request], log: RecordLog) -> None:
    """Sort an expert's candidates, the last ones of the log, as one process asks for them, one after the other."""
    records = log.read()
    before = [record for record in records if record["source"] != expert.name]
    own = {record["id"]: record for record in records if record["source"] == expert.name}
    in_turn = [own.pop(request.id) for batch in batches(requests, 1) for request in batch if request.id in own]
    sorted_records = [*before, *in_turn, *own.values()]
    if sorted_records != records:
        write_records(log.path, sorted_records)
