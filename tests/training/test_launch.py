"""Starting a training run: what is refused beforehand, what a worker's end means, a kill and the same call again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.launching import Launch, parse, visible_gpus
from amp_cli.training import launch
from amp_cli.training import launch as follow
from amp_cli.training.config import COPIES, FSDP, ZERO_2, check_packages, load_config
from amp_cli.training.data import load_items, prepare_items
from amp_cli.training.launch import _show_row, plan_launch, sharing_of, train_model
from tests.support.training_items import ANSWERS, QUESTION, draw, preference, write_preferences
from tests.training.test_trainer import RAGGED, train


class Script(Launch):
    """Starts a script in place of accelerate."""

    def command(self, run_folder: Path) -> list[str]:
        return [sys.executable, str(run_folder / "script.py")]


def run_script(folder: Path, script: str) -> dict[str, Any]:
    (folder / "script.py").write_text(script)
    return follow.run_worker(Script(module="", config_file=folder, processes=1, environment={}), folder)


def rejected(folder: Path) -> dict[str, str]:
    lines = (folder / "rejected.jsonl").read_text().splitlines()
    return {record["id"]: record["reason"] for record in map(json.loads, lines)}


# --- data ------------------------------------------------------------------------------------------------------------


def test_bad_items_are_rejected_with_a_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    path = write_preferences(data, [preference(number, levels=2) for number in range(3)])
    (data / "empty.png").touch()
    (data / "torn.png").write_bytes((data / "0.png").read_bytes()[:60])
    good = preference(9, levels=2)
    bad: list[dict[str, Any]] = [
        {**good, "id": "one level", "levels": good["levels"][:1]},
        {**good, "id": "no image", "images": ["nowhere.png"]},
        {**good, "id": "empty image", "images": ["empty.png"]},
        {**good, "id": "torn image", "images": ["torn.png"]},
        {**good, "id": "outside", "images": ["../prefs.jsonl"]},
        {**good, "id": "empty answer", "levels": [{"answers": [" "], "source": "a"}, good["levels"][1]]},
        {**good, "id": "uneven rounds", "questions": [QUESTION, QUESTION]},
        preference(0, levels=2),
    ]
    with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in bad) + '{"id": "torn li')
    assert prepare_items(path, tmp_path / "run", image_root=None, method="mdpo") == 3
    reasons = rejected(tmp_path / "run")
    assert [record["id"] for record in bad[:-1]] == list(reasons)[:7]
    assert "level" in reasons["one level"]
    assert "empty answer" in reasons["empty answer"]
    assert "leaves the folder" in reasons["outside"]
    assert "twice" in reasons["item-0 (entry 11)"]
    assert "not valid JSON" in reasons["prefs-12"]
    assert [item.id for item in load_items(tmp_path / "run", "mdpo")] == ["item-0", "item-1", "item-2"]


def test_an_item_without_id_gets_one_from_its_place(tmp_path: Path) -> None:
    record = preference(0, levels=2)
    del record["id"]
    path = write_preferences(tmp_path / "data", [record])
    prepare_items(path, tmp_path / "run", image_root=None, method="mdpo")
    assert load_items(tmp_path / "run", "mdpo")[0].id == "prefs-1"


def test_a_systematic_fault_stops_at_once_with_the_last_reason(tmp_path: Path) -> None:
    path = write_preferences(tmp_path / "data", [preference(number, levels=2) for number in range(30)])
    with pytest.raises(AmpError, match=r"None of the first 20 items of .* is usable") as caught:
        prepare_items(path, tmp_path / "run", image_root=tmp_path, method="mdpo")
    assert "--image-root" in str(caught.value.hint)


def test_a_file_without_a_usable_item_is_refused(tmp_path: Path) -> None:
    path = write_preferences(tmp_path / "data", [preference(0, levels=1)])
    with pytest.raises(AmpError, match=r"no usable items; the last one, 'item-0': .*at least 2") as caught:
        prepare_items(path, tmp_path / "run", image_root=None, method="mdpo")
    assert "rejected.jsonl" in str(caught.value.hint)


def test_an_item_of_more_than_8_levels_is_rejected_and_one_of_8_is_trained_on(tmp_path: Path) -> None:
    nine, eight = preference(0, levels=9), preference(1, levels=8)
    path = write_preferences(tmp_path / "data", [nine, eight])
    assert prepare_items(path, tmp_path / "run", image_root=None, method="mdpo") == 1
    assert "item-0" in (tmp_path / "run" / "rejected.jsonl").read_text()
    path = write_preferences(tmp_path / "other", [nine])
    with pytest.raises(AmpError, match="'item-0': the item has 9 levels; at most 8") as caught:
        prepare_items(path, tmp_path / "again", image_root=None, method="mdpo")
    assert "Keep 8" in str(caught.value.hint)


# --- before the start ------------------------------------------------------------------------------------------------


def test_the_accelerate_config_follows_the_machines_gpus() -> None:
    config = replace(RAGGED, global_batch_size=16)
    for gpus, name, processes in (([], "cpu", 1), (["0"], "one_gpu", 1), (["0", "1", "2", "3"], "multi_gpu", 4)):
        planned = plan_launch(config, gpus)
        assert (planned.config_file.stem, planned.processes) == (name, processes)


def test_one_process_on_a_machine_with_several_gpus_sees_one() -> None:
    planned = plan_launch(RAGGED, ["4", "5"], processes=1)
    assert planned.config_file.stem == "one_gpu"
    assert planned.environment["CUDA_VISIBLE_DEVICES"] == "4"


def test_threads_reach_the_worker_before_torch_does() -> None:
    assert plan_launch(RAGGED, []).environment["OMP_NUM_THREADS"] == "1"


def test_a_users_accelerate_file_and_the_names_of_ours_are_taken(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("distributed_type: MULTI_GPU\nnum_processes: 4\n")
    planned = plan_launch(RAGGED, [], config_file=str(mine))
    assert (planned.config_file, planned.processes) == (mine, 4)
    assert plan_launch(RAGGED, [], config_file="fsdp").processes == 2
    with pytest.raises(AmpError, match="no accelerate config 'fdsp'"):
        plan_launch(RAGGED, [], config_file="fdsp")
    mine.write_text("hello")
    with pytest.raises(AmpError, match="is not an accelerate config"):
        plan_launch(RAGGED, [], config_file=str(mine))


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(AmpError, match="3 processes need 3 GPUs; this machine shows 1"):
        plan_launch(RAGGED, ["0"], processes=3)


def test_no_nvidia_tool_means_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\necho 'GPU 1: B'\n")
    tool.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_gpus_without_nvidias_tool_are_counted_by_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 3\n")
    python.chmod(0o755)
    monkeypatch.setattr("amp_cli.launching.shutil.which", lambda name: None)
    monkeypatch.setattr("amp_cli.launching.sys.executable", str(python))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("amp_cli.launching.GPU_FILES", (str(tmp_path / "no driver"),))
    assert visible_gpus() == []
    monkeypatch.setattr("amp_cli.launching.GPU_FILES", (str(python),))
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert visible_gpus() == ["2"]
    python.write_text("#!/bin/sh\necho no torch >&2; exit 1\n")
    assert visible_gpus() == []


def test_memory_of_gpus_may_grow_in_place_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    assert plan_launch(RAGGED, ["0"]).environment["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in plan_launch(RAGGED, []).environment
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert "PYTORCH_ALLOC_CONF" not in plan_launch(RAGGED, ["0"]).environment


def test_amds_gpus_are_chosen_by_their_own_variable_and_their_memory_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\n[ -z "$HIP_VISIBLE_DEVICES" ] && echo 4\n')  # counted without a choice
    python.chmod(0o755)
    monkeypatch.setattr("amp_cli.launching.shutil.which", lambda name: None)
    monkeypatch.setattr("amp_cli.launching.sys.executable", str(python))
    monkeypatch.setattr("amp_cli.launching.AMD_DRIVER", str(python))
    monkeypatch.setattr("amp_cli.launching.GPU_FILES", (str(python),))
    for name in ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "2,3")
    assert visible_gpus() == ["2", "3"]
    environment = plan_launch(RAGGED, visible_gpus(), processes=1).environment
    assert environment["HIP_VISIBLE_DEVICES"] == "2"
    assert not {"CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF"} & set(environment)
    monkeypatch.delenv("HIP_VISIBLE_DEVICES")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpus() == ["1"]


def test_our_own_file_for_several_gpus_takes_all_that_are_there() -> None:
    eight = [str(number) for number in range(8)]
    config = replace(RAGGED, global_batch_size=16)
    found = [plan_launch(config, eight, config_file=name).processes for name in ("fsdp", "multi_gpu", "one_gpu")]
    assert found == [8, 8, 1]
    assert plan_launch(config, eight, config_file="fsdp", processes=4).processes == 4
    assert plan_launch(config, eight, config_file="multi_node").processes == 16
    assert plan_launch(config, eight, config_file="multi_cpu").processes == 2


@pytest.mark.parametrize(("name", "sharing"), [("fsdp", FSDP), ("multi_gpu", COPIES), ("deepspeed_zero2", ZERO_2)])
def test_what_the_processes_share_is_read_from_the_file(name: str, sharing: str) -> None:
    assert sharing_of(plan_launch(RAGGED, [], config_file=name)) == sharing


def test_what_fsdp_cannot_share_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="cannot share a base in 8 bits"):
        plan_launch(replace(RAGGED, quantization="int8"), ["0", "1"], config_file="fsdp")
    settings = yaml.safe_load(template_path("accelerate", "fsdp.yaml").read_text())
    settings["fsdp_config"]["fsdp_version"] = 1
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(settings))
    with pytest.raises(AmpError, match="asks for FSDP 1"):
        plan_launch(RAGGED, ["0", "1"], config_file=str(mine))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "given", "threads"), [("", None, 1), ("import torch", None, 1), ("", "2", 2)])
def test_one_thread_is_used_unless_their_number_is_given(before: str, given: str | None, threads: int) -> None:
    script = f"{before}\nfrom amp_cli.launching import use_one_thread as use\nuse()\nimport torch\n"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if given is not None:
        environment["OMP_NUM_THREADS"] = given
    ended = subprocess.run(
        [sys.executable, "-c", f"{script}import os; print(torch.get_num_threads(), os.environ['OMP_NUM_THREADS'])"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == [str(threads)] * 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.config.find_spec", lambda name: None)
    with pytest.raises(AmpError, match="needs bitsandbytes"):
        check_packages(replace(RAGGED, quantization="nf4"))
    with pytest.raises(AmpError, match="report_to=wandb"):
        check_packages(replace(RAGGED, report_to="wandb"))


def test_a_missing_file_or_model_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="no preference file"):
        train_model(RAGGED, prefs=tmp_path / "none.jsonl", out=tmp_path / "out")
    prefs = write_preferences(tmp_path / "data")
    with pytest.raises(AmpError, match="no model folder"):
        train_model(replace(RAGGED, base=str(tmp_path / "none")), prefs=prefs, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- the worker ------------------------------------------------------------------------------------------------------


def test_the_workers_own_words_become_the_error(tmp_path: Path) -> None:
    script = """
