"""Running a benchmark: resumable, nothing lost, bad images left out, answers scored again without a model."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.records import Answer
from tests.support.settings import eval_settings


class Script:
    """Answers every question with the same text; may stop after some, as a kill would."""

    def __init__(self, text: str = "Yes.", stop_after: int | None = None) -> None:
        self.text = text
        self.stop_after = stop_after
        self.asked: list[Request] = []
        self.offered: list[str] = []

    def __call__(
        self,
        questions: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        self.offered = [question.id for question in questions]
        for question in questions:
            if question.id in done:
                continue
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(question)
            on_answer(Answer(id=question.id, answers=(self.text,)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images, one question each, half of them with yes as the answer."""
    folder = tmp_path / "data"
    (folder / "val2014").mkdir(parents=True)
    lines = []
    for number in range(4):
        Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(folder / "val2014" / f"{number}.png")
        label = "yes" if number % 2 else "no"
        lines.append(
            {"question_id": number, "image": f"{number}.png", "text": "Is there a dog in the image?", "label": label}
        )
    (folder / "coco_pope_random.json").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def settings(data: Path, **changes: Any) -> EvalSettings:
    return eval_settings(**{"benchmark": "pope", "data": data, "out": data.parent / "out", **changes})


def test_a_run_writes_answers_items_scores_and_run_json(data: Path) -> None:
    script = Script()
    result = run_benchmark(settings(data), answerer=script)
    out = data.parent / "out"
    assert result.scores["splits"]["random"]["accuracy"] == 0.5
    assert json.loads((out / "scores.json").read_text()) == result.scores
    assert len((out / "answers.jsonl").read_text().splitlines()) == 4
    assert len((out / "items.jsonl").read_text().splitlines()) == 4
    run = Run.read(out)
    assert run.facts["state"] == "done"
    assert run.settings["num_beams"] == 4
    assert run.settings["max_new_tokens"] == 16
    assert run.facts["data"]["questions"] == {"random": 4}
    assert script.asked[0].images == (data / "val2014" / "0.png",)
    assert script.asked[0].questions[0].endswith("single word or phrase.")


