"""generate-prefs from end to end with faked experts: files, numbers, resumption, and settings that cannot work."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amp_cli.asking.answerer import Answerer, Request, Running
from amp_cli.commands.generate_prefs import training_config
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.experts import Expert, sampled
from amp_cli.preferences.figures import Tally
from amp_cli.preferences.generate import GenerateResult, GenerateSettings, generate_preferences
from amp_cli.preferences.incremental import FinetuneJob
from amp_cli.preferences.levels import build_preferences
from amp_cli.records import Answer, Candidate, PreferenceItem, SourceItem
from tests.support.answering import one_by_one

STANDARD = "There is a dog. There is a cat."
ANSWERS = {  # expert -> item -> answer
    "big": {"a": "There is a horse.", "b": "There is a dog!  there is a CAT", "c": "Yes.", "d": "There is a cow."},
    "mid": {"a": "There is a dog.", "b": "There is a cat.", "c": "No.", "d": " "},
    "small": {"a": "There is a dog. There is a cat, too.", "b": "there is a cat", "c": "yes", "d": "there is a cow"},
}


class WordEncoder:
    """Texts with the same animals have cosine 1, with other ones less."""

    name = "words"
    tau = 0.9
    language = "xx"
    animals = ("dog", "cat", "horse", "cow")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array([[animal in text for animal in self.animals] + [0.1] for text in texts], dtype=np.float32)
        return rows.reshape(-1, 5) / np.linalg.norm(rows.reshape(-1, 5), axis=1, keepdims=True)


class FakeAnswering:
    """Answers from the table above, and is killed before answer number `killed_at`."""

    def __init__(self, killed_at: int | None = None) -> None:
        self.killed_at = killed_at
        self.answered = 0

    def __call__(self, expert: Expert, folder: Path) -> Answerer:
        def say(request: Request) -> str:
            if self.answered == self.killed_at:
                raise KeyboardInterrupt
            self.answered += 1
            return ANSWERS[expert.name][request.id]

        return one_by_one(say)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 10), "blue").save(tmp_path / "picture.png")
    records = [
        {"id": "a", "image": "picture.png", "question": "Describe it.", "answer": STANDARD},
        {"id": "b", "image": "picture.png", "question": "Describe it.", "answer": STANDARD},
        {"id": "c", "image": "picture.png", "question": "Is there a dog?", "answer": "Yes."},
        {"id": "d", "image": "picture.png", "question": "What is there?", "answer": "There is a cow."},
        {"id": "e", "image": "nowhere.png", "question": "What is there?", "answer": "There is a cow."},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps(records))
    return path


def settings_for(data: Path, out: Path, **changes: Any) -> GenerateSettings:
    experts = tuple(Expert(name=name, model=name) for name in ANSWERS)
    return GenerateSettings(**{"data": data, "out": out, "method": "meg", "experts": experts, **changes})


def generate(data: Path, out: Path, *, killed_at: int | None = None, **changes: Any) -> GenerateResult:
    settings = settings_for(data, out, **changes)
    return generate_preferences(settings, encoder=WordEncoder(), answering=FakeAnswering(killed_at))


def levels_of(result: GenerateResult) -> dict[str, list[str]]:
    items = [PreferenceItem.from_json(json.loads(line)) for line in result.preferences.read_text().splitlines()]
    return {item.id: [level.source for level in item.levels] for item in items}


def test_levels_are_ranked_merged_and_dropped(data: Path, tmp_path: Path) -> None:
    result = generate(data, tmp_path / "out")
    assert levels_of(result) == {
        "a": ["standard", "small", "mid", "big"],  # auto-check turns the given order round
        "b": ["standard", "mid"],  # big says what the standard says, small what mid says
        "c": ["standard", "mid"],  # nothing to compare: the given order; big and small equal the standard
    }  # d: big and small equal the standard, mid is empty; e: no image
    assert result.stats["dropped"] == {"identical": 6, "empty": 1, "items": 1}
    assert result.stats["dropped_items"] == [{"id": "d", "reason": "no candidate differs from the standard response"}]
    assert result.stats["auto_check"]["items_without_chunk"] == 1


def test_items_in_another_language_keep_the_order_of_the_experts(data: Path, tmp_path: Path) -> None:
    items = json.loads(data.read_text())
    items[0]["answer"] = "草地上有一只狗和一只猫。"
    data.write_text(json.dumps(items))
    result = generate(data, tmp_path / "out")
    assert levels_of(result)["a"] == ["standard", "big", "mid", "small"]
    assert result.stats["auto_check"]["items_in_other_languages"] == 1
    assert result.stats["auto_check"]["items_without_chunk"] == 1  # item c, as before
    assert [level["accuracy"] for level in result.stats["per_level"]][2:] == [None, None]


def test_stats_count_levels_and_average_what_was_compared(data: Path, tmp_path: Path) -> None:
    stats = generate(data, tmp_path / "out").stats
    assert stats["levels"] == {"2": 2, "4": 1}
    assert stats["auto_check"]["reordered"] == 2  # a; and d, whose empty answer falls behind
    # item a: small has both animals, mid one of two, big none; item b: mid one of two; item c is not compared
    assert [level["accuracy"] for level in stats["per_level"]] == [None, pytest.approx((1 + 0.5) / 2), 0.5, 0.0]
    assert stats["per_source"]["mid"]["n"] == 3
    assert stats["per_source"]["mid"]["accuracy"] == 0.5
    assert stats["per_source"]["mid"]["mean_level"] == pytest.approx((2 + 1 + 1) / 3)


def test_the_json_object_is_that_of_the_contract(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert generate(data, out).to_json() == {
        "items": 3,
        "rejected": 1,
        "dropped": 1,
        "levels": {"2": 2, "4": 1},
        "reordered": 2,
        "candidates": str(out / "candidates.jsonl"),
        "preferences": str(out / "preferences.jsonl"),
    }
    assert json.loads((out / "run.json").read_text())["state"] == "done"


def test_without_auto_check_the_given_order_stays(data: Path, tmp_path: Path) -> None:
    result = generate(data, tmp_path / "out", auto_check=False)
    assert levels_of(result)["a"] == ["standard", "big", "mid", "small"]
    assert result.stats["auto_check"] is None
    assert result.to_json()["reordered"] == 0


def test_a_rejected_item_is_listed_with_its_reason(data: Path, tmp_path: Path) -> None:
    (line,) = generate(data, tmp_path / "out").rejected_file.read_text().splitlines()
    assert json.loads(line)["id"] == "e"
    assert "No image at" in json.loads(line)["reason"]


@pytest.mark.parametrize("killed_at", [0, 3, 9, 11])
def test_a_killed_run_goes_on_and_ends_with_the_same_files(data: Path, tmp_path: Path, killed_at: int) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    generate(data, whole)
    with pytest.raises(KeyboardInterrupt):
        generate(data, stopped, killed_at=killed_at)
    assert Run.read(stopped).facts["state"] == "interrupted"
    generate(data, stopped)
    generate(data, stopped)
    names = sorted(path.name for path in whole.iterdir() if path.name != "run.json")
    assert names == sorted(path.name for path in stopped.iterdir() if path.name != "run.json")
    for name in names:
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_run_stopped_within_auto_check_keeps_what_was_checked(data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    generate(data, whole)
    generate(data, stopped)
    for name in ("preferences.jsonl", "stats.json", "preferences.html"):
        (stopped / name).unlink()
    checked = (stopped / "autocheck.jsonl").read_bytes()
    (stopped / "autocheck.jsonl").write_bytes(checked[: checked.index(b"\n") + 20])
    generate(data, stopped)
    assert (stopped / "autocheck.jsonl").read_bytes() == checked
    assert (stopped / "preferences.jsonl").read_bytes() == (whole / "preferences.jsonl").read_bytes()


def test_other_settings_in_the_same_folder_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    generate(data, tmp_path / "out")
    with pytest.raises(AmpError, match="coverage = 'standard', not 'both'"):
        generate(data, tmp_path / "out", coverage="both")


def test_changed_data_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    generate(data, tmp_path / "out")
    data.write_text(data.read_text().replace("Describe it.", "What is it?"))
    with pytest.raises(AmpError, match="data_hash"):
        generate(data, tmp_path / "out")


def test_overwriting_never_deletes_what_is_read(data: Path) -> None:
    (data.parent / "run.json").write_text("{}")
    with pytest.raises(AmpError, match="--overwrite would delete"):
        generate_preferences(
            settings_for(data, data.parent), encoder=WordEncoder(), answering=FakeAnswering(), overwrite=True
        )
    assert data.exists()


@pytest.mark.parametrize("name", ["clip", "sentence"])
def test_overwriting_never_deletes_the_folder_of_an_encoder(data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    generate(data, out)
    (out / "model").mkdir()
    settings = settings_for(data, out, encoder=f"{name}:{out / 'model'}", tau=0.8)
    with pytest.raises(AmpError, match="--overwrite would delete"):
        generate_preferences(settings, encoder=WordEncoder(), answering=FakeAnswering(), overwrite=True)


def test_images_below_the_output_folder_are_named_relative_to_it(tmp_path: Path) -> None:
    inside, outside = str(tmp_path / "out" / "images" / "p.png"), str(tmp_path / "q.png")
    item = SourceItem(id="a", images=(inside, outside), questions=("Q",), answers=("A.",))
    candidates = {"a": (Candidate(id="a", source="big", answers=("B.",)),)}
    (shown,) = build_preferences([item], candidates, None, Tally(), tmp_path / "out")
    assert shown is not None
    assert shown.item.images == ("images/p.png", outside)


def test_the_preferences_load_as_a_dataset(data: Path, tmp_path: Path) -> None:
    import datasets

    result = generate(data, tmp_path / "out")
    loaded = datasets.load_dataset(
        "json", data_files=str(result.preferences), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert [row["id"] for row in loaded] == ["a", "b", "c"]
    assert [level["source"] for level in loaded[0]["levels"]] == ["standard", "small", "mid", "big"]


def test_nothing_to_prefer_is_an_error_that_points_to_the_numbers(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([{"id": "c", "question": "Q", "answer": "Yes."}]))
    experts = (Expert(name="big", model="big"),)
    with pytest.raises(AmpError, match="No item has two different levels"):
        generate(tmp_path / "data.json", tmp_path / "out", experts=experts)
    assert json.loads((tmp_path / "out" / "stats.json").read_text())["dropped"]["items"] == 1
    assert Run.read(tmp_path / "out").facts["state"] == "failed"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"experts": ()}, "No expert is given"),
        ({"experts": tuple(Expert(name=f"e{n}", model="m") for n in range(8))}, "more than 8 levels"),
        (
            {"experts": sampled([Expert(name="e", model="m")], 8, Decoding(temperature=0.7))},
            "8 experts and",
        ),
        ({"levels": 4}, "belong to --method ig"),
        ({"method": "ig"}, "--expert belongs to --method meg"),
        ({"method": "ig", "experts": ()}, "needs --base, --finetune-data and --levels"),
        (
            {"method": "ig", "experts": (), "base": "tiny", "finetune_data": Path("f.json"), "levels": 2},
            "at least 3 levels",
        ),
        (
            {"method": "ig", "experts": (), "base": "tiny", "finetune_data": Path("f.json"), "levels": 9},
            "at most 8 levels",
        ),
        ({"method": "best"}, "no method 'best'"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AmpError, match=message):
        settings_for(Path("data.json"), Path("out"), **changes)


def test_missing_data_and_models_are_refused_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="no data file"):
        generate(tmp_path / "none.json", tmp_path / "out")
    with pytest.raises(AmpError, match=r"There is no model folder '\./none'"):
        generate_preferences(
            settings_for(data, tmp_path / "out", experts=(Expert(name="x", model="./none"),)), encoder=WordEncoder()
        )
    assert not (tmp_path / "out").exists()


def test_the_default_decoding_is_the_papers() -> None:
    settings = settings_for(Path("data.json"), Path("out"))
    assert settings.decoding == Decoding(num_beams=4, temperature=0.7, repetition_penalty=1.1, max_new_tokens=512)


def test_incremental_generation_fine_tunes_then_asks_strong_to_weak(data: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []
    jobs: list[FinetuneJob] = []

    class Recording(FakeAnswering):
        def __call__(self, expert: Expert, folder: Path) -> Answerer:
            asked.append((expert.name, expert.adapter and Path(expert.adapter).name))

            def answer(requests: Any, *, done: Any, on_answer: Any, on_reject: Any) -> None:
                for request in requests:
                    on_answer(Answer(id=request.id, answers=(f"There is a {expert.name} dog.",)))

            return answer

    def finetune(job: FinetuneJob) -> Path:
        jobs.append(job)
        (job.out / "adapter").mkdir(parents=True)
        return job.out / "adapter"

    settings = settings_for(data, tmp_path / "out", method="ig", experts=(), base="tiny", finetune_data=data, levels=4)
    result = generate_preferences(settings, encoder=WordEncoder(), answering=Recording(), finetune=finetune)
    assert asked == [("ig-2", "adapter"), ("ig-1", "adapter"), ("base", None)]
    assert [(job.name, job.base) for job in jobs] == [("ig-1", "tiny"), ("ig-2", "tiny")]
    assert levels_of(result)["a"] == ["standard", "ig-2", "ig-1", "base"]
    assert result.rejected == 2  # the item without its image, in the data and in the fine-tuning data


def test_what_models_are_loaded_with_reaches_their_fine_tuning(data: Path, tmp_path: Path) -> None:
    settings = settings_for(
        data,
        tmp_path / "out",
        **{"method": "ig", "experts": (), "base": "tiny", "finetune_data": data, "levels": 4},
        loading=Loading(trust_remote_code=True, template="own", dtype="bfloat16"),
        running=Running(seed=5),
    )
    config = training_config(settings, "tiny", {"max_steps": 1})
    assert (config.trust_remote_code, config.template, config.dtype, config.seed) == (True, "own", "bfloat16", 5)
    assert config.spec.trust_remote_code
