"""Chooses who answers a benchmark's questions: an endpoint, several processes, or a model in this one."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from amp_cli import ui
from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.endpoint import EndpointModel, check_endpoint, is_endpoint
from amp_cli.benchmarks.processes import Shares, plan_processes
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.run import Run
from amp_cli.models.spec import ModelSpec
from amp_cli.records import Answer


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


def model_identity(spec: ModelSpec, running: Running) -> dict[str, Any]:
    """Return the identity of the model that `--model` names, or refuse it before anything is written."""
    if is_endpoint(spec.model):
        return check_endpoint(spec, num_processes=running.num_processes)
    from amp_cli.models.resolve import check_model

    plan_processes(spec.device, running.num_processes)  # refuses what cannot be started
    return check_model(spec)


def choose_answerer(settings: EvalSettings, run: Run) -> Answerer:
    """Return what answers as the settings ask; what it is goes to `run.json`."""
    spec = settings.spec
    assert spec is not None  # checked before the run was started
    if is_endpoint(spec.model):
        return _endpoint_answerer(spec.model, settings, run)
    launch = plan_processes(spec.device, settings.running.num_processes)
    if launch is not None:
        return Shares(spec, settings.decoding, settings.running, launch, run)
    return _model_answerer(spec, settings, run)


def _endpoint_answerer(model: str, settings: EvalSettings, run: Run) -> Answerer:
    endpoint = EndpointModel(model, settings.decoding, seed=settings.running.seed)
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
            requests, concurrency=settings.running.concurrency, done=done, on_answer=on_answer, on_reject=on_reject
        )
        run.record(model=endpoint.identity)
        for note in endpoint.late_notes:
            ui.warn(note)

    return answer


def _model_answerer(spec: ModelSpec, settings: EvalSettings, run: Run) -> Answerer:
    from amp_cli.asking.local import answer_requests
    from amp_cli.models.load import load_model

    loaded = load_model(spec)
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
            settings.decoding,
            batch_size=settings.running.batch_size,
            seed=settings.running.seed,
            done=done,
            on_answer=on_answer,
            on_reject=on_reject,
        )

    return answer
