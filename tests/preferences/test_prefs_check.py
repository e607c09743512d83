"""`amp prefs check`: every fault and warning, on items made for it, and silence on sound data."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.check.check import CheckSettings, Report, check, open_context
from amp_cli.preferences.check.texts import check_texts
from amp_cli.records import Level, PreferenceItem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in (("dog.png", "red"), ("cat.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    return tmp_path


def record(item_id: str = "a", **changes: Any) -> dict[str, Any]:
    levels = [{"answers": ["A dog."], "source": "standard"}, {"answers": ["A cat."], "source": "7b"}]
    question = f"What is the thing named {item_id}?"
    return {"id": item_id, "images": ["dog.png"], "questions": [question], "levels": levels, **changes}


def answered(item_id: str, *answers: str, **changes: Any) -> dict[str, Any]:
    return record(
        item_id, levels=[{"answers": [answer], "source": f"s{n}"} for n, answer in enumerate(answers)], **changes
    )


def checked(folder: Path, *records: dict[str, Any] | str, **options: Any) -> Report:
    lines = [one if isinstance(one, str) else json.dumps(one) for one in records]
    path = folder / "preferences.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return check(CheckSettings(source=str(path), **options))


def found(report: Report) -> dict[str, tuple[str, ...]]:
    return {finding.check: finding.examples for finding in (*report.faults, *report.warnings)}


def test_sound_items_give_no_finding(folder: Path) -> None:
    report = checked(folder, record("a"), record("b", images=[]), answered("c", "One two.", "Two.", "Three four."))
    assert found(report) == {}
    assert (report.items, report.rejected, dict(report.levels)) == (3, 0, {2: 2, 3: 1})


@pytest.mark.parametrize(
    ("check_name", "bad"),
    [
        ("schema", '{"id": "bad", "images'),
        ("schema", record("bad", levels=[{"answers": ["One."]}])),
        ("schema", record("bad", levels=[{"answers": ["One."]}, {"answers": ["One.", "Two."]}])),
        ("empty-answer", answered("bad", "A dog.", "  ")),
        ("id", answered("good", "Another.", "Other.")),
        ("image", record("bad", images=["gone.png"])),
        ("image", record("bad", images=["torn.png"])),
        ("image", record("bad", images=["../outside.png"])),
        ("image-place", answered("bad", "A <image> dog.", "A cat.")),
    ],
)
def test_an_unusable_item_is_a_fault_and_in_no_statistic(folder: Path, check_name: str, bad: Any) -> None:
    (folder / "torn.png").write_bytes((folder / "dog.png").read_bytes()[:50])
    report = checked(folder, record("good"), bad)
    assert [finding.check for finding in report.faults] == [check_name]
    assert (report.items, report.rejected) == (1, 1)
    assert report.lengths.best.n == 1


@pytest.mark.parametrize(
    ("check_name", "bad"),
    [
        ("duplicate-item", answered("bad", "Different.", "Answers.", questions=["What is  the thing named GOOD?"])),
        ("duplicate-answer", answered("bad", "A dog, sitting.", "Other.", "a dog sitting")),
        ("wordless-answer", answered("bad", "A dog.", "...")),
        ("image-token", answered("bad", "A dog.", "A <|vision_start|>cat.")),
        ("image-token", record("bad", questions=["<im_start> What?"])),
        ("prompt-leak", answered("bad", "What is the thing named bad? A dog.", "A cat.")),
        ("prompt-leak", answered("bad", "A dog. USER: What colour?", "A cat.")),
        ("prompt-leak", answered("bad", "A dog.", "A cat.</s>")),
        ("prompt-leak", answered("bad", "A dog.", "A chat between a curious user and an assistant.")),
    ],
)
def test_a_suspicious_item_is_a_warning_and_stays_usable(folder: Path, check_name: str, bad: Any) -> None:
    report = checked(folder, record("good"), bad)
    assert found(report) == {check_name: ("bad",)}
    assert (report.items, report.rejected) == (2, 0)


@pytest.mark.parametrize(
    "answer",
    ["The user: a man.", "It says 'Assistant: wanted'.", "He uses <b>bold</b>.", "A sign: <3", "What is it? A dog."],
)
def test_ordinary_texts_are_no_leaks(answer: str) -> None:
    item = PreferenceItem(
        id="a",
        images=(),
        questions=("What is it?",),
        levels=(Level(answers=(answer,), source="a"), Level(answers=("No.",), source="b")),
    )
    assert list(check_texts(item)) == []


def test_only_levels_that_differ_in_words_are_different(folder: Path) -> None:
    report = checked(
        folder, answered("same", "A red dog.", "a red dog"), answered("other", "A red dog.", "A red dogs.")
    )
    assert found(report) == {"duplicate-answer": ("same",)}


def test_examples_are_few_and_the_list_has_all(folder: Path) -> None:
    bad = [record(f"bad{number}", images=["gone.png"]) for number in range(12)]
    report = checked(folder, record("good"), *bad, out=folder / "report")
    assert (report.faults[0].count, len(report.faults[0].examples)) == (12, 10)
    listed = [json.loads(line) for line in (folder / "report" / "findings.jsonl").read_text().splitlines()]
    assert [one["id"] for one in listed] == [f"bad{number}" for number in range(12)]
    assert listed[0]["check"] == "image"
    assert listed[0]["fault"] is True
    assert json.loads((folder / "report" / "check.json").read_text())["rejected"] == 12


def test_a_image_is_read_once_however_many_items_have_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_cli.preferences.check import leakage as images

    read = []
    monkeypatch.setattr(images, "check_image", lambda path: read.append(path.name))
    checked(folder, *[record(f"item{number}") for number in range(600)], record("cat", images=["cat.png", "dog.png"]))
    assert sorted(read) == ["cat.png", "dog.png"]


def test_images_are_looked_for_below_image_root(folder: Path) -> None:
    (folder / "data").mkdir()
    source = folder / "data" / "preferences.jsonl"
    source.write_text(json.dumps(record()) + "\n")
    assert check(CheckSettings(source=str(source))).rejected == 1
    assert check(CheckSettings(source=str(source), image_root=folder)).rejected == 0


def test_an_item_longer_than_the_models_context_is_found_without_its_weights(folder: Path) -> None:
    long = " ".join(["dog"] * 600)
    report = checked(folder, record("short"), answered("long", "A dog.", long), model="tiny")
    assert found(report) == {"truncation": ("long",)}
    assert report.context is not None
    assert report.context["limit"] == 512
    assert report.context["longest"] > 600


def test_a_text_of_many_letters_and_few_tokens_fits(folder: Path) -> None:
    context = open_context("tiny", None)
    assert context is not None
    item = PreferenceItem.from_json(answered("a", " ".join(["picture"] * 100), "No."))
    assert 100 < context.length(item) < 200


def test_without_a_model_the_length_is_an_estimate_and_says_so(folder: Path) -> None:
    report = checked(folder, answered("long", "word " * 400, "A dog."), max_length=700)
    assert found(report) == {"truncation": ("long",)}
    assert report.context is not None
    assert "estimated" in report.context["counted_by"]
    assert report.context["longest"] == 40 + 10 + 576 + round(2000 / 4) + round(
        len("What is the thing named long?") / 4
    )


def test_what_was_not_checked_is_said(folder: Path) -> None:
    assert set(checked(folder, record()).skipped) == {"truncation", "leakage"}


def test_a_model_that_is_not_there_is_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(AmpError, match="no model folder"):
        checked(folder, record(), model="./nowhere")


def scene(path: Path, seed: int) -> None:
    """Draw an image with enough in it to be told from others."""
    image = Image.new("RGB", (160, 120), (seed * 67 % 256, seed * 31 % 256, 90))
    draw = ImageDraw.Draw(image)
    for number in range(6):
        x, y = (seed * 53 + number * 37) % 120, (seed * 29 + number * 41) % 80
        draw.rectangle([x, y, x + 30, y + 25], fill=((number * 40) % 256, (seed * 90 + number * 70) % 256, 200))
    image.save(path)


@pytest.fixture
def benchmark(folder: Path) -> Path:
    place = folder / "benchmark" / "images"
    place.mkdir(parents=True)
    for seed in range(8):
        scene(place / f"{seed}.png", seed)
    (place / "broken.jpg").write_bytes(b"no image")
    return folder / "benchmark"


def test_a_benchmarks_image_is_found_by_its_bytes_and_by_its_look(folder: Path, benchmark: Path) -> None:
    (folder / "same.png").write_bytes((benchmark / "images" / "3.png").read_bytes())
    with Image.open(benchmark / "images" / "5.png") as image:
        image.resize((90, 70)).save(folder / "smaller.jpg", quality=60)
    for seed in range(20, 40):
        scene(folder / f"own{seed}.png", seed)
    own = [record(f"own{seed}", images=[f"own{seed}.png"]) for seed in range(20, 40)]
    report = checked(
        folder, record("a", images=["same.png"]), record("b", images=["smaller.jpg"]), *own, benchmarks=(benchmark,)
    )
    assert found(report) == {"leakage": ("a", "b")}
    assert [(leak["id"], leak["how"], Path(leak["benchmark"]).name) for leak in report.leaks] == [
        ("a", "content", "3.png"),
        ("b", "perceptual", "5.png"),
    ]
    assert report.skipped["leakage"] == "1 benchmark images cannot be read"


def test_a_benchmark_without_images_is_refused(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(AmpError, match="No image below"):
        checked(folder, record(), benchmarks=(folder / "empty",))


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["prefs", "check", *words])


def test_the_exit_status_tells_faults_and_with_strict_warnings(folder: Path) -> None:
    source = str(folder / "preferences.jsonl")
    checked(folder, record("a"), answered("b", "A dog.", "..."))
    assert run(source).exit_code == 0
    assert run(source, "--strict").exit_code == 3
    checked(folder, record("a"), record("b", images=["gone.png"]))
    assert run(source).exit_code == 3


def test_json_has_the_fields_of_the_contract(folder: Path) -> None:
    checked(folder, record("a"), answered("b", "A dog.", "..."), record("c", images=["gone.png"]))
    result = run(str(folder / "preferences.jsonl"), "--json")
    shown = json.loads(result.stdout)
    assert {key: shown[key] for key in ("format", "items", "rejected", "levels")} == {
        "format": "amp",
        "items": 2,
        "rejected": 1,
        "levels": {"2": 2},
    }
    assert [(one["check"], one["count"], one["examples"]) for one in shown["warnings"]] == [
        ("wordless-answer", 1, ["b"])
    ]
    assert [(one["check"], one["count"], one["examples"]) for one in shown["faults"]] == [("image", 1, ["c"])]


def test_a_folder_of_other_files_is_no_place_for_the_report(folder: Path) -> None:
    with pytest.raises(AmpError, match="holds other files"):
        checked(folder, record(), out=folder)
