"""Plain fine-tuning on the best response: labels, the loss, what moves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from amp_cli.training.data import EncodedItems, answers_of, load_items, prepare_items
from amp_cli.training.session import load_policy
from amp_cli.training.sft import IGNORED, sft_batch
from tests.support.training_items import ANSWERS, QUESTION, preference, write_preferences
from tests.training.test_trainer import RAGGED, adapter, gradients, metrics, relative_difference, train

SFT = replace(RAGGED, method="sft", max_steps=4)


def test_only_the_best_response_is_trained_on_and_only_its_answer_is_labelled(tmp_path: Path) -> None:
    prepare_items(write_preferences(tmp_path / "data"), tmp_path, image_root=None, method="sft")
    loaded = load_policy(SFT, "cpu")
    data = EncodedItems(loaded, load_items(tmp_path, "sft"), method="sft")
    batch = sft_batch([data[0], data[1]], pad_id=0)
    assert batch["input_ids"].shape[0] == 2
    assert batch["pixel_values"].shape[0] == 2
    for row in range(2):
        labelled = batch["labels"][row] != IGNORED
        assert torch.equal(batch["labels"][row][labelled], batch["input_ids"][row][labelled])
        spoken = loaded.tokenizer.decode(batch["labels"][row][labelled], skip_special_tokens=True)
        assert (
            spoken.split()
            == loaded.tokenizer.decode(loaded.tokenizer(ANSWERS[row])["input_ids"], skip_special_tokens=True).split()
        )


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> EncodedItems:
    folder = tmp_path_factory.mktemp("encoded")
    records = [preference(0, levels=2, image=False), preference(1, levels=2)]
    prepare_items(write_preferences(folder / "data", records), folder, image_root=None, method="sft")
    return EncodedItems(load_policy(SFT, "cpu"), load_items(folder, "sft"), method="sft")


def test_a_process_without_items_reads_one_that_has_no_label(encoded: EncodedItems) -> None:
    batch = sft_batch([], pad_id=0, fill=encoded[1])
    assert batch["input_ids"].shape[0] == 1
    assert (batch["labels"] == IGNORED).all()


def test_processes_that_share_a_model_are_all_shown_an_image(encoded: EncodedItems) -> None:
    plain = sft_batch([encoded[0]], pad_id=0, fill=encoded[1])
    filled = sft_batch([encoded[0]], pad_id=0, fill=encoded[1], shows_images=True)
    assert "pixel_values" not in plain
    assert filled["pixel_values"].shape[0] == 1
    assert torch.equal(filled["labels"][0, : plain["labels"].shape[1]], plain["labels"][0])
    assert (filled["labels"][1] == IGNORED).all()


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_adapter_of_a_quantized_base_is_trained_in_float32(tmp_path: Path, quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    config = replace(SFT, quantization=quantization, max_steps=1, save_steps=1, learning_rate=1e-6)
    fresh = load_policy(config, "cpu").model.state_dict()
    train(tmp_path, config)
    for name, weight in adapter(tmp_path).items():
        assert weight.dtype == torch.float32
        start = fresh[name.replace(".weight", ".default.weight")]
        assert (weight - start).abs().max() <= 1.01e-6, name  # bfloat16 would have rounded it by thousands of that


def test_fine_tuning_lowers_the_loss_and_moves_the_adapter(tmp_path: Path) -> None:
    result = train(tmp_path, SFT)
    lines = metrics(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert result["accuracy"] is None
    assert all(value.abs().max() > 0 for name, value in adapter(tmp_path).items() if "lora_B" in name)
    assert "Fine-tuned on the best response" in (tmp_path / "adapter" / "README.md").read_text()


def test_the_first_loss_is_the_mean_over_answer_tokens_of_the_base(tmp_path: Path) -> None:
    train(tmp_path, replace(SFT, max_steps=1, save_steps=1, global_batch_size=8, per_device_batch_size=8))
    data = EncodedItems(load_policy(SFT, "cpu"), load_items(tmp_path, "sft"), method="sft")
    batch = sft_batch([data[number] for number in range(8)], pad_id=0)
    labels = batch.pop("labels")
    with torch.no_grad():
        table = data.loaded.model(**batch).logits.double().log_softmax(-1)[:, :-1]
    targets = labels[:, 1:]
    picked = table.gather(2, targets.clamp(min=0)[..., None])[..., 0][targets != IGNORED]
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(float(-picked.mean()), rel=1e-4)


@pytest.mark.slow
def test_a_batch_may_be_cut_at_will(tmp_path: Path) -> None:
    outcomes = []
    for per_device in (4, 1):
        with gradients() as seen:
            train(tmp_path / str(per_device), replace(SFT, per_device_batch_size=per_device, max_steps=1, save_steps=1))
        outcomes.append(seen[0])
    assert relative_difference(outcomes[1], outcomes[0]) < 1e-5


@pytest.mark.slow
def test_a_killed_run_ends_bit_equal_to_an_unbroken_one(tmp_path: Path) -> None:
    train(tmp_path / "unbroken", SFT)
    shutil.copytree(tmp_path / "unbroken", tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "adapter")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "checkpoint-4")
    assert train(tmp_path / "broken", SFT)["resumed_from"] == "checkpoint-2"
    for file in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "unbroken" / file).read_bytes()


def test_items_with_standard_answers_alone_will_do(tmp_path: Path) -> None:
    record = {"id": "a", "images": [], "questions": [QUESTION], "answers": [ANSWERS[0]]}
    path = tmp_path / "source.jsonl"
    path.write_text(json.dumps(record))
    assert prepare_items(path, tmp_path / "run", image_root=None, method="sft") == 1
    (item,) = load_items(tmp_path / "run", "sft")
    assert answers_of(item, "sft") == [(ANSWERS[0],)]
