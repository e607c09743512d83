"""`amp prefs export`: every layout as its readers want it, whole items only, and a folder that the hub understands."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.preferences.formats.export import Exported, ExportSettings, Pair, cut_pairs, export_file
from amp_cli.preferences.formats.hub import export_folder
from amp_cli.preferences.formats.importing import import_preferences
from amp_cli.preferences.mixing import Ingredient, MixSettings, mix
from amp_cli.preferences.reading import read_items
from amp_cli.records import Level, PreferenceItem


def level(*answers: str, source: str = "model") -> Level:
    return Level(answers=answers, source=source)


def item(item_id: str = "a", *, images: tuple[str, ...] = ("dog.png",), levels: int = 2) -> PreferenceItem:
    return PreferenceItem(
        id=item_id,
        images=images,
        questions=("What is this?",),
        levels=tuple(level(f"Answer {number}.", source=f"model {number}") for number in range(levels)),
    )


def dialogue(item_id: str = "d", *, shared: bool = True) -> PreferenceItem:
    first = "One." if shared else "Another."
    return PreferenceItem(
        id=item_id,
        images=("dog.png",),
        questions=("First?", "Second?"),
        levels=(level("One.", "Good."), level(first, "Bad.")),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    for name, colour in (("dog.png", "red"), ("cat.png", "blue"), ("copy.png", "red")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "source" / name)
    return tmp_path


def write(folder: Path, *items: PreferenceItem | dict[str, Any]) -> str:
    path = folder / "source" / "preferences.jsonl"
    records = [one if isinstance(one, dict) else one.to_json() for one in items]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def exported(folder: Path, to: str, name: str, *items: PreferenceItem, **options: Any) -> tuple[Exported, list[Any]]:
    out = folder / "out" / name
    result = export_file(ExportSettings(source=write(folder, *items), to=to, out=out, **options))
    text = out.read_text(encoding="utf-8")
    return result, json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("all", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
        ("adjacent", [(0, 1), (1, 2), (2, 3)]),
        ("best-vs-rest", [(0, 1), (0, 2), (0, 3)]),
    ],
)
def test_four_levels_are_cut_into_the_pairs_that_were_asked_for(pairing: str, expected: list[tuple[int, int]]) -> None:
    assert [(pair.better, pair.worse) for pair in cut_pairs(item(levels=4), pairing)] == expected


def test_only_items_with_more_pairs_than_one_get_the_levels_into_the_id() -> None:
    assert [pair.id for pair in cut_pairs(item(levels=2), "all")] == ["a"]
    assert [pair.id for pair in cut_pairs(item(levels=3), "adjacent")] == ["a-0-1", "a-1-2"]


def test_levels_that_say_the_same_in_every_round_still_have_a_last_round_to_compare() -> None:
    same = replace(dialogue(), levels=(level("One.", "Good."), level("One.", "Good.", source="other")))
    (pair,) = cut_pairs(same, "all")
    assert pair.shared_rounds == 1


def test_a_pair_in_the_wrong_order_is_refused() -> None:
    with pytest.raises(AmpError, match="no pair of levels 1 and 0"):
        Pair(item=item(), better=1, worse=0)


def test_trl_gets_blocks_with_a_place_for_the_image(folder: Path) -> None:
    _, (row,) = exported(folder, "trl", "t.jsonl", item())
    assert row == {
        "id": "a",
        "pair": [0, 1],
        "images": [str(folder / "source" / "dog.png")],
        "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}],
        "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Answer 0."}]}],
        "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "Answer 1."}]}],
    }


def test_a_trl_prompt_ends_where_the_answers_part(folder: Path) -> None:
    _, rows = exported(folder, "trl", "t.jsonl", dialogue("same"), dialogue("other", shared=False))
    roles = [[[turn["role"] for turn in row[part]] for part in ("prompt", "chosen", "rejected")] for row in rows]
    assert roles[0] == [["user", "assistant", "user"], ["assistant"], ["assistant"]]
    assert roles[1] == [["user"], ["assistant", "user", "assistant"], ["assistant", "user", "assistant"]]


def test_trl_parquet_holds_the_images_and_loads_as_images(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    out = folder / "out" / "t.parquet"
    source = write(folder, item("a", levels=3), item("b", images=()), item("c", images=("dog.png", "cat.png")))
    result = export_file(ExportSettings(source=source, to="trl", out=out))
    rows = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert (result.records, len(rows)) == (5, 5)
    assert [len(row["images"]) for row in rows] == [1, 1, 1, 0, 2]
    assert rows[4]["images"][1].getpixel((0, 0)) == (0, 0, 255)


def test_trl_itself_takes_both_files(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoProcessor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    from amp_cli.models.resolve import TINY

    collator = DataCollatorForVisionPreference(processor=AutoProcessor.from_pretrained(TINY))
    source = write(folder, item("a"), dialogue("d", shared=False))
    shapes = []
    for name, kind in (("t.parquet", "parquet"), ("t.jsonl", "json")):
        out = folder / "out" / name
        export_file(ExportSettings(source=source, to="trl", out=out))
        rows = load_dataset(kind, data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
        batch = collator([rows[0], rows[1]])
        shapes.append((tuple(batch["input_ids"].shape), tuple(batch["pixel_values"].shape)))
    assert shapes[0] == shapes[1]
    assert shapes[0][1] == (4, 3, 96, 96)


def test_ms_swift_gets_the_worse_answer_or_where_earlier_ones_differ_the_worse_dialogue(folder: Path) -> None:
    _, rows = exported(folder, "ms-swift", "s.jsonl", dialogue("same"), dialogue("other", shared=False))
    image = [str(folder / "source" / "dog.png")]
    assert rows[0] == {
        "id": "same",
        "pair": [0, 1],
        "messages": [
            {"role": "user", "content": "<image>First?"},
            {"role": "assistant", "content": "One."},
            {"role": "user", "content": "Second?"},
            {"role": "assistant", "content": "Good."},
        ],
        "rejected_response": "Bad.",
        "images": image,
    }
    assert [turn["content"] for turn in rows[1]["rejected_messages"]] == [
        "<image>First?",
        "Another.",
        "Second?",
        "Bad.",
    ]
    assert rows[1]["rejected_images"] == image
    assert "rejected_response" not in rows[1]


def test_llama_factory_gets_its_entry_and_keeps_the_others(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "dataset_info.json").write_text('{"other": {"file_name": "other.json"}}')
    result, rows = exported(folder, "llama-factory", "f.jsonl", dialogue("same"), dialogue("other", shared=False))
    assert rows == [
        {
            "id": "same",
            "pair": [0, 1],
            "conversations": [
                {"from": "human", "value": "<image>First?"},
                {"from": "gpt", "value": "One."},
                {"from": "human", "value": "Second?"},
            ],
            "chosen": {"from": "gpt", "value": "Good."},
            "rejected": {"from": "gpt", "value": "Bad."},
            "images": [str(folder / "source" / "dog.png")],
        }
    ]
    assert [item_id for item_id, _ in result.rejected] == ["other"]
    entries = json.loads((folder / "out" / "dataset_info.json").read_text())
    assert list(entries) == ["other", "f"]
    assert entries["f"]["file_name"] == "f.jsonl"
    assert entries["f"]["ranking"] is True


def test_llama_factory_images_below_the_file_are_named_from_its_folder(folder: Path) -> None:
    out = folder / "f.jsonl"
    export_file(ExportSettings(source=write(folder, item()), to="llama-factory", out=out))
    assert json.loads(out.read_text())["images"] == ["source/dog.png"]


def test_another_files_entry_in_dataset_info_is_not_replaced(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "dataset_info.json").write_text('{"f": {"file_name": "other.json"}}')
    with pytest.raises(AmpError, match="another entry 'f'"):
        exported(folder, "llama-factory", "f.jsonl", item())
    assert not (folder / "out" / "f.jsonl").exists()


def test_the_authors_get_whole_dialogues_best_first(folder: Path) -> None:
    _, entries = exported(folder, "amp-authors", "a.json", item(levels=3), dialogue(), item("t", images=()))
    assert list(entries[0]) == ["id", "image", "output_1", "output_2", "output_3"]
    assert entries[0]["output_3"] == [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "Answer 2."},
    ]
    assert [turn["value"] for turn in entries[1]["output_2"]] == ["<image>\nFirst?", "One.", "Second?", "Bad."]
    assert list(entries[2]) == ["id", "output_1", "output_2"]
    assert entries[2]["output_1"][0]["value"] == "What is this?"


def test_items_that_do_not_fit_are_left_out_and_listed(folder: Path) -> None:
    token = PreferenceItem(id="token", images=(), questions=("<image> What?",), levels=(level("a"), level("b")))
    result, entries = exported(
        folder,
        "amp-authors",
        "a.json",
        item("two", images=("dog.png", "cat.png")),
        token,
        item("gone", images=("x",)),
        item(),
    )
    assert [entry["id"] for entry in entries] == ["a"]
    listed = [json.loads(line) for line in result.rejections.read_text().splitlines()]
    assert [one["id"] for one in listed] == ["two", "token", "gone"]
    assert "2 images" in listed[0]["reason"]
    assert "<image>" in listed[1]["reason"]


def test_when_nothing_fits_nothing_is_written(folder: Path) -> None:
    with pytest.raises(AmpError, match="no item that can be exported; the first of 1: No image"):
        exported(folder, "ms-swift", "s.jsonl", item(images=("gone.png",)))
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize(("to", "name"), [("trl", "t.json"), ("ms-swift", "s"), ("amp-authors", "a.jsonl")])
def test_a_file_name_of_another_kind_is_refused(folder: Path, to: str, name: str) -> None:
    settings = ExportSettings(source=write(folder, item()), to=to, out=folder / name)
    with pytest.raises(AmpError, match="is not a file name for"):
        export_file(settings)


def test_an_existing_file_is_replaced_only_when_asked(folder: Path) -> None:
    exported(folder, "ms-swift", "s.jsonl", item("a"))
    with pytest.raises(AmpError, match="exists"):
        exported(folder, "ms-swift", "s.jsonl", item("b"))
    _, rows = exported(folder, "ms-swift", "s.jsonl", item("b"), overwrite=True)
    assert [row["id"] for row in rows] == ["b"]


@pytest.mark.parametrize(
    ("to", "name"),
    [("trl", "t.parquet"), ("trl", "t.jsonl"), ("ms-swift", "s.jsonl"), ("llama-factory", "f.jsonl"), ("hub", "hub")],
)
def test_the_same_export_after_its_last_step_goes_on_and_leaves_what_is_there(folder: Path, to: str, name: str) -> None:
    settings = ExportSettings(source=write(folder, item(images=("dog.png",))), to=to, out=folder / "out" / name)
    export = export_folder if to == "hub" else export_file
    export(settings)
    (folder / "out" / "dataset_info.json").unlink(missing_ok=True)  # killed before LLaMA-Factory's list was written
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (folder / "out").rglob("*") if path.is_file()}
    again = export(settings)
    assert (again.items, again.records) == (1, 1)
    after = {path: (path.stat().st_ino, path.read_bytes()) for path in (folder / "out").rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    others = {path.name for path in after.keys() - before.keys()}
    assert others == ({"dataset_info.json"} if to == "llama-factory" else set())


def hub(folder: Path, *items: PreferenceItem, **options: Any) -> Path:
    return export_folder(ExportSettings(source=write(folder, *items), to="hub", out=folder / "hub", **options)).out


def test_the_hub_folder_loads_with_datasets_whatever_the_items_meta(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    plain = item("plain", levels=3).to_json()
    rich = {**item("rich").to_json(), "meta": {"deep": {"list": [1, "two"]}}}
    rich["levels"][0]["accuracy"] = 1
    write(folder, *[{**plain, "id": f"plain-{number}"} for number in range(3)], rich)
    out = export_folder(
        ExportSettings(source=str(folder / "source" / "preferences.jsonl"), to="hub", out=folder / "hub")
    ).out
    rows = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["id"] for row in rows] == ["plain-0", "plain-1", "plain-2", "rich"]
    assert rows[3]["meta"] == {"deep": {"list": [1, "two"]}}
    assert [one["accuracy"] for one in rows[3]["levels"]] == [1.0, None]


def test_the_hub_folder_holds_each_image_once(folder: Path) -> None:
    out = hub(folder, item("a"), item("b", images=("copy.png",)), item("c", images=("cat.png", "dog.png")))
    records = [json.loads(line) for line in (out / "data" / "preferences.jsonl").read_text().splitlines()]
    files = sorted(path.relative_to(out / "data").as_posix() for path in (out / "data").rglob("*.png"))
    assert len(files) == 2
    assert records[0]["images"] == records[1]["images"] == [records[2]["images"][1]]
    assert {name for record in records for name in record["images"]} == set(files)


def test_a_run_json_with_other_values_than_amp_writes_ends_no_export(folder: Path) -> None:
    settings = {"sources": 5, "image_root": 3, "data": ["x"]}
    facts = {"command": "prefs mix", "amp_version": "0.1.0", "settings": settings}
    (folder / "source" / "run.json").write_text(json.dumps(facts))
    assert "With `amp prefs mix`, version 0.1.0." in (hub(folder, item("a")) / "README.md").read_text()


def test_the_card_tells_levels_sources_and_how_it_was_made(folder: Path) -> None:
    facts = {
        "command": "generate-prefs",
        "amp_version": "0.1.0",
        "seed": 3,
        "settings": {"method": "meg", "base": None},
    }
    (folder / "source" / "run.json").write_text(json.dumps(facts))
    card = (hub(folder, item("a", levels=3), item("b")) / "README.md").read_text()
    assert "| items with 3 levels | 1 |" in card
    assert "| model 1 | 2 | 2.0 | 1 (2) |" in card
    assert "With `amp generate-prefs`, version 0.1.0, seed 3." in card
    assert "| method | meg |" in card
    assert "| base |" not in card
    assert "| responses of model 2 | fill in | fill in |" in card
    assert card.startswith("---\n")


def test_a_folder_of_other_files_is_never_replaced(folder: Path) -> None:
    (folder / "hub").mkdir()
    (folder / "hub" / "mine.txt").write_text("mine")
    with pytest.raises(AmpError, match="is not empty"):
        hub(folder, item(), overwrite=True)
    assert (folder / "hub" / "mine.txt").read_text() == "mine"


def test_an_earlier_export_is_replaced_when_asked(folder: Path) -> None:
    hub(folder, item("a", images=("cat.png",)))
    with pytest.raises(AmpError, match="is not empty"):
        hub(folder, item("b"))
    out = hub(folder, item("b"), overwrite=True)
    assert [path.name[:3] for path in out.rglob("*.png")] == ["dog"]
    assert not (folder / "hub.part").exists()


def test_the_command_counts_in_json_and_exits_3_when_items_were_left_out(folder: Path) -> None:
    source = write(folder, item("a", levels=3), item("b", images=("gone.png",)))
    out = folder / "out" / "s.jsonl"
    result = CliRunner().invoke(
        app, ["prefs", "export", source, "--to", "ms-swift", "--pairs", "adjacent", "--out", str(out), "--json"]
    )
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "to": "ms-swift",
        "out": str(out),
        "items": 1,
        "records": 2,
        "rejected": 1,
        "levels": {"3": 1},
    }
    assert "1 item was left out" in result.stderr


FORMATS = {"trl": "t.jsonl", "ms-swift": "s.jsonl", "llama-factory": "f.jsonl", "amp-authors": "a.json"}


def contents(one: object) -> tuple[object, ...]:
    """Return all of an item but the sources' names, which no foreign layout holds."""
    assert isinstance(one, PreferenceItem), one
    return one.id, one.images, one.questions, tuple(level.answers for level in one.levels)


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_exported_and_read_again_is_the_same_where_the_layout_can_hold_it(folder: Path, to: str) -> None:
    dog = str(folder / "source" / "dog.png")
    items = [item("single", images=(dog,)), item("text", images=()), replace(dialogue("rounds"), images=(dog,))]
    if to != "llama-factory":
        items.append(replace(dialogue("parted", shared=False), images=(dog,)))
    if to == "amp-authors":
        items.append(item("four", images=(dog,), levels=4))
    else:
        items.append(item("two", images=(dog, str(folder / "source" / "cat.png"))))
    result, _ = exported(folder, to, FORMATS[to], *items)
    assert result.rejected == []
    assert [contents(one) for one in read_items(result.out)] == [contents(one) for one in items]


