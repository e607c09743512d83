"""`amp train --dry-run`: what it tells, that it needs no weights, and that it leaves nothing behind."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.prompts import EncodedItem, EncodedResponse, encode_item
from amp_cli.models.shapes import SHAPES, has_known_shape, outline_of_shape
from amp_cli.models.spec import ModelSpec
from amp_cli.training.config import TrainConfig, load_config
from amp_cli.training.dry_run import PlannedGpus, _room, plan_training, propose
from amp_cli.training.memory import MemoryEstimate, estimate_memory
from amp_cli.training.rows.families import stands_for_images
from amp_cli.training.rows.forward import SHARED
from tests.support.training_items import preference, write_preferences

LAYERS, WIDTH, MIDDLE, VOCABULARY = 32, 4096, 11008, 32064
TOWER_WIDTH, TOWER_LAYERS = 1024, 24


@pytest.fixture(scope="module")
def prefs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_preferences(tmp_path_factory.mktemp("data"))


@pytest.fixture
def without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers from nowhere: for what does not look at them, since to find them takes seconds."""
    numbers = MemoryEstimate(
        tokens=60, weights=10**7, adapter=10**6, head=0, activations=10**7, activations_checkpointed=10**6, images=0
    )
    monkeypatch.setattr("amp_cli.training.dry_run.estimate_memory", lambda *_, **__: numbers)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments), "--dry-run"])


@pytest.mark.slow
def test_it_tells_of_the_data_and_leaves_nothing(prefs: Path, tmp_path: Path) -> None:
    done = run("--size", "tiny", "--prefs", prefs, "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in prefs.parent.iterdir()) == [
        *(f"{number}.png" for number in range(8)),
        "prefs.jsonl",
    ]
    data = told["data"]
    assert (data["items"], data["rejected"], data["sampled"], data["unusable"]) == (8, 0, 8, 0)
    assert data["levels"] == {"2": 3, "3": 3, "4": 2}
    assert data["saved"] == pytest.approx(1 - data["unique_mean"] / data["tokens_mean"])
    assert (told["steps_per_epoch"], told["steps"]) == (1, 150)
    assert (told["items_per_update"], told["items_per_device"], told["processes"]) == (8, 8, 1)
    assert (told["reference"], told["reference_why"]) == (
        "cache",
        "computed once to disk, since each item is seen 150.0 times",
    )
    assert (told["gradient_checkpointing"], told["fits"]) == (False, True)
    assert told["estimate"]["total"] == sum(
        told["estimate"][part] for part in ("weights", "adapter", "activations", "head")
    )


@pytest.mark.usefixtures("without_estimate")
def test_a_person_gets_a_table_and_the_real_command(prefs: Path, tmp_path: Path) -> None:
    done = run("--size", "tiny", "--prefs", prefs, "--out", tmp_path / "run", "--reference", "online")
    assert "an estimate; nothing was trained" in done.stdout
    assert "online, as asked for" in done.stdout
    assert "150 in all, 1 in an epoch" in done.stdout
    assert f"amp train --prefs {prefs} --out {tmp_path / 'run'} --size tiny --reference online" in done.stderr


@pytest.mark.slow
def test_a_7b_needs_no_weights_and_its_sizes_are_right(prefs: Path) -> None:
    started = time.process_time()  # of this process alone: others may keep the machine busy
    changes = ["dtype=bfloat16"]
    plan = plan_training(load_config("7b", overrides=changes), prefs=prefs)
    assert time.process_time() - started < 40  # about 10 on a free core
    projections = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * MIDDLE)
    tower = TOWER_LAYERS * (4 * TOWER_WIDTH**2 + 2 * TOWER_WIDTH * 4096)
    unpacked = 2 * VOCABULARY * WIDTH + tower + TOWER_WIDTH * WIDTH + WIDTH * WIDTH
    assert plan.estimate.weights == pytest.approx(projections * 0.516 + unpacked * 2, rel=0.01)
    ranks = LAYERS * 64 * (4 * 2 * WIDTH + 3 * (WIDTH + MIDDLE))
    assert plan.estimate.adapter == 16 * ranks
    assert plan.data.unique_longest > 576
    # a checkpointed layer keeps its input alone: width x 2 bytes of each token
    kept = LAYERS * plan.estimate.tokens * WIDTH * 2
    assert kept < plan.estimate.activations_checkpointed < 4 * kept
    # and the layer whose turn it is holds all of its own
    assert plan.estimate.activations_checkpointed > kept + 0.9 * plan.estimate.activations / LAYERS
    assert plan.estimate.activations > 5 * plan.estimate.activations_checkpointed


