"""`amp prefs mix`: sampled by seed, without repeats, shuffled, and held out by image."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.images import find_image, hold_out
from amp_cli.preferences.mixing import Ingredient, Mixed, MixSettings, mix


def make(folder: Path, name: str, count: int, *, tag: str = "", image: str = "{name}-{number}") -> Path:
    """Write a set of `count` items, each with an image of its own content unless `image` says otherwise."""
    place = folder / name
    (place / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        stem = image.format(name=name, number=number)
        file = place / "images" / f"{stem}.png"
        if not file.exists():
            colour = sum(stem.encode()) % 256, number % 256, len(name)
            Image.new("RGB", (4, 4), colour).save(file)
        levels = [{"answers": [f"Good {tag} {number}."], "source": "s"}, {"answers": ["Bad."], "source": "m"}]
        lines.append(
            {
                "id": f"{tag}{number}",
                "images": [f"images/{stem}.png"],
                "questions": [f"What {number}?"],
                "levels": levels,
            }
        )
    file = place / f"{name}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def mixed(out: Path, *sources: str, **options: Any) -> Mixed:
    return mix(MixSettings(ingredients=tuple(Ingredient.parse(one) for one in sources), out=out, **options))


def items_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def ids(out: Path, name: str = "preferences.jsonl") -> list[str]:
    return [item["id"] for item in items_of(out / name)]


def test_each_source_gives_as_many_items_as_asked_for(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path, name, 30, tag=name) for name in "abc")
    result = mixed(tmp_path / "out", f"{a}:5", f"{b}:20", str(c))
    assert [one.mixed for one in result.taken] == [5, 20, 30]
    assert [sum(one.startswith(tag) for one in ids(tmp_path / "out")) for tag in "abc"] == [5, 20, 30]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a", 60, tag="a"), make(tmp_path, "b", 60, tag="b", image="{name}-0")
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        mixed(tmp_path / name, f"{a}:20", f"{b}:30", seed=seed, held_out=0.2)
    for file in ("preferences.jsonl", "held_out.jsonl"):
        one, two, three = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "three"))
        assert one == two
        assert one != three


def test_items_are_shuffled_across_sources(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a", 40, tag="a"), make(tmp_path, "b", 40, tag="b")
    mixed(tmp_path / "out", str(a), str(b))
    assert 5 < sum(one.startswith("a") for one in ids(tmp_path / "out")[:40]) < 35


@pytest.mark.slow
def test_every_item_is_drawn_about_equally_often(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 10)
    counts = dict.fromkeys((str(number) for number in range(10)), 0)
    for seed in range(200):
        mixed(tmp_path / f"out{seed}", f"{a}:3", seed=seed)
        for one in ids(tmp_path / f"out{seed}"):
            counts[one] += 1
    assert min(counts.values()) > 35  # 60 are expected, the standard deviation is 6.5
    assert max(counts.values()) < 85


def test_asking_for_more_than_there_is_gives_all_with_a_warning(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 3)
    result = CliRunner().invoke(app, ["prefs", "mix", f"{a}:10", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["items"] == 3
    assert "has 3 different usable items, not 10" in result.stderr


def test_the_same_item_in_two_sources_is_taken_once_though_its_image_has_another_path(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 10, tag="x")
    copy = tmp_path / "copy" / "c.jsonl"
    (tmp_path / "copy" / "images").mkdir(parents=True)
    for number in range(10):
        (tmp_path / "copy" / "images" / f"a-{number}.png").write_bytes(
            (tmp_path / "a" / "images" / f"a-{number}.png").read_bytes()
        )
    copy.write_text(a.read_text())
    result = mixed(tmp_path / "out", str(a), str(copy))
    assert (result.items, result.taken[1].repeated) == (10, 10)


def test_the_same_words_about_another_image_are_another_item(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a", 3, tag="x"), make(tmp_path, "bb", 3, tag="x")
    result = mixed(tmp_path / "out", str(a), str(b))
    assert (result.items, result.taken[1].repeated) == (6, 0)


def test_only_ids_that_clash_get_their_sources_name(tmp_path: Path) -> None:
    a, b = make(tmp_path, "a", 3), make(tmp_path, "b", 5)
    result = mixed(tmp_path / "out", str(a), str(b))
    assert sorted(ids(tmp_path / "out")) == ["0", "1", "2", "3", "4", "b-0", "b-1", "b-2"]
    assert [one.renamed for one in result.taken] == [0, 3]


def test_a_name_given_to_a_clashing_id_is_nobody_elses(tmp_path: Path) -> None:
    a, b, c = make(tmp_path, "a", 1), make(tmp_path, "b", 1), make(tmp_path, "c", 1, tag="b-")
    mixed(tmp_path / "out", str(a), str(b), str(c))
    assert sorted(ids(tmp_path / "out")) == ["0", "b-0", "b-2-0"]


def test_images_are_found_from_the_results_folder(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 2, tag="a")
    mixed(tmp_path / "elsewhere" / "out", str(a))
    out = tmp_path / "elsewhere" / "out"
    for item in items_of(out / "preferences.jsonl"):
        assert find_image(item["images"][0], out).parent == tmp_path / "a" / "images"


def test_no_image_is_on_both_sides_whatever_its_file_is_called(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 40, tag="a", image="{name}-x{number:.0f}")
    for number in range(0, 40, 2):  # each second image is a copy of the one before it
        first, second = (tmp_path / "a" / "images" / f"a-x{n}.png" for n in (number, number + 1))
        second.write_bytes(first.read_bytes())
    result = mixed(tmp_path / "out", str(a), held_out=0.25)
    train, held = ids(tmp_path / "out"), ids(tmp_path / "out", "held_out.jsonl")
    assert (result.items, result.held_out) == (len(train), len(held)) == (30, 10)
    assert not {int(one[1:]) // 2 for one in train} & {int(one[1:]) // 2 for one in held}


def test_items_are_tied_through_a_chain_of_shared_images(tmp_path: Path) -> None:
    files = []
    for number in range(4):
        files.append(tmp_path / f"{number}.bin")
        files[-1].write_bytes(bytes([number]))
    chain = [[files[0], files[1]], [files[1], files[2]], [files[2]], [files[3]], []]
    for seed in range(20):
        held = hold_out(chain, 0.4, seed)
        assert held == {3, 4}
        assert hold_out(chain, 0.6, seed) in ({0, 1, 2}, {3, 4})


def test_a_set_with_one_image_holds_nothing_out_and_says_so(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 10, image="{name}")
    result = CliRunner().invoke(app, ["prefs", "mix", str(a), "--out", str(tmp_path / "out"), "--held-out", "0.2"])
    assert result.exit_code == 0
    assert "No item is held out" in result.stderr
    assert len(ids(tmp_path / "out")) == 10


def test_unusable_entries_are_listed_and_the_exit_status_is_3(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 3)
    (tmp_path / "a" / "images" / "a-1.png").unlink()
    with a.open("a") as stream:
        stream.write('{"id": "torn')
    result = CliRunner().invoke(app, ["prefs", "mix", str(a), "--out", str(tmp_path / "out")])
    assert result.exit_code == 3
    assert [one["id"] for one in items_of(tmp_path / "out" / "rejected.jsonl")] == ["1", "a-4"]
    assert len(ids(tmp_path / "out")) == 2


def test_run_json_tells_what_was_mixed_and_other_settings_are_refused(tmp_path: Path) -> None:
    a = make(tmp_path, "a", 6)
    mixed(tmp_path / "out", f"{a}:2", seed=7)
    facts = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (facts["command"], facts["seed"], facts["state"]) == ("prefs mix", 7, "done")
    assert facts["settings"]["sources"] == [{"source": str(a), "count": 2}]
    with pytest.raises(AmpError, match="was made with sources"):
        mixed(tmp_path / "out", f"{a}:3", seed=7)
    assert len(ids(mixed(tmp_path / "out", f"{a}:3", seed=7, overwrite=True).out)) == 3


def test_nothing_else_stays_in_the_folder(tmp_path: Path) -> None:
    mixed(tmp_path / "out", str(make(tmp_path, "a", 2)))
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        "preferences.jsonl",
        "rejected.jsonl",
        "run.json",
    ]


@pytest.mark.parametrize(
    ("text", "message"), [("a.jsonl:many", "no number after the colon"), ("a.jsonl:0", "asks for no item")]
)
def test_a_wrong_number_is_refused(text: str, message: str) -> None:
    with pytest.raises(AmpError, match=message):
        Ingredient.parse(text)


def test_a_file_with_a_colon_in_its_name_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a:5").write_text("")
    assert Ingredient.parse(str(tmp_path / "a:5")) == Ingredient(source=str(tmp_path / "a:5"))


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_nothing_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(AmpError, match="--held-out"):
        mixed(tmp_path / "out", "a.jsonl", held_out=share)
