"""Asks models the same questions, one model after the other, and sets their answers side by side."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Answerer, check_answerer, open_answerer
from amp_cli.asking.endpoint import is_endpoint
from amp_cli.asking.processes import plan_processes
from amp_cli.compare.marking import ComparedItem, Said, mark_items, totals_of
from amp_cli.compare.questions import ComparedQuestions, of_authors, read_questions
from amp_cli.compare.sides import CompareSettings
from amp_cli.disk.jsonl import RecordLog
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.resolve import model_and_adapter, places_of, whole_place
from amp_cli.models.spec import Loading, ModelSpec
from amp_cli.preferences.autocheck import Checker
from amp_cli.preferences.encoders import Encoder, make_encoder
from amp_cli.preferences.experts import Answering, Expert, collect_candidates
from amp_cli.preferences.nounchunks import ChunkParser

COMMAND = "compare"
ANSWERS, REJECTED, PAGE = "answers.jsonl", "rejected.jsonl", "compare.html"


@dataclass(frozen=True, kw_only=True)
class CompareResult:
    """The sides' answers, item by item, and where they lie.

    Attributes:
        total: how many items there were to draw from. rejected: those that could not be asked or answered.
        page: None where nothing is kept.
    """

    sides: tuple[Expert, ...]
    items: tuple[ComparedItem, ...]
    total: int
    rejected: tuple[LeftOut, ...]
    page: Path | None

    @property
    def differing(self) -> int:
        """In how many items the sides differ."""
        return sum(item.differs for item in self.items)

    @property
    def totals(self) -> dict[str, dict[str, Any]]:
        """What was counted of each side."""
        return totals_of(self.items, [side.name for side in self.sides])

    def to_json(self) -> dict[str, Any]:
        return {
            "sides": [{"name": one.name, "model": one.model, "adapter": one.adapter} for one in self.sides],
            "items": len(self.items),
            "of": self.total,
            "differ": self.differing,
            "rejected": [one.to_json() for one in self.rejected],
            "totals": self.totals,
            "page": None if self.page is None else str(self.page),
            "answers": [item.to_json() for item in self.items],
        }


def compare_models(
    settings: CompareSettings, *, encoder: Encoder | None = None, answering: Answering | None = None
) -> CompareResult:
    """Ask what is not answered yet, then mark everything; without `out` nothing is kept.

    Args:
        encoder: compares with reference answers in place of the one that the settings name.
        answering: opens who answers for a side; its model when None.

    Raises:
        AmpError: models, data or settings that cannot work, found before a model is loaded.
    """
    questions = read_questions(settings)
    settings = of_authors(settings, questions.benchmark)
    checker = _checker(settings, questions, encoder)
    identity = dict(questions.identity)
    if answering is None:
        identity["models"] = check_sides(settings)
    answers_for = answering or SidesAnswering(settings)
    with _folder(settings, questions, identity) as (folder, run):
        rejected = LeftOutLog.replace(folder / REJECTED, _refused(folder / REJECTED, questions))
        answers = _collected(settings, questions, answers_for, folder, rejected)
        with ui.busy("Marking the answers"):
            items = tuple(mark_items(questions, answers, checker))
        result = CompareResult(
            sides=settings.sides,
            items=items,
            total=questions.total,
            rejected=tuple(RecordLog(folder / REJECTED).read_as(LeftOut.from_json)),
            page=None if settings.out is None else settings.out / PAGE,
        )
        if not items:
            first = next((one.reason for one in result.rejected), "there are no items")
            raise AmpError(f"Not one item was answered by every model: {first}", hint="See rejected.jsonl in --out")
        if result.page is not None and run is not None:
            from amp_cli.compare.page import write_comparison

            write_comparison(result.page, result, questions)
            run.finish(items=len(items), differ=result.differing, totals=result.totals)
    return result


@contextmanager
def _folder(
    settings: CompareSettings, questions: ComparedQuestions, identity: dict[str, Any]
) -> Iterator[tuple[Path, Run | None]]:
    """Give the folder of the answers: the run's, or one that is gone afterwards."""
    if settings.out is None:
        with tempfile.TemporaryDirectory(prefix="amp-compare-") as name:
            yield Path(name), None
        return
    names = [name for side in settings.sides for name in (side.model, side.adapter) if not is_endpoint(side.model)]
    with Run.start(
        settings.out,
        command=COMMAND,
        settings=settings,
        identity=identity,
        seed=settings.running.seed,
        overwrite=settings.overwrite,
        inputs=[*questions.inputs, *places_of(*names), *_images(questions)],
    ) as run:
        yield settings.out, run