@pytest.mark.slow
def test_what_is_asked_for_is_planned(prefs: Path) -> None:
    overrides = [
        "max_steps=none",
        "epochs=2.5",
        "global_batch_size=4",
        "tokens_per_step=1",
        "gradient_checkpointing=true",
    ]
    plan = plan_training(load_config("tiny", overrides=overrides), prefs=prefs)
    assert (plan.steps_per_epoch, plan.steps) == (2, 5)
    assert plan.passes_per_update == 4.0  # each item alone
    assert plan.estimate.tokens == plan.data.unique_longest
    assert (plan.gradient_checkpointing, plan.why) == (True, "Gradient checkpointing: on, as asked for")


@pytest.mark.usefixtures("without_estimate")
def test_plain_fine_tuning_is_planned_too(prefs: Path) -> None:
    plan = plan_training(load_config("tiny", method="sft"), prefs=prefs)
    assert plan.reference is None
    assert plan.data.levels == {"1": 8}
    assert plan.passes_per_update == 8.0
    assert plan.gradient_checkpointing is False


@pytest.mark.usefixtures("without_estimate")
def test_too_little_memory_is_said(prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.dry_run.room_on", lambda *_, **__: 1000)
    done = run("--size", "tiny", "--prefs", prefs, "--out", tmp_path / "run")
    assert "This may not fit" in done.stderr
    assert done.exit_code == 0


@pytest.mark.slow
def test_a_7b_is_planned_for_gpus_that_are_not_here_with_nothing_of_it_on_the_disk(prefs: Path, tmp_path: Path) -> None:
    arguments = ("--size", "7b", "--prefs", prefs, "--out", tmp_path / "run", "--gpu", "24GB", "--gpus", 8)
    done = run(*arguments, "--rate", 2500, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["device"], told["processes"], told["items_per_device"]) == ("cuda", 8, 2)
    assert told["room"] == round((24e9 - 0.6e9) * 0.9)
    projections = LAYERS * (4 * WIDTH * WIDTH + 3 * WIDTH * MIDDLE)
    assert told["estimate"]["weights"] == pytest.approx(projections * 0.516 + 1.2e9, rel=0.02)
    assert told["data"]["unique_longest"] > 576
    assert (told["fits"], told["proposal"]) == (True, None)
    assert told["tokens_counted_by"].startswith("estimated")
    tokens = told["steps"] * 16 * told["data"]["unique_mean"]
    assert told["hours"] == pytest.approx(tokens / 2500 / 8 / 3600)


def _estimate_by_settings(_: Any, config: TrainConfig, *__: Any, **___: Any) -> MemoryEstimate:
    """10 GB for nf4 weights and 30 GB for others, and 1 GB of activations for each 1,024 tokens of a pass."""
    gigabytes = 10 if config.quantization == "nf4" else 30
    activations = config.tokens_per_step * 10**9 // 1024
    return MemoryEstimate(
        tokens=1, weights=gigabytes * 10**9, adapter=0, head=0, activations=20 * activations,
        activations_checkpointed=activations, images=0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gigabytes", "settings", "proposal"),
    [
        (40, ["quantization=none"], None),  # 34 GB fit in 35.5
        (40, ["quantization=none", "gradient_checkpointing=false"], {"gradient_checkpointing": True}),
        (37, ["quantization=none"], {"tokens_per_step": 2048}),  # 32 GB fit in 32.8
        (34.5, ["quantization=none"], {"tokens_per_step": 1}),  # 30 GB fit in 30.5
        (24, ["quantization=none"], {"quantization": "nf4"}),  # 14 GB fit in 21.1
        (24, ["quantization=none", "gradient_checkpointing=false"],
         {"quantization": "nf4", "gradient_checkpointing": True}),
        (24, ["quantization=none", "method=sft", "tokens_per_step=2048"], {"quantization": "nf4"}),
        (14.5, ["quantization=none"], {"quantization": "nf4", "tokens_per_step": 2048}),  # 12 GB fit in 12.5
        (14.5, ["quantization=nf4", "tokens_per_step=3072"], {"tokens_per_step": 2048}),
        (8, ["quantization=none"], None),
    ],
)  # fmt: skip
def test_what_would_fit_is_proposed(
    prefs: Path, monkeypatch: pytest.MonkeyPatch, gigabytes: float, settings: list[str], proposal: dict[str, Any] | None
) -> None:
    monkeypatch.setattr("amp_cli.training.dry_run.estimate_memory", _estimate_by_settings)
    config = load_config("tiny", overrides=["tokens_per_step=4096", "gradient_checkpointing=none", *settings])
    planned = PlannedGpus(count=1, memory=round(gigabytes * 1e9))
    plan = plan_training(config, prefs=prefs, planned=planned)
    assert plan.proposal == proposal
    assert plan.fits is (gigabytes == 40 and "gradient_checkpointing=false" not in settings)


def test_a_proposal_is_printed_as_options(prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.dry_run.estimate_memory", _estimate_by_settings)
    arguments = ("--size", "tiny", "--prefs", prefs, "--out", tmp_path / "run", "--gpu", "24 GB")
    done = run(*arguments, "--set", "gradient_checkpointing=false")
    assert "--set quantization=nf4 --set gradient_checkpointing=true" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    "options",
    [["--gpu", "24TB"], ["--gpu", "0"], ["--gpu", "nan"], ["--gpu", "-3GB"], ["--gpus", "8"], ["--rate", "inf"]],
)
def test_gpus_that_cannot_be_are_refused(prefs: Path, tmp_path: Path, options: list[str]) -> None:
    assert run("--size", "tiny", "--prefs", prefs, "--out", tmp_path, *options).exit_code == 2


def test_gpus_are_planned_for_in_a_dry_run_only(prefs: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["train", "--size", "tiny", "--prefs", str(prefs), "--out", str(tmp_path / "run"), "--gpu", "24GB"]
    )
    assert done.exit_code == 2
    assert "belong to --dry-run" in done.output
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_estimate")
def test_bad_and_long_items_are_told(tmp_path: Path) -> None:
    records = [preference(0, levels=2), preference(2, levels=1), preference(1, levels=2, rounds=2)]
    path = write_preferences(tmp_path, records)
    plan = plan_training(load_config("tiny", overrides=["max_length=45"]), prefs=path)
    assert (plan.data.items, plan.data.rejected, plan.data.unusable) == (2, 1, 1)
    with pytest.raises(AmpError, match=r"None of the 2 sampled items can be trained on\. The last: the item has"):
        plan_training(load_config("tiny", overrides=["max_length=5"]), prefs=path)


def test_of_processes_on_several_machines_only_this_ones_gpus_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {"cuda:0": 30, "cuda:1": 20, "cpu": 10, "mps": 5}
    monkeypatch.setattr("amp_cli.training.dry_run.room_on", lambda device, **_: free[str(device)])
    assert _room(16, gpus=2, device="cuda") == 20
    assert _room(1, gpus=2, device="cuda") == 30
    assert _room(4, gpus=0, device="cpu") == 10
    assert _room(1, gpus=0, device="mps") == 5


@pytest.mark.usefixtures("without_estimate")
def test_a_cpu_that_is_asked_for_is_planned_whatever_gpus_there_are(
    prefs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: A'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plan = plan_training(load_config("tiny"), prefs=prefs, accelerate_config="cpu")
    assert (plan.device, plan.processes) == ("cpu", 1)


@pytest.mark.usefixtures("without_estimate")
def test_a_large_file_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amp_cli.training.dry_run.SAMPLED", 4)
    plan = plan_training(load_config("tiny"), prefs=write_preferences(tmp_path))
    assert (plan.data.items, plan.data.sampled, sum(plan.data.levels.values())) == (8, 4, 8)
    assert any("of 4 sampled items" in str(value) for _, value in plan.rows())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "7b", "--base", "nobody/nothing", "--prefs", "{prefs}"], "nobody/nothing"),
        (["--size", "tiny", "--prefs", "nowhere.jsonl"], "There is no preference file 'nowhere.jsonl'"),
        (["--size", "tiny", "--prefs", "{prefs}", "--reference", "twice"], "reference must be one of"),
        (["--size", "tiny", "--prefs", "{prefs}", "--num-processes", "3"], "processes"),
    ],
)
def test_what_training_would_refuse_is_refused(prefs: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    filled = [argument.format(prefs=prefs) for argument in arguments]
    done = run(*filled, "--out", tmp_path / "run")
    assert isinstance(done.exception, AmpError)
    assert message in done.exception.message
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_estimate")
def test_the_flags_set_the_settings(prefs: Path, tmp_path: Path) -> None:
    flags = ("--tokens-per-step", 60, "--reference", "online")
    done = run("--size", "tiny", "--prefs", prefs, "--out", tmp_path, *flags, "--json")
    told = json.loads(done.stdout)
    assert told["reference"] == "online"
    assert told["passes_per_update"] > 6


@pytest.mark.slow
def test_under_autocast_a_checkpointed_pass_grows_by_inputs_and_one_layer() -> None:
    outline = outline_of_shape(ModelSpec(model="7b", dtype="bfloat16")).model
    ids = torch.arange(1024) % 100 + 10
    marks = torch.where(torch.arange(1024) < 900, -1, 0)
    one = EncodedResponse(input_ids=ids, supervised=marks == 0, round=marks)
    item = EncodedItem(responses=(one,), image_inputs={})
    config = load_config("7b")
    short, long = (
        estimate_memory(
            outline, replace(config, tokens_per_step=tokens), [item],
            precision="bfloat16", on_gpu=True, processes=1, layout=SHARED,
        )
        for tokens in (1024, 4096)
    )  # fmt: skip
    inputs = LAYERS * WIDTH * 2  # bytes a token
    layer = (long.activations - short.activations) / LAYERS / 3072
    grown = (long.activations_checkpointed - short.activations_checkpointed) / 3072
    assert inputs + layer < grown < inputs + 2 * layer


@pytest.mark.parametrize("model", SHAPES)
def test_a_known_shape_has_the_parameters_that_its_page_tells(model: str) -> None:
    network = outline_of_shape(ModelSpec(model=model)).model
    counted = sum(weight.numel() for weight in network.parameters()) / 1e9
    assert round(counted, 2) == SHAPES[model].published


def test_an_alias_is_planned_as_what_it_means() -> None:
    assert has_known_shape("llava-1.6-34b")
    assert outline_of_shape(ModelSpec(model="13b")).model.config.text_config.num_hidden_layers == 40
    assert not has_known_shape("tiny")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("llava-hf/llava-1.5-7b-hf", 24 * 24),
        # an overview, and 672 x 504 of 672 x 672 pixels, each line with its end
        ("llava-hf/llava-v1.6-mistral-7b-hf", 24 * 24 + 36 * (48 + 1)),
        ("llava-hf/llava-v1.6-34b-hf", 24 * 24 + 36 * (48 + 1)),
        ("llava-hf/llava-onevision-qwen2-7b-ov-hf", 27 * 27 + 40 * (54 + 1)),  # 40 of 54 lines are not padding
        ("Qwen/Qwen2.5-VL-3B-Instruct", 23 * 17),  # 644 x 476, 28 pixels a token
        ("Qwen/Qwen3-VL-8B-Instruct", 20 * 15),  # 32 pixels a token
        ("google/gemma-3-4b-it", 256),
        ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", (4 * 3 + 1) * 81),
        ("OpenGVLab/InternVL3-8B-hf", (4 * 3 + 1) * 256),
    ],
)
def test_an_image_of_640_x_480_has_as_many_tokens_as_the_family_gives_it(model: str, tokens: int) -> None:
    loaded = outline_of_shape(ModelSpec(model=model))
    encoded = encode_item(loaded, ["What is this?"], [["A cat."], ["A dog on a mat."]], [Image.new("RGB", (640, 480))])
    for response in encoded.responses:
        assert int(stands_for_images(loaded.model, response.input_ids).sum()) == tokens
    assert encoded.responses[0].supervised.sum() == 4  # a, cat, the full stop, the end


