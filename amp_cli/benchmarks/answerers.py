"""Chooses who answers a benchmark's questions: an endpoint, several processes, or a model in this one."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from amp_cli import ui
from amp_cli.asking.answerer import Request
from amp_cli.asking.endpoint import EndpointModel, check_endpoint, is_endpoint
from amp_cli.benchmarks.processes import Shares, plan_processes
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.run import Run
from amp_cli.models.spec import Decoding
from amp_cli.records import Answer

AT_HOME = (
    *("adapter", "vision_tower", "dtype", "device", "quantization", "template", "trust_remote_code"),
    "num_processes",
)
"""Settings of a model that is loaded here; an endpoint's server has its own."""


class Answerer(Protocol):
    """Answers requests that are not in `done`; the model, or a script in its place."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None: ...


def model_identity(settings: EvalSettings, model: str) -> dict[str, Any]:
    """Return the identity of the model that `--model` names, or refuse it before anything is written."""
    if is_endpoint(model):
        return check_endpoint(model, {name: getattr(settings, name) for name in AT_HOME})
    from amp_cli.models.resolve import check_model

    plan_processes(settings)  # refuses what cannot be started
    return check_model(model, adapter=settings.adapter, vision_tower=settings.vision_tower)


def choose_answerer(settings: EvalSettings, run: Run) -> Answerer:
    """Return what answers as the settings ask; what it is goes to `run.json`."""
    assert settings.model is not None  # checked before the run was started
    if is_endpoint(settings.model):
        return _endpoint_answerer(settings.model, settings, run)
    launch = plan_processes(settings)
    if launch is not None:
        return Shares(settings, decoding_of(settings), launch, run)
    return _model_answerer(settings.model, settings, run)


def decoding_of(settings: EvalSettings) -> Decoding:
    """Return how answers are decoded."""
    return Decoding(
        num_beams=settings.num_beams,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram_size,
        max_new_tokens=settings.max_new_tokens,
    )


def _endpoint_answerer(model: str, settings: EvalSettings, run: Run) -> Answerer:
    endpoint = EndpointModel(model, decoding_of(settings), seed=settings.seed)
    for note in endpoint.notes:
        ui.warn(note)
    run.record(model=endpoint.identity)

    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        endpoint.answer_requests(
            requests, concurrency=settings.concurrency, done=done, on_answer=on_answer, on_reject=on_reject
        )
        run.record(model=endpoint.identity)
        for note in endpoint.late_notes:
            ui.warn(note)

    return answer


def _model_answerer(model: str, settings: EvalSettings, run: Run) -> Answerer:
    from amp_cli.asking.local import answer_requests
    from amp_cli.models.load import load_model

    loaded = load_model(
        model,
        adapter=settings.adapter,
        vision_tower=settings.vision_tower,
        dtype=settings.dtype,
        device=settings.device,
        quantization=settings.quantization,
        template=settings.template,
        trust_remote_code=settings.trust_remote_code,
    )
    for note in loaded.notes:
        ui.warn(note)
    run.record(model=loaded.identity, device=str(loaded.device))

    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        answer_requests(
            loaded,
            requests,
            decoding_of(settings),
            batch_size=settings.batch_size,
            seed=settings.seed,
            done=done,
            on_answer=on_answer,
            on_reject=on_reject,
        )

    return answer
