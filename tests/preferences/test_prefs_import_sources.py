"""Where the records come from: lists, lines, tables, folders and the hub, whole and damaged."""

import json
from pathlib import Path

import pytest

from amp_cli.disk.left_out import LeftOut
from amp_cli.errors import AmpError
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.formats.source import open_source
from amp_cli.preferences.reading import read_items
from amp_cli.records import PreferenceItem
from tests.support.prefs_formats import EXAMPLES, image, write_json, write_lines, write_parquet

PAIR = EXAMPLES["plain-dpo"][0]
LINE = json.dumps(PAIR).encode()


def pairs(count: int) -> list[dict[str, str]]:
    return [{**PAIR, "chosen": f"Answer {number}."} for number in range(count)]


def chosen(source: Path | str, **options: str) -> list[str]:
    items = read_items(source, **options)
    return [item.levels[0].answers[0] if isinstance(item, PreferenceItem) else item.reason for item in items]


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_list_lines_and_a_table_give_the_same_items(tmp_path: Path) -> None:
    sources = (
        write_json(tmp_path / "a.json", pairs(3)),
        write_lines(tmp_path / "b.jsonl", pairs(3)),
        write_parquet(tmp_path / "c.parquet", pairs(3)),
    )
    listed, lined, tabled = (list(read_items(source)) for source in sources)
    assert listed == lined == tabled
    assert len(listed) == 3


def test_byte_order_mark_windows_line_ends_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    one, two = (json.dumps(record).encode() for record in pairs(2))
    assert chosen(written(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + one + b"\r\n\r\n" + two)) == [
        "Answer 0.",
        "Answer 1.",
    ]
    assert chosen(written(tmp_path / "a.json", b"\xef\xbb\xbf\r\n [" + one + b",\r\n" + two + b"]\r\n")) == [
        "Answer 0.",
        "Answer 1.",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (LINE[:-9], "line 2 is not valid JSON"),
        (b'{"a": "\xff"}', "line 2 is not valid UTF-8"),
        (b"17", "line 2 is not a JSON object"),
        (b"[" * 100_000, "line 2 is nested too deeply"),
    ],
)
def test_a_bad_line_is_refused_and_the_next_one_read(tmp_path: Path, line: bytes, words: str) -> None:
    found = list(
        read_items(written(tmp_path / "a.jsonl", LINE + b"\n" + line + b"\n" + LINE.replace(b"dog.", b"fox.")))
    )
    assert isinstance(found[1], LeftOut)
    assert words in found[1].reason
    assert found[1].id == "a-2"
    assert isinstance(found[2], PreferenceItem)


def test_a_list_that_breaks_off_gives_what_stands_before_and_says_where(tmp_path: Path) -> None:
    whole = json.dumps(pairs(3)).encode()
    torn = chosen(written(tmp_path / "torn.json", whole[:-40]))
    assert torn[:2] == ["Answer 0.", "Answer 1."]
    assert "cannot be read on from entry 3" in torn[2]


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"9" * 5000])
def test_a_rating_that_is_not_a_number_costs_that_answer_alone_in_a_list_as_in_lines(
    tmp_path: Path, number: bytes
) -> None:
    records = [{**EXAMPLES["vlfeedback"][0], "id": name} for name in "ab"]
    mark = [json.dumps(record).encode() for record in records]
    mark[0] = mark[0].replace(b'"Rating": "', b'"Rating": ' + number + b', "was": "', 1)
    listed = import_preferences(written(tmp_path / "a.json", b"[" + b", ".join(mark) + b"]"), tmp_path / "1")
    lined = import_preferences(written(tmp_path / "a.jsonl", b"\n".join(mark)), tmp_path / "2")
    assert listed.file.read_bytes() == lined.file.read_bytes()
    assert (listed.items, listed.rejected, listed.warnings) == (2, 0, lined.warnings)
    first, second = (json.loads(line)["levels"] for line in listed.file.read_text().splitlines())
    assert len(first) == len(second) - 1
    assert any("without a number for its rating" in warning for warning in listed.warnings)


