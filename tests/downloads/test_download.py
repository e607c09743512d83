"""`amp download` of hub repositories, against a local server that speaks the hub's protocol."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from amp_cli.downloads.hub_files import Repository, choose_files, fetch_snapshot, list_snapshot
from amp_cli.errors import AmpError
from amp_cli.main import app
from amp_cli.ui import byte_progress
from tests.support.hub_server import Fault, HubServer, git_blob_id, go_offline, go_online

WEIGHTS = bytes(range(256)) * 4000
MODEL = {"config.json": b"{}", "model.safetensors": WEIGHTS, "model.py": b"import os"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    import huggingface_hub
    from huggingface_hub import constants

    go_online(monkeypatch, tmp_path)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    huggingface_hub.close_session()
    with HubServer() as server:
        yield server
    huggingface_hub.close_session()


def amp(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["download", *arguments])


def fetched(hub: HubServer, *arguments: str) -> list[dict[str, Any]]:
    result = amp(*arguments, "--mirror", hub.url, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    downloads: list[dict[str, Any]] = json.loads(result.stdout)["downloads"]
    return downloads


def refusal(*arguments: str) -> AmpError:
    result = amp(*arguments)
    assert isinstance(result.exception, AmpError), (result.output, result.exception)
    return result.exception


def test_a_repository_is_fetched_at_one_commit_and_every_file_verified(
    hub: HubServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add_repository("me/model", MODEL)
    (one,) = fetched(hub, "me/model")
    assert one["revision"] == "c" * 40
    assert one["folder"] == str(tmp_path / "cache" / "models--me--model" / "snapshots" / ("c" * 40))
    assert one["bytes"] == len(WEIGHTS) + 2
    files = {file["file"]: file for file in one["files"]}
    assert set(files) == {"config.json", "model.safetensors"}
    assert "Fetching" not in capfd.readouterr().err
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    assert files["model.safetensors"]["expected"] == f"sha256:{digest}"
    assert files["model.safetensors"]["sha256"] == digest
    assert files["model.safetensors"]["verified"] == "sha256"
    assert files["config.json"]["expected"] == f"git:{git_blob_id(b'{}')}"
    assert files["config.json"]["verified"] == "git blob id"
    assert Path(files["model.safetensors"]["place"]).read_bytes() == WEIGHTS
    assert not hub.downloads("model.py")


def test_a_dropped_connection_is_resumed_where_it_stopped(hub: HubServer) -> None:
    hub.add_repository("me/model", MODEL)
    path = f"/me/model/resolve/{'c' * 40}/model.safetensors"
    hub.faults[path] = [Fault(drop_after=300_000)]
    (one,) = fetched(hub, "me/model")
    assert {file["state"] for file in one["files"]} == {"fetched"}
    first, second = hub.downloads("model.safetensors")
    assert (first.range, second.range) == (None, "bytes=300000-")
    assert second.sent == len(WEIGHTS) - 300_000


def test_wrong_bytes_are_refused_and_nothing_is_left_under_the_final_name(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repository("me/model", MODEL)
    hub.faults[f"/me/model/resolve/{'c' * 40}/model.safetensors"] = [Fault(content=b"x" * len(WEIGHTS))]
    error = refusal("me/model", "--mirror", hub.url)
    assert "sha256" in error.message
    assert "model.safetensors" in error.message
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    (one,) = fetched(hub, "me/model")
    assert {file["file"]: file["state"] for file in one["files"]} == {
        "config.json": "already here",
        "model.safetensors": "fetched",
    }


def test_what_is_cached_is_found_offline_and_what_is_not_is_named(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repository("me/model", MODEL)
    fetched(hub, "me/model")
    asked = len(hub.asked)
    go_offline(monkeypatch)
    (one,) = fetched(hub, "me/model")
    assert {file["state"] for file in one["files"]} == {"already here"}
    assert {file["verified"] for file in one["files"]} == {"sha256", "git blob id"}
    assert len(hub.asked) == asked
    (weights,) = [file for file in one["files"] if file["file"] == "model.safetensors"]
    Path(weights["place"]).unlink()
    assert "'model.safetensors' is missing" in refusal("me/model").message
    assert "'me/other' is not on this disk" in refusal("me/other").message


def test_a_cached_file_that_went_bad_is_removed(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repository("me/model", MODEL)
    (one,) = fetched(hub, "me/model")
    (place,) = [Path(file["place"]) for file in one["files"] if file["file"] == "model.safetensors"]
    place.resolve().write_bytes(b"y" * len(WEIGHTS))
    go_offline(monkeypatch)
    assert "sha256" in refusal("me/model").message
    assert not place.exists()


def test_an_unknown_and_a_restricted_repository_and_revision_are_said_plainly(hub: HubServer) -> None:
    hub.add_repository("me/model", MODEL)
    hub.add_repository("me/closed", MODEL)
    hub.gated.add("me/closed")
    assert "no repository 'me/none'" in refusal("me/none", "--mirror", hub.url).message
    error = refusal("me/closed", "--mirror", hub.url)
    assert "restricted" in error.message
    assert "HF_TOKEN" in (error.hint or "")
    assert "no such revision" in refusal("me/model", "--mirror", hub.url, "--revision", "v9").message


def test_a_hub_that_does_not_answer_is_an_error_with_a_way_on(hub: HubServer) -> None:
    error = refusal("me/model", "--mirror", "http://127.0.0.1:9")
    assert "'me/model' could not be downloaded" in error.message
    assert "--mirror" in (error.hint or "")


def test_a_revision_is_taken_by_its_commit(hub: HubServer) -> None:
    hub.add_repository("me/model", MODEL)
    (one,) = fetched(hub, "me/model", "--revision", "c" * 40)
    assert one["revision"] == "c" * 40
    assert f"--model {one['folder']}" in one["notes"][0]
    assert "fits one NAME" in refusal("7b", "13b", "--revision", "main").message


def test_a_repository_that_moves_on_meanwhile_is_not_mixed(hub: HubServer, tmp_path: Path) -> None:
    hub.add_repository("me/model", MODEL)
    snapshot = list_snapshot(Repository(id="me/model", mirror=hub.url))
    hub.commits["model", "me/model"] = "d" * 40
    with pytest.raises(AmpError, match="no such revision"):
        fetch_snapshot(snapshot, byte_progress)
    assert not list((tmp_path / "cache").rglob("d" * 40))


def test_pickles_are_taken_only_where_there_is_nothing_safer_and_code_never() -> None:
    rest = ["README.md", "config.json", "modeling.py", "checkpoint-9/model.safetensors", "training_args.bin"]
    safe = ["model-1.safetensors", "model.safetensors.index.json"]
    pickled = ["pytorch_model-1.bin", "pytorch_model.bin.index.json", "tokenizer.model"]
    assert choose_files(rest + safe + pickled, None) == ["config.json", *safe, "tokenizer.model"]
    assert choose_files(rest + pickled, None) == ["config.json", *pickled]
    assert choose_files(["adapter_model.bin", "adapter_config.json"], None) == [
        "adapter_model.bin",
        "adapter_config.json",
    ]
    assert choose_files(["a.py", "images/1.jpg", "test.zip"], ("*.py", "images/*")) == ["images/1.jpg"]
    assert choose_files(["a.py", "b.py"], ("b.py",)) == ["b.py"]  # to be read, never to be run


def test_an_adapter_brings_its_base_and_vision_tower(hub: HubServer) -> None:
    hub.add_repository("mengxizhang/amp_meg_7b", {"adapter_config.json": b"{}", "adapter_model.bin": b"a"})
    hub.add_repository("mengxizhang/amp-7b-base", {"config.json": b"{}", "pytorch_model.bin": b"b"})
    hub.add_repository("openai/clip-vit-large-patch14-336", {"config.json": b"{}", "pytorch_model.bin": b"c"})
    result = amp("amp-meg-7b", "amp-7b-base", "--mirror", hub.url, "--json")
    assert result.exit_code == 0, result.exception
    names = [one["name"] for one in json.loads(result.stdout)["downloads"]]
    assert names == ["amp-meg-7b", "amp-7b-base", "clip-vit-large-patch14-336"]
    assert "the base of amp-meg-7b" in result.stderr
    assert "the vision tower that amp-meg-7b needs" in result.stderr


def test_list_files_fetches_nothing_and_says_where_each_file_belongs(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add_repository("me/model", MODEL)
    (one,) = fetched(hub, "me/model", "--list-files")
    files = {file["file"]: file for file in one["files"]}
    assert files["model.safetensors"]["url"] == f"{hub.url}/me/model/resolve/{'c' * 40}/model.safetensors"
    assert files["model.safetensors"]["bytes"] == len(WEIGHTS)
    assert files["model.safetensors"]["expected"].startswith("sha256:")
    assert files["model.safetensors"]["place"].startswith(one["folder"])
    assert hub.asked == []
    table = amp("me/model", "--mirror", hub.url, "--list-files")
    assert "model.safetensors" in table.stdout
    go_offline(monkeypatch)
    result = amp("7b", "--list-files")
    assert result.exit_code == 0
    assert "llava-hf/llava-1.5-7b-hf" in result.output


def test_a_dataset_of_the_hub_lies_in_the_benchmarks_folder_and_works_offline(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"questions.jsonl": b"{}\n", "images/001.jpg": b"picture", "README.md": b"no", "load.py": b"no"}
    hub.add_repository("liuhaotian/llava-bench-in-the-wild", files, kind="dataset")
    (one,) = fetched(hub, "llava-bench-wild")
    folder = tmp_path / "amp" / "benchmarks" / "llava-bench-wild"
    assert one["folder"] == str(folder)
    assert (folder / "images" / "001.jpg").read_bytes() == b"picture"
    assert not (folder / "README.md").exists()
    go_offline(monkeypatch)
    (again,) = fetched(hub, "llava-bench-wild")
    assert {file["file"] for file in again["files"]} == {"questions.jsonl", "images/001.jpg"}
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(folder / ".cache")
    (carried,) = fetched(hub, "llava-bench-wild")
    assert carried["revision"] == "carried by hand"


def test_a_full_disk_is_refused_before_anything_is_fetched(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repository("me/model", MODEL)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_024_001))
    error = refusal("me/model", "--mirror", hub.url)
    assert "needs 1.0 MB" in error.message
    assert hub.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1_024_002))
    fetched(hub, "me/model")


def test_an_unknown_name_gets_the_nearest_and_no_name_the_list() -> None:
    error = refusal("amp-meg-8b")
    assert "amp-meg-7b" in (error.hint or "")
    assert "cannot be run" in refusal("tiny-llava-2b").message
    listed = json.loads(amp("--json").stdout)
    assert "7b" in {one["name"] for one in listed["models"]}
    assert [one["name"] for one in listed["benchmarks"]] == [
        "pope",
        "repope",
        "dashb",
        "hallusionbench",
        "humblebench",
        "object-halbench",
        "llava-bench",
        "llava-bench-wild",
        "mmhal",
        "mrhal",
        "chair",
        "amber",
    ]
    assert "comes with amp" in amp("tiny").stderr
