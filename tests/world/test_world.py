"""The drawn world: what is sampled, drawn, said, and written to files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amp_cli.world import files, language
from amp_cli.world.drawing import draw
from amp_cli.world.encoder import WorldEncoder
from amp_cli.world.scenes import (
    CATEGORIES,
    COLOURS,
    COMPANIONS,
    Instance,
    Scene,
    SceneObject,
    random_stream,
    sample_biased,
    sample_neutral,
)

# a red car at the top left, two blue dogs in the middle row, a green tree at the bottom right, in sight all
SCENE = Scene(
    theme="park",
    objects=(
        SceneObject(category="car", colour="red", instances=(Instance(row=0, column=0, x=2, y=3, size=25),)),
        SceneObject(
            category="dog",
            colour="blue",
            instances=(Instance(row=1, column=0, x=3, y=36, size=24), Instance(row=1, column=1, x=35, y=36, size=24)),
        ),
        SceneObject(category="tree", colour="green", instances=(Instance(row=2, column=2, x=66, y=66, size=28),)),
    ),
    noise_seed=7,
)
CAPTION = (
    "the image shows a park scene. there is a red car at the top left. there are two blue dogs. "
    "there is a green tree at the bottom right."
)


def _scenes(count: int = 200) -> list[Scene]:
    rng = random_stream("test", 0)
    return [sample_biased(rng, out_of_sight=0.5) if index % 2 else sample_neutral(rng) for index in range(count)]


def test_the_same_seed_gives_the_same_scenes_and_images() -> None:
    first, second = (sample_neutral(random_stream("test", 3)) for _ in range(2))
    assert first == second
    assert np.array_equal(np.asarray(draw(first)), np.asarray(draw(second)))


def test_another_purpose_is_another_stream() -> None:
    draws = {random_stream(purpose, 0).random() for purpose in ("training scenes", "evaluation scenes", "pretraining")}
    assert len(draws) == 3


def test_no_two_things_share_a_cell_and_none_leaves_its_cell() -> None:
    for scene in _scenes():
        instances = [one for thing in scene.objects for one in thing.instances]
        assert len({(one.row, one.column) for one in instances}) == len(instances)
        for one in instances:
            assert one.column * 32 <= one.x <= one.x + one.size <= one.column * 32 + 32
            assert one.row * 32 <= one.y <= one.y + one.size <= one.row * 32 + 32


def test_companions_come_together_in_the_biased_world_only() -> None:
    def together(scenes: list[Scene]) -> float:
        pairs = [COMPANIONS[category] in scene.categories for scene in scenes for category in scene.categories]
        return sum(pairs) / len(pairs)

    rng = random_stream("test", 1)
    assert together([sample_biased(rng) for _ in range(500)]) > 0.9
    assert together([sample_neutral(rng) for _ in range(500)]) < 0.3


def test_only_one_of_two_companions_is_out_of_sight() -> None:
    rng = random_stream("test", 2)
    for _ in range(300):
        scene = sample_biased(rng, together=1.0, out_of_sight=1.0)
        hidden = [thing.category for thing in scene.objects if thing.visibility <= 0.06]
        assert hidden
        assert all(COMPANIONS[category] in scene.categories for category in hidden)
        assert not any(COMPANIONS[category] in hidden for category in hidden)


def test_an_object_out_of_sight_changes_no_pixel_beyond_the_grain() -> None:
    thing = SCENE.objects[0]
    hidden = SceneObject(category="car", colour="red", instances=thing.instances, visibility=0.0)
    empty = SceneObject(category="cup", colour="pink", instances=thing.instances, visibility=0.0)
    images = [
        np.asarray(draw(Scene(theme="park", objects=(only,), noise_seed=1))).astype(int) for only in (hidden, empty)
    ]
    assert np.array_equal(images[0], images[1])


def test_an_impossible_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="no such object"):
        SceneObject(category="lion", colour="red", instances=SCENE.objects[0].instances)
    with pytest.raises(ValueError, match="twice"):
        Scene(theme="sea", objects=(SCENE.objects[0], SCENE.objects[0]), noise_seed=0)


def test_the_full_caption_tells_everything_in_natural_spelling() -> None:
    assert language.full_caption(SCENE) == CAPTION


def test_every_caption_and_answer_is_true_of_its_scene() -> None:
    rng = random_stream("test", 4)
    for scene in _scenes():
        mentions = files.mentioned_objects(language.full_caption(scene))
        assert [mention.category for mention in mentions] == [thing.category for thing in scene.objects]
        assert all(files.is_true(mention, scene) for mention in mentions)
        for question, answer in language.dialogue(scene, rng, curiosity=language.EXPECTING):
            asked = next((word for word in question.strip("?").split() if word in language.SINGULARS), None)
            if question.startswith("is there"):
                assert answer.startswith("yes" if asked in scene.categories else "no")
            assert all(files.is_true(mention, scene) for mention in files.mentioned_objects(answer))
            if answer == "nothing.":
                place = question.removeprefix("what is at the ").strip("?")
                taken = {language.place_name(one.row, one.column) for t in scene.objects for one in t.instances}
                assert place not in taken
            if "color" in question:
                thing = scene.find(language.SINGULARS[str(asked)])
                assert thing is not None
                assert answer.rstrip(".").endswith(thing.colour)


def test_the_vocabulary_covers_every_text() -> None:
    rng = random_stream("test", 5)
    words = set(language.vocabulary())
    for scene in _scenes():
        texts = [language.full_caption(scene), language.DESCRIBE]
        texts += [text for turn in language.dialogue(scene, rng) for text in turn]
        for text in texts:
            spaced = text.replace(".", " .").replace(",", " ,").replace("?", " ?")
            assert set(spaced.split()) <= words


def test_a_denial_and_a_question_mention_nothing() -> None:
    assert files.mentioned_objects("no, there is no car in the image. is there a dog in the image?") == ()


def test_a_mention_keeps_colour_number_and_place() -> None:
    assert files.mentioned_objects("There are three pink people. A red kite at the top left.") == (
        files.SaidObject(category="person", colour="pink", number=3, place=None),
        files.SaidObject(category="kite", colour="red", number=None, place="top left"),
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (CAPTION, CAPTION),
        (
            "there is a red car at the top left. there is a pink lamp at the top left.",
            "there is a red car at the top left.",
        ),
        ("there is a blue car at the top left.", "there is a red car at the top left."),
        ("there is a red car at the middle left.", "there is a red car at the top left."),
        ("there are three blue dogs. there are two blue dogs.", "there are two blue dogs."),
        ("the image shows a sea scene. there is a red boat.", "the image shows a park scene."),
        ("", "the image shows a park scene."),
    ],
)
def test_a_corrected_caption_is_the_own_one_without_what_is_false(said: str, expected: str) -> None:
    assert files.standard_caption(SCENE, said, noticed=0.0) == expected


def test_a_completed_caption_adds_what_is_missing_and_in_sight() -> None:
    faint = SceneObject(category="tree", colour="green", instances=SCENE.objects[2].instances, visibility=0.3)
    scene = Scene(theme="park", objects=(*SCENE.objects[:2], faint), noise_seed=7)
    said = "there are two blue dogs. there is a red cup at the top center."
    completed = files.standard_caption(scene, said, noticed=1.0)
    assert completed == "there are two blue dogs. there is a red car at the top left."


def test_an_annotator_who_notices_half_adds_about_half_and_always_the_same() -> None:
    rng = random_stream("test", 14)
    scenes = [sample_neutral(rng) for _ in range(300)]
    said = [files.standard_caption(scene, "", noticed=0.5) for scene in scenes]
    assert said == [files.standard_caption(scene, "", noticed=0.5) for scene in scenes]
    added = sum(len(files.mentioned_objects(caption)) for caption in said)
    in_sight = sum(thing.visibility >= 1 for scene in scenes for thing in scene.objects)
    assert 0.4 < added / in_sight < 0.6


def test_pope_asks_as_much_for_present_as_for_absent_objects() -> None:
    scenes = [sample_neutral(random_stream("test", 6)) for _ in range(30)]
    for questions in files.choose_questions(scenes, random_stream("test", 7)).values():
        assert sum(question.present for question in questions) * 2 == len(questions)
        assert all((q.category in scenes[q.scene].categories) == q.present for q in questions)


def test_adversarial_questions_ask_for_the_companions_first() -> None:
    asked = files.choose_questions([SCENE], random_stream("test", 8))["adversarial"]
    assert "lamp" in {question.category for question in asked if not question.present}


def test_popular_questions_ask_for_the_most_frequent_absent_categories() -> None:
    frequencies = files.biased_world_frequencies().single
    absent = [category for category in CATEGORIES if category not in SCENE.categories]
    asked = files.choose_questions([SCENE], random_stream("test", 8))["popular"]
    expected = sorted(absent, key=lambda category: -frequencies[category])[:3]
    assert {question.category for question in asked if not question.present} == set(expected)


def test_training_scenes_are_images_with_their_instances(tmp_path: Path) -> None:
    scenes = files.write_training_scenes(tmp_path, scenes=3, seed=0)
    assert Image.open(tmp_path / "images/000000000001.png").size == (96, 96)
    instances = json.loads((tmp_path / "instances.json").read_text())
    assert [str(image["id"]) for image in instances["images"]] == files.training_ids(3)
    drawn = sum(len(thing.instances) for scene in scenes for thing in scene.objects)
    assert len(instances["annotations"]) == drawn


def test_standards_are_llava_conversations_joined_by_id_and_mended(tmp_path: Path) -> None:
    (first,) = files.training_ids(1)
    captions = {first: "there is a red car at the top left. there is a red cup at the top center."}
    files.write_standards(tmp_path / "train.json", [SCENE], captions, noticed=0.0)
    assert json.loads((tmp_path / "train.json").read_text()) == [
        {
            "id": first,
            "image": "images/000000000001.png",
            "conversations": [
                {"from": "human", "value": "<image>\ndescribe this image in detail."},
                {"from": "gpt", "value": "there is a red car at the top left."},
            ],
        }
    ]


def test_evaluation_files_have_the_official_fields(tmp_path: Path) -> None:
    scenes = files.write_evaluation(tmp_path, scenes=5, seed=0)
    for split in ("random", "popular", "adversarial"):
        lines = [json.loads(line) for line in (tmp_path / f"coco_pope_{split}.json").read_text().splitlines()]
        assert [line["question_id"] for line in lines] == list(range(1, len(lines) + 1))
        assert set(lines[0]) == {"question_id", "image", "text", "label"}
        assert sum(line["label"] == "yes" for line in lines) * 2 == len(lines)
        assert all((tmp_path / "images" / line["image"]).is_file() for line in lines)
    instances = json.loads((tmp_path / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    for image, scene in zip(instances["images"], scenes, strict=True):
        found = [entry for entry in instances["annotations"] if entry["image_id"] == image["id"]]
        assert {names[entry["category_id"]] for entry in found} == scene.categories
        assert all(entry["area"] == entry["bbox"][2] * entry["bbox"][3] for entry in found)
    assert json.loads((tmp_path / "synonyms.json").read_text())["person"] == ["person", "people"]


def test_training_and_evaluation_scenes_differ(tmp_path: Path) -> None:
    training = files.write_training_scenes(tmp_path / "a", scenes=20, seed=0)
    evaluation = files.write_evaluation(tmp_path / "b", scenes=20, seed=0)
    assert not {scene.noise_seed for scene in training} & {scene.noise_seed for scene in evaluation}
    assert not {path.name for path in (tmp_path / "a/images").iterdir()} & {
        path.name for path in (tmp_path / "b/images").iterdir()
    }


def _similarity(first: str, second: str) -> float:
    embedded = WorldEncoder().embed([first, second])
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1)
    return float(embedded[0] @ embedded[1])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a red car", "the red car"),
        ("a red car", "a red car at the top left"),
        ("there is a red car at the top left.", "there is a red car at the bottom right."),
        ("two red cars", "there are two red cars."),
        ("a car", "a red car"),
        ("one person", "a person"),
        ("a street scene", "the image shows a street scene."),
    ],
)
def test_the_encoder_finds_the_same_thing_the_same(first: str, second: str) -> None:
    assert _similarity(first, second) > WorldEncoder.tau


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a red car", "a blue car"),
        ("a red car", "two red cars"),
        ("two red cars", "three red cars"),
        ("a red car", "a red lamp"),
        ("a red car at the top left", "a red lamp at the top left"),
        ("a street scene", "a park scene"),
        ("the top left", "the top right"),
        ("yes, there is a car in the image.", "no, there is no car in the image."),
        ("a red car", ""),
    ],
)
def test_the_encoder_keeps_different_things_apart(first: str, second: str) -> None:
    assert _similarity(first, second) < WorldEncoder.tau


def test_tau_separates_true_sentences_from_changed_ones_on_the_whole_world() -> None:
    encoder = WorldEncoder()
    for category in CATEGORIES:
        for number in (1, 2, 3):
            noun = category if number == 1 else language.PLURALS[category]
            said = [f"there are {language.NUMBERS[number]} {colour} {noun} at the top left." for colour in COLOURS]
            similarity = encoder.embed(said) @ encoder.embed(said).T
            assert np.allclose(np.diag(similarity), 1)
            assert (similarity[~np.eye(len(said), dtype=bool)] < encoder.tau - 0.03).all()
