"""The page of preferences without a browser: marks, thumbnails, escaping, what is shown and what is left out."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.autocheck import Checker, Mark
from amp_cli.preferences.browsing import ViewSettings, view_preferences
from amp_cli.preferences.figures import Figures, Tally, summarise
from amp_cli.preferences.nounchunks import ChunkParser
from amp_cli.preferences.page import (
    THUMBNAIL_SIDE,
    Overview,
    ShownItem,
    make_thumbnails,
    overview_of_run,
    split_at_marks,
    write_page,
)
from amp_cli.records import Level, PreferenceItem
from tests.preferences.test_generate_prefs import WordEncoder
from tests.support.pages import problems
from tests.support.prefs_items import write_preferences

NASTY = "</script><script>alert(1)</script><!-- & \u2028 '\" {{ 7 * 7 }} \ud800"


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


class _Scripts(HTMLParser):
    """Collects the script elements as a browser cuts them, and every attribute that could fetch something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.ids: list[str | None] = []
        self.addresses: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.ids.append(dict(attributes).get("id"))
            self.scripts.append("")
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, content: str) -> None:
        if self._inside:
            self.scripts[-1] += content


def data_of(page: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the page's data and images, read as a browser would."""
    found = _Scripts(page.read_text(encoding="utf-8"))
    assert found.ids == ["data", None, "images"]
    return json.loads(found.scripts[0]), json.loads(found.scripts[2])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (1000, 500), "green").save(tmp_path / "p.png")
    return tmp_path / "p.png"


def preference(**changes: Any) -> PreferenceItem:
    levels = (Level(answers=("A dog.",), source="standard"), Level(answers=("A cat.",), source="big"))
    values = {"id": "a", "images": (), "questions": ("What?",), "levels": levels, **changes}
    return PreferenceItem(**values)


def overview() -> Overview:
    return Overview(title="A <b>set</b>", notes=("It is <i>small</i>.",), facts=(), tables=())


def test_answers_ids_and_fields_of_any_content_stay_text(tmp_path: Path) -> None:
    levels = (Level(answers=(NASTY,), source=NASTY), Level(answers=("ok",), source="</SCRIPT >"))
    item = preference(
        id=NASTY, questions=(NASTY,), levels=levels, meta={"dataset": NASTY, "nan": float("nan"), "x": NASTY}
    )
    marks = ((), ((mark(0, 2, True),),))
    write_page(tmp_path / "page.html", [ShownItem(item=item, images=(), marks=marks)], overview())
    (shown,) = data_of(tmp_path / "page.html")[0]["items"]
    assert (shown["id"], shown["dataset"], shown["questions"]) == (NASTY, NASTY, [NASTY])
    assert shown["levels"][0]["answers"] == [NASTY]
    assert shown["levels"][1]["answers"] == [[["ok", "supported"]]]
    assert "NaN" in shown["meta"]
    assert "7 * 7" in json.loads(shown["meta"])["x"]
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "alert(1)</script>" not in html
    assert "\u2028" not in html


