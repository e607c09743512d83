"""Every foreign format: what its records become, told apart by their content, and what is refused and why."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.formats.draft import Choices
from amp_cli.preferences.formats.formats import FORMATS, detect_format, find_format
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.reading import read_items
from amp_cli.records import PreferenceItem
from tests.support.prefs_formats import BAD, EXAMPLES, GOOD, Q, messages, rated, turns, write_json, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "dog.png")
    return tmp_path


def read(folder: Path, *records: dict[str, Any], format: str = "auto") -> list[PreferenceItem | LeftOut]:
    return list(read_items(write_json(folder / "data.json", list(records)), format=format))


def item(folder: Path, *records: dict[str, Any], format: str = "auto") -> PreferenceItem:
    found = read(folder, *records, format=format)[0]
    assert isinstance(found, PreferenceItem), found
    return found


def reason(folder: Path, record: dict[str, Any], format: str) -> str:
    (found,) = read_items(write_lines(folder / "data.jsonl", [record]), format=format)
    assert isinstance(found, LeftOut), found
    return found.reason


def shown(found: PreferenceItem | LeftOut) -> tuple[Any, ...]:
    assert isinstance(found, PreferenceItem), found
    return (found.images, found.questions, *(level.answers for level in found.levels))


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_format_is_told_by_its_content(name: str) -> None:
    assert detect_format(EXAMPLES[name], "data").name == name


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_record_of_a_format_passes_for_one_of_another(name: str) -> None:
    for record in EXAMPLES[name]:
        assert [one.name for one in FORMATS.values() if one.describes(record)] == [name]


def test_every_format_has_an_example() -> None:
    assert set(EXAMPLES) == set(FORMATS)


DOG = ("dog.png",)
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "amp": [(DOG, (Q, "What colour?"), (GOOD, "Green."), (BAD, "Green."))],
    "amp-authors": [
        (DOG, (Q, "Sure?"), (GOOD, "Yes."), (GOOD, "No."), (BAD, "No.")),
        ((), ("Two and two?",), ("Four.",), ("Five.",)),
    ],
    "rlaif-v": [(DOG, (Q,), ("A",), ("B",), ("C",))],
    "vlfeedback": [(DOG, (Q,), ("Best.",), ("Second.",), ("Third.",), ("Worst.",))] * 2,
    "llava-rlhf": [(DOG, (Q, "Sure?"), (GOOD, "Yes."), (GOOD, "No."))],
    "povid": [(DOG, (Q,), (GOOD,), (BAD,))],
    "ha-dpo": [
        (("VG_100K/61.jpg",), ("Is there a dog?",), ("Yes.",), ("No.",)),
        (("VG_100K/62.jpg",), ("Describe this image in detail.",), (GOOD,), (BAD,)),
        (("VG_100K/62.jpg",), ("Describe this image in detail.",), ("One dog.",), ("One cat.",)),
    ],
    "mdpo": [(DOG, (Q,), (GOOD,), (BAD,))],
    "plain-dpo": [(DOG, (Q,), (GOOD,), (BAD,))],
    "mm-rlhf": [(DOG, (Q,), ("Top.",), ("Middle.",), ("Bottom.",)), (DOG, (Q,), ("One.",), ("Two.",))],
    "trl": [
        (DOG, (Q,), (GOOD,), (BAD,)),
        (DOG, (Q,), (GOOD,), (BAD,)),
        (DOG, ("What?",), (GOOD,), (BAD,)),
        ((), ("Two and two?",), ("Four.",), ("Five.",)),
    ],
    "ms-swift": [(DOG, (Q,), (GOOD,), (BAD,)), (DOG, (Q, "Sure?"), (GOOD, "Yes."), (BAD, "No."))],
    "llama-factory": [(DOG, (Q, "Sure?"), (GOOD, "Yes."), (GOOD, "No."))],
    "vision-feedback": [(DOG, (Q,), (BAD,), (GOOD,))],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_examples_become_these_items(folder: Path, name: str) -> None:
    records = EXAMPLES[name]
    if name == "trl":  # two of its examples say the same in two ways, but for the system text
        records = [*records[:1], *records[2:]]
        assert shown(item(folder, EXAMPLES[name][1])) == EXPECTED[name][1]
        expected = [*EXPECTED[name][:1], *EXPECTED[name][2:]]
    else:
        expected = EXPECTED[name]
    assert [shown(found) for found in read(folder, *records)] == expected


def test_the_two_formats_with_output_1_are_told_apart_by_its_type(folder: Path) -> None:
    assert shown(item(folder, EXAMPLES["amp-authors"][0]))[1:3] == ((Q, "Sure?"), (GOOD, "Yes."))
    assert shown(item(folder, EXAMPLES["llava-rlhf"][0]))[2] == (GOOD, "Yes.")


def test_rlhf_v_text_is_read_as_json_or_as_an_object_and_images_in_three_ways(folder: Path, tmp_path: Path) -> None:
    source = write_json(folder / "data.json", EXAMPLES["rlhf-v"])
    result = import_preferences(source, tmp_path / "out")
    assert (result.items, result.images) == (3, 2)
    items = list(read_items(result.file))
    assert [found.id for found in items] == ["rlhf-v-0", "rlhf-v-1", "rlhf-v-2"]
    images = [shown(found)[0][0] for found in items]
    assert [Image.open(tmp_path / "out" / name).getpixel((0, 0)) for name in images[:2]] == [(255, 0, 0), (0, 0, 255)]
    assert images[2] == str(folder / "dog.png")
    assert shown(items[2])[1:] == (("Who?",), ("He.",), ("She.",))
    assert items[0].meta["origin_split"] == {"model": "muffin", "type": "question_answering"}


def test_standard_responses_are_no_preferences_and_the_error_says_what_to_do(folder: Path) -> None:
    with pytest.raises(AmpError, match="one response per question") as error:
        read(folder, *EXAMPLES["llava-instruct"])
    assert "amp generate-prefs" in str(error.value.hint)


def test_standard_responses_become_a_source_file(folder: Path, tmp_path: Path) -> None:
    from amp_cli.preferences.sources import read_sources

    result = import_preferences(write_json(folder / "data.json", EXAMPLES["llava-instruct"]), tmp_path / "out")
    assert (result.file.name, result.levels) == ("sources.jsonl", {})
    items = read_sources(result.file).items
    assert [(one.questions, one.answers, len(one.images)) for one in items] == [
        ((Q,), (GOOD,), 1),
        (("Two and two?",), ("Four.",), 0),
        ((Q,), (GOOD,), 1),
    ]


def vl(*completions: dict[str, Any]) -> dict[str, Any]:
    return {"id": "x", "prompt": Q, "img_path": "dog.png", "completions": list(completions)}


def test_ratings_are_weighted(folder: Path) -> None:
    record = vl(rated("5", "1", "3", "Helpful.", "a"), rated("1", "4", "3", "Faithful.", "b"))
    source = write_json(folder / "data.json", [record])
    for weights, best, mean in (
        ({"helpfulness": 1, "faithfulness": 1, "ethics": 1}, "Helpful.", 3.0),  # 9/3 against 8/3
        ({"faithfulness": 1}, "Faithful.", 4.0),
        ({"helpfulness": 1, "faithfulness": 3}, "Faithful.", 3.25),  # (1 + 12) / 4 against (5 + 3) / 4
    ):
        out = folder / f"out-{mean}"
        result = import_preferences(source, out, choices=Choices(weights=weights))
        (found,) = read_items(result.file)
        assert shown(found)[2] == (best,)
        assert found.meta["ratings"][0] == pytest.approx(mean)


def test_equal_ratings_are_merged_or_dropped(folder: Path) -> None:
    tied = vl(
        rated("3", "4", "5", "First.", "a"), rated("5", "4", "3", "Tied.", "b"), rated("1", "1", "1", "Low.", "c")
    )
    source = write_json(
        folder / "data.json", [{**tied, "completions": [*tied["completions"], rated("2", "2", "2", "Mid.", "d")]}]
    )
    merged = import_preferences(source, folder / "merged")
    assert shown(next(iter(read_items(merged.file))))[2:] == (("First.",), ("Mid.",), ("Low.",))
    assert merged.warnings == ("an answer with the same rating as another was left out (1 time)",)
    dropped = import_preferences(source, folder / "dropped", choices=Choices(ties="drop"))
    assert shown(next(iter(read_items(dropped.file))))[2:] == (("Mid.",), ("Low.",))
    assert "(2 times)" in dropped.warnings[0]


def test_an_answer_whose_rating_is_no_number_is_left_out_and_counted(folder: Path) -> None:
    record = vl(
        rated("N/A", "5", "5", "Unrated.", "a"), rated("4", "4", "4", "A.", "b"), rated("3", "3", "3", "B.", "c")
    )
    result = import_preferences(write_json(folder / "data.json", [record]), folder / "out")
    (found,) = read_items(result.file)
    assert shown(found)[2:] == (("A.",), ("B.",))
    assert found.meta["given_ratings"]["a"]["helpfulness"] == "N/A"
    assert result.warnings == ("an answer without a number for its rating was left out (1 time)",)


def test_a_rating_that_does_not_count_may_be_no_number(folder: Path) -> None:
    record = vl(rated("N/A", "5", "5", "A.", "a"), rated("4", "4", "4", "B.", "b"))
    source = write_json(folder / "data.json", [record])
    result = import_preferences(source, folder / "out", choices=Choices(weights={"faithfulness": 1}))
    assert shown(next(iter(read_items(result.file))))[2:] == (("A.",), ("B.",))


def test_ranks_count_from_the_best_and_scores_from_the_worst(folder: Path) -> None:
    inside = [{"text": "Two.", "rank": 2}, {"text": "One.", "rank": 1}]
    assert shown(item(folder, {"prompt": Q, "image": "dog.png", "responses": inside}))[2:] == (("One.",), ("Two.",))
    beside = {"prompt": Q, "image": "dog.png", "responses": ["Low.", "High."], "scores": ["1", "2.5"]}
    assert shown(item(folder, beside))[2:] == (("High.",), ("Low.",))


def test_an_mdpo_prompt_of_several_rounds_is_taken_apart(folder: Path) -> None:
    prompt = "A chat. USER: <image>\nOne? ASSISTANT: 1.</s>USER: Two? ASSISTANT:"
    found = item(folder, {**EXAMPLES["mdpo"][0], "prompt": prompt})
    assert shown(found)[1:] == (("One?", "Two?"), ("1.", GOOD), ("1.", BAD))
    assert found.frame.system == "A chat."


def test_a_prompt_without_role_words_is_the_question(folder: Path) -> None:
    assert shown(item(folder, {**EXAMPLES["mdpo"][0], "prompt": "USERS: what?"}))[1] == ("USERS: what?",)


def test_named_entries_of_one_object_are_descriptions_by_image_id(folder: Path) -> None:
    path = write_json(folder / "desc_data.json", {"7": {"chosen": ["G", "g"], "rejected": ["B"]}})
    (found,) = read_items(path)
    assert (found.id, shown(found)) == (
        "ha-dpo-desc-7-0",
        (("VG_100K/7.jpg",), ("Describe this image in detail.",), ("G",), ("B",)),
    )
    result = import_preferences(path, folder / "out")
    assert "a wording without a counterpart was left out (1 time)" in result.warnings


def test_visual_genomes_other_folder_is_looked_into(folder: Path) -> None:
    (folder / "VG_100K_2").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "VG_100K_2" / "61.jpg")
    assert item(folder, EXAMPLES["ha-dpo"][0]).images == ("VG_100K_2/61.jpg",)


def test_completions_of_several_turns_are_rounds(folder: Path) -> None:
    record = {
        "images": ["dog.png"],
        "prompt": messages(Q),
        "chosen": messages("", GOOD, "Sure?", "Yes.")[1:],
        "rejected": messages("", BAD, "Sure?", "No.")[1:],
    }
    assert shown(item(folder, record))[1:] == ((Q, "Sure?"), (GOOD, "Yes."), (BAD, "No."))


def test_a_message_may_bring_its_image_along(folder: Path) -> None:
    content = [{"type": "image", "image": "dog.png"}, {"type": "text", "text": Q}]
    record = {"prompt": [{"role": "user", "content": content}], "chosen": GOOD, "rejected": BAD}
    assert shown(item(folder, record, format="trl"))[:2] == (DOG, (Q,))


def test_several_rejected_responses_give_a_pair_each(folder: Path) -> None:
    record = {**EXAMPLES["ms-swift"][0], "rejected_response": [BAD, "A cow."], "id": "s"}
    found = read(folder, record)
    assert [(one.id, shown(one)[3]) for one in found] == [("s", (BAD,)), ("s-2", ("A cow.",))]


def test_the_system_message_is_the_items_own(folder: Path) -> None:
    assert item(folder, EXAMPLES["llama-factory"][0]).frame.system == "Be brief."
    assert item(folder, EXAMPLES["trl"][0]).frame.system == "Be brief."
    beside = {"idx": 1, "system": "You are terse.", "question": "What colour is snow?", "chosen": GOOD, "rejected": BAD}
    assert item(folder, beside).frame.system == "You are terse."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("<image> What?", "What?"),
        ("Is <image> a dog?", "Is a dog?"),
        ("Two\nlines?", "Two\nlines?"),
        (" kept as it is ", " kept as it is "),
    ],
)
def test_image_tokens_go_and_the_rest_of_the_question_stays(folder: Path, question: str, expected: str) -> None:
    assert item(folder, {**EXAMPLES["plain-dpo"][0], "prompt": question}).questions == (expected,)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("amp", {"levels": []}, "needs at least 2"),
        ("amp", {"levels": [1, 2]}, "'levels' must be a list of objects"),
        ("amp", {"meta": 3}, "'meta' must be an object"),
        ("amp", {"levels": [{"answers": ["a", "b"], "accuracy": "high"}] * 2}, "'accuracy' of a level"),
        ("amp-authors", {"output_2": turns("Other?", "A.")}, "'output_2' asks other questions"),
        ("amp-authors", {"output_2": turns("<image>\n" + Q)}, "the last question of 'output_2' has no answer"),
        ("amp-authors", {"image": None}, "names no image"),
        ("rlhf-v", {"text": "{"}, "'text' is not valid JSON"),
        ("rlhf-v", {"text": json.dumps({"question": Q, "chosen": GOOD})}, "'rejected' is missing"),
        ("rlhf-v", {"image": {"bytes": None, "path": None}}, "'image' must have 'bytes' or 'path'"),
        ("rlhf-v", {"image": "data:image/png;base64,%%"}, "base64 is damaged"),
        ("rlaif-v", {"rejected": " "}, "empty answer"),
        ("vlfeedback", {"completions": [rated("4", "4", "4", "A.", "a")]}, "1 of 1 answers can be told apart"),
        ("vlfeedback", {"completions": "four"}, "'completions' must be a list"),
        ("llava-rlhf", {"preference": 0}, "'preference' must be 1 or 2, not 0"),
        ("llava-rlhf", {"preference": True}, "'preference' must be 1 or 2, not True"),
        ("llava-rlhf", {"output_2": {"from": "human", "value": "A."}}, "must be an answer of the assistant"),
        ("povid", {"rejected_conversations": turns("Other?", "A.")}, "asks other questions"),
        ("ha-dpo", {"correct": True}, "nothing to prefer"),
        ("ha-dpo", {"image_id": None}, "no 'image_id'"),
        ("mdpo", {"prompt": "USER: One? ASSISTANT: Answered."}, "ends with an answer"),
        ("plain-dpo", {"image": "https://x.org/dog.png"}, "is an address"),
        ("plain-dpo", {"image": "a\0b"}, "is not the path"),
        ("plain-dpo", {"prompt": "<image>"}, "question of round 1 is empty"),
        ("plain-dpo", {"chosen": "half \ud83d a character"}, "lone surrogate"),
        ("mm-rlhf", {"responses": [{"text": "A", "score": 1}, {"text": "B", "rank": 1}]}, "cannot be compared"),
        ("trl", {"prompt": messages(Q, GOOD)}, "the user's was expected"),
        ("trl", {"chosen": 5}, "'chosen' must be a text or a list of turns"),
        ("ms-swift", {"rejected_images": ["other.png"]}, "'rejected_images' are other images"),
        ("ms-swift", {"messages": messages(Q)}, "the last question of 'messages' has no answer"),
        ("llama-factory", {"videos": ["a.mp4"]}, "video cannot be used"),
        ("llama-factory", {"conversations": turns(Q, GOOD)}, "must end with a question"),
        ("vision-feedback", {"conversations": "[]"}, "ends with 2 answers"),
        ("vision-feedback", {"preference_values": "x"}, "not valid JSON"),
    ],
)
def test_what_gives_no_item_is_refused_with_the_reason(
    folder: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    assert words in reason(folder, {**EXAMPLES[name][0], **changes}, name)


def test_an_unknown_format_is_one_error_that_lists_fields_and_formats(folder: Path) -> None:
    with pytest.raises(AmpError, match="fields prompt_text, best") as error:
        read(folder, {"prompt_text": "a", "best": "b"})
    assert "--format" in str(error.value.hint)
    assert "rlaif-v" in str(error.value.hint)


def test_a_file_that_fits_two_formats_equally_is_not_guessed(folder: Path) -> None:
    with pytest.raises(AmpError, match=r"could be (povid or mdpo|mdpo or povid)"):
        read(folder, EXAMPLES["povid"][0], EXAMPLES["mdpo"][0])


def test_a_few_odd_records_do_not_hide_the_format(folder: Path) -> None:
    found = read(folder, {"what": 1}, EXAMPLES["povid"][0], {**EXAMPLES["povid"][0], "id": "q"})
    assert isinstance(found[0], LeftOut)
    assert [type(one) for one in found[1:]] == [PreferenceItem, PreferenceItem]


def test_a_named_format_is_not_second_guessed(folder: Path) -> None:
    assert "'img_path'" not in reason(folder, EXAMPLES["povid"][0], "mdpo")


def test_formats_have_their_data_sets_names_too() -> None:
    assert find_format("silkie").name == "vlfeedback"
    assert find_format("sharegpt4v").name == "llava-instruct"
    with pytest.raises(AmpError, match="no format 'csv'"):
        find_format("csv")


def test_ids_that_repeat_are_numbered_and_exact_repetitions_refused(folder: Path) -> None:
    one = {"id": "x", **EXAMPLES["plain-dpo"][0]}
    other = {**one, "rejected": "A cow."}
    found = list(read_items(write_lines(folder / "data.jsonl", [one, other, one, other])))
    assert [(type(entry).__name__, entry.id) for entry in found] == [
        ("PreferenceItem", "x"),
        ("PreferenceItem", "x-2"),
        ("LeftOut", "x"),
        ("LeftOut", "x"),
    ]
    assert found[2].reason == "it repeats the item 'x'"


def test_our_own_file_is_read_as_it_is_even_where_ids_repeat(folder: Path) -> None:
    found = read(folder, EXAMPLES["amp"][0], EXAMPLES["amp"][0])
    assert [one.to_json() for one in found if isinstance(one, PreferenceItem)] == [EXAMPLES["amp"][0]] * 2


def test_an_item_without_an_id_gets_one_from_its_content(folder: Path) -> None:
    first, second = EXAMPLES["plain-dpo"][0], {**EXAMPLES["plain-dpo"][0], "chosen": "Other."}
    ids = [one.id for one in read(folder, first, second)]
    assert ids == [one.id for one in read(folder, second, first)][::-1]
    assert len(set(ids)) == 2


def test_the_help_names_every_format() -> None:
    shown = " ".join(CliRunner().invoke(app, ["prefs", "import", "--help"]).output.split())
    assert all(name in shown for name in FORMATS)