def test_the_hub_folder_is_read_again_as_it_was_but_for_the_images_names(folder: Path) -> None:
    items = [item("a", levels=3), dialogue("d")]
    again = list(read_items(hub(folder, *items)))
    assert [replace(one, images=()) for one in again if isinstance(one, PreferenceItem)] == [
        replace(one, images=()) for one in items
    ]
    assert [Path(name).is_file() for one in again if isinstance(one, PreferenceItem) for name in one.images] == [
        True
    ] * 2


# what is published


PUBLISHING = [("hub", "hub"), ("trl", "t.parquet")]


def published(folder: Path, to: str, name: str, *items: PreferenceItem, **options: Any) -> Path:
    """Export where the images' content goes along; returns the result, which need not be there."""
    settings = ExportSettings(source=write(folder, *items), to=to, out=folder / "out" / name, **options)
    (export_folder if to == "hub" else export_file)(settings)
    return settings.out


def leaked(folder: Path, secret: bytes) -> bool:
    return any(secret in file.read_bytes() for file in (folder / "out").rglob("*") if file.is_file())


@pytest.mark.parametrize(("to", "name"), PUBLISHING)
@pytest.mark.parametrize("is_root_named", [False, True])
def test_a_file_that_is_not_an_image_is_never_published(folder: Path, to: str, name: str, is_root_named: bool) -> None:
    root = folder / "source" if is_root_named else None
    (folder / "key.png").write_text("root:x:0:0:secret")
    (folder / "source" / "link.png").symlink_to(folder / "key.png")
    (folder / "source" / "inside.png").write_text("root:x:0:0:secret")
    for path in (str(folder / "key.png"), "link.png", "inside.png", "../key.png", str(folder / "source" / "link.png")):
        with pytest.raises(AmpError, match="no item that can be exported"):
            published(folder, to, name, item(images=(path,)), image_root=root)
    assert not leaked(folder, b"secret")


