"""Generation: the same text at any batch size, resumable by id, one bad item alone is lost."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from amp_cli.asking.answerer import Request
from amp_cli.asking.generation import generation_config
from amp_cli.asking.local import answer_requests
from amp_cli.errors import AmpError
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.spec import Decoding, ModelSpec

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
