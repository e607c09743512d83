"""An OpenAI-compatible endpoint as the model that answers, named `URL#NAME`: vLLM, SGLang, llama.cpp, a cloud.

Several servers of one model are `URL,URL#NAME`.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from amp_cli import ui
from amp_cli.addresses import shown_address
from amp_cli.asking.answerer import Record, Request, Running
from amp_cli.asking.chat import OPENAI, ChatClient, key_from_environment, run_together, run_until_told
from amp_cli.asking.faults import FaultWording, ItemRejectedError, Patience
from amp_cli.asking.wire import endpoint_url
from amp_cli.disk.stored import Chosen
from amp_cli.errors import AmpError
from amp_cli.models.images import image_data_url
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

TEMPLATE = "endpoint"
"""What `run.json` calls the chat template: an endpoint applies its own."""
TIMEOUT = 300.0
"""Seconds until a reply is given up."""
WORDING = FaultWording(
    who="model",
    kept="answers",
    option="the address",
    check="the name after the #, and that what stands before the #",
    doubt="Does the model take images, and does its server work?",
)
SENT_NOT = {"num_beams": 1, "no_repeat_ngram_size": 0}
"""Fields of Decoding that these endpoints have no parameter for, with the values that ask for nothing."""
NO_PENALTY = 1.0


def is_endpoint(model: str) -> bool:
    """Tell an endpoint from a folder, a hub id or an alias."""
    return model.startswith(("http://", "https://"))


def split_endpoint(model: str) -> tuple[list[tuple[str, str | None]], str]:
    """Return addresses, each with its API version (of classic Azure, else None), and model name of `URL,URL#NAME`.

    Raises:
        AmpError: no name, an address twice, or one that is none or holds a password.
    """
    given, _, name = model.partition("#")
    addresses = [endpoint_url(one.strip(), who="model", option="An address of the model") for one in given.split(",")]
    shown = _shown(addresses)
    if len(set(addresses)) < len(addresses):
        raise AmpError(f"An address is given twice in '{shown}'", hint="Give each once")
    if not name:
        raise AmpError(f"'{shown}' names no model", hint=f"Give its name after a #, as in {shown}#llava")
    return addresses, name


def _shown(addresses: Sequence[tuple[str, str | None]]) -> str:
    return ",".join(shown_address(url) for url, _ in addresses)


def check_endpoint(spec: ModelSpec, *, num_processes: int | None = None) -> dict[str, Any]:
    """Return an endpoint's identity for `run.json`; nothing is sent yet.

    Raises:
        AmpError: its address or name is not usable, it needs a key that is not set, or something is asked for of the
            model beside its name: at an endpoint none of it is ours to decide.
    """
    addresses, name = split_endpoint(spec.model)
    shown = _shown(addresses)
    for option, value in {**asdict(spec), "num_processes": num_processes}.items():
        if option != "model" and value not in (None, False, "auto", "authors"):
            flag = "--" + option.replace("_", "-")
            raise AmpError(
                f"{flag} does not go with the endpoint '{shown}': its server decides that",
                hint=f"Leave out {flag}, or give --model a model that is loaded here",
            )
    if any(_is_openai(url) for url, _ in addresses) and not key_from_environment():
        raise AmpError(f"'{shown}' needs a key", hint="Set OPENAI_API_KEY")
    identity = {"kind": "endpoint", "name": name, "url": shown}
    versions = sorted({version for _, version in addresses if version is not None})
    return {"model": {**identity, "api_version": ",".join(versions)} if versions else identity}


def _is_openai(url: str) -> bool:
    return urlsplit(url).hostname == urlsplit(OPENAI).hostname


class EndpointAnswerer:
    """Answers through an endpoint. OPENAI_API_KEY goes to endpoints that ask for a key, and nowhere else."""

    def __init__(
        self, spec: ModelSpec, decoding: Decoding, running: Running, record: Record, *, patience: Patience | None = None
    ) -> None:
        self._identity: dict[str, Any] = check_endpoint(ModelSpec(model=spec.model))["model"]
        self._concurrency = running.concurrency
        self._record = record
        self._sampling = {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "seed": running.seed,
        }
        addresses, name = split_endpoint(spec.model)
        at_openai = any(_is_openai(url) for url, _ in addresses)
        if decoding.repetition_penalty != NO_PENALTY and not at_openai:
            self._sampling["repetition_penalty"] = decoding.repetition_penalty
        unsent = {**SENT_NOT, **({"repetition_penalty": NO_PENALTY} if at_openai else {})}
        self._unsent = {name: getattr(decoding, name) for name, off in unsent.items() if getattr(decoding, name) != off}
        self._reported: set[str] = set()
        self._client = ChatClient(
            model=name,
            addresses=addresses,
            key=key_from_environment(),
            timeout=TIMEOUT,
            patience=patience or Patience(),
            wording=WORDING,
            key_at_once=_is_openai,
            may_shorten=True,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What `run.json` says of the model; what the endpoint itself calls it is known after answering."""
        return {
            **self._identity,
            "template": TEMPLATE,
            "sampling": {name: value for name, value in self._sampling.items() if name not in self._client.unsupported},
            "not_sent": self._unsent,
            "reported_models": sorted(self._reported),
        }

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know before it answers."""
        if not self._unsent:
            return ()
        asked = ", ".join(f"{name}={value}" for name, value in self._unsent.items())
        return (f"The endpoint of '{self._identity['name']}' cannot be asked for {asked}: it answers without",)

    @property
    def late_notes(self) -> tuple[str, ...]:
        """What turned out while it answered."""
        notes, name = [], self._identity["name"]
        if ignored := sorted(self._client.unsupported - {"max_tokens"}):
            notes.append(f"'{name}' takes no {', no '.join(ignored)}; it used its own")
        if (fewest := self._client.fewest_tokens) is not None:
            notes.append(
                f"Some prompts left less room in the context of '{name}' than {self._sampling['max_tokens']} tokens "
                f"for an answer, at the least {fewest}; they were answered within that"
            )
        return tuple(notes)

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        """Answer what is not in `done`.

        Raises:
            AmpError: it has to stop (no such server or model, wrong key); what has arrived was handed over.
        """
        for note in self.notes:
            ui.warn(note)
        self._record(model=self.identity)
        left = (place for place, request in enumerate(requests) if request.id not in done)
        pending = Chosen(requests, lambda request: request, left)
        run_until_told(self._answer_all(pending, on_answer, on_reject))
        self._record(model=self.identity)
        for note in self.late_notes:
            ui.warn(note)

    async def _answer_all(
        self,
        requests: Sequence[Request],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        async with self._client.open():
            await run_together(
                requests,
                start=self._answer,
                on_result=lambda request, answer: on_answer(answer),
                on_reject=lambda request, reason: on_reject(request.id, reason),
                limit=self._concurrency,
                client=self._client,
            )

    async def _answer(self, request: Request) -> Answer:
        """Ask one round after the other; each image stands before the question that it is shown with."""
        try:
            urls = [await asyncio.to_thread(image_data_url, path) for path in request.images]
            images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        except AmpError as error:
            raise ItemRejectedError(error.message) from error
        system = request.frame.system
        messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        for number, question in enumerate(request.questions):
            count = request.frame.images_in(number, len(request.images))
            shown, images = images[:count], images[count:]
            content = [*shown, {"type": "text", "text": question}] if shown else question
            messages.append({"role": "user", "content": content})
            reply = await self._client.reply(messages, self._sampling)
            text = (reply.text or "").strip()
            if not text and (reply.text is None or reply.finish_reason != "stop"):
                raise ItemRejectedError(f"the model sent no text (finish_reason: {reply.finish_reason})")
            self._reported |= {reply.model} if reply.model else set()
            messages.append({"role": "assistant", "content": text})
        answers = tuple(message["content"] for message in messages if message["role"] == "assistant")
        return Answer(id=request.id, answers=answers)
