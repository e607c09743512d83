"""Addresses: no user name, password or key of them is shown or stored, wherever they go."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_cli import ui
from amp_cli.addresses import masked, shown_address, stored
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.main import app


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:hunter2@host:8000/v1", "https://***@host:8000/v1"),
        ("https://hunter2@host", "https://***@host"),
        ("http://me:hun/ter2@host/v1", "http://***@host/v1"),
        ("http://me:p@hunter2@host/v1", "http://***@host/v1"),
        ("https://host/hunter2/v1", "https://host/***/v1"),
        ("https://host/v1?key=hunter2&api-version=2024-10-21", "https://host/v1?key=***&api-version=2024-10-21"),
        ("https://host/v1?hunter2", "https://host/v1?***"),
        ("socks5://me:hunter2@host:1080", "socks5://***@host:1080"),
        ("http://127.0.0.1:8000/v1#owner/llava", "http://127.0.0.1:8000/v1#owner/llava"),
        ("https://host/openai/deployments/gpt-4o", "https://host/openai/deployments/gpt-4o"),
    ],
)
def test_of_a_user_s_own_address_only_well_known_parts_are_shown(address: str, shown: str) -> None:
    assert shown_address(address) == shown
    assert shown_address(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "See https://huggingface.co/liuhaotian/llava-v1.5-7b/resolve/4481d270cc22fd5c4ce6eb0b7b1d8d6f8e2b4a3c/a.json.",
        "As in http://127.0.0.1:8000/v1, or 'https://host/v1#Qwen/Qwen2-VL-7B-Instruct-GPTQ-Int4'",
        "no address: me:pass@host/sk-abcdefgh",
    ],
)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "part",
    ["sk-hunter2hunter2", "hf_hunter2hunter2", "my-hunter2-secret", "token/hunter2hunter2", "hunter2a8B3f9Zq7Lk2x"],
)
def test_a_part_of_a_path_that_looks_like_a_key_is_masked_in_any_text(part: str) -> None:
    said = masked(f"Cannot reach 'https://host/{part}/models', try again")
    assert "hunter2" not in said
    assert said.endswith("/models', try again")


def test_errors_and_all_that_is_printed_go_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    address = "http://me:hunter2@host/x"
    error = AmpError(f"Cannot reach {address}", hint=f"Try {address}")
    ui.error(error.message, error.hint)
    for say in (ui.note, ui.warn, ui.step, ui.hint):
        say(f"at {address}")
    ui.table(address, [address], [[address]])
    ui.data({"files": [{"url": address}]})
    said = capsys.readouterr()
    assert "hunter2" not in f"{error!r}{error.hint}{said.out}{said.err}"
    assert json.loads(said.out.splitlines()[-1]) == {"files": [{"url": "http://***@host/x"}]}


def test_a_run_folder_holds_no_secret_and_goes_on_whatever_an_older_one_holds(tmp_path: Path) -> None:
    settings = {"model": "https://host/hunter2/v1#llava", "urls": ["https://me:hunter2@host"]}
    out = tmp_path / "out"
    Run.start(out, command="test", settings=settings).record(judging={"url": "https://host/hunter2/v1"})
    text = (out / "run.json").read_text()
    assert "hunter2" not in text
    (out / "run.json").write_text(text.replace("https://host/***/v1#llava", "https://host/hunter2/v1#llava"))
    assert Run.start(out, command="test", settings=settings).resumed
    with pytest.raises(AmpError, match="was made with model"):
        Run.start(out, command="test", settings={**settings, "model": "https://other/v1#llava"})
    assert stored({"a": [1, None, "x"]}) == {"a": [1, None, "x"]}


@pytest.mark.parametrize("name", ["pope", "me/model"])
def test_a_mirror_s_secrets_are_neither_said_nor_listed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMP_HOME", str(tmp_path))
    monkeypatch.setattr("amp_cli.downloads.http_files.FIRST_PAUSE", 0.0)
    mirror = "http://me:hunter2@127.0.0.1:9/hunter2/files"
    failed = CliRunner().invoke(app, ["download", name, "--mirror", mirror])
    assert isinstance(failed.exception, AmpError)
    assert "hunter2" not in f"{failed.output}{failed.exception!r}{failed.exception.hint}"
    listed = CliRunner().invoke(app, ["download", "pope", "--list-files", "--json", "--mirror", f"{mirror}?k=hunter2"])
    first = json.loads(listed.stdout)["downloads"][0]["files"][0]["url"]
    assert first.startswith("http://***@127.0.0.1:9/***/files/raw.githubusercontent.com/")
    assert first.endswith("/coco_pope_random.json?k=***")
