"""POPE: labels and answers joined by content, both reading rules, scores equal to the official script's."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks import pope, yes_no
from amp_cli.benchmarks.benchmark import LoadedBenchmark
from amp_cli.benchmarks.pope import question_key
from amp_cli.benchmarks.runner import run_benchmark, sampled
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.records import Answer

GOLDEN = Path(__file__).parents[1] / "golden" / "pope"
SPLITS = ("random", "popular", "adversarial")


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def row(image: str, thing: str, label: str) -> dict[str, Any]:
    return {"question_id": 1, "image": image, "text": f"Is there a {thing} in the image?", "label": label}


def labels(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    for split, records in splits.items():
        write_lines(folder / f"coco_pope_{split}.json", records)
    return folder


def evaluate(data: Path, answers: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return run_benchmark(EvalSettings(benchmark="pope", data=data, answers=answers, out=out, **settings)).scores


@pytest.mark.parametrize("case", ["tricky", "all_no_zero_division", "full_3x300"])
def test_the_official_rule_equals_the_official_script_to_the_last_digit(case: str, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    scores = evaluate(GOLDEN / case, GOLDEN / case / "answers.jsonl", tmp_path / "out", rule="official")
    for split, numbers in expected["per_category"].items():
        for name, value in numbers.items():
            if name != "summary_line":
                assert scores["splits"][split][name.lower()] == value, (split, name)
    questions = [json.loads(line) for line in (GOLDEN / case / "questions.jsonl").read_text().splitlines()]
    read = {
        (item["split"], item["images"][0], item["question"]): item["reading"]
        for item in map(json.loads, (tmp_path / "out" / "items.jsonl").read_text().splitlines())
    }
    for question in questions:
        key = (question["category"], question["image"], question["text"])
        assert read[key] == expected["predictions"][str(question["question_id"])]


def test_an_undefined_ratio_is_null(tmp_path: Path) -> None:
    case = GOLDEN / "all_no_zero_division"
    block = evaluate(case, case / "answers.jsonl", tmp_path / "out", rule="official")["splits"]["random"]
    assert block["precision"] is None
    assert block["f1"] is None
    assert block["recall"] == 0.0
    assert block["ci95"]["precision"] is None


def test_the_order_of_answers_and_of_labels_changes_nothing(tmp_path: Path) -> None:
    case = GOLDEN / "full_3x300"
    rng = random.Random(0)
    for file in (*case.glob("annotations/*.json"), case / "answers.jsonl", case / "questions.jsonl"):
        lines = file.read_text().splitlines()
        rng.shuffle(lines)
        shuffled = tmp_path / "data" / file.relative_to(case)
        shuffled.parent.mkdir(parents=True, exist_ok=True)
        shuffled.write_text("\n".join(lines) + "\n")
    before = evaluate(case, case / "answers.jsonl", tmp_path / "a", rule="official")
    after = evaluate(tmp_path / "data", tmp_path / "data" / "answers.jsonl", tmp_path / "b", rule="official")
    for split in SPLITS:
        assert {k: v for k, v in before["splits"][split].items() if k != "ci95"} == {
            k: v for k, v in after["splits"][split].items() if k != "ci95"
        }


def test_scores_by_hand(tmp_path: Path) -> None:
    data = labels(
        tmp_path / "data",
        random=[row(image, *asked) for image in ("a.jpg", "b.jpg") for asked in (("dog", "yes"), ("cat", "no"))],
        popular=[row("a.jpg", "dog", "yes"), row("a.jpg", "car", "no")],
        adversarial=[row("a.jpg", "dog", "yes"), row("a.jpg", "cup", "no")],
    )  # fmt: skip
    items = pope.load(data, EvalSettings(benchmark="pope", out=tmp_path)).items
    said = ["yes", "yes", "no", "no", "yes", "no", "I cannot tell", "no"]
    scores = [
        yes_no.score(item, Answer(id=item.id, answers=(text,)), "strict")
        for item, text in zip(items, said, strict=True)
    ]
    summary = yes_no.summarise(scores, "strict")
    one = summary["splits"]["random"]
    assert [one[name] for name in ("n", "tp", "fp", "tn", "fn")] == [4, 1, 1, 1, 1]
    assert [one[name] for name in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [0.5] * 5
    last = summary["splits"]["adversarial"]
    assert (last["n"], last["unparsed"], last["accuracy"], last["f1"]) == (2, 1, 1.0, None)
    assert summary["splits"]["popular"]["f1"] == 1.0
    assert summary["overall"]["n"] == 8
    assert summary["overall"]["accuracy"] == 5 / 7
    assert summary["overall"]["mean_f1"] is None
    assert set(one["ci95"]) == {"accuracy", "precision", "recall", "f1", "yes_ratio"}


def test_mean_f1_is_the_mean_of_the_splits(tmp_path: Path) -> None:
    case = GOLDEN / "full_3x300"
    scores = evaluate(case, case / "answers.jsonl", tmp_path / "out", rule="official")
    assert scores["overall"]["mean_f1"] == pytest.approx(
        (0.7710144927536232 + 0.8224852071005918 + 0.8159509202453988) / 3
    )
    assert scores["rule"] == "official"
    assert scores["overall"]["tp"] == 133 + 139 + 133


def test_label_files_are_found_below_the_folder_as_lines_or_as_a_list(tmp_path: Path) -> None:
    labels(tmp_path / "deep" / "coco", random=[row("a.jpg", "dog", "yes")])
    (tmp_path / "coco_pope_popular.json").write_text(json.dumps([row("a.jpg", "cat", "no")], indent=2))
    loaded = pope.load(tmp_path, EvalSettings(benchmark="pope", out=tmp_path))
    assert [item.reference["split"] for item in loaded.items] == ["random", "popular"]
    assert "adversarial" in loaded.warnings[0]


@pytest.mark.parametrize(("count", "version"), [(2910, "2,910"), (3000, "3,000"), (10, "another size")])
def test_the_version_of_the_data_is_recorded(count: int, version: str, tmp_path: Path) -> None:
    labels(tmp_path, random=[row(f"{number}.jpg", "dog", "yes") for number in range(count)])
    assert version in pope.load(tmp_path, EvalSettings(benchmark="pope", out=tmp_path)).facts["data_version"]


def test_the_typo_imange_and_an_instruction_line_are_the_same_question() -> None:
    key = question_key("Is there a dog in the image?")
    assert question_key("Is there a dog in the imange?") == key
    assert (
        question_key("<image>\nIs there a  dog in the image?\nAnswer the question using a single word or phrase.")
        == key
    )
    assert question_key("Is there a cat in the image?") != key


def test_the_suffix_is_added_once(tmp_path: Path) -> None:
    labels(tmp_path, random=[row("a.jpg", "dog", "yes")])
    settings = EvalSettings(benchmark="pope", out=tmp_path)
    (item,) = pope.load(tmp_path, settings).items
    (asked,) = yes_no.ask(item, settings)
    assert asked == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    labels(tmp_path, random=[{**row("a.jpg", "dog", "yes"), "text": asked}])
    (item,) = pope.load(tmp_path, settings).items
    assert yes_no.ask(item, settings) == (asked,)
    assert yes_no.ask(item, EvalSettings(benchmark="pope", out=tmp_path, prompt_suffix="")) == (asked,)


def test_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    labels(tmp_path, random=[row("a.jpg", "dog", "yes"), row("a.jpg", "dog", "no")])
    with pytest.raises(AmpError, match="both yes and no"):
        pope.load(tmp_path, EvalSettings(benchmark="pope", out=tmp_path))


def test_a_label_that_is_neither_is_refused_by_its_record(tmp_path: Path) -> None:
    labels(tmp_path, random=[row("a.jpg", "dog", "yes"), row("a.jpg", "cat", "perhaps")])
    with pytest.raises(AmpError, match=r"record 2.*perhaps"):
        pope.load(tmp_path, EvalSettings(benchmark="pope", out=tmp_path))


def test_a_folder_without_label_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"coco_pope_random\.json"):
        pope.load(tmp_path, EvalSettings(benchmark="pope", out=tmp_path))


def test_answers_of_another_version_are_refused_with_counts(tmp_path: Path) -> None:
    data = labels(tmp_path / "data", random=[row("a.jpg", "dog", "yes"), row("b.jpg", "cat", "no")])
    asked = [{"question_id": 7, "image": "a.jpg", "text": "Is there a dog in the image?", "category": "random"}]
    write_lines(data / "questions.jsonl", asked)
    answers = write_lines(tmp_path / "answers.jsonl", [{"question_id": 7, "text": "yes"}])
    with pytest.raises(AmpError, match=r"no answer to 1 of 2 questions.*b\.jpg"):
        evaluate(data, answers, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_answer_with_another_questions_prompt_is_refused(tmp_path: Path) -> None:
    case = GOLDEN / "tricky"
    records = [json.loads(line) for line in (case / "answers.jsonl").read_text().splitlines()]
    for number, record in enumerate(records):
        record["question_id"] = number % len(records) + 1
        record["prompt"] = records[(number + 1) % len(records)]["prompt"]
    shifted = write_lines(tmp_path / "answers.jsonl", records)
    with pytest.raises(AmpError, match="carry the prompt of another question"):
        evaluate(case, shifted, tmp_path / "out")


def test_two_different_answers_to_one_question_are_refused_and_equal_ones_are_not(tmp_path: Path) -> None:
    data = labels(tmp_path / "data", random=[row("a.jpg", "dog", "yes")])
    write_lines(
        data / "q.jsonl",
        [{"question_id": 7, "image": "a.jpg", "text": "Is there a dog in the image?", "category": "random"}],
    )
    twice = write_lines(tmp_path / "a.jsonl", [{"question_id": 7, "text": "yes"}, {"question_id": 7, "text": "yes"}])
    assert evaluate(data, twice, tmp_path / "out")["overall"]["n"] == 1
    torn = write_lines(tmp_path / "b.jsonl", [{"question_id": 7, "text": "yes"}, {"question_id": 7, "text": "no"}])
    with pytest.raises(AmpError, match="question_id 7 twice"):
        evaluate(data, torn, tmp_path / "other")
    own = write_lines(tmp_path / "c.jsonl", [{"id": "x", "answers": ["yes"]}, {"id": "x", "answers": ["no"]}])
    with pytest.raises(AmpError, match="'x' twice and differently"):
        evaluate(data, own, tmp_path / "other")


def test_answers_by_question_id_need_a_questions_file(tmp_path: Path) -> None:
    data = labels(tmp_path / "data", random=[row("a.jpg", "dog", "yes")])
    answers = write_lines(tmp_path / "answers.jsonl", [{"question_id": 7, "text": "yes"}])
    with pytest.raises(AmpError, match="question_id only") as caught:
        evaluate(data, answers, tmp_path / "out")
    assert "--questions" in str(caught.value.hint)


def test_our_own_answers_are_read_by_id(tmp_path: Path) -> None:
    data = labels(tmp_path / "data", random=[row("a.jpg", "dog", "yes")])
    (item,) = pope.load(data, EvalSettings(benchmark="pope", out=tmp_path)).items
    answers = write_lines(tmp_path / "answers.jsonl", [{"id": item.id, "answers": ["Yes."]}])
    assert evaluate(data, answers, tmp_path / "out")["overall"]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("answers", "message"),
    [([], "as many answers as questions"), (["yes", "no"], "as many answers as questions"), ("yes", "must be a list")],
)
def test_our_own_answers_of_a_wrong_shape_are_refused(answers: object, message: str, tmp_path: Path) -> None:
    data = labels(tmp_path / "data", random=[row("a.jpg", "dog", "yes")])
    (item,) = pope.load(data, EvalSettings(benchmark="pope", out=tmp_path)).items
    file = write_lines(tmp_path / "answers.jsonl", [{"id": item.id, "answers": answers}])
    with pytest.raises(AmpError, match=message):
        evaluate(data, file, tmp_path / "out")


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    data = labels(tmp_path, random=[row("a.jpg", "dog", "yes"), row("a.jpg", "cat", "no")])
    file = data / "coco_pope_random.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert len(pope.load(data, EvalSettings(benchmark="pope", out=tmp_path)).items) == 2


def test_a_torn_line_is_refused_by_its_number(tmp_path: Path) -> None:
    data = labels(tmp_path, random=[row("a.jpg", "dog", "yes")])
    with (data / "coco_pope_random.json").open("a") as stream:
        stream.write('{"image": "b.j')
    with pytest.raises(AmpError, match="line 2"):
        pope.load(data, EvalSettings(benchmark="pope", out=tmp_path))


def test_an_id_names_its_split_and_image_and_comes_from_the_content(tmp_path: Path) -> None:
    settings = EvalSettings(benchmark="pope", out=tmp_path)
    labels(tmp_path, random=[row("a.jpg", "dog", "yes"), row("a.jpg", "cat", "no")])
    before = {item.questions[0]: item.id for item in pope.load(tmp_path, settings).items}
    labels(tmp_path, random=[row("a.jpg", "cat", "no"), row("a.jpg", "dog", "yes")])
    assert before == {item.questions[0]: item.id for item in pope.load(tmp_path, settings).items}
    assert all(item_id.startswith("random-a-") for item_id in before.values())


def limited_to_two(data: Path, out: Path) -> LoadedBenchmark:
    settings = EvalSettings(benchmark="pope", out=out, limit=2)
    return sampled(pope.BENCHMARK, pope.load(data, settings), settings)


def test_a_limit_keeps_whole_images_in_every_split_and_the_same_ones_in_any_order(tmp_path: Path) -> None:
    rows = [row(f"{number}.jpg", thing, "yes") for number in range(6) for thing in ("dog", "cat", "car")]
    data = labels(tmp_path / "a", random=rows, popular=rows[::-1])
    limited = limited_to_two(data, tmp_path)
    # the first of `for n in 0 1 2 3 4 5; do echo "$(printf $n.jpg | sha256sum) $n"; done | sort`
    assert {item.images[0] for item in limited.items} == {"0.jpg", "5.jpg"}
    assert Counter(item.reference["split"] for item in limited.items) == {"random": 6, "popular": 6}
    assert limited.facts["limit"] == {"asked": 12, "of": 36, "seed": 0}
    shuffled = labels(tmp_path / "b", random=rows[::-1], popular=rows)
    again = limited_to_two(shuffled, tmp_path)
    assert {item.id for item in again.items} == {item.id for item in limited.items}
