"""The guides as a site: each page has its place, each link its target, and each command can be typed as it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from amp_cli.main import app
from tests.test_architecture import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
MENTIONED = {"...", "COMMAND", "DIR", "NAME..."}
"""Words that stand for something: such a line is no command to be typed."""


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python objects where there are any."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def site() -> dict[str, Any]:
    found: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    return found


def test_each_guide_has_its_place_in_the_navigation_and_in_the_list() -> None:
    named = [page for entry in site()["nav"] for page in entry.values()]
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))
    listed = (DOCS / "index.md").read_text(encoding="utf-8")
    assert [page for page in named if page != "index.md" and f"]({page})" not in listed] == []


def slug(heading: str) -> str:
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_page_of_the_site_and_to_a_heading_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        place = page.parent / file if file else page
        assert place.is_file(), target
        assert page.parent != DOCS or place.parent == DOCS, f"{target} is not a page of the site"
        if heading:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in map(slug, headings), target


def typed_commands(page: Path) -> list[list[str]]:
    """Return the words of each command in a page's `sh` blocks, as a shell would split them."""
    blocks = re.findall(r"^[ ]*```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(re.sub(r"\s#.*", "", line)) for line in lines if line.strip().startswith("amp ")]


AT_ONCE = {"--help-all", "--install-completion", "--list-settings", "--show-completion"}
"""Options that do their work while the line is read; that they exist is seen in test_docs."""


def parse(words: list[str]) -> None:
    """Have our own command line read the words; nothing runs.

    Raises:
        Exception: what the parser raises: an unknown option, a value of another kind, too many or too few.
    """
    command: Any = get_command(app)
    context = command.make_context("amp", words[1:])
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize(
    ("page", "words"),
    [(page, words) for page in PAGES for words in typed_commands(page)],
    ids=lambda one: one.name if isinstance(one, Path) else " ".join(one[1:4]),
)
def test_a_command_of_a_guide_can_be_typed_as_it_stands(page: Path, words: list[str]) -> None:
    assert not MENTIONED & set(words)
    if not AT_ONCE & set(words):
        parse(words)


@pytest.mark.parametrize(
    "line",
    [
        "amp train --prefs a --out b --no-such-option",
        "amp nothing",
        "amp eval pope --seed many --out b",
        "amp train a b c",
    ],
)
def test_what_cannot_be_typed_is_found(line: str) -> None:
    with pytest.raises(Exception, match=r".") as found:
        parse(line.split())
    assert type(found.value).__name__ in {"NoSuchOption", "UsageError", "BadParameter", "MissingParameter"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_pages_fetch_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(site()["nav"])  # and one for what is not found
    for page in pages:
        fetched = re.findall(
            r"<(?:script|link|img|iframe|source)\b[^>]*https?://[^>]*>", page.read_text(encoding="utf-8")
        )
        assert fetched == [], page
    for style in (tmp_path / "site").rglob("*.css"):
        assert re.findall(r"(?:@import|url\(['\"]?)\s*['\"]?https?://", style.read_text(encoding="utf-8")) == [], style
