"""Two processes on the CPU train as one: DDP by our own file, FSDP, and DeepSpeed where it is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from amp_cli.disk.run import Run
from amp_cli.disk.templates import template_path
from amp_cli.models.prompts import EncodedItem
from amp_cli.models.resolve import identity_of
from amp_cli.training.config import TrainConfig
from amp_cli.training.data import prepare_items
from amp_cli.training.launch import train_model
from amp_cli.training.merge import MergeSettings, merge_lora
from amp_cli.training.rows.forward import ForwardPass
from amp_cli.training.rows.logprobs import tower_calls
from amp_cli.training.sharding import InStep
from tests.support.llava_checkpoints import golden_copy
from tests.support.training_items import preference, write_preferences
from tests.training.test_trainer import RAGGED, adapter, metrics, relative_difference, train

ROOT = Path(__file__).resolve().parents[2]
CONFIG = replace(RAGGED, max_steps=3, save_steps=3, eval_steps=2)
PAIRED = replace(CONFIG, image_pairs="crop", sft_weight=0.5, length_balance=0.5)
COMPARED = {"loss", "grad_norm", "accuracy", "reward_level_0", "best_nll", "held_out_margin_images"}
COMPARED |= {
    f"held_out_{name}" for name in ("loss", "accuracy", "margin", "best_per_token", "items", "pairs", "tokens")
}
SIZES = ((2, 4), (4, 2))
ZERO_3 = {"zero_stage": 3, "zero3_init_flag": False}
MIXED = [preference(number, levels=2 + number % 3, rounds=1 + number % 2, image=number % 3 > 0) for number in range(10)]
TEXT = [preference(number, levels=2 + number % 2, image=False) for number in range(5)]
ONE_IMAGE = [preference(number, levels=2, rounds=2, image=number == 2) for number in range(5)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine items, every third without an image, in updates of 4, 4 and 1, in which one of two processes has none.

    What has an image is compared beside a crop of it, too. The same nine are evaluated after every second step and the
    last, all at once or 5 and 4.
    """
    folder = tmp_path_factory.mktemp("alone")
    prefs = write_preferences(folder / "data", MIXED[:9])
    train(folder, replace(PAIRED, reference="online"), eval_source=(prefs, None))
    return folder


def assert_same_training(one: Path, other: Path) -> None:
    for line, other_line in zip(metrics(one), metrics(other), strict=True):
        assert other_line.keys() == line.keys()
        for name in COMPARED & set(line):
            assert other_line[name] == pytest.approx(line[name], rel=1e-3, abs=1e-5), name
    theirs = adapter(other)
    assert theirs.keys() == adapter(one).keys()
    # by the whole, not number by number: Adam makes whole steps of the noise in a gradient of nearly zero
    for name, value in adapter(one).items():
        assert relative_difference(theirs[name], value) < 2e-2, name


def train_sharded(folder: Path, prefs: Path, kind: str, config: TrainConfig) -> str:
    """Train in two processes by our accelerate file of this name, on the CPU; return what they wrote to stderr."""
    settings = yaml.safe_load(template_path("accelerate", f"{kind.removesuffix('-3')}.yaml").read_text())
    settings["mixed_precision"] = "no"
    if kind.endswith("-3"):
        settings["deepspeed_config"] |= ZERO_3
    file = folder / "accelerate.yaml"
    if not file.exists():  # else it goes on
        identity = {"model": identity_of(config.base, Path(config.base))} if Path(config.base).is_dir() else {}
        Run.start(folder, command="train", settings=config.to_json(), identity=identity)
        prepare_items(prefs, folder, image_root=None, method="mdpo", eval_source=(prefs, None))
    file.write_text(yaml.safe_dump(settings))
    return launch(file, "tests.support.sharded_worker", folder)