@pytest.mark.parametrize(("to", "name"), PUBLISHING)
def test_a_foreign_file_cannot_name_an_image_elsewhere_unless_its_folder_is_named(
    folder: Path, to: str, name: str
) -> None:
    (folder / "private").mkdir()
    photo = folder / "private" / "photo.png"
    Image.new("RGB", (9, 9), "green").save(photo)
    (folder / "source" / "link.png").symlink_to(photo)
    for path in (str(photo), str(folder / "source" / "link.png"), f"{folder}/source/../private/photo.png"):
        with pytest.raises(AmpError, match="lies outside the data's folder"):
            published(folder, to, name, item(images=(path,)))
    assert published(folder, to, name, item(images=(str(photo),)), image_root=folder / "private").exists()


def test_a_result_of_amp_names_the_folders_that_it_was_made_from(folder: Path) -> None:
    data = folder / "source" / "data.jsonl"
    data.write_text(json.dumps(item().to_json()) + "\n")
    made = import_preferences(data, folder / "prefs").file
    mixed = mix(MixSettings(ingredients=(Ingredient(source=str(made)),), out=folder / "mixed")).out
    for number, source in enumerate((made, mixed / "preferences.jsonl")):
        out = folder / "out" / f"{number}"
        assert export_folder(ExportSettings(source=str(source), to="hub", out=out)).images == 1


