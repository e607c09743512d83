"""AMBER: descriptions and yes/no questions scored by hand, AMBER's own arithmetic, its files and answers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from amp_cli.benchmarks import amber
from amp_cli.benchmarks.amber_files import AmberDescription, read_score
from amp_cli.benchmarks.amber_words import AmberWords, MiniLMLikeness, SpacyLikeness
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.errors import AmpError
from amp_cli.records import Answer

TABLE = {
    "dog": [],
    "cat": [],
    "sofa": ["couch", "chair"],
    "chair": ["bench"],
    "person": ["people", "man"],
    "tree": ["bush"],
    "sunglasses": [],
    "orange": [],
    "television": ["TV"],
    "watch": [],
    "ship": ["boat"],
    "yacht": ["boat", "ship"],
}
QUESTIONS = [
    ("discriminative-hallucination", "Is there a dog in this image?", "yes"),
    ("discriminative-hallucination", "Is there a cat in this image?", "no"),
    ("discriminative-hallucination", "Is there a bench in this image?", "no"),
    ("discriminative-attribute-state", "Is the dog black in this image?", "no"),
    ("discriminative-attribute-number", "Are there two dogs in this image?", "yes"),
    ("discriminative-attribute-action", "Does the dog run in this image?", "no"),
    ("discriminative-relation", "Is there direct contact between the dog and the sofa?", "yes"),
    ("relation", "Is there direct contact between the dog and the person?", "no"),
]


class Pairs:
    """Words are alike if they are one of the given pairs, or equal."""

    description = "pairs of the test"

    def __init__(self, *pairs: str) -> None:
        self.pairs = {frozenset(pair.split()) for pair in pairs}

    def first_alike(self, word: str, candidates: Sequence[str]) -> int | None:
        found = (n for n, one in enumerate(candidates) if word == one or frozenset((word, one)) in self.pairs)
        return next(found, None)


def amber_folder(folder: Path) -> Path:
    """Two images to describe (ids 1 and 2), and eight questions (ids 3 to 10) about the first."""
    (folder / "query").mkdir(parents=True)
    describe = "Describe this image."
    queries = [{"id": number, "image": f"AMBER_{number}.jpg", "query": describe} for number in (1, 2)]
    annotations: list[dict[str, Any]] = [
        {"id": 1, "type": "generative", "truth": ["dog", "sofa"], "hallu": ["cat", "person"]},
        {"id": 2, "type": "generative", "truth": ["tree"], "hallu": ["dog"]},
    ]
    for number, (kind, question, truth) in enumerate(QUESTIONS, start=3):
        queries.append({"id": number, "image": "AMBER_1.jpg", "query": question})
        annotations.append({"id": number, "type": kind, "truth": truth})
    (folder / "query" / "query_all.json").write_text(json.dumps(queries))
    (folder / "annotations.json").write_text(json.dumps(annotations))
    (folder / "relation.json").write_text(json.dumps(TABLE))
    (folder / "safe_words.txt").write_text("orange\nlight\n")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return amber_folder(tmp_path / "data")


def scored(data: Path, texts: Sequence[str], rule: str, part: str, likeness: Pairs | None = None) -> dict[str, Any]:
    """Score one text for each item of a part, without a model."""
    items = amber.load(data, EvalSettings(benchmark="amber", out=data, part=part)).items
    for item in items:
        if "words" in item.reference:
            item.reference["words"] = AmberWords(TABLE, frozenset({"orange"}), likeness or Pairs())
    answers = [Answer(id=item.id, answers=(text,)) for item, text in zip(items, texts, strict=True)]
    scores = amber.summarise([amber.score(*pair, rule) for pair in zip(items, answers, strict=True)], rule)
    return {"benchmark": "amber", "rule": rule, **scores}


def test_a_description_by_hand(data: Path) -> None:
    texts = [
        "A dog lies on a couch. A cat and another cat watch it.",  # dog true, couch = sofa true, cat twice invented
        "A bush. A person sits there.",  # bush = tree true, person invented and not foreseen for this image
    ]
    block = scored(data, texts, "strict", "generative")["generative"]
    assert block["chair"] == 3 / 6  # invented nouns / nouns of the table
    assert block["cover"] == 3 / 3  # dog, sofa; tree
    assert block["hal"] == 2 / 2
    assert block["cog"] == 1 / 3  # of cat, person; dog came true the cat
    assert block["counts"] == {
        "with_invented": 2, "nouns": 6, "invented": 3, "truth": 3, "covered": 3, "foreseen": 3, "came_true": 1,
    }  # fmt: skip


def test_the_verb_watch_is_no_object_and_the_noun_is(data: Path) -> None:
    block = scored(data, ["People watch the dog.", "A watch lies there."], "strict", "generative")["generative"]
    assert block["counts"]["nouns"] == 3  # people, dog; watch


def test_denied_objects_count_only_under_the_official_rule_which_is_called_approximate(data: Path) -> None:
    texts = ["A dog on a sofa. There is no cat.", "A tree."]
    strict = scored(data, texts, "strict", "generative")["generative"]
    assert (strict["chair"], strict["cog"], strict["denied"], strict["rule"]) == (0.0, 0.0, 1, "strict")
    like_official = scored(data, texts, "official", "generative")["generative"]
    assert like_official["chair"] == 1 / 4.001  # denominators start at 0.001
    assert like_official["cover"] == 3 / 3.001
    assert like_official["hal"] == 1 - 1 / 2.001
    assert like_official["cog"] == 1 / 3.001
    assert like_official["rule"] == "approximate"
    assert not any("there is no dog" in one for one in like_official["differences"])
    assert any("there is no dog" in one for one in strict["differences"])


def test_descriptions_without_any_of_the_words_leave_chair_undefined_under_the_strict_rule(data: Path) -> None:
    assert scored(data, ["Nice.", ""], "strict", "generative")["generative"]["chair"] is None
    assert scored(data, ["Nice.", ""], "official", "generative")["generative"]["chair"] == 0.0


def match(nouns: str, truth: str, foreseen: str, *pairs: str) -> tuple[list[str], list[int], list[int]]:
    """Return the invented nouns, and the places of what is covered and what came true."""
    words = AmberWords(TABLE, frozenset({"orange"}), Pairs(*pairs))
    found = words.match(nouns.split(), truth.split(), foreseen.split())
    invented = [noun for noun, is_invented in zip(nouns.split(), found.invented, strict=True) if is_invented]
    places = [[place for place, is_met in enumerate(flags) if is_met] for flags in (found.covered, found.foreseen)]
    return invented, places[0], places[1]


def test_a_noun_covers_the_first_object_that_it_is_a_name_of() -> None:
    # what also counts as the objects stands before the objects: "ship" is a name of the yacht (1), then the ship (0)
    assert match("ship", "ship yacht", "") == ([], [1], [])
    assert match("dog dog", "dog dog", "") == ([], [0], [])  # of two dogs only the first is ever covered


def test_a_noun_like_a_true_object_is_not_invented_though_it_may_have_been_foreseen() -> None:
    assert match("cat", "dog", "cat") == (["cat"], [], [0])
    assert match("cat", "dog", "cat", "cat dog") == ([], [0], [0])
    assert match("cat", "tree", "dog", "cat dog") == (["cat"], [], [0])


def test_words_that_are_always_safe_are_neither_invented_nor_covering() -> None:
    assert match("orange", "dog", "orange") == ([], [], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two dogs wear sunglasses.", ["dog", "sunglasses"]),
        ("The tv shows a boat; BENCHES stand there.", ["TV", "boat", "bench"]),
        ("A zebra.", []),
        ("", []),
    ],
)
def test_nouns_are_found_in_the_plural_and_in_any_case(text: str, words: list[str]) -> None:
    assert [one.word for one in AmberWords(TABLE, frozenset(), Pairs()).find(text)] == words


def test_an_object_knows_its_place_in_the_text() -> None:
    text = "I see no dogs here."
    (dog,) = AmberWords(TABLE, frozenset(), Pairs()).find(text)
    assert (text[dog.start : dog.end], dog.denied) == ("dogs", True)


#             existence          state  number action relation
ANSWERS = ["Yes", "No", "Yes", "No", "No", "Yes", "Yes", "Maybe."]
# truth        yes    no    no     no    yes   no     yes    no


def test_yes_no_questions_by_hand_under_the_strict_rule(data: Path) -> None:
    summary = scored(data, ANSWERS, "strict", "discriminative")
    overall = summary["discriminative"]
    # "no" is the positive class. Right: 1 2 4 7 of the 7 that can be read; said no: 2 4 5, two of them rightly
    assert (overall["tp"], overall["fp"], overall["tn"], overall["fn"]) == (2, 1, 2, 2)
    assert overall["accuracy"] == 4 / 7
    assert overall["precision"] == 2 / 3
    assert overall["recall"] == 2 / 4
    assert overall["f1"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert (overall["n"], overall["unparsed"]) == (8, 1)
    types = summary["types"]
    assert types["existence"]["accuracy"] == 2 / 3
    assert types["existence"]["recall"] == 1 / 2
    assert types["attribute"]["n"] == 3
    assert types["attribute"]["accuracy"] == 1 / 3
    assert types["state"]["accuracy"] == 1.0
    assert types["number"]["recall"] is None  # there is no "no" among its truths
    assert types["relation"]["n"] == 2  # both of AMBER's names for the type
    assert types["relation"]["accuracy"] == 1.0
    assert summary["generative"] is None
    assert summary["amber_score"] is None


def test_yes_no_questions_by_hand_under_the_official_rule(data: Path) -> None:
    summary = scored(data, ANSWERS, "official", "discriminative")
    overall = summary["discriminative"]
    # "Maybe." is neither, so wrong: 4 of 8 right, and the truth is no for 5. Denominators start at 0.001
    assert overall["accuracy"] == 4 / 8.001
    assert overall["precision"] == 2 / 3.001
    assert overall["recall"] == 2 / 5.001
    # F1 is of 66.6 % (2 / 3.001 = 66.644...) and 40.0 % (39.992), over their sum + 0.0001
    assert overall["f1"] == pytest.approx(2 * 0.666 * 0.4 / (0.666 + 0.4 + 0.0001), abs=1e-12)
    assert overall["printed"] == {"accuracy": 50.0, "precision": 66.6, "recall": 40.0, "f1": 50.0}
    existence = summary["types"]["existence"]
    # said no once, rightly; truth no twice: precision 1 / 1.001 = 99.9 %, recall 1 / 2.001 = 50.0 %; the sum + 0.001
    assert existence["f1"] == pytest.approx(2 * 0.999 * 0.5 / (0.999 + 0.5 + 0.001), abs=1e-12)
    # three kinds, each denominator starting at 0.001
    assert summary["types"]["attribute"]["accuracy"] == pytest.approx(1 / 3.003, abs=1e-12)
    assert summary["types"]["number"]["recall"] == 0.0


def test_the_official_rule_takes_only_yes_and_no_as_they_stand(data: Path) -> None:
    texts = ["Yes.", "no", "No ", "No, it is white.", "Yes", "No", "Yes", "No"]
    assert scored(data, texts, "official", "discriminative")["discriminative"]["unparsed"] == 4
    strict = scored(data, texts, "strict", "discriminative")["discriminative"]
    assert (strict["unparsed"], strict["accuracy"]) == (0, 1.0)


def test_the_amber_score_is_the_mean_of_what_is_not_invented_and_f1(data: Path) -> None:
    texts = ["A dog on a sofa and a cat.", "A tree.", "Yes", "No", "No", "No", "Yes", "No", "Yes", "Yes"]
    summary = scored(data, texts, "strict", "all")
    # CHAIR 1/4; said no 4 times, all rightly, of 5: F1 = 2 * 4 / (4 + 5)
    assert summary["amber_score"] == pytest.approx((1 - 1 / 4 + 8 / 9) / 2)
    assert summary["n"] == 10
    low, high = summary["discriminative"]["ci95"]["accuracy"]
    assert low == high == 7 / 8  # all questions are about one image, and images are drawn


def test_a_score_survives_its_line_in_the_items_file(data: Path) -> None:
    items = amber.load(data, EvalSettings(benchmark="amber", out=data)).items
    for item in (items[0], items[3]):
        one = amber.score(item, Answer(id=item.id, answers=("No cat. A dog.",)), "strict")
        record = json.loads(json.dumps(one.to_json()))
        assert read_score(record) == one
    assert isinstance(
        read_score(items_record := amber.score(items[0], Answer(id="1", answers=("A cat",)), "strict").to_json()),
        AmberDescription,
    )
    assert (items_record["invented"], items_record["missed"]) == (["cat"], ["dog", "sofa"])


def test_a_run_over_ambers_own_answer_file_needs_no_model(data: Path, tmp_path: Path) -> None:
    texts = ["A dog on a couch.", "A tree.", *ANSWERS]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps([{"id": number, "response": text} for number, text in enumerate(texts, start=1)]))
    settings = EvalSettings(benchmark="amber", data=data, answers=file, out=tmp_path / "out", rule="official")
    scores = run_benchmark(settings).scores
    assert scores["discriminative"]["printed"]["accuracy"] == 50.0
    assert scores["generative"]["chair"] == 0.0
    again = EvalSettings(benchmark="amber", out=tmp_path / "out", only="score", rule="strict")
    assert run_benchmark(again).scores["discriminative"]["unparsed"] == 1
    relation = EvalSettings(benchmark="amber", data=data, answers=file, out=tmp_path / "relation", part="relation")
    assert run_benchmark(relation).scores["n"] == 2


def test_a_yes_no_question_gets_the_suffix_and_a_request_for_a_description_does_not(data: Path) -> None:
    settings = EvalSettings(benchmark="amber", out=data)
    items = amber.load(data, settings).items
    assert amber.ask(items[0], settings) == ("Describe this image.",)
    assert amber.ask(items[2], settings)[0].endswith("single word or phrase.")


def test_the_files_of_the_parts_do_where_the_whole_is_not(data: Path) -> None:
    whole = data / "query" / "query_all.json"
    queries = json.loads(whole.read_text())
    whole.unlink()
    (data / "query" / "query_discriminative-existence.json").write_text(json.dumps(queries[2:5]))
    loaded = amber.load(data, EvalSettings(benchmark="amber", out=data))
    assert [item.id for item in loaded.items] == ["3", "4", "5"]
    assert "generative" in loaded.warnings[0]
    with pytest.raises(AmpError, match="relation"):
        amber.load(data, EvalSettings(benchmark="amber", out=data, part="relation"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (
            "annotations.json",
            [{"id": 1, "type": "generative", "truth": ["dog"], "hallu": []}],
            "no annotation for id 2",
        ),
        ("annotations.json", [{"id": 1, "type": "guess", "truth": "yes"}], "'guess' is unknown"),
        ("annotations.json", [{"id": 1, "type": "relation", "truth": "perhaps"}], "perhaps"),
        ("relation.json", {"dog": [], "sofa": []}, "lacks the word 'cat'"),
        ("query/query_all.json", [{"id": 1, "query": "Describe this image."}], "record 1"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_record(data: Path, file: str, content: object, message: str) -> None:
    (data / file).write_text(json.dumps(content))
    with pytest.raises(AmpError, match=message):
        amber.load(data, EvalSettings(benchmark="amber", out=data))


def test_spacys_vectors_decide_where_they_are_and_a_word_without_one_is_like_itself_only(tmp_path: Path) -> None:
    import numpy as np
    import spacy

    pipeline = spacy.blank("en")
    for word, vector in (("boat", [1.0, 0.0]), ("ship", [0.9, 0.3]), ("tree", [0.0, 1.0])):
        pipeline.vocab.set_vector(word, np.array(vector, dtype=np.float32))
    pipeline.to_disk(tmp_path / "vectors")
    likeness = SpacyLikeness(str(tmp_path / "vectors"))
    assert likeness.first_alike("boat", ["tree", "ship", "boat"]) == 1  # cosine 0.9 / 0.949 = 0.949
    assert likeness.first_alike("tree", ["boat", "ship"]) is None  # cosines 0 and 0.316
    assert likeness.first_alike("unheard", ["boat", "unheard"]) == 1
    assert likeness.first_alike("boat", []) is None


def test_the_installed_encoder_knows_synonyms_and_tells_different_things_apart() -> None:
    likeness = MiniLMLikeness()
    alike = ["couch sofa", "bike bicycle", "airplane plane", "fridge refrigerator", "luggage baggage", "kid child"]
    different = ["dog cat", "man woman", "fork knife", "car truck", "sheep goat", "lion tiger", "beach sea"]
    assert all(likeness.first_alike(*_split(pair)) == 0 for pair in alike)
    assert all(likeness.first_alike(*_split(pair)) is None for pair in different)


def _split(pair: str) -> tuple[str, list[str]]:
    word, other = pair.split()
    return word, [other]


def test_the_tables_say_that_descriptions_are_scored_otherwise_than_by_ambers_script(data: Path) -> None:
    texts = ["A dog on a sofa and a cat.", "A tree.", *ANSWERS]
    described, asked = amber.tables(scored(data, texts, "official", "all"))
    assert "rule approximate" in described[0]
    assert described[2] == [
        ["2", "0.250\n0.000-0.333", "1.000\n1.000-1.000", "0.500\n0.000-1.000", "0.333\n0.000-0.500"]
    ]
    assert "rule official" in asked[0]
    assert "1 answers unparsed" in asked[0]
    assert [row[0] for row in asked[2]] == ["all", "existence", "attribute", "state", "number", "action", "relation"]
    sentence = amber.about(scored(data, texts, "official", "all"))
    assert "not scored by AMBER's own script" in sentence
    assert "pairs of the test" in sentence
    assert len(amber.tables(scored(data, ANSWERS, "strict", "discriminative"))) == 1