def test_a_stopped_run_keeps_its_answers_and_the_same_call_asks_only_the_rest(data: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(settings(data), answerer=Script(stop_after=3))
    assert Run.read(data.parent / "out").facts["state"] == "interrupted"
    with (data.parent / "out" / "answers.jsonl").open("a") as stream:
        stream.write('{"id": "torn')
    second = Script()
    result = run_benchmark(settings(data), answerer=second)
    assert len(second.asked) == 1
    assert len(second.offered) == 4  # batches are formed over all of them, as in the first run
    assert result.scores["overall"]["n"] == 4
    third = Script()
    assert run_benchmark(settings(data), answerer=third).scores == result.scores
    assert not third.offered


def test_other_settings_in_the_same_folder_are_refused_by_name_and_overwrite_starts_afresh(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script())
    with pytest.raises(AmpError, match="num_beams"):
        run_benchmark(settings(data, num_beams=1), answerer=Script())
    again = Script(text="No.")
    run_benchmark(settings(data, num_beams=1, overwrite=True), answerer=again)
    assert len(again.asked) == 4


def test_other_data_in_the_same_folder_is_refused(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script())
    file = data / "coco_pope_random.json"
    file.write_text(file.read_text().replace('"label": "no"', '"label": "yes"'))
    with pytest.raises(AmpError, match="data_files"):
        run_benchmark(settings(data), answerer=Script())


def test_the_batch_size_and_the_rule_may_change(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script(text="NO"))
    script = Script()
    result = run_benchmark(settings(data, batch_size=2, rule="official"), answerer=script)
    assert not script.asked
    assert result.scores["splits"]["random"]["yes_ratio"] == 1.0


def test_answers_are_scored_again_without_a_model_and_without_data_being_named(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script(text="NO"))
    again = eval_settings(benchmark="pope", out=data.parent / "out", only="score", rule="official")
    assert run_benchmark(again).scores["splits"]["random"]["yes_ratio"] == 1.0
    strict = eval_settings(benchmark="pope", out=data.parent / "out", only="score")
    assert run_benchmark(strict).scores["splits"]["random"]["yes_ratio"] == 0.0


def test_bad_images_are_left_out_with_the_reason_and_asked_when_mended(data: Path) -> None:
    (data / "val2014" / "1.png").write_bytes(b"")
    (data / "val2014" / "2.png").unlink()
    result = run_benchmark(settings(data), answerer=Script())
    assert result.scores["overall"]["n"] == 2
    assert result.scores["rejected"] == 2
    assert sorted(reason.split("'")[1].rsplit("/", 1)[1] for reason in result.rejected.values()) == ["1.png", "2.png"]
    assert len((data.parent / "out" / "rejected.jsonl").read_text().splitlines()) == 2
    assert len(run_benchmark(settings(data), answerer=Script()).rejected) == 2
    Image.new("RGB", (8, 8)).save(data / "val2014" / "2.png")
    script = Script()
    mended = run_benchmark(settings(data), answerer=script)
    assert len(script.asked) == 1
    assert len(mended.rejected) == 1


def test_a_wrong_image_root_is_one_fault_and_stops_at_once(data: Path) -> None:
    (data.parent / "empty").mkdir()
    script = Script()
    with pytest.raises(AmpError, match="None of the images of 4 items") as caught:
        run_benchmark(settings(data, image_root=data.parent / "empty"), answerer=script)
    assert "--image-root" in str(caught.value.hint)
    assert not script.offered
    assert not (data.parent / "out" / "rejected.jsonl").exists()
    right = settings(data, image_root=data / "val2014")
    assert run_benchmark(right, answerer=script).scores["overall"]["n"] == 4


def test_a_image_path_that_leaves_the_folder_is_left_out(data: Path) -> None:
    Image.new("RGB", (8, 8)).save(data.parent / "outside.png")
    file = data / "coco_pope_random.json"
    file.write_text(file.read_text().replace("3.png", "../../outside.png"))
    result = run_benchmark(settings(data), answerer=Script())
    assert "leaves the folder" in next(iter(result.rejected.values()))


def test_an_unscored_answer_is_none_and_counted_not_zero(data: Path) -> None:
    scores = run_benchmark(settings(data), answerer=Script(text="I cannot tell.")).scores
    assert scores["overall"]["accuracy"] is None
    assert scores["overall"]["unparsed"] == 4
    first = json.loads((data.parent / "out" / "items.jsonl").read_text().splitlines()[0])
    assert (first["reading"], first["correct"], first["answer"]) == (None, None, "I cannot tell.")


def test_neither_model_nor_answers_is_refused(data: Path) -> None:
    with pytest.raises(AmpError, match="Nothing to evaluate") as caught:
        run_benchmark(settings(data))
    assert "--model" in str(caught.value.hint)


def test_a_folder_that_is_no_model_is_refused_before_anything_is_written(data: Path) -> None:
    with pytest.raises(AmpError, match="not a model folder"):
        run_benchmark(settings(data, model=str(data)))
    assert not (data.parent / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rule": "lenient"}, "not a rule of pope"),
        ({"benchmark": "mmlu"}, "no benchmark"),
        ({"rule": "plain"}, "not a rule"),
    ],
)
def test_unknown_benchmarks_and_rules_are_refused(changes: dict[str, str], message: str, data: Path) -> None:
    with pytest.raises(AmpError, match=message):
        settings(data, **changes)


def test_answers_that_lie_in_the_output_folder_are_refused(data: Path) -> None:
    run_benchmark(settings(data), answerer=Script())
    with pytest.raises(AmpError, match="lies in --out") as caught:
        run_benchmark(settings(data, answers=data.parent / "out" / "answers.jsonl", overwrite=True))
    assert "--only score" in str(caught.value.hint)


def test_an_image_that_a_benchmark_names_elsewhere_is_not_asked_about(tmp_path: Path) -> None:
    from PIL import Image

    from amp_cli.benchmarks.files import image_file

    (tmp_path / "data").mkdir()
    for place in (tmp_path / "private.png", tmp_path / "data" / "a.png"):
        Image.new("RGB", (4, 4)).save(place)
    with pytest.raises(AmpError, match="lies outside the folder"):
        image_file(str(tmp_path / "private.png"), tmp_path / "data")
    assert image_file(str(tmp_path / "data" / "a.png"), tmp_path / "data") == tmp_path / "data" / "a.png"
