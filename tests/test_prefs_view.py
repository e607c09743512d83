"""preferences.html: marked chunks, inlined pictures, nothing that is not escaped."""

import re
from pathlib import Path

import pytest
from PIL import Image

from amp_cli.preferences.autocheck import Mark
from amp_cli.preferences.stats import Tally, summarise
from amp_cli.preferences.view import THUMBNAIL_SIDE, ShownItem, inlined_thumbnail, split_at_marks, write_page
from amp_cli.records import Level, PreferenceItem


def mark(start: int, end: int, supported: bool | None) -> Mark:
    return Mark(start=start, end=end, supported=supported)


def split(answer: str, *marks: Mark) -> list[tuple[str, str]]:
    return [(segment.text, segment.state) for segment in split_at_marks(answer, marks)]


def test_an_answer_is_cut_at_its_marks() -> None:
    assert split("A dog and a cat.", mark(0, 5, True), mark(10, 15, False)) == [
        ("A dog", "supported"),
        (" and ", "plain"),
        ("a cat", "unsupported"),
        (".", "plain"),
    ]


def test_of_nested_chunks_the_innermost_decides() -> None:
    assert split("a man in a hat", mark(0, 14, True), mark(9, 14, False)) == [
        ("a man in ", "supported"),
        ("a hat", "unsupported"),
    ]


@pytest.mark.parametrize("marks", [(), (mark(0, 5, None),)])
def test_what_was_not_compared_is_plain(marks: tuple[Mark, ...]) -> None:
    assert split("A dog.", *marks) == [("A dog.", "plain")]
    assert split("") == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (1000, 500), "green").save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_a_picture_becomes_a_small_jpeg_inside_the_page(picture: Path) -> None:
    import base64
    import io

    kind, _, content = inlined_thumbnail(picture).partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2)


def page(tmp_path: Path, picture: Path, *, stated_items: int = 1, checked: bool = True) -> str:
    item = PreferenceItem(
        id="<i>odd</i>",
        images=("p.png",),
        questions=("What is <b>it</b>?", "And then?"),
        levels=(
            Level(answers=("A dog & a cat.", "Nothing."), source="standard"),
            Level(answers=("A <dog>.", "A cow."), source="big", accuracy=0.25, score=0.5),
        ),
    )
    marks = ((), ((mark(0, 7, True),), (mark(0, 5, False),)))
    check = {"encoder": "minilm", "tau": 0.68} if checked else None
    stats = summarise([item], Tally(), rejected=0, check=check)
    stats["items"] = stated_items
    write_page(tmp_path / "page.html", [ShownItem(item=item, images=(picture,), marks=marks)], stats)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_shows_questions_levels_and_numbers(tmp_path: Path, picture: Path) -> None:
    html = page(tmp_path, picture)
    assert "1 · big" in html
    assert "accuracy 0.25 · score 0.50" in html
    assert '<span class="supported">A &lt;dog&gt;</span>' in html
    assert '<span class="unsupported">A cow</span>' in html
    assert html.index("And then?") < html.index("A cow")


def test_texts_are_escaped(tmp_path: Path, picture: Path) -> None:
    html = page(tmp_path, picture)
    assert "<b>it</b>" not in html
    assert "<i>odd</i>" not in html
    assert "What is &lt;b&gt;it&lt;/b&gt;?" in html


def test_the_page_fetches_nothing_and_runs_nothing(tmp_path: Path, picture: Path) -> None:
    html = page(tmp_path, picture)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<script" not in html
    assert "url(" not in html


def test_supported_and_unsupported_differ_without_colour(tmp_path: Path, picture: Path) -> None:
    html = page(tmp_path, picture)
    assert re.search(r"\.supported \{[^}]*underline solid", html)
    assert re.search(r"\.unsupported \{[^}]*underline wavy", html)


def test_a_page_of_some_of_the_items_says_so(tmp_path: Path, picture: Path) -> None:
    assert "The first 1 of 300 items are shown" in page(tmp_path, picture, stated_items=300)
    assert "The first" not in page(tmp_path, picture)


def test_a_page_without_auto_check_says_so(tmp_path: Path, picture: Path) -> None:
    assert "Auto-check was off" in page(tmp_path, picture, checked=False)