def test_what_cannot_be_read_in_a_list_is_left_out_alone(tmp_path: Path) -> None:
    whole = json.dumps(pairs(3)).encode()
    broken = chosen(written(tmp_path / "latin.json", whole.replace(b"Answer 1", b"Answer \xe9")))
    assert broken[::2] == ["Answer 0.", "Answer 2."]
    assert broken[1].startswith("entry 2 is not valid UTF-8")


def test_what_is_no_object_in_a_list_is_refused_alone(tmp_path: Path) -> None:
    assert chosen(write_json(tmp_path / "a.json", [PAIR, 3, {**PAIR, "chosen": "B."}])) == [
        "A dog.",
        "entry 2 is not a JSON object",
        "B.",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n\r\n", "is empty"),
        (b"[]", "No record of"),
        (b"hello", "No record of"),
        (b'{\n "data": [1],\n "more": 2\n}\n', "neither a JSON list nor JSON lines"),
    ],
)
def test_a_file_without_records_is_one_clear_error(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(AmpError, match=words):
        chosen(written(tmp_path / "a.json", content))


def test_one_line_is_one_record_unless_it_names_entries(tmp_path: Path) -> None:
    assert chosen(write_lines(tmp_path / "one.jsonl", [PAIR])) == ["A dog."]
    named = {"5": {"chosen": ["G"], "rejected": ["B"]}, "6": {"chosen": ["g"], "rejected": ["b"]}}
    assert chosen(write_json(tmp_path / "named.json", named)) == ["G", "g"]
    (tmp_path / "pretty.json").write_text(json.dumps(named, indent=2))
    assert chosen(tmp_path / "pretty.json") == ["G", "g"]


def test_a_damaged_table_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="cannot be read as Parquet"):
        chosen(written(tmp_path / "a.parquet", b"PAR1 nothing"))
    with pytest.raises(AmpError, match="cannot be read as Arrow"):
        chosen(written(tmp_path / "a.arrow", b"nothing at all"))


def test_a_row_whose_text_is_no_utf8_is_refused_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    raw = pa.array([b"Good.", b"\xff\xfe", b"Fine."], pa.binary())
    table = pa.table({name: pa.array([PAIR[name]] * 3) for name in ("image", "prompt", "rejected")})
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    parquet.write_table(table.append_column("chosen", text), tmp_path / "a.parquet")
    assert chosen(tmp_path / "a.parquet") == ["Good.", "row 2 holds text that is not valid UTF-8", "Fine."]


def test_a_folder_is_all_its_files_and_its_images_are_found(tmp_path: Path) -> None:
    (tmp_path / "data" / "part").mkdir(parents=True)
    write_lines(tmp_path / "data" / "a.jsonl", pairs(1))
    write_json(tmp_path / "data" / "part" / "b.json", [{**PAIR, "chosen": "B."}])
    (tmp_path / "data" / "dataset_info.json").write_text("{}")
    (tmp_path / "data" / ".cache").mkdir()
    write_json(tmp_path / "data" / ".cache" / "c.json", pairs(1))
    items = [item for item in read_items(tmp_path / "data") if isinstance(item, PreferenceItem)]
    assert [item.images[0] for item in items] == [
        str(tmp_path / "data" / "dog.png"),
        str(tmp_path / "data" / "part" / "dog.png"),
    ]
    rooted = read_items(tmp_path / "data", image_root=tmp_path)
    assert [item.images for item in rooted if isinstance(item, PreferenceItem)] == [("dog.png",)] * 2


def test_a_folder_of_our_own_is_read_by_its_preferences(tmp_path: Path) -> None:
    import_preferences(write_json(tmp_path / "a.json", [*pairs(2), {**PAIR, "chosen": 1}]), tmp_path / "out")
    assert chosen(tmp_path / "out") == ["Answer 0.", "Answer 1."]