EVERY_SETTING = [
    {"method": method, "quantization": quantization, "gradient_checkpointing": checkpointing, **size}
    for method, sizes in (
        ("mdpo", [{"tokens_per_step": count} for count in (1, 2048, 3072, 8192)]),
        ("sft", [{"per_device_batch_size": count, "global_batch_size": 8} for count in (None, 1, 4)]),
    )
    for size in sizes
    for quantization in (None, "nf4", "int8")
    for checkpointing in (None, True, False)
]


def _estimate(config: TrainConfig) -> MemoryEstimate:
    gigabytes = {"nf4": 5, "int8": 8, None: 14}[config.quantization]
    tokens = max(config.tokens_per_step, 700) if config.method == "mdpo" else 700 * (config.per_device_batch_size or 1)
    return MemoryEstimate(
        tokens=tokens, weights=gigabytes * 10**9, adapter=10**9, head=0, activations=tokens * 5 * 10**6,
        activations_checkpointed=tokens * 10**6, images=0,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_no_proposal_is_followed_already_and_each_fits(settings: dict[str, Any], device: str) -> None:
    config = replace(load_config("tiny"), **settings)
    for room in range(5 * 10**9, 60 * 10**9, 10**9):
        is_on = config.gradient_checkpointing
        if is_on is None:
            is_on = device == "cuda" if config.method == "sft" else _estimate(config).total(checkpointing=False) > room
        if _estimate(config).total(checkpointing=is_on) <= room:
            continue  # fits as it is
        proposal = propose(config, room, _estimate, device=device)
        if proposal is None:
            continue
        assert all(getattr(config, name) != value for name, value in proposal.items())
        assert proposal.get("tokens_per_step", 1) <= config.tokens_per_step
        assert not (is_on and "gradient_checkpointing" in proposal)
        changed = replace(config, **proposal)
        then_on = changed.gradient_checkpointing
        if then_on is None:
            then_on = (
                device == "cuda" if config.method == "sft" else _estimate(changed).total(checkpointing=False) > room
            )
        assert _estimate(changed).total(checkpointing=then_on) <= room


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
@pytest.mark.parametrize("is_on", [True, False])
def test_no_advice_after_memory_ran_out_is_followed_already(settings: dict[str, Any], is_on: bool) -> None:
    config = replace(load_config("tiny"), **settings)
    lighter = " ".join(config.lighter(checkpointing=is_on))
    assert ("gradient_checkpointing" in lighter) is not is_on
    assert ("nf4" in lighter) is (config.quantization != "nf4")
    assert ("--tokens-per-step" in lighter) is (config.method == "mdpo" and config.tokens_per_step > 1)
    assert ("per_device_batch_size" in lighter) is ((config.per_device_batch_size or 1) > 1)


def test_sft_on_a_cpu_is_told_to_checkpoint_since_it_would_not_by_itself() -> None:
    config = replace(load_config("tiny"), method="sft", gradient_checkpointing=None)
    assert propose(config, 16 * 10**9, _estimate, device="cpu") == {"gradient_checkpointing": True}
