"""Generation on several nodes: merged shards are what one run writes; what does not fit together is refused by name."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.answerer import Answerer, Request, Running, bundles
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.experts import Expert, NodeShare
from amp_cli.preferences.generate import GenerateSettings, generate_preferences
from amp_cli.preferences.shards import generate_shard, merge_shards
from amp_cli.records import Answer
from tests.preferences.test_generate_prefs import WordEncoder

EXPERTS = (Expert(name="big", model="13b"), Expert(name="small", model="7b"))
FILES = ("candidates.jsonl", "rejected.jsonl", "autocheck.jsonl", "preferences.jsonl", "stats.json", "preferences.html")


class Scripted:
    """Says what an expert and a batch make of an item, as sampling would; refuses `x-7` (big) and `x-11` (small)."""

    def __init__(self, batch_size: int = 4, stop_after: int | None = None) -> None:
        self.batch_size = batch_size
        self.stop_after = stop_after
        self.asked: list[tuple[str, str]] = []

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        def answer(
            requests: Sequence[Request],
            *,
            done: Collection[str],
            on_answer: Callable[[Answer], None],
            on_reject: Callable[[str, str], None],
        ) -> None:
            for bundle in bundles(requests, self.batch_size):
                for batch in bundle:
                    together = "+".join(one.id for one in batch)
                    for request in batch if any(one.id not in done for one in batch) else ():
                        if len(self.asked) == self.stop_after:
                            raise KeyboardInterrupt
                        if request.id == {"big": "x-7", "small": "x-11"}[expert.name]:
                            on_reject(request.id, "too dark")
                        elif request.id not in done:
                            self.asked.append((expert.name, request.id))
                            text = f"There is a {'dog' if expert.name == 'big' else 'horse'} in {together}."
                            on_answer(Answer(id=request.id, answers=(text,)))

        return answer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """30 items about 15 images; one image is not there."""
    for number in range(15):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    items = [
        {
            "id": f"x-{number}",
            "images": [f"{number // 2}.png"],
            "questions": ["What is there? " + "Look well. " * (number % 5)],
            "answers": ["There is a dog."],
        }
        for number in range(31)
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def settings_for(data: Path, out: Path, **changes: Any) -> GenerateSettings:
    running = changes.pop("running", Running(batch_size=4))
    return GenerateSettings(data=data, out=out, method="meg", experts=EXPERTS, running=running, **changes)


def shard(data: Path, out: Path, text: str, answering: Scripted | None = None, **changes: Any) -> Path:
    settings = settings_for(data, out, shard=text, **changes)
    generate_shard(settings, answering=answering or Scripted())
    return out


def merge(folders: Sequence[Path], out: Path, **options: Any) -> Any:
    return merge_shards(folders, out=out, encoder_of=lambda settings: WordEncoder(), **options)


def test_merged_shards_are_byte_for_byte_what_one_run_writes(data: Path, tmp_path: Path) -> None:
    one, merged = tmp_path / "one", tmp_path / "merged"
    generate_preferences(settings_for(data, one), encoder=WordEncoder(), answering=Scripted())
    each = [Scripted() for _ in range(3)]
    folders = [shard(data, tmp_path / f"s{n}", f"{n}/3", each[n - 1]) for n in (1, 2, 3)]
    result = merge(folders[::-1], merged)
    for name in FILES:
        assert (merged / name).read_bytes() == (one / name).read_bytes(), name
    asked = [pair for scripted in each for pair in scripted.asked]
    assert len(asked) == len(set(asked)) == 29 + 28  # big all but x-7, small neither x-7 nor x-11
    assert all(scripted.asked for scripted in each)
    assert result.rejected == 3
    apart = {"started", "ended", "merged_from", "results"}
    facts = [{k: v for k, v in Run.read(folder).facts.items() if k not in apart} for folder in (one, merged)]
    assert facts[0] == facts[1]
    assert Run.read(merged).facts["merged_from"] == [str(folder) for folder in folders]


def test_a_stopped_shard_goes_on_and_a_merge_may_be_repeated(data: Path, tmp_path: Path) -> None:
    whole = [shard(data, tmp_path / f"w{n}", f"{n}/2") for n in (1, 2)]
    merge(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        shard(data, tmp_path / "s1", "1/2", Scripted(stop_after=5))
    with pytest.raises(AmpError, match=r"s1', shard 1/2, is not finished \(it is interrupted\)"):
        merge([tmp_path / "s1", whole[1]], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    shard(data, tmp_path / "s1", "1/2")
    for _ in range(2):
        merge([tmp_path / "s1", whole[1]], tmp_path / "merged")
    for name in FILES:
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("shards", "said"),
    [
        (("1/3", "3/3"), "Shard 2/3 is missing"),
        (("1/2", "1/2", "2/2"), "a' and .*b' are both shard 1/2"),
        (("1/2", "2/3"), "b' is one of 3 shards, .*a' of 2"),
    ],
)
def test_shards_that_are_not_all_of_one_run_are_refused(
    data: Path, tmp_path: Path, shards: tuple[str, ...], said: str
) -> None:
    folders = [shard(data, tmp_path / name, text) for name, text in zip("abc", shards, strict=False)]
    with pytest.raises(AmpError, match=said):
        merge(folders, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_shards_of_other_settings_or_data_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    first = shard(data, tmp_path / "a", "1/2")
    other = shard(data, tmp_path / "b", "2/2", decoding=Decoding(temperature=0.2))
    with pytest.raises(AmpError, match=r"b' was made with decoding = .*0\.2"):
        merge([first, other], tmp_path / "merged")
    second = shard(data, tmp_path / "c", "2/2", loading=Loading(device="cpu"))  # where it ran does not matter
    merge([first, second], tmp_path / "merged")
    data.write_text(data.read_text().replace("What is there?", "What is this?"))
    with pytest.raises(AmpError, match="is not what the shards were made from"):
        merge([first, second], tmp_path / "again")
    changed = shard(data, tmp_path / "d", "2/2")
    with pytest.raises(AmpError, match="d' was made with data_hash"):
        merge([first, changed], tmp_path / "again")
    data.rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(AmpError, match=r"The shards were made from '.*', and there is no such file here"):
        merge([first, second], tmp_path / "again")


def test_an_item_that_came_after_the_shards_is_not_asked_about_by_a_merge(data: Path, tmp_path: Path) -> None:
    folders = [shard(data, tmp_path / f"s{n}", f"{n}/2") for n in (1, 2)]
    Image.new("RGB", (8, 8)).save(tmp_path / "15.png")  # of item x-30
    with pytest.raises(AmpError, match="Some items have no answer of big in any shard"):
        merge(folders, tmp_path / "merged")


def test_a_damaged_line_is_named_in_the_shard_that_holds_it(data: Path, tmp_path: Path) -> None:
    folders = [shard(data, tmp_path / f"s{n}", f"{n}/2") for n in (1, 2)]
    file = folders[1] / "candidates.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0].replace('"answers"', '"answer"'), *lines[1:]]) + "\n")
    with pytest.raises(AmpError, match=r"s2/candidates\.jsonl' is damaged: line 1"):
        merge(folders, tmp_path / "merged")
    file.write_text("\n".join(lines) + "\n")
    merge(folders, tmp_path / "merged")


def test_what_is_not_a_shard_is_refused(data: Path, tmp_path: Path) -> None:
    one = tmp_path / "one"
    generate_preferences(settings_for(data, one, auto_check=False), answering=Scripted())
    with pytest.raises(AmpError, match="one' is not a shard"):
        merge([one], tmp_path / "merged")
    with pytest.raises(AmpError, match="is not a run folder"):
        merge([tmp_path], tmp_path / "merged")


def test_a_merge_never_overwrites_its_shards(data: Path, tmp_path: Path) -> None:
    folder = shard(data, tmp_path / "s", "1/1")
    with pytest.raises(AmpError, match="shard = '1/1', not None"):
        merge([folder], folder)
    with pytest.raises(AmpError, match="--overwrite would delete"):
        merge([folder], folder, overwrite=True)


def test_another_shard_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    shard(data, tmp_path / "s", "1/2")
    with pytest.raises(AmpError, match="shard = '1/2', not '2/2'"):
        shard(data, tmp_path / "s", "2/2")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", "1/100000"])
def test_what_is_no_shard_is_refused(data: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(AmpError, match="is not a shard"):
        settings_for(data, tmp_path, shard=text)


def test_incremental_generation_is_not_shared_among_nodes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="--shard belongs to --method meg"):
        GenerateSettings(data=data, out=tmp_path, method="ig", base="tiny", finetune_data=data, levels=3, shard="1/2")


def test_shares_are_whole_bundles_and_every_item_is_in_one() -> None:
    requests = [Request(id=f"{n:02}", images=(Path(f"{n // 3}.png"),), questions=("Q" * (n % 4),)) for n in range(24)]
    shares = [NodeShare(number=n, count=3, batch_size=4).others(requests) for n in (1, 2, 3)]
    assert [sum(1 - one[place] for one in shares) for place in range(24)] == [1] * 24
    for bundle in bundles(requests, 4):
        places = [int(request.id) for batch in bundle for request in batch]
        assert len({tuple(one[place] for one in shares) for place in places}) == 1
