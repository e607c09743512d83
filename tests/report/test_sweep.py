"""A sweep over checkpoints: which ones are scored, the best step by hand, the warning, the files, going on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from amp_cli.asking.answerer import Request
from amp_cli.benchmarks.files import downloaded_images
from amp_cli.benchmarks.runner import Answerer, EvalResult, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.sweep import _show, suffix_of
from amp_cli.disk.jsonl import write_json
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.report.everything import folder_of, named_folders
from amp_cli.report.sweep import PLOT, SWEEP, Point, Sweep, find_points, run_sweep, trained_model
from tests.support.answering import one_by_one
from tests.support.settings import eval_settings

IMAGES = 30


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """30 images of a dog: POPE asks of a dog and a cat in each, CHAIR's annotations hold the dog."""
    folder = tmp_path / "data"
    folder.mkdir()
    questions = []
    for number in range(IMAGES):
        Image.new("RGB", (8, 8), (8 * number, 0, 0)).save(folder / f"{number}.png")
        for thing, label in (("dog", "yes"), ("cat", "no")):
            questions.append({"image": f"{number}.png", "text": f"Is there a {thing} in the image?", "label": label})
    (folder / "coco_pope_random.json").write_text("\n".join(map(json.dumps, questions)))
    instances = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in range(IMAGES)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"image_id": number, "category_id": 1} for number in range(IMAGES)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    return folder


def training(folder: Path, *, whole: Sequence[int], torn: Sequence[int] = (), final: int | None = None) -> Path:
    """Return a run folder of `amp train` with checkpoints at these steps, and an adapter from `final` steps."""
    with Run.start(folder, command="train", settings={"base": "tiny", "adapter": None, "template": "own"}) as run:
        run.finish()
    for step in (*whole, *torn):
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        write_json(checkpoint / "adapter_config.json", {})
        if step in whole:
            write_json(checkpoint / "complete.json", {"step": step, "of": 100, "files": {}})
    if final is not None:
        write_json(folder / "adapter" / "adapter_config.json", {})
        write_json(folder / "result.json", {"steps": final})
    return folder


def test_the_points_are_the_start_the_whole_checkpoints_and_the_final_adapter(tmp_path: Path) -> None:
    run = training(tmp_path / "run", whole=[100, 20], torn=[110], final=120)
    points, left_out = find_points(run)
    checkpoints = run / "checkpoints"
    assert [(point.step, point.adapter) for point in points] == [
        (0, None),
        (20, checkpoints / "checkpoint-20"),
        (100, checkpoints / "checkpoint-100"),
        (120, run / "adapter"),
    ]
    assert left_out == ["'checkpoint-110' is not whole and was left out"]
    assert trained_model(run).model == "tiny"


def test_of_a_checkpoint_and_a_final_adapter_at_the_same_step_the_checkpoint_stays(tmp_path: Path) -> None:
    run = training(tmp_path / "run", whole=[20], final=20)
    assert [point.adapter for point in find_points(run)[0]] == [None, run / "checkpoints" / "checkpoint-20"]


def test_checkpoints_without_the_projector_that_the_first_adapter_brought_are_left_out(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "mm_projector.bin").write_bytes(b"")
    run = training(tmp_path / "run", whole=[20], final=40)
    facts = json.loads((run / "run.json").read_text())
    facts["settings"]["adapter"] = str(first)
    write_json(run / "run.json", facts)
    points, left_out = find_points(run)
    assert [(point.step, point.adapter) for point in points] == [(0, first), (40, run / "adapter")]
    assert "lacks the projector" in left_out[0]


@pytest.mark.parametrize("command", ["eval pope", "train"])
def test_a_folder_without_a_training_run_or_without_checkpoints_is_refused(command: str, tmp_path: Path) -> None:
    with Run.start(tmp_path / "run", command=command, settings={"base": "tiny"}) as run:
        run.finish()
    with pytest.raises(AmpError, match=r"not a training run|no checkpoint"):
        find_points(tmp_path / "run")


class Model:
    """Answers wrongly about as many images as the step says; counts what it is asked."""

    def __init__(self, wrong: dict[int, int]) -> None:
        self.wrong = wrong
        self.asked = 0

    def evaluate(self, settings: EvalSettings) -> EvalResult:
        step = int(settings.out.parent.name.removeprefix("step-"))
        return run_benchmark(settings, answerer=self._answerer(self.wrong[step]))

    def _answerer(self, wrong: int) -> Answerer:
        def say(request: Request) -> str:
            self.asked += 1
            is_wrong = int(request.images[0].stem) < wrong
            if request.questions[0].startswith("Is there"):
                return "Yes" if ("dog" in request.questions[0]) != is_wrong else "No"
            return "A dog and a cat." if is_wrong else "A dog."

        return one_by_one(say)


def sweep_of(data: Path, model: Model, *steps: int, names: Sequence[str] = ("pope", "chair"), **changes: Any) -> Sweep:
    out = data.parent / "sweep"
    points = [Point(step=step, adapter=Path(f"adapter-{step}") if step else None) for step in steps]
    settings = [eval_settings(benchmark=name, out=out, data=data, model="tiny", **changes) for name in names]
    return run_sweep(data.parent / "run", points, settings, out, evaluate=model.evaluate)


