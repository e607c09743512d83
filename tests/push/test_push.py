"""Pushing to the hub: exactly the named files go along, nothing of this machine, and every refusal is a sentence."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file
from typer.testing import CliRunner

from amp_cli.benchmarks.runner import run_benchmark
from amp_cli.downloads import hub_files
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.models.resolve import folder_identity
from tests.benchmarks.test_runner import Script, data, settings  # noqa: F401
from tests.support.hub_writes import SILENT, WritableHub, push_to

SECRET = "hf_this-must-never-be-seen"
REPO = "me/my-lora"
CARD = "---\nlibrary_name: peft\npipeline_tag: image-text-to-text\ntags:\n- lora\n---\n\n# LoRA adapter for `{base}`\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WritableHub]:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with WritableHub({SECRET: "me"}) as server:
        push_to(server, monkeypatch, tmp_path)
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished training run: its base is a folder of this machine, and much in it is nobody else's business."""
    base = tmp_path / "bases" / "our-base"
    base.mkdir(parents=True)
    folder = tmp_path / "run"
    for name in ("adapter", "checkpoints/checkpoint-5"):
        write_adapter(folder / name, str(base))
    for name in ("items.jsonl", "train.log", "metrics.jsonl", "checkpoints/checkpoint-5/optimizer.pt"):
        (folder / name).write_text(f"{tmp_path} private")
    record = {"command": "train", "settings": {"base": str(base)}, "amp_version": "0", "state": "done"}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def write_adapter(folder: Path, base: str) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 1, "base_model_name_or_path": base}))
    save_file({"a.lora_A.weight": np.zeros((1, 4), dtype=np.float32)}, folder / "adapter_model.safetensors")
    (folder / "README.md").write_text(CARD.format(base=base))


def write_merged(folder: Path) -> Path:
    folder.mkdir()
    settings = {"model_type": "llava", "_name_or_path": str(folder.parent / "bases" / "our-base")}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file({"weight": np.zeros((2, 2), dtype=np.float32)}, folder / "model.safetensors")
    for name in ("tokenizer.json", "generation_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    record = {"command": "merge-lora", "settings": {"base": "llava-hf/llava-1.5-7b-hf"}, "place": str(folder)}
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "notes.txt").write_text("mine")
    return folder


def push(*words: object, status: int = 0) -> Any:
    done = CliRunner().invoke(app, ["push", *map(str, words)], catch_exceptions=True)
    if status == 1:
        assert isinstance(done.exception, AmpError), (done.output, done.exception)
        assert SECRET not in done.exception.message + done.exception.hint
    else:
        assert done.exit_code == status, (done.output, done.exception)
    assert SECRET not in done.output
    return done


def test_of_a_run_only_adapter_and_card_go_along_and_nothing_tells_of_this_machine(
    hub: WritableHub, run: Path, tmp_path: Path
) -> None:
    push(run, REPO)
    files = hub.branches[REPO]["main"]
    assert set(files) == {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert files["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert all(str(tmp_path).encode() not in content for content in files.values())
    assert json.loads(files["adapter_config.json"]) == {"r": 1, "base_model_name_or_path": "our-base"}
    assert b"# LoRA adapter for `our-base`" in files["README.md"]


def test_of_a_merged_folder_only_what_a_model_is_made_of_goes_along(hub: WritableHub, tmp_path: Path) -> None:
    push(write_merged(tmp_path / "merged"), REPO)
    files = hub.branches[REPO]["main"]
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors",
        "preprocessor_config.json", "tokenizer.json",
    }  # fmt: skip
    assert json.loads(files["config.json"])["_name_or_path"] == "our-base"
    card = ModelCard(files["README.md"].decode()).data.to_dict()
    assert (card["license"], card["base_model"]) == ("llama2", "llava-hf/llava-1.5-7b-hf")
    assert card["base_model_relation"] == "finetune"


def test_a_dry_run_lists_files_and_card_without_a_token_or_a_request(
    hub: WritableHub, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    told = json.loads(push(run, REPO, "--dry-run", "--json", "--license", "qwen-research").stdout)
    assert "license: other\nlicense_name: qwen-research\n" in told["card"].replace("\r", "")
    told = json.loads(push(run, REPO, "--dry-run", "--json", "--license", "apache-2.0").stdout)
    assert [one["path"] for one in told["files"]] == ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert told["files"][1]["bytes"] == (run / "adapter" / "adapter_model.safetensors").stat().st_size
    assert "license: apache-2.0" in told["card"]
    assert hub.log == []


def test_a_file_that_names_a_folder_of_this_machine_is_refused_before_anything_is_sent(
    hub: WritableHub, run: Path
) -> None:
    (run / "adapter" / "LICENSE.txt").write_text(f"copied from {run.resolve()}/LICENSE")
    done = push(run, REPO, status=1)
    assert "'LICENSE.txt' names the folder" in done.exception.message
    assert hub.log == []


def evaluation(data: Path, name: str, identity: dict[str, Any]) -> Path:  # noqa: F811
    out = data.parent / name
    run_benchmark(settings(data, out=out), answerer=Script())
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "identity": {**record["identity"], **identity}}))
    return out