def test_the_title_and_notes_are_escaped(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", [ShownItem(item=preference(), images=())], overview())
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;b&gt;set&lt;/b&gt;</h1>" in html
    assert "It is &lt;i&gt;small&lt;/i&gt;." in html


def test_the_page_fetches_nothing_and_forbids_it(tmp_path: Path, image: Path) -> None:
    write_page(tmp_path / "page.html", [ShownItem(item=preference(), images=(image,))], overview())
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert _Scripts(html).addresses == ["#item"]
    assert problems(tmp_path / "page.html") == []
    assert "default-src 'none'; img-src data:" in html
    assert not re.search(r"url\(|@import|https?:|fetch\(|XMLHttp", html)


@pytest.mark.parametrize(
    ("selector", "decoration"),
    [
        ("supported", "underline solid"),
        ("unsupported", "underline wavy"),
        ("ins", "underline"),
        ("del", "line-through"),
    ],
)
def test_marks_and_differences_are_told_without_colour(tmp_path: Path, selector: str, decoration: str) -> None:
    write_page(tmp_path / "page.html", [ShownItem(item=preference(), images=())], overview())
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.search(rf"^\.?{selector} \{{[^}}]*text-decoration: {decoration}", html, re.MULTILINE)


def test_a_image_becomes_a_small_jpeg_inside_the_page(tmp_path: Path, image: Path) -> None:
    write_page(tmp_path / "page.html", [ShownItem(item=preference(), images=(image,))], overview())
    data, (small,) = data_of(tmp_path / "page.html")
    assert data["items"][0]["images"] == [0]
    thumbnail = Image.open(io.BytesIO(base64.b64decode(small)))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (THUMBNAIL_SIDE, THUMBNAIL_SIDE // 2))


def test_a_shared_image_is_made_and_stored_once(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_cli.preferences import page as thumbnails

    opened: list[Path] = []
    original = thumbnails.open_image
    monkeypatch.setattr(thumbnails, "open_image", lambda path: opened.append(path) or original(path))
    Image.new("RGB", (8, 8)).save(tmp_path / "q.png")
    both = (image, tmp_path / "q.png")
    shown = [ShownItem(item=preference(), images=images) for images in (both, (image,), both[::-1])]
    write_page(tmp_path / "page.html", shown, overview())
    data, images = data_of(tmp_path / "page.html")
    assert [item["images"] for item in data["items"]] == [[0, 1], [0], [1, 0]]
    assert len(images) == 2
    assert sorted(opened) == sorted(both)


def test_a_image_that_cannot_be_read_has_its_reason_in_its_place(tmp_path: Path, image: Path) -> None:
    (tmp_path / "torn.png").write_bytes(image.read_bytes()[:60])
    shown = ShownItem(item=preference(), images=(tmp_path / "torn.png", image), missing=("No image at 'x.png'",))
    (first, second) = write_page(tmp_path / "page.html", [shown], overview())
    (item,) = data_of(tmp_path / "page.html")[0]["items"]
    assert item["images"] == [0]
    assert item["missing"][0] == "No image at 'x.png'"
    assert "cannot be read" in item["missing"][1]
    assert first.reason == "shown without an image: No image at 'x.png'"
    assert "torn.png" in second.reason


def test_thumbnails_come_in_the_order_of_their_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(20)]
    for number, path in enumerate(paths):
        Image.new("RGB", (20 + number, 20)).save(path)
    made = make_thumbnails([*paths, *paths], 64)
    assert list(made) == paths
    widths = [Image.open(io.BytesIO(base64.b64decode(str(made[path])))).width for path in paths]
    assert widths == [20 + number for number in range(20)]


@pytest.mark.parametrize(("accuracy", "shown"), [(0.25, 0.25), (None, None)])
def test_an_accuracy_is_shown_where_there_is_one(tmp_path: Path, accuracy: float | None, shown: float | None) -> None:
    levels = (Level(answers=("A.",), source="s"), Level(answers=("B.",), source="t", accuracy=accuracy))
    write_page(tmp_path / "page.html", [ShownItem(item=preference(levels=levels), images=())], overview())
    assert data_of(tmp_path / "page.html")[0]["items"][0]["levels"][1]["accuracy"] == shown


def run_overview(*, shown: int = 1, items: int = 1, checked: bool = True) -> Overview:
    figures = Figures()
    figures.add(preference())
    stats = summarise(figures, Tally(), rejected=2, check={"encoder": "minilm"} if checked else None)
    return overview_of_run({**stats, "items": items}, shown)


def test_the_page_of_a_run_tells_its_numbers() -> None:
    told = run_overview()
    assert ("1", "with 2 levels") in told.facts
    assert ("2", "rejected") in told.facts
    levels, sources, style = told.tables
    assert levels.rows == (("0", "1", "2.0", "–", "–"), ("1", "1", "2.0", "–", "–"))
    assert style.rows == (("with level 0", "1", "+0.0", "0%", "–", "–", "–"),)
    assert sources.rows[1] == ("big", "1", "2.0", "–", "–", "1.00")


def test_a_page_of_some_of_the_items_says_so() -> None:
    assert "The first 1 of 300 items are shown; all are in preferences.jsonl." in run_overview(items=300).notes
    assert not any("The first" in note for note in run_overview().notes)


def test_a_page_without_auto_check_says_so() -> None:
    assert "Auto-check was off: the order is the given one." in run_overview(checked=False).notes


# ---- amp prefs view


def settings(prefs: Path, **changes: Any) -> ViewSettings:
    values = {"out": prefs.parent / "page.html", "image_root": None, "limit": 100, "thumbnail": 64, "checker": None}
    return ViewSettings(prefs=str(prefs), **{**values, **changes})


def test_a_file_becomes_a_page_of_its_first_items(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path, items=12, images=3)
    result = view_preferences(settings(prefs, limit=10))
    assert result.to_json() == {
        "out": str(tmp_path / "page.html"),
        "items": 10,
        "more": True,
        "pictures": 3,
        "rejected": 0,
        "bytes": (tmp_path / "page.html").stat().st_size,
    }
    data, images = data_of(tmp_path / "page.html")
    assert [item["id"] for item in data["items"]] == [f"item-{number:05}" for number in range(10)]
    assert data["overview"]["notes"] == ["The first 10 items are shown; the file has more."]
    assert data["items"][9]["images"] == []
    assert len(images) == 3
    assert not (tmp_path / "page.rejected.jsonl").exists()


def test_a_limit_that_all_items_reach_hides_none(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path, items=4, images=0)
    assert view_preferences(settings(prefs, limit=4)).more is False


def test_what_cannot_be_shown_is_counted_listed_and_ends_with_3(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path, items=3, images=2)
    (tmp_path / "images" / "00001.jpg").unlink()
    prefs.write_text(prefs.read_text() + '{"id": "bad"}\nnot json\n')
    result = CliRunner().invoke(app, ["prefs", "view", str(prefs), "--out", str(tmp_path / "page.html"), "--json"])
    assert result.exit_code == 3
    assert json.loads(result.stdout)["rejected"] == 3
    assert json.loads(result.stdout)["items"] == 3
    assert "3 entries could not be shown" in result.stderr
    listed = [json.loads(line) for line in (tmp_path / "page.rejected.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed][::2] == ["bad", "item-00001"]
    assert "No image at" in listed[2]["reason"]


def test_a_list_of_an_earlier_page_is_removed(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path, items=2, images=0)
    (tmp_path / "page.rejected.jsonl").write_text('{"id": "old", "reason": "old"}\n')
    view_preferences(settings(prefs))
    assert not (tmp_path / "page.rejected.jsonl").exists()


def test_images_are_found_below_the_image_root(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path / "data", items=2, images=2)
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_text(prefs.read_text())
    assert view_preferences(settings(moved, image_root=tmp_path / "data")).refused.count == 0
    assert view_preferences(settings(moved)).refused.count == 2


def test_noun_chunks_are_marked_against_the_best_level(tmp_path: Path) -> None:
    levels = [("A dog sits there.", "standard"), ("A cow sits there.", "x"), ("A dog stands there.", "y")]
    record = {
        "id": "a",
        "questions": ["What?"],
        "levels": [{"answers": [answer], "source": source} for answer, source in levels],
    }
    (tmp_path / "prefs.jsonl").write_text(json.dumps(record))
    checker = Checker(encoder=WordEncoder(), parser=ChunkParser())
    view_preferences(settings(tmp_path / "prefs.jsonl", checker=checker))
    (item,) = data_of(tmp_path / "page.html")[0]["items"]
    answers = [level["answers"][0] for level in item["levels"]]
    assert answers == [
        "A dog sits there.",
        [["A cow", "unsupported"], [" sits there.", "plain"]],
        [["A dog", "supported"], [" stands there.", "plain"]],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": "a", "questions": ["Q"], "levels": []}\n', "None of the 1 entries of .* is a preference item"),
        ("", "is empty"),
    ],
)
def test_a_file_without_an_item_gives_no_page(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "prefs.jsonl").write_text(content)
    with pytest.raises(AmpError, match=message):
        view_preferences(settings(tmp_path / "prefs.jsonl"))
    assert not (tmp_path / "page.html").exists()


def test_outputs_that_would_replace_data_are_refused(tmp_path: Path) -> None:
    prefs = write_preferences(tmp_path, items=1, images=0)
    with pytest.raises(AmpError, match="must be an HTML file"):
        settings(prefs, out=prefs)
    with pytest.raises(AmpError, match="would be replaced"):
        settings(tmp_path / "x.rejected.jsonl", out=tmp_path / "x.html")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(AmpError, match="is a folder"):
        settings(prefs, out=tmp_path / "folder.html")


def test_a_missing_file_is_an_error_in_words(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"none\.jsonl"):
        view_preferences(settings(tmp_path / "none.jsonl"))