from amp_cli.launching import report
report(error="No item can be used for training", hint="Look at them")
raise SystemExit(1)
"""
    with pytest.raises(AmpError, match="No item can be used for training") as caught:
        run_script(tmp_path, script)
    assert caught.value.hint == "Look at them"


def test_a_crash_shows_the_last_lines_of_the_log_and_keeps_it_whole(tmp_path: Path) -> None:
    script = "print('first line')\nfor n in range(30): print('line', n)\nraise RuntimeError('boom')"
    with pytest.raises(AmpError, match="RuntimeError: boom") as caught:
        run_script(tmp_path, script)
    assert "first line" not in caught.value.message
    assert "first line" in (tmp_path / "train.log").read_text()
    assert "continue from the last checkpoint" in str(caught.value.hint)


def test_a_worker_that_ends_well_but_says_no_result_has_failed(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match="Training stopped"):
        run_script(tmp_path, "print('done')")


def test_the_live_table_has_a_new_head_only_for_something_new(capsys: pytest.CaptureFixture[str]) -> None:
    columns: list[str] = []
    for row in ({"step": "1", "ok@1": "0.5"}, {"step": "2", "ok@1": "0.6", "ok@2": "0.7"}, {"step": "3", "ok@1": "1"}):
        _show_row(row, columns)
    said = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert said == [["step", "ok@1"], ["1", "0.5"], ["step", "ok@1", "ok@2"], ["2", "0.6", "0.7"], ["3", "1", "-"]]


def test_nothing_of_the_worker_reaches_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = """
from amp_cli.launching import report
print("chatter")
report(total=2, done=0, label="Training", unit="steps")
report(step=1)
report(metrics={"step": 1, "loss": 4.15, "margin": 0.5, "accuracy_distance_2": 0.75, "reward_level_0": 0.1})
report(result={"steps": 1})
"""
    assert run_script(tmp_path, script) == {"steps": 1}
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("ok@d:")
    assert " ".join(" ".join(err.splitlines()[1:]).split()) == "step loss margin ok@2 r0 1 4.1500 0.50 0.750 0.10"
    log = (tmp_path / "train.log").read_text()
    assert log.startswith('chatter\n{"step": 1, "loss": 4.15')  # what was said and measured, without the single steps
    assert log.count("\n") == 2


def test_a_line_that_two_processes_wrote_into_is_no_event() -> None:
    assert parse('amp-event {"step": 1}\n') == ("", {"step": 1})
    torn = 'amp-event {"stamp-event {"step": 2}\n'
    assert parse(torn) == (torn, None)
    assert parse("step 1\n") == ("step 1\n", None)


def test_a_bar_that_did_not_end_its_line_hides_no_event() -> None:
    assert parse('  50%|####  | 1/2amp-event {"result": {"loss": 0.5}}\n') == (
        "  50%|####  | 1/2\n",
        {"result": {"loss": 0.5}},
    )


def test_an_interruption_reaches_the_worker_and_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a process started in the background ignores SIGINT, and so does what it starts: both are told not to
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    script = """
import signal, time, pathlib
signal.signal(signal.SIGINT, signal.default_int_handler)
pathlib.Path(__file__).with_name("alive").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    pathlib.Path(__file__).with_name("interrupted").touch()
"""

    def interrupt() -> None:
        while not (tmp_path / "alive").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_script(tmp_path, script)
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    assert (tmp_path / "interrupted").exists()


def test_the_run_is_marked_failed_and_the_same_call_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefs = write_preferences(tmp_path / "data")

    def fail(planned: Launch, folder: Path) -> dict[str, Any]:
        raise AmpError("no luck", hint="none")

    monkeypatch.setattr(launch, "run_worker", fail)
    for _ in range(2):
        with pytest.raises(AmpError, match="no luck"):
            train_model(RAGGED, prefs=prefs, out=tmp_path / "out")
        assert Run.read(tmp_path / "out").facts["state"] == "failed"


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefs = write_preferences(tmp_path / "data")
    monkeypatch.setattr(launch, "run_worker", lambda planned, folder: train(folder, RAGGED))
    monkeypatch.setattr(launch, "read_plain_object", lambda path, **fields: {})
    with pytest.raises(KeyError):  # no result: not the point here
        train_model(RAGGED, prefs=prefs, out=tmp_path / "out")
    with pytest.raises(AmpError, match=r"beta = 0\.1, not 0\.2"):
        train_model(replace(RAGGED, beta=0.2), prefs=prefs, out=tmp_path / "out")
    with prefs.open("a") as file:
        file.write(json.dumps(preference(7, levels=2)) + "\n")
    with pytest.raises(AmpError, match="prefs_hash"):
        train_model(RAGGED, prefs=prefs, out=tmp_path / "out")


# --- end to end ------------------------------------------------------------------------------------------------------

CALL = """
import json, sys
from pathlib import Path
from amp_cli.training.config import TrainConfig
from amp_cli.training.launch import train_model
config, prefs, out = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
train_model(TrainConfig.from_json(config), prefs=prefs, out=out)
"""


@pytest.mark.slow
def test_the_same_call_after_kill_9_ends_bit_equal_to_an_unbroken_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(RAGGED, max_steps=16)
    prefs = write_preferences(tmp_path / "data")
    call = [sys.executable, "-c", CALL, json.dumps(config.to_json()), str(prefs), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(launch.__file__).parents[2])}
    first = subprocess.Popen(call, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not (tmp_path / "run" / "checkpoints" / "checkpoint-4").exists():
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()  # the worker is left over; it ends at its next step, and the second call waits for that
    first.wait()
    result = train_model(config, prefs=prefs, out=tmp_path / "run")
    assert result.resumed_from is not None
    assert result.steps == 16
    unbroken = tmp_path / "unbroken"
    prepare_items(prefs, unbroken, image_root=None, method="mdpo")
    train_in_process(unbroken, config)
    for file in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / file).read_bytes() == (unbroken / file).read_bytes()
    facts = Run.read(tmp_path / "run").facts
    assert facts["state"] == "done"
    assert facts["result"]["self_test"]["layout"] == "shared-prefix"
    assert (tmp_path / "run" / "curves.png").stat().st_size > 1000
    assert not list((tmp_path / "run" / "checkpoints").rglob("README.md"))
    monkeypatch.setattr(launch, "run_worker", lambda *_: pytest.fail("a finished run starts no worker"))
    assert (tmp_path / "run" / "curves-dark.png").stat().st_size > 1000
    curves = tmp_path / "run" / "curves.png"
    drawn = curves.read_bytes()
    curves.unlink()  # as a kill after the last step would leave it
    assert train_model(config, prefs=prefs, out=tmp_path / "run").steps == 16
    assert curves.read_bytes() == drawn


def train_in_process(folder: Path, config: Any) -> None:
    from amp_cli.training.session import Session

    Session(config, folder).run()


@pytest.mark.slow
def test_fine_tuning_on_standard_answers_alone_gives_an_adapter(tmp_path: Path) -> None:
    draw(tmp_path, 0)
    records = [
        {"id": str(number), "images": [str(tmp_path / "0.png")], "questions": [QUESTION], "answers": [answer]}
        for number, answer in enumerate(ANSWERS)
    ]
    data = tmp_path / "ig-1.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    settings = ["max_steps=2", "lora_r=4", "lora_alpha=8", "global_batch_size=2", "per_device_batch_size=2"]
    config = load_config("tiny", method="sft", overrides=settings)
    adapter = train_model(config, prefs=data, out=tmp_path / "ig-1").adapter
    assert adapter == tmp_path / "ig-1" / "adapter"
    assert [path.name for path in (tmp_path / "ig-1" / "checkpoints").iterdir()] == ["checkpoint-2"]
    assert not list((tmp_path / "ig-1" / "checkpoints").rglob("README.md"))
    written = json.loads((adapter / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["base_model_name_or_path"]) == (4, 8, "tiny")
    facts = Run.read(tmp_path / "ig-1").facts
    assert (facts["settings"]["method"], facts["result"]["steps"]) == ("sft", 2)


@pytest.mark.slow
def test_no_code_of_the_current_folder_runs_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    (here / "accelerate").mkdir(parents=True)
    names = ("yaml", "json", "torch", "sitecustomize", "typing", "transformers", "socket", "accelerate/__init__")
    for name in names:
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    prefs = write_preferences(tmp_path / "data", [preference(number, levels=2) for number in range(2)])
    config = load_config("tiny", overrides=["max_steps=1", "lora_r=2", "global_batch_size=2"])
    monkeypatch.chdir(here)
    for name, processes in (("cpu", 1), ("multi_cpu", 2)):
        out = tmp_path / name
        train_model(config, prefs=prefs, out=out, accelerate_config=name, num_processes=processes)
        weights = out / "adapter" / "adapter_model.safetensors"
        assert weights.stat().st_mode == (out / "adapter" / "README.md").stat().st_mode
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_python_m_runs_no_code_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("open('ran', 'w')\n")
    (tmp_path / "typing.py").write_text("open('ran', 'w')\n")
    call = [sys.executable, "-m", "amp_cli.main", "train", "--size", "tiny", "--prefs", "none.jsonl", "--out", "o"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "There is no preference file" in done.stderr) == (1, True)
    assert not (tmp_path / "ran").exists()


def test_an_overwritten_training_run_is_kept_where_the_new_one_cannot_begin(tmp_path: Path) -> None:
    out = tmp_path / "run"
    Run.start(out, command="train", settings={}).finish()
    (out / "result.json").write_text("{}")
    prefs = write_preferences(tmp_path / "data", [{"id": "a"}])
    config = load_config("tiny")
    with pytest.raises(AmpError, match="no usable items; the last one, 'a': the field 'levels' is missing"):
        train_model(config, prefs=prefs, out=out, overwrite=True)
    inside = write_preferences(out, [preference(0, levels=2)])
    with pytest.raises(AmpError, match="--overwrite would delete"):
        train_model(config, prefs=inside, out=out, overwrite=True)
    assert (out / "result.json").exists()