def test_scores_enter_the_metadata_only_where_the_fingerprint_is_this_adapters(
    hub: WritableHub,
    run: Path,
    data: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    base = evaluation(data, "base-pope", {"model": {"name": "our-base", "hash": "b"}})
    own = evaluation(data, "mdpo-pope", {"adapter": {"name": "x", "hash": folder_identity(run / "adapter")}})
    push(run, REPO, "--report", base, "--report", own)
    files = hub.branches[REPO]["main"]
    assert {"report.json", "report.html"} < set(files)
    assert all(str(tmp_path).encode() not in content for content in files.values())
    results = {one.metric_name: one for one in ModelCard(files["README.md"].decode()).data.eval_results or ()}
    accuracy = results["accuracy, all"]  # every answer is yes, and half of the four are right
    assert (accuracy.dataset_type, accuracy.metric_value, accuracy.task_type) == ("pope", 0.5, "image-text-to-text")
    assert [one["name"] for one in json.loads(files["report.json"])["runs"]] == ["base-pope", "mdpo-pope"]

    told = push(run, "me/other", "--report", base)
    assert "None of the evaluations is of this very model" in told.stderr
    assert not ModelCard(hub.branches["me/other"]["main"]["README.md"].decode()).data.eval_results


def test_a_name_with_other_weights_is_refused_unless_told_and_the_same_again_sends_nothing(
    hub: WritableHub, run: Path
) -> None:
    hub.hold(REPO, {"adapter_model.safetensors": b"somebody's", "README.md": b"old"})
    done = push(run, REPO, status=1)
    assert "1 of these files with another content, first 'adapter_model.safetensors'" in done.exception.message
    assert hub.branches[REPO]["main"]["README.md"] == b"old"
    push(run, REPO, "--overwrite")
    sent = hub.asked_for("POST", "/commit/main")
    push(run, REPO)
    assert hub.asked_for("POST", "/commit/main") == sent == 1


def test_a_new_repository_is_private_if_asked_and_a_public_one_is_not_taken_for_private(
    hub: WritableHub, run: Path
) -> None:
    push(run, REPO, "--private")
    assert hub.private[REPO]
    hub.hold("me/open", {})
    done = push(run, "me/open", "--private", status=1)
    assert "is there already, and it is public" in done.exception.message
    assert hub.branches["me/open"]["main"] == {}


def test_a_revision_is_a_branch_of_its_own(hub: WritableHub, run: Path) -> None:
    hub.hold(REPO, {})
    push(run, REPO, "--revision", "v2")
    assert hub.branches[REPO]["main"] == {}
    assert "adapter_model.safetensors" in hub.branches[REPO]["v2"]


def test_after_an_upload_that_broke_the_same_command_sends_the_large_file_no_more(hub: WritableHub, run: Path) -> None:
    hub.failures["POST", "/commit/main"] = 500
    done = push(run, REPO, status=1)
    assert "status 500" in done.exception.message
    assert "the same command goes on" in done.exception.hint
    uploads = [path for method, path in hub.log if method == "PUT"]
    push(run, REPO)
    assert [path for method, path in hub.log if method == "PUT"] == uploads
    assert len(uploads) == 1
    assert "adapter_model.safetensors" in hub.branches[REPO]["main"]


@pytest.mark.parametrize(
    ("change", "repo", "message"),
    [
        ({"HF_TOKEN": ""}, REPO, "A push needs a token, and HF_TOKEN is not set"),
        ({"HF_TOKEN": "hf_other"}, REPO, "The hub does not know the token in HF_TOKEN"),
        ({}, "another/name", "may not write to 'another/name'"),
        ({}, "name", "does not say whose repository it is"),
        ({}, "me/na me", "is not a name for a repository"),
    ],
)
def test_what_the_hub_would_refuse_is_a_sentence(
    hub: WritableHub, run: Path, change: dict[str, str], repo: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    assert message in push(run, repo, status=1).exception.message
    assert all(method == "GET" or path == "/api/repos/create" for method, path in hub.log)


def test_a_hub_that_is_not_there_is_a_sentence(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = WritableHub({})
    push_to(server, monkeypatch, tmp_path)
    server._server.server_close()
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "The hub could not be reached" in push(run, REPO, status=1).exception.message


def test_a_page_in_place_of_the_hub_is_a_sentence(hub: WritableHub, run: Path) -> None:
    hub.failures["GET", f"/api/models/{REPO}"] = 200  # with nothing that is JSON
    assert "what answered is not the hub" in push(run, REPO, status=1).exception.message


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the hub given up after a moment; the library's client is made anew before and after."""
    with monkeypatch.context() as patch:
        patch.setattr(hub_files, "SILENCE", 0.2)
        hub_files.bound_silence.cache_clear()
        yield
    hub_files.bound_silence.cache_clear()
    hub_files.bound_silence()


@pytest.mark.usefixtures("short_silence")
@pytest.mark.parametrize("request_", [("GET", f"/api/models/{REPO}"), ("POST", "/api/repos/create")])
def test_a_hub_that_says_nothing_is_not_waited_for_without_end(
    hub: WritableHub, run: Path, request_: tuple[str, str]
) -> None:
    hub.failures[request_] = SILENT
    message = push(run, REPO, status=1).exception.message
    assert message.startswith("The hub could not be reached, or the connection to it broke: ")
    assert "timed out" in message


def test_a_folder_with_both_is_asked_which(run: Path) -> None:
    write_merged(run / "merged")
    done = push(run, REPO, "--dry-run", status=1)
    assert "holds an adapter and a merged model" in done.exception.message
    paths = json.loads(push(run, REPO, "--dry-run", "--json", "--what", "merged").stdout)["files"]
    assert "model.safetensors" in [one["path"] for one in paths]
