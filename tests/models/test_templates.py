"""Chat templates are strangers' programs: whatever one does is a sentence that names its file, in bounded time."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from amp_cli.errors import AmpError
from amp_cli.models import template_trial
from amp_cli.models.load import load_model
from amp_cli.models.prompts import render
from amp_cli.models.resolve import TINY
from amp_cli.models.spec import ModelSpec
from amp_cli.models.template_trial import QUESTION, fault_of, try_rendering
from amp_cli.models.templates import choose_template

PLAIN = "{% for m in messages %}{{ m.role }}: {% for c in m.content %}{{ c.text }}{% endfor %}\n{% endfor %}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


FAULTS = {
    "syntax": ("{% for %}{", "TemplateSyntaxError"),
    "undefined": ("{{ nothing.at.all }}", "UndefinedError: 'nothing' is undefined"),
    "sandbox": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "its own exception": ("{{ raise_exception('never') }}", "TemplateError: never"),
    "types": ("{{ messages + 1 }}", "TypeError"),
    "division": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "no such filter": ("{{ messages | nofilter }}", "nofilter"),
    "no such file": ("{% include 'x' %}", "include|loader"),
    "recursion": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "much text": ("{{ 'a' * 10**7 }}", "10,000,000 characters"),
    "huge range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "no question": ("root:x:0:0", "no place for the question"),
}


@pytest.mark.parametrize(("template", "said"), FAULTS.values(), ids=FAULTS)
def test_a_template_that_cannot_be_rendered_is_told_by_its_fault(template: str, said: str) -> None:
    fault = try_rendering(template, {})
    assert fault is not None
    assert any(part in fault for part in said.split("|")), fault


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 9**99999999 }}", "takes too long"),
        (LOOPS, "takes too long"),
        ("{{ 'a' * 10**9 }}", "takes too much memory"),
        ("{{ " + "(" * 50_000 + ")" * 50_000 + " }}", "Recursion|ended with status"),
        (" " * (1 << 20) + "aa", "at most 1,048,576"),
    ],
    ids=["power", "loops", "memory", "brackets", "long"],
)
def test_a_template_that_takes_more_than_it_may_is_ended(template: str, said: str) -> None:
    fault = fault_of(template, {})
    assert fault is not None
    assert any(part in fault for part in said.split("|")), fault


def test_real_templates_are_fine_whatever_content_they_expect() -> None:
    plain = PLAIN.replace("{% for c in m.content %}{{ c.text }}{% endfor %}", "{{ '' + m.content }}")
    demands_tokens = "{{ bos_token + '' }}" + PLAIN
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    assert [try_rendering(one, {"bos_token": "<s>"}) for one in (PLAIN, plain, demands_tokens, no_system)] == [None] * 4


def test_a_template_is_tried_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault_of(PLAIN + "\n", {}) is None
    monkeypatch.setattr(subprocess, "Popen", None)
    assert fault_of(PLAIN + "\n", {}) is None


def test_our_own_templates_need_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_trial.subprocess, "Popen", None)
    for template in ("auto", "vicuna_v1", "llava_v1"):
        load_model(ModelSpec(model="tiny", template=template))


def test_the_error_names_the_file(model: Path) -> None:
    (model / "chat_template.jinja").write_text("{% for %}{")
    with pytest.raises(AmpError, match=r"model/chat_template\.jinja' cannot be used: TemplateSyntaxError") as caught:
        load_model(ModelSpec(model=str(model)))
    assert "--template" in str(caught.value.hint)


@pytest.mark.parametrize("found", [5, {"other": PLAIN}, ["x"]], ids=["number", "no default", "list"])
def test_a_template_that_is_no_text_is_a_sentence(model: Path, found: Any) -> None:
    (model / "chat_template.jinja").unlink()
    loaded = load_model(ModelSpec(model="tiny"))
    loaded.processor.chat_template = found
    with pytest.raises(AmpError, match=r"tokenizer_config\.json' is not a text"):
        choose_template("own", {}, loaded.processor, "m", model)


def test_of_several_templates_the_default_is_taken(model: Path) -> None:
    processor = load_model(ModelSpec(model="tiny")).processor
    processor.chat_template = {"tool_use": "x", "default": PLAIN}
    assert choose_template("own", {}, processor, "m", model) == ("own", PLAIN)


def test_a_template_given_by_path_is_tried_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    for content, said in ((b"{{ messages / 0 }}", "TypeError"), (b"\xff\xfe", "is not UTF-8")):
        file.write_bytes(content)
        with pytest.raises(AmpError, match=rf"mine\.jinja'.*{said}"):
            load_model(ModelSpec(model="tiny", template=str(file)))


def test_a_fault_that_only_an_item_shows_names_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% if 'cat' in messages[0].content[0].text %}{{ 1 / 0 }}{% endif %}" + PLAIN)
    loaded = load_model(ModelSpec(model="tiny", template=str(file)))
    assert QUESTION in render(loaded, [QUESTION], [], 0)
    with pytest.raises(AmpError, match=r"mine\.jinja' cannot render the dialogue: division by zero"):
        render(loaded, ["Is there a cat?"], [], 0)
