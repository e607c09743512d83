"""Which command serves a model or an adapter, and what the engines cannot serve as it is."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError
from amp_cli.main import main
from amp_cli.models.resolve import TINY
from amp_cli.models.serving import Served, serving_of

LANGUAGE = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
LLAVA = {"model_type": "llava", "vision_config": {"model_type": "clip_vision_model"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "llava 7b", "config.json", LLAVA)


def folder_with(folder: Path, name: str, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(config))
    return folder


def adapter_in(run: Path, *, weight: str = LANGUAGE, base: str = "", **config: Any) -> Path:
    facts = {"r": 64, "base_model_name_or_path": base, **config}
    folder = folder_with(run / "adapter", "adapter_config.json", facts)
    save_file({weight: torch.zeros(2, 2)}, folder / "adapter_model.safetensors")
    return run


def options(words: tuple[str, ...]) -> dict[str, str]:
    return {word: after for word, after in zip(words, (*words[1:], ""), strict=True) if word.startswith("--")}


def test_vllm_serves_a_model_to_this_machine_alone_with_the_prompt_of_training(model: Path) -> None:
    serving = serving_of(Served(model=str(model), name="llava", images=3))
    assert serving.words[:3] == ("vllm", "serve", str(model))
    assert options(serving.words) == {
        "--host": "127.0.0.1",
        "--port": "8000",
        "--served-model-name": "llava",
        "--generation-config": "vllm",
        "--enable-prefix-caching": "--limit-mm-per-prompt",
        "--limit-mm-per-prompt": '{"image": 3}',
        "--chat-template": str(template_path("chat", "vicuna_v1.jinja").resolve()),
        "--chat-template-content-format": "openai",
    }
    assert serving.asked == "http://127.0.0.1:8000/v1#llava"
    assert shlex.split(serving.command) == list(serving.words)  # the folder has a space in its name
    assert serving_of(Served(model=str(model))).name == "llava-7b"


def test_sglang_serves_it_with_its_own_names_for_the_same(model: Path) -> None:
    serving = serving_of(Served(model=str(model), engine="sglang", name="llava", template="authors", port=31000))
    assert serving.words[:5] == ("python", "-m", "sglang.launch_server", "--model-path", str(model))
    told = options(serving.words)
    assert (told["--host"], told["--port"], told["--served-model-name"]) == ("127.0.0.1", "31000", "llava")
    assert (told["--sampling-defaults"], told["--limit-mm-data-per-request"]) == ("openai", '{"image": 1}')
    assert told["--chat-template"].endswith("llava_v1.jinja")


def test_a_model_with_a_template_of_its_own_keeps_it(tmp_path: Path) -> None:
    other = folder_with(tmp_path / "qwen", "config.json", {"model_type": "qwen2_5_vl"})
    assert "--chat-template" not in serving_of(Served(model=str(other))).words
    assert serving_of(Served(model="tiny")).words[2] == str(TINY)


@pytest.mark.parametrize(("rank", "room"), [(64, "64"), (12, "16"), (1, "1"), (500, "512")])
def test_an_adapter_is_served_beside_its_base_with_room_for_its_rank(
    model: Path, tmp_path: Path, rank: int, room: str
) -> None:
    run = adapter_in(tmp_path / "mdpo", r=rank)
    serving = serving_of(Served(model=str(model), adapter=str(run)))
    told = options(serving.words)
    assert (told["--served-model-name"], told["--max-lora-rank"]) == ("mdpo-base", room)
    assert told["--lora-modules"] == f"mdpo={run / 'adapter'}"
    assert serving.asked.endswith("#mdpo")
    other = serving_of(Served(model=str(model), adapter=str(run), engine="sglang"))
    assert options(other.words)["--lora-paths"] == f"mdpo={run / 'adapter'}"
    assert other.asked.endswith("#mdpo-base:mdpo")
    assert "merge-lora" in serving.notes[0]


def test_the_largest_rank_of_a_pattern_counts(model: Path, tmp_path: Path) -> None:
    run = adapter_in(tmp_path / "mdpo", r=8, rank_pattern={"q_proj": 100})
    assert options(serving_of(Served(model=str(model), adapter=str(run))).words)["--max-lora-rank"] == "128"


def test_a_run_stands_for_its_base_and_its_adapter(model: Path, tmp_path: Path) -> None:
    run = adapter_in(tmp_path / "mdpo", base=str(model))
    serving = serving_of(Served(model=str(run)))
    assert (serving.words[2], serving.name) == (str(model), "mdpo")
    with pytest.raises(AmpError, match="does not name its base"):
        serving_of(Served(model=str(adapter_in(tmp_path / "lost"))))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": "base_model.model.model.vision_tower.layers.0.q_proj.lora_A.weight"}, "more than the language"),
        ({"weight": "base_model.model.model.multi_modal_projector.linear_1.lora_A.weight"}, "more than the language"),
        ({"modules_to_save": ["lm_head"]}, "holds whole modules"),
        ({"use_dora": True}, "uses DoRA"),
        ({"r": 1024}, "has ranks that are not from 1 to 512"),
    ],
)
def test_what_engines_cannot_apply_is_to_be_merged_first(
    model: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    run = adapter_in(tmp_path / "mdpo", **change)
    with pytest.raises(AmpError, match=said) as caught:
        serving_of(Served(model=str(model), adapter=str(run)))
    merge = shlex.join(["amp", "merge-lora", str(run), "--base", str(model), "--out", "merged"])
    assert caught.value.hint == f"{merge}, then amp serve merged --engine vllm"
    with pytest.raises(AmpError) as caught:  # the run in the model's place: its base is the one that it names
        serving_of(Served(model=str(adapter_in(tmp_path / "mdpo", base=str(model), **change))))
    assert caught.value.hint == f"{merge}, then amp serve merged --engine vllm"


def test_an_original_checkpoint_is_to_be_converted_first(tmp_path: Path) -> None:
    original = folder_with(
        tmp_path / "llava-v1.5-7b", "config.json", {"model_type": "llava", "mm_vision_tower": "clip"}
    )
    with pytest.raises(AmpError, match="in the original LLaVA layout, which SGLang does not read") as caught:
        serving_of(Served(model=str(original), engine="sglang"))
    assert str(caught.value.hint).startswith(f"amp convert {original} --to hf --out llava-v1.5-7b-hf, then amp serve")
    with pytest.raises(AmpError) as caught:
        serving_of(Served(model=str(original), adapter=str(adapter_in(tmp_path / "mdpo"))))
    assert str(caught.value.hint).startswith(f"amp merge-lora {tmp_path / 'mdpo'} --base {original}")
    with pytest.raises(AmpError, match=f"'{original}' is in the original") as caught:
        serving_of(Served(model=str(adapter_in(tmp_path / "mdpo", base=str(original)))))
    assert str(caught.value.hint).startswith(f"amp merge-lora {tmp_path / 'mdpo'} --base {original}")


def run_amp(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["amp", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


def test_print_gives_the_command_alone_on_stdout(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_amp(monkeypatch, "serve", str(model), "--print", "--name", "m") == 0
    told = capsys.readouterr()
    assert tuple(shlex.split(told.out)) == serving_of(Served(model=str(model), name="m")).words
    assert "--expert m=http://127.0.0.1:8000/v1#m" in told.err


def test_without_the_engine_the_error_says_how_to_get_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert run_amp(monkeypatch, "serve", str(model)) == 1
    said = capsys.readouterr().err
    assert "vLLM is not installed here" in said
    assert "Next:" not in said  # nobody could be asked


@pytest.mark.slow
def test_with_the_engine_amp_becomes_the_server(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tmp_path / "bin" / "vllm"
    engine.parent.mkdir()
    engine.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{engine.parent}:{os.environ['PATH']}")
    command = [sys.executable, "-m", "amp_cli.main", "serve", str(model), "--name", "m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert tuple(done.stdout.splitlines()) == serving_of(Served(model=str(model), name="m")).words[1:]