@pytest.mark.slow
def test_the_best_step_by_hand_and_a_last_one_that_is_clearly_worse(data: Path) -> None:
    # wrong about 15, 3, 3 and 24 of 30 images: POPE 15/30, 27/30, 27/30, 6/30 right;
    # CHAIR-i: 15 cats in 45 objects, 3 in 33, 3 in 33, 24 in 54
    sweep = sweep_of(data, Model({0: 15, 10: 3, 20: 3, 30: 24}), 0, 10, 20, 30)
    assert [scores["pope"]["overall"]["accuracy"] for scores in sweep.scores] == [0.5, 0.9, 0.9, 0.2]
    assert [scores["chair"]["chair_i"] for scores in sweep.scores] == [15 / 45, 3 / 33, 3 / 33, 24 / 54]
    assert sweep.best == {"pope": 10, "chair": 10}  # of two equally good ones the earlier
    assert [(one.benchmark, one.base, one.other) for one in sweep.overtrained] == [
        ("pope", 0.9, 0.2),
        ("chair", 3 / 33, 24 / 54),
    ]


def test_a_last_step_that_is_the_best_brings_no_warning(data: Path) -> None:
    assert not sweep_of(data, Model({0: 15, 10: 3}), 0, 10).overtrained


def test_a_difference_that_may_be_chance_brings_no_warning(data: Path) -> None:
    sweep = sweep_of(data, Model({0: 15, 10: 3, 20: 4}), 0, 10, 20)
    assert sweep.best == {"pope": 10, "chair": 10}
    assert not sweep.overtrained  # one image more of 30


@pytest.mark.slow
def test_the_files_hold_the_curve_and_each_evaluation_is_a_run_of_its_own(data: Path) -> None:
    sweep = sweep_of(data, Model({0: 15, 10: 3}), 0, 10, limit=5)
    out = sweep.out
    written = json.loads((out / SWEEP).read_text())
    assert written == json.loads(json.dumps(sweep.to_json()))
    assert [point["step"] for point in written["points"]] == [0, 10]
    assert written["points"][1]["adapter"] == "adapter-10"
    assert written["points"][1]["scores"]["pope"]["overall"]["n"] == 10  # both questions about 5 images
    assert written["points"][1]["scores"]["chair"]["n"] == 5
    with Image.open(out / PLOT) as image:
        assert image.width > 1000
    assert Run.read(out / "step-000010" / "pope").settings["adapter"] == "adapter-10"
    assert Run.read(out).facts["state"] == "done"


def test_a_sweep_goes_on_and_takes_new_checkpoints_in(data: Path) -> None:
    model = Model({0: 15, 10: 3, 20: 0})
    sweep_of(data, model, 0, 10, names=["pope"])
    assert model.asked == 2 * 2 * IMAGES
    assert sweep_of(data, model, 0, 10, 20, names=["pope"]).best == {"pope": 20}
    assert model.asked == 3 * 2 * IMAGES
    with pytest.raises(AmpError, match="benchmarks"):
        sweep_of(data, model, 0, 10, names=["pope"], limit=3)


def test_the_table_names_the_best_step_and_warns(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _show(sweep_of(data, Model({0: 15, 10: 3, 20: 24}), 0, 10, 20), as_json=False)
    shown = capsys.readouterr()
    assert "best pope" in " ".join(shown.out.split())
    assert "The last step (20) is clearly worse on pope than step 10" in shown.err
    assert "0.200, not 0.900" in shown.err
    assert "amp merge-lora adapter-10" in shown.err


def test_data_is_given_by_name_for_all_or_downloaded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = data.parent / "home"
    monkeypatch.setenv("AMP_HOME", str(home))
    known = ("pope", "chair", "amber")
    assert folder_of("pope", {}) is None
    given = named_folders([str(data)], known)
    assert (folder_of("pope", given), folder_of("chair", given), folder_of("amber", given)) == (data, data, None)
    only = named_folders([f"chair={data}"], known)
    assert (folder_of("chair", only), folder_of("pope", only)) == (data, None)
    downloaded = home / "benchmarks" / "pope" / "val2014"
    downloaded.mkdir(parents=True)
    assert folder_of("pope", {}) is None  # the folder is there, the files are not
    (downloaded.parent / "coco_pope_random.json").write_text("[]")
    assert folder_of("pope", {}) == downloaded.parent
    bare = data.parent / "annotations"
    bare.mkdir()
    assert downloaded_images("pope", bare) == downloaded
    assert downloaded_images("pope", data) is None  # it has images of its own
    assert downloaded_images("", bare) is None
    for values, message in ([["pop=x"], "benchmark 'pop'"], [["x"], "folder 'x'"], [["pope=x"], "folder 'x'"]):
        with pytest.raises(AmpError, match=message):
            named_folders(values, known)
    with pytest.raises(AmpError, match="twice"):
        named_folders([f"pope={data}", f"pope={data}"], known)


def test_what_asks_for_one_word_stands_after_questions_that_want_one_alone() -> None:
    found = {name: suffix_of(name, "In a word?") for name in ("pope", "dashb", "hallusionbench", "humblebench")}
    letter = "\nAnswer with the letter of the right choice alone."
    assert found == {"pope": "In a word?", "dashb": "", "hallusionbench": "", "humblebench": letter}
