"""A base and its adapter from one set of weights: they answer as when each is loaded alone."""

from pathlib import Path

import pytest
from PIL import Image

from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.live import load_live
from amp_cli.asking.local import KeptBase, LocalAnswerer, load_to_answer
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer
from tests.asking.test_shared_prefixes import adapter  # noqa: F401

SHORT = Decoding(max_new_tokens=16)
BASE = ModelSpec(model="tiny", device="cpu")


@pytest.fixture
def request_of_image(tmp_path: Path) -> Request:
    Image.new("RGB", (96, 96), (200, 30, 30)).save(tmp_path / "a.png")
    return Request(id="a", images=(tmp_path / "a.png",), questions=("describe this image.",))


def answer_of(spec: ModelSpec, request: Request, load: object) -> tuple[str, ...]:
    answers: list[Answer] = []
    ask = LocalAnswerer(spec, SHORT, Running(), lambda **facts: None, load=load)  # type: ignore[arg-type]
    ask([request], done=(), on_answer=answers.append, on_reject=lambda item, reason: pytest.fail(reason))
    return answers[0].answers


def test_a_base_is_loaded_once_for_itself_and_its_adapter(
    adapter: Path,  # noqa: F811
    request_of_image: Request,
) -> None:
    adapted = ModelSpec(model="tiny", adapter=str(adapter), device="cpu")
    alone = [answer_of(spec, request_of_image, load_to_answer) for spec in (BASE, adapted)]
    assert alone[0] != alone[1]

    kept = KeptBase([BASE, adapted])
    loaded = []

    def load(spec: ModelSpec) -> object:
        loaded.append(kept(spec))
        return loaded[-1]

    assert [answer_of(spec, request_of_image, load) for spec in (BASE, adapted)] == alone
    assert loaded[0].model is loaded[1].model
    assert loaded[1].identity["adapter"]["name"] == str(adapter)

    live = load_live([adapted, BASE], SHORT, Running())
    assert live[0].loaded is live[1].loaded
    for _ in range(2):  # whichever was asked before
        assert [one.answer(request_of_image) for one in live] == [alone[1], alone[0]]
