"""The browsable part of the report: rows of every kind of benchmark, judges' words, and where the runs differ."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.benchmarks import amber
from amp_cli.benchmarks.amber_words import AmberWords
from amp_cli.benchmarks.showing import Row
from amp_cli.disk.jsonl import write_json
from amp_cli.records import Answer, BenchmarkItem
from amp_cli.report.answers import choose_images, rows_by_image, rows_of
from amp_cli.report.opening import opening_of
from amp_cli.report.page import render_page
from amp_cli.report.runs import Evaluation, GatheredRun


class Equal:
    """Words are alike if they are equal."""

    description = "equality"

    def first_alike(self, word: str, candidates: Sequence[str]) -> int | None:
        return next((place for place, one in enumerate(candidates) if one == word), None)


WORDS = AmberWords({"dog": [], "cat": [], "sky": []}, frozenset(), Equal())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def run_of(root: Path, name: str, images: Path, **lines: Sequence[Mapping[str, Any]]) -> GatheredRun:
    """Write item files as an evaluation leaves them."""
    evaluations = {}
    for benchmark, records in lines.items():
        folder = root / name / benchmark
        write_json(folder / "run.json", {"command": f"eval {benchmark}", "settings": {}, "image_folder": str(images)})
        (folder / "items.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        evaluations[benchmark.replace("_", "-")] = Evaluation(
            folder=folder, scores={"rule": "strict", "n": len(records)}
        )
    return GatheredRun(name=name, path=root / name, evaluations=evaluations, training=())


def judged(item_id: str, ratings: Sequence[Sequence[float] | None], **changes: Any) -> dict[str, Any]:
    line: dict[str, Any] = {
        "id": item_id,
        "images": ["0.png"],
        "group": "attribute",
        "questions": ["What colour is the cap?"],
        "references": ["Yellow."],
        "answers": ["Red."],
        "verdicts": [f"Rating: {one[0]:g}" if one else "I <cannot> say." for one in ratings],
        "ratings": ratings,
        "reasons": ["" if one else "no rating" for one in ratings],
        "substituted": [False for _ in ratings],
    }
    return line | changes


def amber_line(item_id: str, kind: str, question: str, truth: Any, text: str, image: str = "0.png") -> dict[str, Any]:
    reference = {"kind": kind, "truth": truth, "foreseen": [], "words": WORDS}
    item = BenchmarkItem(id=item_id, images=(image,), questions=(question,), reference=reference)
    return amber.score(item, Answer(id=item_id, answers=(text,)), "strict").to_json()


def only_row(name: str, *runs: GatheredRun) -> Row:
    (row,) = rows_of(name, runs)
    return row


def test_a_judged_item_shows_the_rating_and_the_judges_words(tmp_path: Path, images: Path) -> None:
    old = run_of(tmp_path, "old", images, mmhal=[judged("1", [[2.0]])])
    new = run_of(tmp_path, "new", images, mmhal=[judged("1", [[5.0]], answers=["Yellow."])])
    row = only_row("mmhal", old, new)
    assert (row.truth_is, row.truth, row.note, row.benchmark) == ("Reference", "Yellow.", "attribute", "mmhal")
    assert [reply.summary for reply in row.replies] == ["rated 2 of 6", "rated 5 of 6"]
    assert [reply.judged for reply in row.replies] == [("Rating: 2",), ("Rating: 5",)]
    assert row.differs
    assert not only_row("mmhal", old, old).differs


def test_an_unscored_item_says_why_and_repeats_say_how_many_could_be_read(tmp_path: Path, images: Path) -> None:
    unread = run_of(tmp_path, "unread", images, mmhal=[judged("1", [None])])
    assert only_row("mmhal", unread).replies[0].summary == "unscored: no rating"
    repeated = run_of(tmp_path, "repeated", images, mmhal=[judged("1", [[2.0], None, [5.0]])])
    reply = only_row("mmhal", repeated).replies[0]
    assert reply.summary == "rated 3.5 of 6 (mean; 2 of 3 verdicts could be read)"
    assert len(reply.judged) == 3


def test_a_dialogue_is_shown_round_by_round_and_a_pair_of_ratings_with_the_reference(
    tmp_path: Path, images: Path
) -> None:
    rounds = {"questions": ["What is it?", "How many?"], "references": ["A dog.", "Two."], "answers": ["A dog.", "3."]}
    run = run_of(
        tmp_path, "run", images, mrhal=[judged("1", [[6.0, 0.0]], **rounds)], llava_bench=[judged("1", [[8.0, 7.5]])]
    )
    dialogue = only_row("mrhal", run)
    assert dialogue.question == "1. What is it?\n2. How many?"
    assert dialogue.replies[0].pieces[0].text == "1. A dog.\n2. 3."
    assert dialogue.replies[0].summary == "rated 6, 0 of 6"
    assert only_row("llava-bench", run).replies[0].summary == "rated 7.5 of 10, the reference 8"


def test_a_description_of_amber_marks_what_is_right_invented_and_denied(tmp_path: Path, images: Path) -> None:
    text = "A dog, a cat. There is no sky."
    old = run_of(tmp_path, "old", images, amber=[amber_line("1", "generative", "Describe.", ["dog", "sky"], text)])
    new = run_of(tmp_path, "new", images, amber=[amber_line("1", "generative", "Describe.", ["dog", "sky"], "A dog.")])
    row = only_row("amber", old, new)
    marked = [(piece.text, piece.kind) for piece in row.replies[0].pieces if piece.kind]
    assert marked == [("dog", "right"), ("cat", "invented"), ("sky", "denied")]
    assert "".join(piece.text for piece in row.replies[0].pieces) == text
    assert row.replies[0].summary == "not in the image: cat; not mentioned: sky"
    assert row.differs


def test_a_yes_no_question_of_amber_is_a_line_of_the_table(tmp_path: Path, images: Path) -> None:
    lines = [amber_line("2", "state", "Is the dog black?", "no", text) for text in ("No", "Yes", "Perhaps.")]
    runs = [run_of(tmp_path, f"run{n}", images, amber=[line]) for n, line in enumerate(lines)]
    row = only_row("amber", *runs)
    assert row.is_short
    assert [reply.verdict for reply in row.replies] == ["right", "wrong", "unclear"]
    assert row.differs


def test_images_on_which_the_runs_differ_come_first_and_benchmarks_meet_at_one_file(
    tmp_path: Path, images: Path
) -> None:
    def lines(answer: str) -> dict[str, Any]:
        questions = [amber_line(f"q{n}", "state", "Black?", "no", "No", f"{n}.png") for n in range(2)]
        questions.append(amber_line("q2", "state", "Black?", "no", answer, "2.png"))
        return {"amber": questions, "mmhal": [judged("1", [[2.0]], images=["2.png"])]}

    runs = [run_of(tmp_path, name, images, **lines(text)) for name, text in (("old", "No"), ("new", "Yes"))]
    rows = rows_by_image(runs)
    chosen, total = choose_images(rows, 600)
    assert [image.name for image in chosen] == ["2.png", "0.png", "1.png"]
    assert (chosen[0].count, chosen[0].differing, len(chosen[0].descriptions)) == (2, 1, 1)
    assert chosen[0].source.startswith("data:image/png")
    assert (total.items, total.images) == (4, 3)
    assert len(choose_images(rows, 2)[0]) == 1


def test_the_page_escapes_what_judges_say_and_keeps_a_run_that_did_not_answer_apart(
    tmp_path: Path, images: Path
) -> None:
    black, red = (amber_line(n, "state", f"Is it {n}?", "no", "No") for n in ("black", "red"))
    first = run_of(tmp_path, "first", images, mmhal=[judged("1", [None])], amber=[black, red])
    second = run_of(tmp_path, "second", images, amber=[amber_line("black", "state", "Is it black?", "no", "Yes")])
    runs = [first, second]
    page = render_page(runs, opening_of(runs), title="T", notes=[], commands=[], max_items=60)
    assert "I &lt;cannot&gt; say." in page
    assert "<details>" in page
    assert "<option>mmhal</option><option>amber</option>" in page
    red = page.split('dir="auto">Is it red?')[-1].split("</tr>")[0]
    assert red.count("<td>") == 3  # the truth, the first run's answer, and an empty cell for the second's
    assert red.rstrip().endswith("<td></td>")
