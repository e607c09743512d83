"""Models that stay in memory and answer one request at a time; a base and its adapter share the base's weights."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from amp_cli import ui
from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.endpoint import EndpointAnswerer, is_endpoint
from amp_cli.asking.faults import Patience
from amp_cli.errors import AmpError
from amp_cli.models.resolve import adapter_folder, model_and_adapter, whole_place
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

if TYPE_CHECKING:
    from amp_cli.models.load import LoadedModel

WITH_SOMEBODY_WAITING = Patience(attempts=2, first_delay=1.0, longest_delay=1.0, longest_retry_after=5.0)
"""A run can wait for an endpoint that is busy for minutes; who looks at a page would rather know, and ask again."""


@dataclass(frozen=True, kw_only=True)
class LiveModel:
    """A model that waits for requests: in this process, or behind an endpoint.

    Attributes:
        loaded: None for an endpoint. is_bare: its adapter, which another one uses, is switched off for its answers.
    """

    spec: ModelSpec
    loaded: "LoadedModel | None"
    decoding: Decoding
    running: Running
    is_bare: bool = False

    def answer(self, request: Request) -> tuple[str, ...]:
        """Return the answers to one request's questions.

        Raises:
            AmpError: it cannot be asked, or the endpoint does not answer.
        """
        answers: list[Answer] = []
        reasons: list[str] = []

        def refuse(_: str, reason: str) -> None:
            reasons.append(reason)

        if self.loaded is None:
            ask = EndpointAnswerer(self.spec, self.decoding, self.running, _forget, patience=WITH_SOMEBODY_WAITING)
            ask([request], done=(), on_answer=answers.append, on_reject=refuse)
        else:
            from amp_cli.asking.local import answer_requests

            with self.loaded.model.disable_adapter() if self.is_bare else nullcontext():
                answer_requests(
                    self.loaded,
                    [request],
                    self.decoding,
                    batch_size=1,
                    seed=self.running.seed,
                    done=(),
                    on_answer=answers.append,
                    on_reject=refuse,
                )
        if not answers:
            raise AmpError(reasons[0] if reasons else "there was no answer", hint="Ask again, or about another image")
        return answers[0].answers


def _forget(**facts: object) -> None:
    """Leave out what an answerer says of itself: there is no run to note it in."""


def load_live(specs: Sequence[ModelSpec], decoding: Decoding, running: Running) -> list[LiveModel]:
    """Load models for good; a base that has its adapter among them is loaded once, with it.

    An adapter that brings a projector changes the base itself, so that both are loaded.

    Raises:
        AmpError: one cannot be loaded.
    """
    from amp_cli.asking.local import load_to_answer
    from amp_cli.models.load import load_model

    parted = [(None, None) if is_endpoint(one.model) else model_and_adapter(one.model, one.adapter) for one in specs]
    partner: dict[int, int] = {}  # a base -> its adapter's place
    for number, (base, adapter) in enumerate(parted):
        if base is not None and adapter is None:
            for place, (of, its_adapter) in enumerate(parted):
                taken = place in partner.values()
                if of and its_adapter and not taken and _is_lora_alone(its_adapter) and _same(specs, number, place):
                    partner[number] = place
                    break
    loaded = {place: load_model(specs[place]) for place in partner.values()}
    models = []
    for number, spec in enumerate(specs):
        if number not in loaded and number not in partner and not is_endpoint(spec.model):
            loaded[number] = load_to_answer(spec)
        mine = loaded.get(partner.get(number, number))
        models.append(LiveModel(spec=spec, loaded=mine, decoding=decoding, running=running, is_bare=number in partner))
    for note in dict.fromkeys(note for one in loaded.values() for note in one.notes):
        ui.warn(note)
    return models


def _same(specs: Sequence[ModelSpec], base: int, with_adapter: int) -> bool:
    """Whether two models differ by the adapter alone."""
    bare, other = specs[base], specs[with_adapter]
    places = [whole_place(model_and_adapter(one.model, one.adapter)[0]) for one in (bare, other)]
    return places[0] == places[1] and replace(bare, model="", adapter=None) == replace(other, model="", adapter=None)


def _is_lora_alone(adapter: str) -> bool:
    from amp_cli.models.llava.projector import projector_files

    return not projector_files(adapter_folder(adapter))
