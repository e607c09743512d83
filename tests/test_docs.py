"""README and the guides: no link leads nowhere, every command exists, the drawing of the rooms is the code's."""

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from amp_cli.main import app
from amp_cli.models.shapes import SHAPES
from tests.test_architecture import ROOMS, ROOT, STAGES

PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]


def words_of_commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if line.startswith("amp ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for words in words_of_commands(page):
        command = get_command(app)
        while len(words) > 1 and words[1] in getattr(command, "commands", {}):
            words = words[1:]
            command = command.commands[words[0]]  # type: ignore[attr-defined]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known | {"--offline", "--cache-converted", "--help-all"}, (words, used - known)


def test_every_command_stands_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"`amp {name}" in text or f", `amp {name}" in text, name


def test_every_guide_stands_in_the_readme_and_among_the_pages() -> None:
    readme, site = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "mkdocs.yml"))
    guides = [page.name for page in (ROOT / "docs").glob("*.md")]
    assert [name for name in guides if f"](docs/{name})" not in readme] == ["index.md"]  # the README of the pages
    assert [name for name in guides if f": {name}\n" not in site] == []


def test_readme_is_short_and_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    assert "make demo" in text
    assert "make test" in text


def test_the_rooms_of_the_page_are_those_that_the_imports_are_held_to() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    ground, stages = ", ".join(f"`{room}`" for room in ROOMS), ", ".join(f"`{room}`" for room in STAGES)
    assert f"{ground}; on them the stages {stages}" in text.replace("\n", " ")


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/evaluation.md", "docs/training.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:amp_cli|tests|tools|templates)/[\w./-]*)`", text.replace("/NAME.py", "/")):
        assert (ROOT / name).exists(), name


def test_yaml_files_can_be_read() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["preferred-citation"]["title"] == "Automated Multi-level Preference for MLLMs"
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["language"] for hook in hooks] == ["system"] * 3


@pytest.mark.slow
def test_the_cost_of_a_million_items_is_what_the_script_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.bench.scale import table

    assert table() in (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_table_of_shapes_is_the_codes() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for model, shape in SHAPES.items():
        text = shape.config["text_config"]
        heads = f"{text['num_attention_heads']}, {text['num_key_value_heads']}"
        cells = f"{text['hidden_size']}, {text['intermediate_size']} | {text['num_hidden_layers']} | {heads}"
        assert f"| {model} | {cells} | {text['vocab_size']} | {shape.published} |" in page