def _images(questions: ComparedQuestions) -> Iterator[Path]:
    return (image for one in questions.wanted for image in one.request.images)


def _refused(path: Path, questions: ComparedQuestions) -> list[LeftOut]:
    """Return what the data refuse, found anew by every start, and what the models refused before."""
    asked = {one.request.id for one in questions.wanted}
    before = RecordLog(path).read_as(LeftOut.from_json)
    return [*questions.refused, *(one for one in before if one.source is not None and one.id in asked)]


def _checker(settings: CompareSettings, questions: ComparedQuestions, encoder: Encoder | None) -> Checker | None:
    """Return what reference answers are compared with; None where there are none, or they are not asked for."""
    if not settings.auto_check or not any(one.standard for one in questions.wanted):
        return None
    made = encoder or make_encoder(settings.encoder, tau=settings.tau, device=settings.loading.device)
    return Checker(encoder=made, parser=ChunkParser(settings.spacy_model), tau=settings.tau)


def spec_of(side: Expert, settings: CompareSettings) -> ModelSpec:
    """Return a side's model; how a model is loaded is said of those that are loaded here."""
    return (Loading() if is_endpoint(side.model) else settings.loading).of(side.model, side.adapter)


def check_sides(settings: CompareSettings) -> dict[str, Any]:
    """Refuse models that cannot be used before anything is written or loaded; return their identities.

    Raises:
        AmpError: naming what is wrong.
    """
    running = settings.running
    return {
        side.name: check_answerer(
            spec_of(side, settings), replace(running, num_processes=None) if is_endpoint(side.model) else running
        )
        for side in settings.sides
    }


class SidesAnswering:
    """Opens who answers for a side; of a base and its adapter, the base is loaded once.

    All have the same seed: where models differ little, sampled answers differ by the models and not by the dice.
    """

    def __init__(self, settings: CompareSettings) -> None:
        self._settings = settings
        self._specs = [spec_of(side, settings) for side in asked_in_turn(settings.sides)]
        self._load: Any = None

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        spec, running, decoding = spec_of(expert, self._settings), self._settings.running, self._settings.decoding
        if is_endpoint(expert.model) or plan_processes(spec.device, running.num_processes) is not None:
            return open_answerer(spec, decoding, running, folder=folder, record=_forget)
        from amp_cli.asking.local import KeptBase, LocalAnswerer

        self._load = self._load or KeptBase(self._specs)
        return LocalAnswerer(spec, decoding, running, _forget, load=self._load)


def _forget(**facts: object) -> None:
    """Leave out what an answerer says of itself: `run.json` names the models before any is loaded."""


def asked_in_turn(sides: Sequence[Expert]) -> list[Expert]:
    """Return the sides in the order in which they are asked: an adapter right after its base, where that is one too."""
    left, turns = list(sides), []
    while left:
        bare = next((one for one in left if _base_of(one)[1] is None), left[0])
        left.remove(bare)
        turns.append(bare)
        if _base_of(bare)[1] is None:
            of_it = next((one for one in left if _base_of(one)[0] == _base_of(bare)[0] and _base_of(one)[1]), None)
            if of_it is not None:
                left.remove(of_it)
                turns.append(of_it)
    return turns


def _base_of(side: Expert) -> tuple[str, str | None]:
    if is_endpoint(side.model):
        return side.model, None
    base, adapter = model_and_adapter(side.model, side.adapter)
    return whole_place(base), adapter


def _collected(
    settings: CompareSettings, questions: ComparedQuestions, answering: Answering, folder: Path, rejected: LeftOutLog
) -> dict[str, Said]:
    """Return item id -> each side's answers, of the items that every side has answered; asks what is missing."""
    candidates = collect_candidates(
        asked_in_turn(settings.sides),
        [one.request for one in questions.wanted],
        log=RecordLog(folder / ANSWERS),
        answering=answering,
        rejected=rejected,
    )
    answers: dict[str, Said] = {}
    for item_id, of_sides in candidates.items():
        by_name = {one.source: one.answers for one in of_sides}
        answers[item_id] = {side.name: by_name[side.name] for side in settings.sides}
    return answers
