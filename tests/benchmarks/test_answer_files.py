"""Answer files as they are published: whose layout it is, and which question each answer is to."""

import json
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks.answer_files import image_key, is_asked, question_key, read_answers
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.records import Answer
from tests.support.judged_data import write_json, write_lines

SPLITS = ("random", "popular", "adversarial")
THINGS = {"random": ("dog", "cup"), "popular": ("dog", "car"), "adversarial": ("dog", "cat")}
"""There is a dog in both images, which every split asks about, and nothing else."""
IMAGES = ("COCO_val2014_000000000042.jpg", "COCO_val2014_000000000073.jpg")


def question(thing: str) -> str:
    return f"Is there a {thing} in the image?"


def label_rows(split: str) -> list[dict[str, Any]]:
    rows = [(image, thing) for image in IMAGES for thing in THINGS[split]]
    return [
        {"question_id": n, "image": image, "text": question(thing), "label": "yes" if thing == "dog" else "no"}
        for n, (image, thing) in enumerate(rows, start=1)
    ]


def answer_rows(*splits: str) -> list[dict[str, Any]]:
    """LLaVA's lines, all right, the numbers beginning anew in each split."""
    return [
        {
            "question_id": row["question_id"],
            "image": row["image"],
            "prompt": f"{row['text']} Please answer this question with one word.",
            "text": row["label"].title(),
        }
        for split in splits
        for row in label_rows(split)
    ]


def only(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{name: row[name] for name in names} for row in rows]


@pytest.fixture
def pope(tmp_path: Path) -> Path:
    for split in SPLITS:
        write_lines(tmp_path / "data" / f"coco_pope_{split}.json", label_rows(split))
    return tmp_path / "data"


