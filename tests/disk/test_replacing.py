"""What `--overwrite` removes: files that the same command wrote, and never anything else."""

import json
from pathlib import Path

import pytest

from amp_cli.disk.replacing import EMPTYING, leftovers, replaceable
from amp_cli.disk.run import Run, make_whole
from amp_cli.errors import AmpError

OLD = Path(__file__).resolve().parents[1] / "data" / "runs_5094e63"
OLD_RUNS = sorted(file.parent.relative_to(OLD).as_posix() for file in OLD.glob("*/run.json"))


def finished(out: Path, command: str = "train", *files: str) -> Path:
    """A run folder of ours with these files, each with its name inside."""
    Run.start(out, command=command, settings={}).finish()
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(name)
    return out


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def again(out: Path, command: str = "train", *inputs: Path) -> None:
    Run.start(out, command=command, settings={"other": 1}, overwrite=True, inputs=inputs).finish()


def test_a_run_of_the_same_command_is_replaced_whole(tmp_path: Path) -> None:
    out = finished(
        tmp_path / "run", "train", "items.jsonl", "adapter/adapter_model.safetensors", "adapter.part/README.md",
        "checkpoints/checkpoint-2/optimizer.pt", "metrics.jsonl.part", "worker.lock",
    )  # fmt: skip
    again(out)
    assert names_in(out) == {"run.json"}
    assert [one.name for one in out.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "name", ["thesis.txt", "adapter/notes.txt", "mine/items.jsonl", "checkpoints/checkpoint-2/x.py"]
)
def test_a_strangers_file_anywhere_below_is_named_and_nothing_is_removed(tmp_path: Path, name: str) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl", name)
    with pytest.raises(AmpError, match=f"did not write: '{name}'"):
        again(out)
    assert names_in(out) == {"run.json", "items.jsonl", name}


def test_of_many_strangers_the_first_five_are_named(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", *(f"photo-{number}.jpg" for number in range(12)))
    with pytest.raises(AmpError, match=r"('photo-\d+.jpg', ){4}'photo-\d+.jpg' and 7 more"):
        again(out)


@pytest.mark.parametrize(
    "facts",
    [{"mine": 1}, {}, {"command": "train"}, {"command": "train", "state": "done", "settings": []}],
    ids=["foreign", "empty", "only a command", "settings that are none"],
)
def test_a_run_json_that_amp_did_not_write_makes_no_run_folder(tmp_path: Path, facts: dict[str, object]) -> None:
    (tmp_path / "run.json").write_text(json.dumps(facts))
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(AmpError, match=r"amp did not write its run\.json"):
        again(tmp_path)
    assert names_in(tmp_path) == {"run.json", "thesis.txt"}


def test_another_commands_run_is_never_replaced(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl")
    with pytest.raises(AmpError, match="holds a run of `train`, not of `eval pope`"):
        again(out, "eval pope")
    assert names_in(out) == {"run.json", "items.jsonl"}


def test_a_run_of_another_command_inside_is_a_strangers(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl")
    finished(out / "pope", "eval pope", "answers.jsonl")
    with pytest.raises(AmpError, match=r"'pope/answers\.jsonl'"):
        again(out)


def test_runs_that_a_command_starts_itself_are_replaced_with_it(tmp_path: Path) -> None:
    out = finished(tmp_path / "all", "eval all", "all.json")
    finished(out / "pope", "eval pope", "answers.jsonl", "scores.json")
    finished(out / "mine", "train", "items.jsonl")
    with pytest.raises(AmpError, match=r"'mine/items\.jsonl', 'mine/run\.json'"):
        again(out, "eval all")
    (out / "mine" / "items.jsonl").unlink()
    (out / "mine" / "run.json").unlink()
    again(out, "eval all")
    assert names_in(out) == {"run.json"}


def test_an_input_at_or_below_out_stops_it_also_through_links(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl", "adapter/adapter_model.safetensors")
    (tmp_path / "link").symlink_to(out / "adapter")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model.safetensors").symlink_to(out / "adapter" / "adapter_model.safetensors")
    (tmp_path / "here").symlink_to(out)
    before = names_in(out)
    for given in (out, out / "items.jsonl", tmp_path / "link", tmp_path / "links", out / "adapter" / ".." / "x"):
        for place in (out, tmp_path / "here"):
            with pytest.raises(AmpError, match="--overwrite would delete"):
                again(place, "train", given)
    assert names_in(out) == before


def test_an_input_beside_or_above_out_is_no_obstacle(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl")
    (tmp_path / "run.jsonl").write_text("")
    again(out, "train", tmp_path, tmp_path / "run.jsonl", tmp_path / "run-2")
    assert names_in(out) == {"run.json"}


def test_a_link_is_never_a_file_of_ours(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "adapter_config.json").write_text("{}")
    (out / "adapter").symlink_to(tmp_path / "kept")
    with pytest.raises(AmpError, match="'adapter'"):
        again(out)
    assert (tmp_path / "kept" / "adapter_config.json").exists()


def test_a_kill_while_files_are_removed_is_gone_on_with(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl")
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, "state": EMPTYING}))
    run = Run.start(out, command="train", settings={"other": 1})
    assert not run.resumed
    assert names_in(out) == {"run.json", "run.lock"}


def test_a_run_json_with_numbers_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    out = finished(tmp_path / "run", "train", "items.jsonl")
    facts = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**facts, "settings": {"beta": float("nan")}}))
    with pytest.raises(AmpError, match="endless number"):
        Run.start(out, command="train", settings={})
    again(out)
    assert names_in(out) == {"run.json"}


def test_what_is_made_whole_replaces_only_when_the_new_one_is_ready(tmp_path: Path) -> None:
    out = finished(tmp_path / "hf", "convert", "config.json", "model-00001-of-00002.safetensors")

    def fail(part: Path) -> dict[str, object]:
        raise AmpError("no such tensor", hint="Look for it")

    def write(part: Path) -> dict[str, object]:
        (part / "config.json").write_text("new")
        return {"tensors": 3}

    def make(write: object) -> Run:
        return make_whole(
            out, command="convert", settings={}, identity={"a": 1}, write=write, overwrite=True, inputs=[]  # type: ignore[arg-type]
        )  # fmt: skip

    with pytest.raises(AmpError, match="no such tensor"):
        make(fail)
    assert names_in(out) == {"run.json", "config.json", "model-00001-of-00002.safetensors"}
    assert make(write).facts["tensors"] == 3
    assert names_in(out) == {"run.json", "config.json"}
    assert not (tmp_path / "hf.part").exists()


@pytest.mark.parametrize("files", [{"model.safetensors": ""}, {"run.json": '{"mine": 1}', "thesis.txt": "years"}])
def test_a_folder_named_part_that_is_somebody_elses_is_left_alone(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(AmpError, match="is in the way"):
        leftovers(tmp_path, "convert")
    assert names_in(tmp_path) == {*files}


@pytest.mark.parametrize("name", OLD_RUNS)
def test_folders_of_an_earlier_version_can_be_replaced(name: str) -> None:
    command = json.loads((OLD / name / "run.json").read_text())["command"]
    files = {file.relative_to(OLD / name).as_posix() for file in replaceable(OLD / name, command, [])}
    assert files == names_in(OLD / name)