def test_a_folder_of_splits_wants_one_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", pairs(2))
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [{**PAIR, "chosen": "C."}])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [{**PAIR, "chosen": "T."}])
    with pytest.raises(AmpError, match="has the splits test, train"):
        chosen(tmp_path)
    result = import_preferences(tmp_path, tmp_path / "out", split="train")
    assert chosen(result.file) == ["Answer 0.", "Answer 1.", "C."]
    with pytest.raises(AmpError, match="has no split 'dev'"):
        open_source(tmp_path / "data", split="dev")
    with pytest.raises(AmpError, match="is one file"):
        open_source(tmp_path / "data" / "test-00000-of-00001.parquet", split="test")


def test_a_folder_that_datasets_saved_is_read(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_list(pairs(130)).save_to_disk(tmp_path / "saved")
    assert chosen(tmp_path / "saved") == [f"Answer {number}." for number in range(130)]


def test_a_datasets_file_with_images_inside_is_imported(tmp_path: Path) -> None:
    import datasets
    from PIL import Image

    rows = {"image": [image("red"), image("blue"), image("red")], "prompt": ["Q"] * 3}
    rows |= {"chosen": ["A", "B", "C"], "rejected": ["X", "Y", "Z"]}
    features = {name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image(), **features}))
    data.to_parquet(tmp_path / "a.parquet")
    result = import_preferences(tmp_path / "a.parquet", tmp_path / "out")
    items = [item for item in read_items(result.file) if isinstance(item, PreferenceItem)]
    colours = [Image.open(tmp_path / "out" / item.images[0]).getpixel((0, 0)) for item in items]
    assert colours == [(255, 0, 0), (0, 0, 255), (255, 0, 0)]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 2
    with pytest.raises(AmpError, match="holds its images inside") as error:
        chosen(tmp_path / "a.parquet")
    assert "amp prefs import" in str(error.value.hint)


def test_files_of_two_formats_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_json(tmp_path / "data" / "a.json", pairs(1))
    write_json(tmp_path / "data" / "b.json", EXAMPLES["povid"])
    with pytest.raises(AmpError, match=r"a.json' is plain-dpo, but '.*b.json' is povid"):
        chosen(tmp_path / "data")


def test_ha_dpos_folder_of_two_files_is_one_format(tmp_path: Path) -> None:
    (tmp_path / "hadpo").mkdir()
    write_json(tmp_path / "hadpo" / "desc_data.json", {"7": {"chosen": ["G"], "rejected": ["B"]}})
    write_json(tmp_path / "hadpo" / "pope_data.json", EXAMPLES["ha-dpo"][:1])
    assert chosen(tmp_path / "hadpo") == ["G", "Yes."]


def test_a_source_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="There is no file or folder"):
        chosen(tmp_path / "missing.jsonl")
    with pytest.raises(AmpError, match=r"There is no file or folder 'a/b.parquet'"):
        chosen("a/b.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AmpError, match="holds no data"):
        chosen(tmp_path / "empty")


def test_a_hub_id_without_network_is_one_clear_error() -> None:
    with pytest.raises(AmpError, match="'owner/no-such-data' ") as error:
        chosen("owner/no-such-data")
    assert error.value.hint


def test_a_hub_data_set_is_streamed_with_its_images_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = [{**PAIR, "image": {"bytes": image(), "path": None}}]
    write_parquet(tmp_path / "train.parquet", rows)
    local = datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), streaming=True)
    local["train"] = local["train"].cast_column("image", datasets.Image())
    asked = []

    def load(name: str, *, streaming: bool) -> object:
        asked.append((name, streaming))
        return local

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name: type("Info", (), {"sha": "abc"}))
    result = import_preferences("owner/data", tmp_path / "out")
    assert (result.format, result.items, result.images) == ("plain-dpo", 1, 1)
    assert set(asked) == {("owner/data", True)}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["identity"]["data"] == {"owner/data": "abc"}
    with pytest.raises(AmpError, match="has the splits train, no 'dev'"):
        import_preferences("owner/data", tmp_path / "other", split="dev")
