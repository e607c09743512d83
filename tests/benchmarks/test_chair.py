"""CHAIR: which objects a text names, which it denies, and the scores by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks import chair
from amp_cli.benchmarks.coco import Sample, choose_images, resolve_sample
from amp_cli.benchmarks.mentions import Vocabulary, count_words, find_mentions, singular
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.vocabulary import read_vocabulary
from amp_cli.disk.parsing import read_json
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.records import Answer

TABLE = template_path("chair", "coco_words.json")
COCO = read_vocabulary(None, [name for name in read_json(TABLE) if not name.startswith("(")])


def named(text: str, vocabulary: Vocabulary = COCO) -> list[str]:
    return [mention.name for mention in find_mentions(text, vocabulary) if not mention.denied]


def denied(text: str) -> list[str]:
    return [mention.name for mention in find_mentions(text, COCO) if mention.denied]


def coco_folder(folder: Path, captions: dict[int, list[str]] | None = None) -> Path:
    """Two images: 1 with a dog and two cars, 2 with a cat."""
    folder.mkdir(parents=True, exist_ok=True)
    instances: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "one.jpg"}, {"id": 2, "file_name": "two.jpg"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 18},
            {"id": 2, "image_id": 1, "category_id": 3},
            {"id": 3, "image_id": 1, "category_id": 3},
            {"id": 4, "image_id": 2, "category_id": 17},
        ],
    }
    (folder / "instances_val2014.json").write_text(json.dumps(instances))
    if captions:
        entries = [{"image_id": image, "caption": text} for image, texts in captions.items() for text in texts]
        (folder / "captions_val2014.json").write_text(json.dumps({"annotations": entries}))
    return folder


def scores_of(data: Path, texts: dict[str, str], rule: str = "strict") -> dict[str, Any]:
    items = chair.load(data, EvalSettings(benchmark="chair", out=data)).items
    answers = {item.id: Answer(id=item.id, answers=(texts[item.id],)) for item in items}
    return chair.summarise([chair.score(item, answers[item.id], rule) for item in items], rule)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("A man eats a hot dog.", ["person", "hot dog"]),
        ("Two teddy bears and a bear.", ["teddy bear", "bear"]),
        ("People at the dining table with wine glasses and knives.", ["person", "dining table", "wine glass", "knife"]),
        ("Three children wait at a bus stop.", ["person"]),
        ("Buses pass a train station.", ["bus"]),
        ("The woman's cell phones", ["person", "cell phone"]),
        ("skis, scissors and a pair of tennis rackets", ["skis", "scissors", "tennis racket"]),
        ("A toilet seat, and toilet paper.", ["toilet"]),
        ("a computer mouse beside a mouse pad", ["mouse"]),
        ("An orange shirt. An orange and white cat.", ["cat"]),
        ("A bowl of oranges and an orange on the table.", ["bowl", "orange", "orange", "dining table"]),
        ("a hot, dog-tired car", ["dog", "car"]),
        ("A bicycle made by hand and a stop sign.", ["bicycle", "stop sign"]),
        ("Nothing at all.", []),
        ("", []),
    ],
)
def test_the_objects_that_a_text_names(text: str, objects: list[str]) -> None:
    assert named(text) == objects


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("There is no dog, but a cat sits there.", ["cat"], ["dog"]),
        ("No cars, trucks or people are visible.", [], ["car", "truck", "person"]),
        ("A man without a tie in a car.", ["person", "car"], ["tie"]),
        ("There isn't a dog. There is a horse.", ["horse"], ["dog"]),
        ("There isn’t a dog.", [], ["dog"]),
        ("The dog is not on the couch.", ["dog", "couch"], []),
        ("A bear is not visible in the image.", [], ["bear"]),
        ("Not only a dog but also a horse.", ["dog", "horse"], []),
        ("There are no cars and a dog.", ["dog"], ["car"]),
        ("The image does not contain a clock; a vase is there.", ["vase"], ["clock"]),
        ("There is no cat and there is a dog.", ["dog"], ["cat"]),
        ("A horse instead of a dog, and a bus rather than a car.", ["horse", "bus"], ["dog", "car"]),
        ("No one is riding the horse.", ["horse"], []),
        ("The scene lacks people.", [], ["person"]),
        ("A dog does not appear in the image.", [], ["dog"]),
        ("There are no animals except a dog.", ["dog"], []),
    ],
)
def test_denied_objects_are_no_mentions(text: str, yes: list[str], no: list[str]) -> None:
    assert named(text) == yes
    assert denied(text) == no


@pytest.mark.parametrize(
    ("plural", "expected"),
    [
        ("cars", "car"), ("buses", "bus"), ("bus", "bus"), ("knives", "knife"), ("sandwiches", "sandwich"),
        ("people", "person"), ("glasses", "glass"), ("scissors", "scissors"), ("boxes", "box"), ("ties", "tie"),
        ("couches", "couch"), ("toothbrushes", "toothbrush"), ("puppies", "puppy"),
        ("mice", "mouse"), ("horses", "horse"), ("firemen", "fireman"), ("vases", "vase"),
    ],
)  # fmt: skip
def test_plurals(plural: str, expected: str) -> None:
    assert singular(plural) == expected


def test_a_mention_knows_its_place_in_the_text() -> None:
    text = "Two Wine Glasses stand there."
    (mention,) = find_mentions(text, COCO)
    assert text[mention.start : mention.end] == "Wine Glasses"


def test_the_built_in_table_has_cocos_80_classes_and_no_word_twice() -> None:
    words = read_json(TABLE)
    words.pop("(no object)")
    assert len(words) == 80
    every = [word for phrases in words.values() for word in phrases]
    assert len(set(every)) == len(every)


def test_scores_by_hand(tmp_path: Path) -> None:
    data = coco_folder(tmp_path)
    # image 1 (dog, car): dog right, cat invented twice; image 2 (cat): all right
    scores = scores_of(data, {"1": "A dog and a cat. The cat sleeps.", "2": "A cat."})
    assert scores["chair_s"] == 1 / 2
    assert scores["chair_i"] == 2 / 4
    assert scores["recall"] == 2 / 3
    assert scores["words"] == (8 + 2) / 2
    assert scores["n"] == 2
    assert set(scores["ci95"]) == {"chair_s", "chair_i", "recall", "words"}


def test_the_plain_rule_counts_denied_objects_too(tmp_path: Path) -> None:
    data = coco_folder(tmp_path)
    texts = {"1": "A dog. There is no cat.", "2": "A cat."}
    assert scores_of(data, texts)["chair_i"] == 0.0
    assert scores_of(data, texts, "plain")["chair_i"] == 1 / 3


def test_descriptions_without_any_object_leave_chair_i_undefined(tmp_path: Path) -> None:
    scores = scores_of(coco_folder(tmp_path), {"1": "Nice.", "2": ""})
    assert scores["chair_i"] is None
    assert scores["ci95"]["chair_i"] is None
    assert scores["chair_s"] == 0.0


def test_a_description_in_another_language_is_unscored_not_free_of_inventions(tmp_path: Path) -> None:
    texts = {"1": "Un perro y un sofa en la calle con una pizza.", "2": "A cat and a dog."}
    scores = scores_of(coco_folder(tmp_path), texts)
    assert (scores["n"], scores["unscored"], scores["chair_i"], scores["chair_s"]) == (1, 1, 0.5, 1.0)
    assert scores_of(coco_folder(tmp_path), texts, "plain")["unscored"] == 0


def test_objects_of_the_reference_captions_are_in_the_image_too(tmp_path: Path) -> None:
    texts = {"1": "A dog, a car and a cat.", "2": "A cat."}
    assert scores_of(coco_folder(tmp_path / "a"), texts)["chair_i"] == 1 / 4
    data = coco_folder(tmp_path / "b", {1: ["A kitten behind the cars.", "No people."]})
    scores = scores_of(data, texts)
    assert scores["chair_i"] == 0.0
    assert scores["recall"] == 1.0


def test_a_word_file_beside_the_data_is_used_and_one_given_wins(tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "data")
    (data / "synonyms.json").write_text(json.dumps({"car": ["car", "wagon"]}))
    assert scores_of(data, {"1": "A wagon and dogs.", "2": "A cat."})["recall"] == 1.0
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"car": ["cart"]}))
    settings = EvalSettings(benchmark="chair", out=tmp_path, synonyms=other)
    vocabulary = chair.load(data, settings).items[0].reference["vocabulary"]
    assert named("A wagon, a cart, a dog, a car.", vocabulary) == ["car", "dog", "car"]


SYNONYMS = """person, girl, boy, baby, adult
bicycle, bike
car, automobile, wagon
bird, duck
train, locomotive
toilet
chair, seat
tie
hot dog
dog, puppy
couch, sofa
"""


def test_the_original_scripts_list_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text(SYNONYMS)
    words = read_vocabulary(file, ["person", "car", "dog", "couch"])
    assert named("A girl, a wagon and puppies on the sofa.", words) == ["person", "car", "dog", "couch"]
    # names of two words that the script takes for one object
    assert named("A baby bird, an adult dog, a passenger train, a toilet seat, a bow tie.", words) == [
        *("bird", "dog", "train", "toilet", "tie")
    ]
    assert named("A hot dog. The home plate.", words) == ["hot dog"]


def test_the_object_of_a_line_is_the_category_among_its_words(tmp_path: Path) -> None:
    file = tmp_path / "synonyms.txt"
    file.write_text("sofa, couch\ndog,puppy\n\n")
    assert named("A sofa and a puppy.", read_vocabulary(file, ["couch", "dog"])) == ["couch", "dog"]
    with pytest.raises(AmpError, match="no line for 1 of 2 objects, first 'cat'"):
        read_vocabulary(file, ["couch", "cat"])
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AmpError, match="cannot be read as a word file"):
        read_vocabulary(file, ["couch"])


def test_the_rule_plain_says_that_it_is_not_the_original_script(tmp_path: Path) -> None:
    data = coco_folder(tmp_path)
    texts = {"1": "A dog.", "2": "A cat."}
    for rule, is_said in (("plain", True), ("strict", False)):
        scores = {"rule": rule, **scores_of(data, texts, rule)}
        assert ("not the original script" in chair.about(scores)) is is_said


def test_the_rule_plain_takes_what_a_reference_caption_denies_for_there(tmp_path: Path) -> None:
    data = coco_folder(tmp_path, {1: ["A dog without a cat."]})
    for rule, present in (("strict", ["car", "dog"]), ("plain", ["car", "cat", "dog"])):
        item = chair.load(data, EvalSettings(benchmark="chair", out=data, rule=rule)).items[0]
        assert item.reference["present"] == present


def test_an_item_lists_what_is_invented_and_what_is_missed(tmp_path: Path) -> None:
    item = chair.load(coco_folder(tmp_path), EvalSettings(benchmark="chair", out=tmp_path)).items[0]
    record = chair.score(item, Answer(id="1", answers=("A dog and two cats.",)), "strict").to_json()
    assert (record["mentioned"], record["hallucinated"], record["missed"]) == (["cat", "dog"], ["cat"], ["car"])
    assert chair.ChairScore.from_json(record).to_json() == record


def many_images(count: int) -> dict[Any, str]:
    return {number: f"COCO_val2014_{number:012}.jpg" for number in range(count)}


def test_a_small_file_is_described_whole_and_a_large_one_by_the_pinned_list(tmp_path: Path) -> None:
    small = choose_images(many_images(500), "hash", None, tmp_path)
    assert (small.rule, small.ids) == ("all", tuple(range(500)))
    large = choose_images(many_images(501), "hash", None, tmp_path)
    assert (large.rule, len(large.ids)) == ("hash", 500)
    assert len(choose_images(many_images(501), "all", None, tmp_path).ids) == 501


def test_the_pinned_list_depends_on_the_ids_only_and_limit_takes_its_beginning(tmp_path: Path) -> None:
    images = many_images(700)
    backwards = dict(reversed(images.items()))
    pinned = choose_images(images, "hash", None, tmp_path)
    assert pinned.ids == choose_images(backwards, "hash", None, tmp_path).ids
    assert choose_images(images, "hash", 10, tmp_path).ids == pinned.ids[:10]
    # the first of `for n in $(seq 0 699); do echo "$(printf "amp chair $n" | sha256sum) $n"; done | sort`
    assert pinned.ids[:3] == (439, 66, 59)


def test_the_list_is_known_by_the_hash_of_its_ids(tmp_path: Path) -> None:
    # printf '0\n1\n10\n2' | sha256sum of the ids sorted as texts
    sample = Sample(rule="all", ids=(2, 0, 1, 10))
    assert sample.to_json()["sha256"] == "8ff6bb16cdf4ed8934e0572a577394cdfb9bfc04ecebb6fc4b6e577c2f60ad7d"
    scores = scores_of(coco_folder(tmp_path), {"1": "A dog.", "2": "A cat."})
    assert scores["sample"] == {"rule": "all", "n": 2, "sha256": hashlib.sha256(b"1\n2").hexdigest()}


def test_popes_images_are_taken_if_its_files_are_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path / "home"))
    assert resolve_sample("auto", tmp_path) == "hash"
    with pytest.raises(AmpError, match="POPE was not downloaded"):
        choose_images(many_images(501), "pope", None, tmp_path)
    downloaded = tmp_path / "home" / "benchmarks" / "pope"
    downloaded.mkdir(parents=True)
    rows = [{"image": f"COCO_val2014_{n:012}.jpg", "text": "Is there a dog?", "label": "no"} for n in (7, 3, 7)]
    (downloaded / "coco_pope_random.json").write_text("\n".join(json.dumps(row) for row in rows))
    assert resolve_sample("auto", tmp_path) == "pope"
    assert resolve_sample("hash", tmp_path) == "hash"
    assert sorted(choose_images(many_images(501), "pope", None, tmp_path).ids) == [3, 7]
    assert len(choose_images(many_images(501), "pope", 1, tmp_path).ids) == 1
    others = {number: f"{number}.png" for number in range(1000, 1501)}
    with pytest.raises(AmpError, match="one of POPE's"):
        choose_images(others, "pope", None, tmp_path)


def test_captions_in_chairs_own_format_are_read(tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "data")
    file = tmp_path / "captions.jsonl"
    file.write_text('{"image_id": 1, "caption": "A dog."}\n{"image_id": 2, "caption": "A dog."}\n')
    settings = EvalSettings(benchmark="chair", data=data, answers=file, out=tmp_path / "out")
    assert run_benchmark(settings).scores["chair_s"] == 1 / 2


@pytest.mark.parametrize(
    "content", ["[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": [], "categories": []}']
)
def test_a_file_that_is_no_instances_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(content)
    with pytest.raises(AmpError, match="not a COCO instances file"):
        chair.load(tmp_path, EvalSettings(benchmark="chair", out=tmp_path))


def test_words_are_counted() -> None:
    assert count_words("A dog's well-worn toy, 3 cars.") == 6
