"""Recipes, their variants, and --set."""

from pathlib import Path

import pytest

from amp_cli.errors import AmpError
from amp_cli.training.config import TrainConfig, load_config


def test_the_papers_recipe_of_7b_is_section_4_1() -> None:
    config = load_config("7b")
    assert config.base == "llava-hf/llava-1.5-7b-hf"
    assert (config.lora_r, config.lora_alpha, config.lora_dropout) == (64, 16, 0.0)
    assert (config.learning_rate, config.global_batch_size, config.max_grad_norm) == (5e-5, 16, 0.3)
    assert (config.epochs, config.max_steps, config.lr_scheduler_type) == (4, None, "cosine")
    assert (config.reduction, config.round_weight, config.penalty, config.beta) == ("sum", 0.0, 1.0, 0.1)
    assert (config.quantization, config.max_length) == ("nf4", 4096)
    assert config.gradient_checkpointing is None  # by memory


def test_the_released_recipe_differs_where_the_released_scripts_do() -> None:
    config = load_config("13b", recipe="released")
    assert config.base == "llava-hf/llava-1.5-13b-hf"
    assert (config.epochs, config.max_steps, config.warmup_steps, config.lr_scheduler_type) == (
        None,
        3000,
        20,
        "constant",
    )
    assert (config.reduction, config.round_weight, config.template, config.pad_to_square) == (
        "mean",
        0.05,
        "vicuna_v1",
        False,
    )


def test_the_sizes_of_llava_have_both_recipes_and_other_families_the_paper_s() -> None:
    for size in ("7b", "13b", "tiny"):
        for recipe in ("paper", "released"):
            assert load_config(size, recipe=recipe).base
    with pytest.raises(AmpError, match="'qwen3-vl-4b' has no recipe 'released'"):
        load_config("qwen3-vl-4b", recipe="released")


def test_a_recipe_that_is_like_another_says_only_what_differs(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("like: internvl3-8b\nlora_r: 8\n")
    config = load_config(str(mine))
    assert (config.base, config.lora_r, config.max_length) == ("OpenGVLab/InternVL3-8B-hf", 8, 8192)
    assert (config.max_pixels, load_config("qwen2.5-vl-3b").max_pixels) == (None, 1280 * 28 * 28)
    mine.write_text(f"like: {mine}\n")
    with pytest.raises(AmpError, match="is like itself"):
        load_config(str(mine))


def test_set_values_take_the_fields_type() -> None:
    config = load_config(
        "tiny", overrides=["learning_rate=1e-4", "lora_r=8", "gradient_checkpointing=true", "threads=none"]
    )
    assert (config.learning_rate, config.lora_r, config.gradient_checkpointing, config.threads) == (1e-4, 8, True, None)
    assert load_config("tiny", overrides=["report_to=none"]).report_to == "none"


def test_steps_replace_the_recipes_epochs_and_epochs_its_steps() -> None:
    assert load_config("7b", overrides=["max_steps=10"]).epochs is None
    assert load_config("tiny", overrides=["epochs=2"]).max_steps is None


def test_base_and_method_win_over_the_recipe() -> None:
    config = load_config("7b", base="my/model", method="sft")
    assert (config.base, config.method) == ("my/model", "sft")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("lora_r=1.5", "lora_r must be a whole number"),
        ("gradient_checkpointing=maybe", "true or false"),
        ("beta=nan", "beta must be a number"),
        ("beta=-1", "beta must be at least 0"),
        ("penalty=none", "penalty needs a value"),
        ("learning_rate=0", "learning_rate must be at least 1e-12, not 0"),
        ("pairs=some", "pairs must be one of all, adjacent, best-vs-rest"),
        ("epochs=0", "epochs must be at least 1e-06, not 0"),
        ("lora_dropout=0.1", "lora_dropout must be 0 with mdpo"),
        ("keep_checkpoints=1", "keep_checkpoints must be at least 2"),
        ("save_steps=7", "multiple of logging_steps"),
        ("learning_rate", "not of the form key=value"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(override: str, words: str) -> None:
    with pytest.raises(AmpError, match=words):
        load_config("tiny", overrides=[override])


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(AmpError, match="no training setting 'learnin_rate'") as caught:
        load_config("tiny", overrides=["learnin_rate=1"])
    assert str(caught.value.hint).startswith("Did you mean 'learning_rate'? `amp train --list-settings` shows all")


def test_unknown_sizes_and_recipes_are_answered_with_the_known_ones() -> None:
    with pytest.raises(AmpError, match="size '70b'") as caught:
        load_config("70b")
    assert "13b, 7b, gemma-3-12b" in str(caught.value.hint)
    with pytest.raises(AmpError, match="no recipe 'mine'"):
        load_config("7b", recipe="mine")


def test_both_epochs_and_steps_are_refused_and_so_is_neither() -> None:
    for values in ({"epochs": 1.0, "max_steps": 5}, {}):
        with pytest.raises(AmpError, match="either epochs or max_steps"):
            TrainConfig(base="tiny", **values)  # type: ignore[arg-type]


def test_the_global_batch_is_cut_among_processes_or_refused() -> None:
    config = TrainConfig(base="tiny", max_steps=1, global_batch_size=16)
    assert config.items_per_batch(1) == (16, 1)  # all at once: the trainer cuts it by tokens
    assert config.items_per_batch(8) == (2, 1)
    with pytest.raises(AmpError, match="not a multiple of 3 processes"):
        config.items_per_batch(3)
    fine_tuning = TrainConfig(base="tiny", method="sft", max_steps=1, global_batch_size=16, per_device_batch_size=2)
    assert fine_tuning.items_per_batch(1) == (2, 8)
    assert fine_tuning.items_per_batch(8) == (2, 1)
    with pytest.raises(AmpError, match="not a multiple of 16 processes x per_device_batch_size 2"):
        fine_tuning.items_per_batch(16)


def test_a_batch_of_items_is_refused_where_tokens_decide() -> None:
    with pytest.raises(AmpError, match="mdpo splits a batch into forward passes by tokens_per_step"):
        TrainConfig(base="tiny", max_steps=1, per_device_batch_size=4)


def test_settings_survive_the_way_through_run_json() -> None:
    config = load_config("7b", recipe="released")
    assert TrainConfig.from_settings({**config.to_json(), "prefs": "x"}) == config
