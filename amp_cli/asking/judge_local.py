"""The judge `local:MODEL`: any transformers language or vision-language model on this machine, one item at a time."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from amp_cli.asking.answerer import Request
from amp_cli.asking.judge import JudgeRequest
from amp_cli.models.resolve import check_model
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer, Verdict

if TYPE_CHECKING:
    from amp_cli.models.load import LoadedModel


class LocalJudge:
    """Judges by greedy decoding, whatever temperature is asked for; a system message goes before the user's."""

    def __init__(self, spec: ModelSpec, *, seed: int = 0) -> None:
        self._spec = spec
        self._seed = seed
        self._checked = check_model(spec)
        self._notes: tuple[str, ...] = ()

    @property
    def identity(self) -> dict[str, Any]:
        spec = self._spec
        facts = {"kind": "local", "model": spec.model, "weights": self._checked, "sampling": {"temperature": 0.0}}
        return facts if spec.dtype == "auto" else {**facts, "dtype": spec.dtype}

    @property
    def notes(self) -> tuple[str, ...]:
        return self._notes

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        """Judge all requests; a prompt that holds one of the model's special tokens is rejected."""
        from amp_cli.asking.local import answer_requests
        from amp_cli.models.load import load_text_model

        if not requests:
            return
        loaded = load_text_model(self._spec)
        asked = {f"{request.repeat} {request.id}": request for request in requests}
        prompts = {key: "\n\n".join(content for _, content in request.messages) for key, request in asked.items()}
        self._notes = loaded.notes + _too_long(loaded, prompts.values())

        def keep(answer: Answer) -> None:
            request = asked[answer.id]
            on_verdict(
                Verdict(
                    id=request.id,
                    repeat=request.repeat,
                    text=answer.answers[0],
                    model=self._spec.model,
                    finish_reason="stop" if answer.is_whole else "length",
                    max_tokens=request.max_tokens,
                )
            )

        for length in sorted({request.max_tokens for request in requests}):
            answer_requests(
                loaded,
                [
                    Request(id=key, images=(), questions=(prompts[key],))
                    for key, request in asked.items()
                    if request.max_tokens == length
                ],
                Decoding(max_new_tokens=length),
                batch_size=1,
                seed=self._seed,
                done=(),
                on_answer=keep,
                on_reject=lambda key, reason: on_reject(asked[key], reason),
            )


def _too_long(loaded: "LoadedModel", prompts: Iterable[str]) -> tuple[str, ...]:
    """Say how many prompts are longer than what the model was made for: it will answer, but hardly to the point."""
    limit = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return ()
    count = sum(len(loaded.tokenizer(prompt)["input_ids"]) > limit for prompt in prompts)
    if not count:
        return ()
    return (f"Prompts longer than the {limit:,} tokens that '{loaded.name}' was made for: {count:,}",)