def test_an_export_replaces_only_an_export(folder: Path) -> None:
    (folder / "out").mkdir()
    for to, name in (("trl", "t.jsonl"), ("trl", "t.parquet"), ("ms-swift", "s.jsonl"), ("amp-authors", "a.json")):
        mine = folder / "out" / name
        mine.write_text('[{"image": "a.png", "output_1": [], "output_2": []}]\n')
        with pytest.raises(AmpError, match="is not an earlier result of amp"):
            published(folder, to, name, item(), overwrite=True)
        assert mine.read_text().startswith('[{"image"')
        mine.unlink()
        published(folder, to, name, item())
        published(folder, to, name, item("b"), overwrite=True)


def test_an_export_is_never_written_over_what_is_read(folder: Path) -> None:
    first = published(folder, "trl", "t.jsonl", item())
    before = first.read_bytes()
    linked = folder / "out" / "same.jsonl"
    linked.hardlink_to(first)
    settings = ExportSettings(source=str(first), to="trl", out=linked, overwrite=True, image_root=folder / "source")
    with pytest.raises(AmpError, match="is read, so it is not replaced"):
        export_file(settings)
    assert linked.read_bytes() == before


def test_a_strangers_file_in_an_earlier_hub_folder_is_named(folder: Path) -> None:
    out = hub(folder, item())
    (out / "data" / "notes.txt").write_text("years")
    with pytest.raises(AmpError, match=r"did not write: 'data/notes\.txt'"):
        hub(folder, item("b"), overwrite=True)
    (out / "data" / "notes.txt").unlink()
    assert hub(folder, item("b"), overwrite=True) == out
