"""The page of preferences in a real browser: keys, search, filters, links, differences, and no foreign markup."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.preferences.autocheck import Mark
from amp_cli.preferences.page import Overview, OverviewTable, ShownItem, write_page
from amp_cli.records import Level, PreferenceItem
from tests.support.browser import CHROMIUM, Browser
from tests.support.prefs_items import write_preferences

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

EVIL = "<img src=x onerror='window.hit=1'></script><script>window.hit=1</script>"
ITEMS: list[dict[str, Any]] = [
    {
        "id": "first",
        "levels": [("A red dog sits.", "standard"), ("A blue dog sits there.", "big"), ("A cat.", "small")],
        "dataset": "farm",
        "picture": True,
    },
    {"id": "second/ü 100%", "levels": [("One two three four five six.", "standard"), ("One.", "small")]},
    {"id": "third", "questions": ["Who?", EVIL], "levels": [("a", "x", EVIL), (EVIL, "y", "b")], "missing": "No image"},
]


def shown(record: dict[str, Any], image: Path) -> ShownItem:
    levels = tuple(Level(answers=(one[0], *one[2:]), source=one[1]) for one in record["levels"])
    item = PreferenceItem(
        id=record["id"],
        images=(),
        questions=tuple(record.get("questions", ["What is there?"])),
        levels=levels,
        meta={"dataset": record["dataset"]} if "dataset" in record else {},
    )
    missing = (record["missing"],) if "missing" in record else ()
    return ShownItem(item=item, images=(image,) if "picture" in record else (), missing=missing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    Image.new("RGB", (30, 20), "red").save(folder / "p.png")
    table = OverviewTable(title="By level", columns=("level", "n"), rows=(("0", "3"),))
    overview = Overview(title="Set", notes=(), facts=(("3", "items"),), tables=(table,))
    write_page(folder / "page.html", [shown(record, folder / "p.png") for record in ITEMS], overview)
    return folder / "page.html"


@pytest.fixture(scope="module")
def one_browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(one_browser: Browser, page: Path) -> Browser:
    one_browser.resize(1400, 900)
    one_browser.open(page)
    return one_browser


def chosen(browser: Browser) -> str:
    return browser.text("#content h2")


def listed(browser: Browser) -> list[str]:
    ids: list[str] = browser.run("shown.map((number) => items[number].id)")
    return ids


def test_keys_go_from_item_to_item_and_stop_at_the_ends(browser: Browser) -> None:
    assert chosen(browser) == "first"
    for key, item in [("j", "second/ü 100%"), ("ArrowDown", "third"), ("j", "third"), ("k", "second/ü 100%")]:
        browser.press(key)
        assert chosen(browser) == item, key
    browser.press("ArrowUp", "ArrowUp", "End")
    assert chosen(browser) == "third"
    assert browser.run("document.querySelector('[aria-selected=true]').id") == "row-2"
    browser.press("Home", "ArrowRight")
    assert chosen(browser) == "second/ü 100%"


def test_a_search_needs_all_words_and_quoted_ones_in_order(browser: Browser) -> None:
    found = {}
    for query in ("DOG", "dog cat", '"dog sits"', '"sits dog"', "second", "what is"):
        browser.press("/")
        browser.type(query)
        found[query] = listed(browser)
        browser.press("Escape")
    assert found == {
        "DOG": ["first"],
        "dog cat": ["first"],
        '"dog sits"': ["first"],
        '"sits dog"': [],
        "second": ["second/ü 100%"],
        "what is": ["first", "second/ü 100%"],
    }


def test_keys_are_letters_while_searching(browser: Browser) -> None:
    browser.press("/", "j", "k")
    assert browser.run("search.value") == "jk"
    assert browser.text("#content").startswith("No item matches")
    browser.run("document.querySelector('#content button').click()")
    assert chosen(browser) == "first"
    assert browser.text("#count") == "3 items"


def test_keys_of_the_browser_and_of_fields_are_left_alone(browser: Browser) -> None:
    browser.run("list.dispatchEvent(new KeyboardEvent('keydown', {key: 'f', ctrlKey: true, bubbles: true}))")
    assert browser.run("filters.hidden") is True
    browser.press("f")
    browser.run("filters.elements.difference.focus()")
    browser.press("j", "d", "/", "1")
    assert chosen(browser) == "first"
    assert browser.run("filters.elements.difference.value") == "1"


@pytest.mark.parametrize(
    ("name", "value", "ids"),
    [
        ("levels", "3", ["first"]),
        ("rounds", "2", ["third"]),
        ("source", json.dumps("small"), ["first", "second/ü 100%"]),
        ("dataset", json.dumps("farm"), ["first"]),
        ("dataset", json.dumps(""), ["second/ü 100%", "third"]),
        ("images", "with", ["first", "third"]),
        ("images", "without", ["second/ü 100%"]),
        ("images", "missing", ["third"]),
        ("difference", "4", ["second/ü 100%"]),
        ("difference", "3", ["second/ü 100%"]),
        ("difference", "2", ["first", "second/ü 100%"]),
    ],
)
def test_a_filter_leaves_what_fits(browser: Browser, name: str, value: str, ids: list[str]) -> None:
    browser.press("f")
    field = f"filters.elements.{name}"
    browser.run(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    assert listed(browser) == ids
    assert browser.text("#count") == f"{len(listed(browser))} of 3 items"


def test_differences_are_told_word_by_word(browser: Browser) -> None:
    assert browser.run("compareWords('A red dog sits.', 'A blue dog sits there.')") == [
        ["A", "same"],
        [" red", "removed"],
        [" blue", "added"],
        [" dog sits", "same"],
        [" there", "added"],
        [".", "same"],
    ]
    level = "#content .level:nth-child(2) .answer"
    assert browser.run(f"document.querySelector('{level}').innerHTML") == (
        "A <del>red</del> <ins>blue</ins> dog sits <ins>there</ins>."
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "a b"),
        ("a b", ""),
        ("a", "a"),
        ("a b c d", "d c b a"),
        ("红色的狗", "蓝色的狗"),
        ("don't  stop", "don't\nstop!"),
    ],
)
def test_differences_hold_both_answers_whole(browser: Browser, before: str, after: str) -> None:
    runs = browser.run(f"compareWords({json.dumps(before)}, {json.dumps(after)})")
    assert "".join(text for text, kind in runs if kind != "removed") == after
    assert "".join("".join(text.split()) for text, kind in runs if kind != "added") == "".join(before.split())


@pytest.mark.parametrize(
    ("before", "after", "runs"),
    [
        ("a b", "b", [["a ", "removed"], ["b", "same"]]),
        ("Red dog", "Blue dog", [["Red ", "removed"], ["Blue", "added"], [" dog", "same"]]),
        ("Yes.", "Yes!", [["Yes", "same"], [".", "removed"], ["!", "added"]]),
    ],
)
def test_what_is_gone_does_not_touch_the_next_word(
    browser: Browser, before: str, after: str, runs: list[list[str]]
) -> None:
    assert browser.run(f"compareWords({json.dumps(before)}, {json.dumps(after)})") == runs


def test_answers_too_long_to_compare_say_so(browser: Browser) -> None:
    assert browser.run("compareWords('a '.repeat(3000), 'b '.repeat(3000))") is None
    assert browser.run("differenceNodes('a '.repeat(3000), 'b '.repeat(3000))[1].textContent").startswith("Too long")


def test_d_takes_the_marks_away_and_brings_them_back(browser: Browser) -> None:
    marked = "document.querySelectorAll('#content ins, #content del').length"
    assert browser.run(marked) > 0
    browser.press("d")
    assert browser.run(marked) == 0
    browser.press("d")
    assert browser.run(marked) > 0


def test_noun_chunks_are_marked_where_they_were_compared(browser: Browser, folder: Path) -> None:
    levels = (Level(answers=("😀 A dog.",), source="s"), Level(answers=("😀 A cow.",), source="t"))
    item = PreferenceItem(id="a", images=(), questions=("Q",), levels=levels)
    marks = ((), ((Mark(start=2, end=7, supported=False),),))
    overview = Overview(title="Set", notes=(), facts=(), tables=())
    write_page(folder / "marked.html", [ShownItem(item=item, images=(), marks=marks)], overview)
    browser.open(folder / "marked.html")
    assert browser.text("#content .unsupported") == "A cow"
    browser.press("d", "d")
    assert browser.text("#content ins") == "cow"
    browser.press("/")
    browser.type("a cow")
    assert browser.text("#count") == "1 item"


def test_nothing_of_the_data_becomes_markup(browser: Browser) -> None:
    browser.press("End", "d", "f", "s")
    assert browser.run("window.hit") is None
    assert browser.run("document.querySelectorAll('#content img, #list script').length") == 0
    assert EVIL in browser.text("#content")


def test_a_link_opens_its_item_and_the_address_follows(browser: Browser, page: Path) -> None:
    browser.open(page, "#second%2F%C3%BC%20100%25")
    assert chosen(browser) == "second/ü 100%"
    browser.press("j")
    assert browser.run("new Promise((done) => setTimeout(() => done(location.hash), 300))") == "#third"
    browser.run("location.hash = '#first'")
    assert chosen(browser) == "first"


@pytest.mark.parametrize("address", ["#nobody", "#%"])
def test_a_link_to_nothing_says_so(browser: Browser, page: Path, address: str) -> None:
    browser.open(page, address)
    assert browser.text("#message") == f"There is no item '{address[1:]}' on this page."
    assert chosen(browser) == "first"


def test_a_link_to_a_filtered_item_clears_the_filters(browser: Browser) -> None:
    browser.press("/")
    browser.type("dog")
    browser.run("location.hash = '#third'")
    browser.run("new Promise((done) => setTimeout(done, 50))")
    assert chosen(browser) == "third"
    assert browser.text("#count") == "3 items"


def test_windows_open_by_key_and_close_with_escape(browser: Browser) -> None:
    for key, window in (("?", "help"), ("s", "numbers")):
        browser.press(key)
        assert browser.run(f"{window}.open") is True
        browser.press("j")
        assert chosen(browser) == "first"
        browser.press("Escape")
        assert browser.run(f"{window}.open") is False
    assert browser.text("#tables caption") == "By level"


def test_at_480_pixels_list_and_item_take_turns_and_nothing_is_cut(browser: Browser, page: Path) -> None:
    browser.resize(480, 900)
    browser.open(page)
    seen = "[list, item].map((part) => part.getClientRects().length > 0)"
    assert browser.run(seen) == [True, False]
    browser.press("j", "Enter")
    assert browser.run(seen) == [False, True]
    assert browser.run("item.scrollWidth <= item.clientWidth && document.body.scrollWidth <= 480") is True
    browser.press("j")
    assert chosen(browser) == "third"
    browser.press("Escape")
    assert browser.run(seen) == [True, False]


def test_fields_and_images_have_names(browser: Browser) -> None:
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    nameless = [
        node["role"]["value"]
        for node in tree
        if not node.get("ignored")
        and node["role"]["value"] in ("button", "searchbox", "combobox", "spinbutton", "listbox", "option", "image")
        and not node.get("name", {}).get("value")
    ]
    assert nameless == []


def test_nothing_is_requested_and_nothing_fails(browser: Browser) -> None:
    browser.press("j", "f", "Escape", "?", "Escape")
    requested = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url[:5] for url in requested if not url.startswith("data:")] == ["file:"]
    assert not [
        event for event in browser.events if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
    ]


def test_of_thousands_of_items_only_the_rows_in_sight_exist(browser: Browser, tmp_path: Path) -> None:
    from amp_cli.preferences.browsing import ViewSettings, view_preferences

    prefs = write_preferences(tmp_path, items=3000, images=5)
    out = tmp_path / "page.html"
    view_preferences(ViewSettings(prefs=str(prefs), out=out, image_root=None, limit=3000, thumbnail=32, checker=None))
    browser.open(out)
    for key, item in (("Home", "item-00000"), ("End", "item-02999")):
        browser.press(key)
        assert chosen(browser) == item
        assert browser.run("rows.children.length") < 50
    assert browser.run("document.querySelector('[aria-selected=true]').getAttribute('aria-posinset')") == "3000"
    row = "document.querySelector('[aria-selected=true]').getBoundingClientRect()"
    assert browser.run(f"{row}.bottom <= list.getBoundingClientRect().bottom + 1") is True
    milliseconds = browser.run(
        "(() => { const from = performance.now(); for (let n = 0; n < 50; n++) choose(place - 1);"
        " document.body.offsetHeight; return (performance.now() - from) / 50; })()"
    )
    assert milliseconds < 200  # about 8 on an idle machine