def launch(file: Path, module: str, folder: Path) -> str:
    """Start a module of ours by an accelerate file; return what its processes wrote to stderr."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_CPU": str("multi_cpu" in file.name).lower(),
    }
    command = ["accelerate.commands.launch", "--config_file", str(file), "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "-m", module, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,  # processes that wait for one another would do so for ever
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.slow
def test_two_processes_by_our_own_file_train_as_one(alone: Path, tmp_path: Path) -> None:
    config = replace(PAIRED, tokens_per_step=100, reference="cache")
    prefs = alone / "data" / "prefs.jsonl"
    result = train_model(
        config, prefs=prefs, eval_prefs=(prefs, None), out=tmp_path / "run", accelerate_config="multi_cpu"
    )
    assert result.steps == 3
    assert_same_training(alone, tmp_path / "run")


TEXT_ITEM = EncodedItem(responses=(), image_inputs={})
WIDE, HIGH = (EncodedItem(responses=(), image_inputs={"pixel_values": torch.zeros(1, 3, *size)}) for size in SIZES)


def in_step(*, shares_model: bool, image_once: bool) -> InStep:
    forward = ForwardPass(network=None, pad_id=0, image_once=image_once)
    return InStep(forward=forward, fill=HIGH, shares_model=shares_model, device=torch.device("cpu"))


@pytest.mark.parametrize("items", [[], [TEXT_ITEM], [WIDE], [WIDE, WIDE, TEXT_ITEM], [WIDE, HIGH]])
def test_every_pass_over_a_shared_model_calls_the_tower_equally_often(items: list[EncodedItem]) -> None:
    agreed = 2  # one call for images that can be stacked, else one for each: as many as the most that any process makes
    read, idle = in_step(shares_model=True, image_once=True).filled(items, agreed)
    assert tower_calls([item.image_inputs for item in read]) + len(idle) == agreed
    assert read == (items or [HIGH])


def test_a_pass_whose_images_go_in_with_the_tokens_reads_one_without_weight_where_it_has_none() -> None:
    filled = [in_step(shares_model=True, image_once=False).filled(items, 1) for items in ([TEXT_ITEM], [WIDE], [])]
    assert filled == [([TEXT_ITEM, HIGH], []), ([WIDE], []), ([HIGH], [])]


def test_processes_with_a_model_each_call_the_tower_for_their_own_images_alone() -> None:
    assert in_step(shares_model=False, image_once=True).filled([TEXT_ITEM], 1) == ([TEXT_ITEM], [])


ONLINE = replace(CONFIG, reference="online", tokens_per_step=100)
MIXES = {
    "cached": (replace(CONFIG, reference="cache", tokens_per_step=100, max_steps=6), MIXED),
    "one item in the last update": (ONLINE, TEXT),
    "one image among all": (replace(ONLINE, reduction="mean"), ONE_IMAGE),
    "fewer items than processes": (ONLINE, TEXT[:1]),
    "sft": (replace(CONFIG, method="sft", per_device_batch_size=2), MIXED[:9]),
    "one item held out": (replace(CONFIG, held_out=0.1, reference="cache"), MIXED),
    "images held out alone": (replace(ONLINE, held_out=0.3, seed=2), ONE_IMAGE),
    "sft, held out": (replace(CONFIG, method="sft", per_device_batch_size=2, held_out=0.3), MIXED),
}


@pytest.mark.slow
def test_every_mix_of_items_trains_in_two_processes_as_in_one(tmp_path: Path) -> None:
    for name, (config, records) in MIXES.items():
        one, together = tmp_path / "alone" / name, tmp_path / "together" / name
        train(one, config, records)
        Run.start(together, command="train", settings=config.to_json())
        prepare_items(
            one / "data" / "prefs.jsonl",
            together,
            image_root=None,
            method=config.method,
            held_out=config.held_out,
            seed=config.seed,
        )
    launch(template_path("accelerate", "multi_cpu.yaml"), "tests.support.mixes_worker", tmp_path / "together")
    for name in MIXES:
        assert_same_training(tmp_path / "alone" / name, tmp_path / "together" / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "checkpointing"),
    [
        ("fsdp", "FSDP", True),
        pytest.param("deepspeed_zero2", "DEEPSPEED", False, marks=pytest.mark.deepspeed),
        pytest.param("deepspeed_zero2-3", "DEEPSPEED", True, marks=pytest.mark.deepspeed),
    ],
)
def test_processes_that_share_the_model_train_as_one(
    alone: Path, tmp_path: Path, kind: str, name: str, checkpointing: bool
) -> None:
    if name == "DEEPSPEED" and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: make test-deepspeed")
    config = replace(PAIRED, tokens_per_step=140, reference="online", gradient_checkpointing=checkpointing)
    said = train_sharded(tmp_path, alone / "data" / "prefs.jsonl", kind, config)
    assert said.count(f"trains by {name}") == 2
    first, second = (re.findall(rf"process {number} alone: (\d+)", said) for number in (0, 1))
    assert any(one != other for one, other in zip(first, second, strict=True))  # until they agree on one number
    assert_same_training(alone, tmp_path)


def shares_told(said: str) -> list[dict[str, Any]]:
    """Return what each process held of the base before and after it was cut, and what came to it beside weights."""
    return [json.loads(line) for _, line in sorted(re.findall(r"shares of process (\d): (.*)", said))]


@pytest.mark.slow
def test_by_fsdp_one_process_reads_an_original_checkpoint_and_a_killed_run_goes_on(tmp_path: Path) -> None:
    """With one row of LoRA for two processes, of which one has none, and the reference's cache filled by both."""
    base = golden_copy(tmp_path)
    config = replace(CONFIG, base=str(base), lora_r=1, lora_alpha=2, save_steps=2, reference="cache", max_length=400)
    prefs, out = write_preferences(tmp_path / "alone" / "data", MIXED[:9]), tmp_path / "run"
    train(tmp_path / "alone", config, eval_source=(prefs, None))
    main, other = shares_told(train_sharded(out, prefs, "fsdp", config))
    assert other["before"] == 0 < main["before"]
    assert main["after"] + other["after"] == main["before"]
    assert max(main["after"], other["after"]) < 0.6 * main["before"]
    assert len(main["loose"]) >= 3  # rotary frequencies, as they are and as they began, and position ids
    assert main["loose"] == other["loose"]
    assert_same_training(tmp_path / "alone", out)
    whole = adapter(out)
    assert {value.dtype for value in whole.values()} == {torch.float32}

    for lost in ("checkpoints/checkpoint-3", None):  # killed in the third step, and between it and the adapter
        for gone in filter(None, ("adapter", lost)):
            shutil.rmtree(out / gone)
        train_sharded(out, prefs, "fsdp", config)
        assert all(torch.equal(value, whole[name]) for name, value in adapter(out).items())
    assert merge_lora(MergeSettings(adapter=str(out), out=tmp_path / "merged")).max_logit_difference < 0.05


@pytest.mark.slow
def test_by_fsdp_each_process_keeps_half_of_a_base_in_four_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    config = replace(CONFIG, tokens_per_step=140, reference="online", quantization="nf4")
    prefs = write_preferences(tmp_path / "alone" / "data", MIXED[:9])
    train(tmp_path / "alone", config, eval_source=(prefs, None))
    shares = shares_told(train_sharded(tmp_path / "run", prefs, "fsdp", config))
    assert [share["before"] for share in shares] == [shares[0]["before"]] * 2
    assert sum(share["after"] for share in shares) == pytest.approx(shares[0]["before"], rel=0.01)
    assert_same_training(tmp_path / "alone", tmp_path / "run")