def scores_of(benchmark: str, data: Path, answers: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    file = write_lines(data.parent / "answers.jsonl", answers)
    out = data.parent / "out"
    return run_benchmark(EvalSettings(benchmark=benchmark, data=data, answers=file, out=out, **settings)).scores


def right(scores: dict[str, Any]) -> dict[str, float]:
    return {split: block["accuracy"] for split, block in scores["splits"].items()}


def test_one_splits_answers_with_image_and_prompt_are_that_splits(
    pope: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scores_of("pope", pope, answer_rows("popular"))
    assert right(scores) == {"popular": 1.0}
    assert scores["overall"]["n"] == 4
    assert "No answers to the split(s) adversarial, random" in capsys.readouterr().err
    again = run_benchmark(EvalSettings(benchmark="pope", out=pope.parent / "out", only="score"))
    assert again.scores == scores
    assert not again.rejected


def test_all_splits_in_one_file_are_told_apart(pope: Path) -> None:
    everything = dict.fromkeys(SPLITS, 1.0)
    rows = answer_rows("adversarial", "random", "popular")
    assert right(scores_of("pope", pope, rows)) == everything
    assert right(scores_of("pope", pope, only(rows, "question_id", "prompt", "text"), overwrite=True)) == everything


def test_the_label_file_serves_as_the_questions_file(pope: Path) -> None:
    rows = only(answer_rows("random"), "question_id", "text")
    questions = pope / "coco_pope_random.json"
    assert right(scores_of("pope", pope, rows, questions=questions)) == {"random": 1.0}


def test_numbers_and_prompts_say_which_label_file_was_asked(pope: Path) -> None:
    rows = only(answer_rows("popular"), "question_id", "prompt", "text")
    assert right(scores_of("pope", pope, rows)) == {"popular": 1.0}
    with pytest.raises(AmpError, match="which of the label files") as caught:
        scores_of("pope", pope, only(rows, "question_id", "text"), overwrite=True)
    assert "--questions" in str(caught.value.hint)
    for split in ("random", "adversarial"):
        (pope / f"coco_pope_{split}.json").unlink()
    assert right(scores_of("pope", pope, only(rows, "question_id", "text"), overwrite=True)) == {"popular": 1.0}


def test_popes_own_lines_are_joined_in_the_order_of_the_labels_if_the_questions_agree(pope: Path) -> None:
    rows = [{"question": row["text"], "answer": row["label"]} for row in label_rows("adversarial")]
    assert right(scores_of("pope", pope, rows)) == {"adversarial": 1.0}
    both = [{"question": row["text"], "answer": row["label"]} for split in SPLITS[:2] for row in label_rows(split)]
    assert right(scores_of("pope", pope, both, overwrite=True)) == {"random": 1.0, "popular": 1.0}
    with pytest.raises(AmpError, match="line by line"):
        scores_of("pope", pope, rows[::-1], overwrite=True)


def test_a_label_file_with_answers_in_it_is_read(pope: Path) -> None:
    rows = [{**row, "answer": row["label"]} for row in label_rows("random")]
    assert right(scores_of("pope", pope, rows)) == {"random": 1.0}


def test_an_incomplete_split_is_refused(pope: Path) -> None:
    with pytest.raises(AmpError, match="no answer to 1 of 4 questions"):
        scores_of("pope", pope, answer_rows("popular")[:-1])


def test_answers_about_other_images_are_refused(pope: Path) -> None:
    rows = answer_rows("popular")
    with pytest.raises(AmpError, match="1 answers to questions that --data does not hold"):
        scores_of("pope", pope, [*rows, {**rows[0], "image": "other.jpg"}])


def test_different_answers_to_one_question_need_their_split(pope: Path) -> None:
    rows = answer_rows("random", "popular")
    rows[0] = {**rows[0], "text": "No"}
    for row in rows:
        row.pop("question_id")
    with pytest.raises(AmpError, match="2 times, and differently"):
        scores_of("pope", pope, rows)
    named = [{**row, "category": split} for split, row in zip(["random"] * 4 + ["popular"] * 4, rows, strict=True)]
    assert right(scores_of("pope", pope, named, overwrite=True)) == {"random": 0.75, "popular": 1.0}


@pytest.mark.parametrize("stem", ["gqa_pope_seem", "aokvqa_pope_seem", "gqa_pope"])
def test_popes_questions_about_other_images_are_taken_as_lists(stem: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = [{**row, "image": f"{2354786 + n}.jpg"} for n, row in enumerate(label_rows("random"))]
    write_json(data / f"{stem}_random.json", rows)
    assert right(scores_of("pope", data, [{**row, "text": row["label"], "prompt": row["text"]} for row in rows])) == {
        "random": 1.0
    }
    write_json(data / "other_pope_random.json", rows)
    with pytest.raises(AmpError, match="several sets"):
        scores_of("pope", data, [], overwrite=True)


def test_the_official_rule_takes_every_label_but_no_for_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    said = ["no", "No", "yes", "nope", ""]
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "text": question("dog"), "label": one} for n, one in enumerate(said)
    ]
    write_lines(data / "coco_pope_random.json", rows)
    answers = [{**only([row], "question_id", "image")[0], "prompt": row["text"], "text": "No"} for row in rows]
    block = scores_of("pope", data, answers, rule="official")["splits"]["random"]
    assert (block["tn"], block["fn"]) == (1, 4)
    assert "3 labels are neither yes nor no and count as yes" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(AmpError, match=r"record 4: the label is 'nope'"):
        scores_of("pope", data, answers, overwrite=True)


# --- CHAIR ---


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """600 images; the dog of number 42 and the cat of number 73 are all that is annotated."""
    numbers = [42, 73, *range(1000, 1598)]
    write_json(
        tmp_path / "data" / "instances_val2014.json",
        {
            "images": [{"id": n, "file_name": f"COCO_val2014_{n:012}.jpg"} for n in numbers],
            "annotations": [{"id": 1, "image_id": 42, "category_id": 1}, {"id": 2, "image_id": 73, "category_id": 2}],
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        },
    )
    return tmp_path / "data"


@pytest.mark.parametrize(
    "rows",
    [
        [{"image_id": 42, "caption": "A dog."}, {"image_id": 73, "caption": "A dog."}],
        [{"image_id": "42", "caption": "A dog."}, {"image_id": IMAGES[1], "caption": "A dog."}],
        [{"question_id": 42, "text": "A dog."}, {"question_id": 73, "text": "A dog."}],
        [{"question_id": n, "image": image, "prompt": "?", "text": "A dog."} for n, image in enumerate(IMAGES)],
        [{"id": "42", "answers": ["A dog."]}, {"id": "73", "answers": ["A dog."]}],
    ],
)
def test_chair_scores_the_images_that_are_described(
    coco: Path, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    scores = scores_of("chair", coco, rows)
    assert (scores["n"], scores["chair_s"], scores["recall"]) == (2, 1 / 2, 1 / 2)
    assert (scores["sample"]["rule"], scores["sample"]["n"]) == ("described", 2)
    assert "2 of 600 images that are described" in " ".join(capsys.readouterr().err.split())
    again = run_benchmark(EvalSettings(benchmark="chair", out=coco.parent / "out", only="score"))
    assert again.scores == scores


def test_chair_takes_the_object_of_the_original_script(coco: Path) -> None:
    caption = {"image_id": 42, "caption": "A dog.", "Bleu_1": 0.5}
    file = write_json(coco.parent / "captions.json", {"overall": {"Bleu_1": 0.5}, "imgToEval": {"42": caption}})
    settings = EvalSettings(benchmark="chair", data=coco, answers=file, out=coco.parent / "out")
    assert run_benchmark(settings).scores["chair_s"] == 0.0


def test_lines_are_read_under_the_name_of_a_list(coco: Path) -> None:
    file = coco.parent / "captions.json"
    file.write_bytes(
        b'\xef\xbb\xbf{"image_id": 42, "caption": "A dog."}\r\n\r\n{"image_id": 42, "caption": "A dog."}\r\n'
    )
    given = read_answers(file, lambda found: {one.where: Answer(id=one.where, answers=(one.text,)) for one in found})
    assert [answer.answers for answer in given.values()] == [("A dog.",)] * 2


def test_the_pinned_list_keeps_its_name(coco: Path) -> None:
    from amp_cli.benchmarks.coco import choose_images, read_instances

    _, images, _ = read_instances(coco / "instances_val2014.json")
    pinned = choose_images(images, "hash", None, coco)
    scores = scores_of("chair", coco, [{"image_id": n, "caption": "A dog."} for n in pinned.ids])
    assert scores["sample"] == pinned.to_json()


def test_descriptions_of_images_without_annotations_are_refused(coco: Path) -> None:
    with pytest.raises(AmpError, match="1 answers to questions that --data does not hold, first '7'"):
        scores_of("chair", coco, [{"image_id": 42, "caption": "A dog."}, {"image_id": 7, "caption": "A dog."}])
    with pytest.raises(AmpError, match="none of the 1 images"):
        scores_of("chair", coco, [{"image_id": 7, "caption": "A dog."}], overwrite=True)


# --- AMBER ---


@pytest.fixture
def amber(tmp_path: Path) -> Path:
    asked = [("A.jpg", "dog", "yes"), ("A.jpg", "cat", "no"), ("B.jpg", "dog", "no")]
    queries = [
        {"id": n, "image": image, "query": question(thing)} for n, (image, thing, _) in enumerate(asked, start=7)
    ]
    truths = [
        {"id": n, "type": "discriminative-hallucination", "truth": truth}
        for n, (_, _, truth) in enumerate(asked, start=7)
    ]
    write_json(tmp_path / "data" / "query_all.json", queries)
    write_json(tmp_path / "data" / "annotations.json", truths)
    write_json(tmp_path / "data" / "relation.json", {"dog": [], "cat": []})
    (tmp_path / "data" / "safe_words.txt").write_text("")
    return tmp_path / "data"


def llava_rows(first: int) -> list[dict[str, Any]]:
    said = [("A.jpg", "dog", "Yes"), ("A.jpg", "cat", "No"), ("B.jpg", "dog", "No")]
    return [
        {"question_id": n, "image": image, "prompt": f"{question(thing)}\nOne word.", "text": text}
        for n, (image, thing, text) in enumerate(said, start=first)
    ]


def test_llavas_lines_serve_for_amber(amber: Path) -> None:
    settings: dict[str, Any] = {"part": "existence", "overwrite": True}
    for rows in (only(llava_rows(7), "question_id", "text"), llava_rows(7), llava_rows(0), llava_rows(6)):
        assert scores_of("amber", amber, rows, **settings)["discriminative"]["accuracy"] == 1.0
    with pytest.raises(AmpError, match="prompt of another question"):
        scores_of("amber", amber, only(llava_rows(8), "question_id", "prompt", "text")[:2], **settings)


def test_a_record_without_an_answer_is_refused_by_its_number(amber: Path) -> None:
    with pytest.raises(AmpError, match="record 2: no text of an answer") as caught:
        scores_of("amber", amber, [{"id": 7, "response": "Yes"}, {"id": 8}], part="existence")
    assert "`response`" in str(caught.value.hint)


# --- keys ---


def test_an_image_is_the_same_one_however_it_is_named() -> None:
    names = [" COCO_val2014_000000000042.jpg\n", "val2014/COCO_val2014_000000000042.jpg", "000000000042.jpg", "42"]
    assert {image_key(name) for name in names} == {"42"}
    assert image_key("AMBER_1.jpg") == "AMBER_1"
    assert image_key("000.jpg") == "0"


def test_a_prompt_asks_a_question_with_or_without_an_instruction() -> None:
    asked = question("dog")
    assert is_asked(asked, f"<image>\n{asked}\nAnswer the question using a single word or phrase.")
    assert is_asked(asked, f"{asked} Please answer this question with one word.")
    assert is_asked(asked, "Is there a dog in the imange?")
    assert not is_asked(asked, question("dogfish"))
    assert question_key(asked) == json.loads(json.dumps(asked)).lower()
