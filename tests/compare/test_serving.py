"""The page of `amp compare --serve`: what it says, that it is only on this machine, and what it needs."""

import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.answerer import Request
from amp_cli.compare.serving import HOST, _launched, answers_in_html, build_page, serve_comparison
from amp_cli.compare.sides import CompareSettings
from amp_cli.errors import AmpError
from amp_cli.preferences.experts import Expert

NAMES = ("before", "after")


class Side:
    """Says the same to everything, or cannot."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self.asked: list[Request] = []

    def answer(self, request: Request) -> tuple[str, ...]:
        self.asked.append(request)
        if self.text is None:
            raise AmpError("memory runs out on it alone", hint="Ask again")
        return (self.text,)


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def all_told(sides: tuple[Side, ...], path: str | None, question: str) -> list[list[str]]:
    """Return what stands in each answer's element, from the first moment to the last."""
    return [
        [re.fullmatch(r'<div class="amp-answer">(.*)</div>', one, re.DOTALL)[1] for one in shown]  # type: ignore[index]
        for shown in answers_in_html(NAMES, sides, path, question)
    ]


def told(sides: tuple[Side, ...], path: str | None, question: str) -> list[str]:
    return all_told(sides, path, question)[-1]


def test_both_answer_the_image_and_the_differing_words_are_marked(image: str) -> None:
    sides = (Side("A cat <b>sits</b>."), Side("A dog <b>sits</b>."))
    assert told(sides, image, " What? ") == [
        'A <mark class="other">cat</mark> &lt;b&gt;sits&lt;/b&gt;.',
        'A <mark class="other">dog</mark> &lt;b&gt;sits&lt;/b&gt;.',
    ]
    assert [(one.questions, one.images) for one in sides[0].asked] == [(("What?",), (Path(image),))]


def test_each_answer_is_shown_as_soon_as_it_is_there(image: str) -> None:
    assert all_told((Side("A cat."), Side("A dog.")), image, "What?")[:-1] == [["…", "…"], ["A cat.", "…"]]


def test_a_side_that_cannot_answer_says_why_and_the_other_answers(image: str) -> None:
    shown = told((Side("A cat."), Side(None)), image, "What?")
    assert shown == ["A cat.", "No answer: memory runs out on it alone"]


def test_no_model_is_asked_without_a_question_or_about_a_broken_image(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    sides = (Side("x"), Side("y"))
    assert told(sides, None, "  ") == ["Write a question first."] * 2
    assert all("cannot be used" in one for one in told(sides, str(tmp_path / "broken.png"), "What?"))
    assert sides[0].asked == sides[1].asked == []


def test_without_gradio_the_command_that_installs_it_is_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    sides = (Expert(name="a", model="nowhere"), Expert(name="b", model="tiny"))
    with pytest.raises(AmpError, match="--serve needs gradio") as error:
        serve_comparison(CompareSettings(sides=sides), port=7860)
    assert error.value.hint == "pip install 'amp-cli[compare]'"


def asked_over_http(address: str, content: bytes) -> str:
    """Upload a file as `a.png`, ask about it as the page does, and return all that comes back."""
    border = "border"
    form = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    (path,) = posted(
        f"{address}gradio_api/upload",
        form + content + f"\r\n--{border}--\r\n".encode(),
        f"multipart/form-data; boundary={border}",
    )
    file = {"path": path, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    asked = {"data": [file, "What?"], "fn_index": 0, "session_hash": "one"}
    posted(f"{address}gradio_api/queue/join", json.dumps(asked).encode(), "application/json")
    said = ""
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=one", timeout=60) as stream:
        while "process_completed" not in said and (line := stream.readline()):
            said += line.decode()
    return said


def posted(address: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(address, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_the_page_says_why_a_file_that_is_no_image_is_not_asked_about() -> None:
    gradio = pytest.importorskip("gradio", reason="the extra `compare` is not installed")
    page = build_page(gradio, NAMES, (Side("x"), Side("y")))
    address = _launched(gradio, page, 7960)
    try:
        assert "This image cannot be used. Save it as PNG or JPEG" in asked_over_http(address, b"no image")
    finally:
        page.close(verbose=False)


def test_the_page_is_on_this_machine_alone_and_names_no_other() -> None:
    gradio = pytest.importorskip("gradio", reason="the extra `compare` is not installed")
    page = build_page(gradio, NAMES, (Side("x"), Side("y")))
    address = _launched(gradio, page, 7960)
    try:
        assert address.startswith(f"http://{HOST}:")
        assert page.share is False
        assert page.analytics_enabled is False
        with urllib.request.urlopen(address) as answer:
            text = answer.read().decode()
        assert "fonts.googleapis.com" not in text
    finally:
        page.close(verbose=False)
