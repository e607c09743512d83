"""Generation: the same text at any batch size, resumable by id, one bad item alone is lost."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from amp_cli.asking.answerer import Request
from amp_cli.asking.generation import generation_config, yes_no_ids
from amp_cli.asking.local import answer_requests
from amp_cli.benchmarks.yes_no import YesNoScore, summarise
from amp_cli.errors import AmpError
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import encode_prompts, square
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

GREEDY = Decoding(max_new_tokens=24)


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return load_model(ModelSpec(model="tiny"))


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> list[Request]:
    """Eight items of three lengths, two of them dialogues of two rounds."""
    folder = tmp_path_factory.mktemp("pictures")
    asked = []
    for number, word in enumerate(["car", "dog", "tree", "house", "boat", "lamp", "cup", "ball"]):
        path = folder / f"{word}.png"
        image = Image.new("RGB", (96, 96), (190, 190 + 5 * number, 195))
        ImageDraw.Draw(image).rectangle((8 * number, 30, 8 * number + 30, 60), fill=(214, 40, 5 * number))
        image.save(path)
        questions = [f"is there a {word} in the image?", "describe this image in detail."][: 1 + number % 2]
        asked.append(Request(id=word, images=(path,), questions=tuple(questions)))
    return asked


def answers_of(
    tiny: LoadedModel,
    requests: list[Request],
    decoding: Decoding = GREEDY,
    *,
    batch_size: int = 8,
    done: set[str] | None = None,
    rejected: dict[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    answers: dict[str, tuple[str, ...]] = {}
    answer_requests(
        tiny,
        requests,
        decoding,
        batch_size=batch_size,
        seed=0,
        done=done or set(),
        on_answer=lambda answer: answers.update({answer.id: answer.answers}),
        on_reject=lambda item, reason: (rejected if rejected is not None else {}).update({item: reason}),
    )
    return answers


def test_greedy_text_is_the_same_at_batch_one_and_eight(tiny: LoadedModel, requests: list[Request]) -> None:
    one = answers_of(tiny, requests, batch_size=1)
    assert one == answers_of(tiny, requests, batch_size=8)
    assert {name: len(texts) for name, texts in one.items()} == {r.id: len(r.questions) for r in requests}
    assert all(text for texts in one.values() for text in texts)


def test_the_second_round_reads_the_model_s_own_first_answer(tiny: LoadedModel, requests: list[Request]) -> None:
    """With the history the second answer is what a one-round request with that history would give, not a fresh one."""
    request = requests[1]
    seen: list[int] = []

    class Watching:
        def __init__(self, processor: object) -> None:
            self._processor = processor

        def __getattr__(self, name: str) -> object:
            if name.startswith("__"):  # what `copy` looks for
                raise AttributeError(name)
            return getattr(self._processor, name)

        def __call__(self, **kwargs: object) -> object:
            texts = kwargs["text"]
            assert isinstance(texts, list)
            seen.append(texts[0].count("ASSISTANT:"))
            return self._processor(**kwargs)  # type: ignore[operator]

    answers = answers_of(replace(tiny, processor=Watching(tiny.processor)), [request])
    assert seen == [1, 2]
    assert len(answers[request.id]) == 2


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(num_beams=4, max_new_tokens=12),
        Decoding(temperature=0.7, max_new_tokens=12),
        Decoding(num_beams=4, temperature=0.7, repetition_penalty=1.1, max_new_tokens=12),
        Decoding(num_beams=2, no_repeat_ngram_size=2, max_new_tokens=12),
    ],
)
def test_every_way_of_decoding_is_repeatable(tiny: LoadedModel, requests: list[Request], decoding: Decoding) -> None:
    assert answers_of(tiny, requests[:4], decoding) == answers_of(tiny, requests[:4], decoding)


def test_no_ngram_is_repeated_when_told_so(tiny: LoadedModel, requests: list[Request]) -> None:
    describe = [replace(requests[1], questions=("describe this image in detail.",))]
    plain = answers_of(tiny, describe, Decoding(max_new_tokens=60))["dog"][0].split()
    ruled = answers_of(tiny, describe, Decoding(max_new_tokens=60, no_repeat_ngram_size=2))["dog"][0].split()

    def repeats(words: list[str]) -> int:
        pairs = list(pairwise(words))
        return len(pairs) - len(set(pairs))

    assert repeats(plain) > 0
    assert repeats([word.strip(".") for word in ruled]) == 0


def test_a_resumed_run_samples_what_an_unbroken_one_does(tiny: LoadedModel, requests: list[Request]) -> None:
    sampled = Decoding(temperature=1.0, max_new_tokens=12)
    unbroken = answers_of(tiny, requests, sampled, batch_size=2)
    done = {"car", "tree"}
    rest = answers_of(tiny, requests, sampled, batch_size=2, done=done)
    assert rest == {name: texts for name, texts in unbroken.items() if name not in done}


def test_a_bad_image_and_a_special_token_lose_only_their_items(
    tiny: LoadedModel, requests: list[Request], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    bad = [
        replace(requests[0], id="broken", images=(tmp_path / "broken.png",)),
        replace(requests[0], id="token", questions=("what is <image> here?",)),
    ]
    rejected: dict[str, str] = {}
    answers = answers_of(tiny, [*requests[:3], *bad], rejected=rejected)
    assert set(answers) == {"car", "dog", "tree"}
    assert set(rejected) == {"broken", "token"}
    assert answers == answers_of(tiny, requests[:3])


def test_text_only_items_are_answered(tiny: LoadedModel, requests: list[Request]) -> None:
    answers = answers_of(tiny, [replace(requests[0], images=()), requests[2]])
    assert set(answers) == {"car", "tree"}


class RunsOutOfMemory:
    """A model whose memory holds two items at a time, and none of those that ask for an elephant."""

    def __init__(self, tiny: LoadedModel, limit: int, said: str = "CUDA out of memory") -> None:
        self._model, self._limit, self._said = tiny.model, limit, said
        self._too_large = tiny.tokenizer("elephant", add_special_tokens=False)["input_ids"]
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def generate(self, **inputs: torch.Tensor) -> object:
        rows = inputs["input_ids"].tolist()
        self.batches.append(len(rows))
        if len(rows) > self._limit or any(self._holds(row) for row in rows):
            raise RuntimeError(self._said)
        return self._model.generate(**inputs)

    def __call__(self, **inputs: torch.Tensor) -> object:
        return self._model(**inputs)

    def _holds(self, row: list[int]) -> bool:
        count = len(self._too_large)
        return any(row[start : start + count] == self._too_large for start in range(len(row)))


@pytest.mark.parametrize("said", ["CUDA out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"])
def test_out_of_memory_halves_the_batch_and_the_size_that_fitted_is_remembered(
    tiny: LoadedModel, requests: list[Request], said: str
) -> None:
    asked = [replace(one, questions=one.questions[:1]) for one in requests]
    model = RunsOutOfMemory(tiny, limit=2, said=said)
    assert answers_of(replace(tiny, model=model), asked, batch_size=4) == answers_of(tiny, asked, batch_size=4)
    assert model.batches == [4, 2, 2, 2, 2]


def test_an_item_that_does_not_fit_alone_is_rejected_and_the_next_batches_are_whole_again(
    tiny: LoadedModel, requests: list[Request]
) -> None:
    single = [request for request in requests if len(request.questions) == 1]
    large = replace(single[0], id="large", images=requests[1].images, questions=("an elephant?",))
    model, rejected = RunsOutOfMemory(tiny, limit=4), dict[str, str]()
    answers = answers_of(replace(tiny, model=model), [*single, large], batch_size=2, rejected=rejected)
    assert set(answers) == {one.id for one in single}
    assert list(rejected) == ["large"]
    assert "memory runs out on it alone" in rejected["large"]
    assert model.batches == [2, 1, 1, 2, 1]


def test_memory_that_holds_no_item_at_all_is_an_error(tiny: LoadedModel, requests: list[Request]) -> None:
    many = [replace(requests[0], id=str(number)) for number in range(30)]
    with pytest.raises(AmpError, match="each of the first 20 items alone"):
        answers_of(replace(tiny, model=RunsOutOfMemory(tiny, limit=0)), many, batch_size=2)


def test_the_image_token_is_never_written(tiny: LoadedModel) -> None:
    config = generation_config(tiny, GREEDY)
    assert config.suppress_tokens == [tiny.model.config.image_token_index]


@pytest.mark.parametrize("bad", [{"num_beams": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"max_new_tokens": 0}])
def test_impossible_decoding_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(AmpError):
        Decoding(**bad)  # type: ignore[arg-type]


def test_activations_that_overflow_are_an_error_and_not_noise(tmp_path: Path) -> None:
    """A float16 holds numbers up to 65504; beyond them every logit is infinite or none."""
    loaded = load_model(ModelSpec(model="tiny", dtype="float16", device="cpu"))
    loaded.model.model.language_model.norm.weight.data.mul_(30_000)
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    request = Request(id="a", images=(tmp_path / "a.png",), questions=("describe this image in detail.",))
    for beams in (1, 2):
        with pytest.raises(AmpError, match="no longer computes finite numbers in float16") as caught:
            answer_requests(
                loaded,
                [request],
                Decoding(max_new_tokens=3, num_beams=beams),
                batch_size=1,
                seed=0,
                done=set(),
                on_answer=lambda answer: pytest.fail("noise was taken for an answer"),
                on_reject=lambda item, reason: pytest.fail(reason),
            )
        assert "float32 or bfloat16" in str(caught.value.hint)


# --- how probable yes and no were ------------------------------------------------------------------------------------


class Words:
    """A tokenizer of a few tokens; a text begins with the longest token that it begins with, else with the unknown."""

    unk_token_id = 0
    all_special_ids = (0,)

    def __init__(self, *tokens: str) -> None:
        self.tokens = ["<unk>", *tokens]

    def get_vocab(self) -> dict[str, int]:
        return {token.replace(" ", "▁"): number for number, token in enumerate(self.tokens)}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.tokens[number] for number in ids)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        fitting = [number for number, token in enumerate(self.tokens) if text.startswith(token)]
        return [max(fitting, key=lambda number: len(self.tokens[number]), default=0)]


@pytest.mark.parametrize(
    ("tokens", "yes", "no"),
    [
        (["Yes", " Yes", "yesterday", "No", " no", "NO", "Not", " know"], ["Yes", " Yes"], ["No", " no", "NO"]),
        (["\nYes", "No", " "], ["\nYes"], ["No"]),  # a lone blank begins both words and is neither
        (["Y", "y", "N", "no", "e"], ["Y", "y"], ["no"]),  # pieces stand only for a word that is no token
        (["Yes", "<no>", "n", "N"], ["Yes"], ["n", "N"]),  # what looks like the word is not it
    ],
)  # fmt: skip
def test_the_tokens_of_yes_and_no_are_whole_words_before_pieces(
    tokens: list[str], yes: list[str], no: list[str]
) -> None:
    words = Words(*tokens)
    found = yes_no_ids(words)
    assert found is not None
    assert [{words.tokens[number] for number in ids} for ids in found] == [set(yes), set(no)]


@pytest.mark.parametrize("tokens", [["a", "b"], ["Yes", "yes"], [" ", "x"]])
def test_where_no_token_tells_yes_from_no_nothing_is_said(tokens: list[str]) -> None:
    assert yes_no_ids(Words(*tokens)) is None


def asked_with_yes_no(tiny: LoadedModel, requests: list[Request], decoding: Decoding) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    answer_requests(
        tiny,
        requests,
        decoding,
        batch_size=3,
        seed=0,
        done=(),
        on_answer=lambda answer: answers.update({answer.id: answer}),
        on_reject=lambda item, reason: pytest.fail(reason),
    )
    return answers


@pytest.fixture(scope="module")
def yes_no_requests(requests: list[Request]) -> list[Request]:
    """Six questions about each of the eight images."""
    things = ("cat", "dog", "tree", "house", "boat", "ball")
    return [
        Request(id=f"{one.id} {thing}", images=one.images, questions=(f"is there a {thing}?",), is_yes_no=True)
        for one in requests
        for thing in things
    ]


def log_probabilities(tiny: LoadedModel, request: Request) -> list[float]:
    """Return those of yes and no after the prompt, by one plain forward of one item."""
    images = [square(tiny, open_image(path)) for path in request.images]
    batch = encode_prompts(tiny, [(request.questions, ())], [images], [request.frame])
    with torch.inference_mode():
        logits = tiny.model(**batch).logits[0, -1].double()
    vocabulary = tiny.tokenizer.get_vocab()
    return [float(logits.log_softmax(0)[vocabulary[word]]) for word in ("yes", "no")]


@pytest.mark.parametrize(
    "decoding",
    [
        Decoding(max_new_tokens=2),
        Decoding(max_new_tokens=2, num_beams=4),
        Decoding(max_new_tokens=2, temperature=0.3, top_p=0.5, repetition_penalty=1.5, no_repeat_ngram_size=2),
    ],
    ids=["greedy", "beams", "sampled"],
)
@pytest.mark.parametrize("shares", [True, False], ids=["shared prefix", "whole prompts"])
def test_the_probabilities_are_those_of_the_model_after_the_prompt(
    tiny: LoadedModel,
    yes_no_requests: list[Request],
    decoding: Decoding,
    shares: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not shares:
        monkeypatch.setattr("amp_cli.asking.local.why_not_shared", lambda loaded: "the test says so")
    asked = yes_no_requests[:12]
    answers = asked_with_yes_no(tiny, asked, decoding)
    for request in asked:
        (begins,) = answers[request.id].probabilities
        yes, no = log_probabilities(tiny, request)
        assert math.log(begins.yes) == pytest.approx(yes, abs=1e-3)
        assert math.log(begins.no) == pytest.approx(no, abs=1e-3)
        assert all(
            len(f"{one:.15g}".lstrip("0.").partition("e")[0].replace(".", "")) <= 4 for one in (begins.yes, begins.no)
        )


def test_asking_for_probabilities_changes_no_text_and_nobody_else_gets_them(
    tiny: LoadedModel, yes_no_requests: list[Request]
) -> None:
    asked = yes_no_requests[:6]
    plain = [replace(one, is_yes_no=number % 2 == 0) for number, one in enumerate(asked)]
    decoding = Decoding(max_new_tokens=4, num_beams=2)
    told, mixed = (asked_with_yes_no(tiny, batch, decoding) for batch in (asked, plain))
    for number, one in enumerate(asked):
        assert told[one.id].answers == mixed[one.id].answers
        assert bool(mixed[one.id].probabilities) == (number % 2 == 0)
    before = len(tiny.model._forward_hooks)
    none = asked_with_yes_no(tiny, [replace(one, is_yes_no=False) for one in asked], decoding)
    assert {one.answers for one in none.values()} == {one.answers for one in told.values()}
    assert len(tiny.model._forward_hooks) == before == 0


def test_the_auc_of_stored_probabilities_is_that_of_the_models_logits(
    tiny: LoadedModel, yes_no_requests: list[Request]
) -> None:
    answers = asked_with_yes_no(tiny, yes_no_requests, Decoding(max_new_tokens=2, num_beams=2))
    truth = [one.id.split()[0] == one.id.split()[1] or number % 3 == 0 for number, one in enumerate(yes_no_requests)]
    margins = [yes - no for yes, no in (log_probabilities(tiny, one) for one in yes_no_requests)]
    pairs = [
        (left > right) + (left == right) / 2
        for left, is_yes in zip(margins, truth, strict=True)
        if is_yes
        for right, is_yes_too in zip(margins, truth, strict=True)
        if not is_yes_too
    ]
    scores = [
        YesNoScore(
            id=one.id,
            split="all",
            images=tuple(map(str, one.images)),
            question=one.questions[0],
            answer="",
            label=label,
            reading=None,
            probabilities=answers[one.id].probabilities[0],
        )
        for one, label in zip(yes_no_requests, truth, strict=True)
    ]
    measured = summarise(scores, "strict")["overall"]["auc"]
    assert 0.3 < measured < 1
    assert measured == pytest.approx(sum(pairs) / len(pairs), abs=2 / len(pairs))  # a pair may tie in four digits
