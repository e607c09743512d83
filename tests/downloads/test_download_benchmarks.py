"""Benchmarks: what `amp download` brings is where and what `amp eval` reads."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from amp_cli.downloads import fetch
from amp_cli.downloads.places import benchmark_folder
from amp_cli.downloads.sources import BENCHMARK_FILES, VAL2014, BenchmarkFiles, find_benchmark
from amp_cli.errors import AmpError
from amp_cli.main import app
from tests.support.hub_server import HubServer, go_offline, go_online


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    go_online(monkeypatch, tmp_path)
    with HubServer() as server:
        yield server


def small_pope(web: HubServer) -> BenchmarkFiles:
    """Put a POPE of 3 x 3,000 questions about 2 images on the server."""
    lines = [
        {"question_id": n, "image": f"COCO_val2014_{n % 2:012}.jpg", "text": f"Is there a {n}?", "label": "yes"}
        for n in range(3000)
    ]
    pope = find_benchmark("pope")
    assert pope is not None
    assert pope.members is not None
    for file in pope.files:
        path = file.url.removeprefix("https:/")
        web.files[path] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for number in range(5):
            out.writestr(f"val2014/COCO_val2014_{number:012}.jpg", b"image %d" % number)
    web.files[VAL2014.url.removeprefix("https:/")] = packed.getvalue()
    archived = replace(VAL2014, bytes=len(packed.getvalue()))
    return replace(pope, members=replace(pope.members, archive=archived))


def test_pope_lands_where_amp_eval_finds_it(web: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from amp_cli.benchmarks.pope import load
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.models.images import find_image

    pope = small_pope(web)
    monkeypatch.setattr(fetch, "find_benchmark", lambda name: pope if name == "pope" else None)
    result = CliRunner().invoke(app, ["download", "pope", "--mirror", web.url, "--json"])
    assert result.exit_code == 0, result.exception
    (one,) = json.loads(result.stdout)["downloads"]
    folder = benchmark_folder("pope")
    assert one["folder"] == str(folder) == str(tmp_path / "amp" / "benchmarks" / "pope")
    assert f"--data {folder} --image-root {folder}/val2014" in one["notes"][0]
    assert [file["verified"] for file in one["files"]] == ["no published checksum; 3,000 questions"] * 3 + [
        "size and CRC-32"
    ]
    assert one["files"][3]["count"] == 2
    settings = EvalSettings(benchmark="pope", out=tmp_path / "out", data=folder)
    loaded = load(folder, settings)
    assert len(loaded.items) == 9000
    assert find_image(loaded.items[1].images[0], folder / "val2014").read_bytes() == b"image 1"
    go_offline(monkeypatch)
    again = CliRunner().invoke(app, ["download", "pope"])
    assert again.exit_code == 0, again.exception
    assert "already here" in again.stdout


def test_pope_with_another_number_of_questions_is_refused(web: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pope = small_pope(web)
    monkeypatch.setattr(fetch, "find_benchmark", lambda name: pope)
    path = pope.files[1].url.removeprefix("https:/")
    web.files[path] = web.files[path].partition(b"\n")[2]
    result = CliRunner().invoke(app, ["download", "pope", "--mirror", web.url])
    assert isinstance(result.exception, AmpError)
    assert "2,999 questions; 3,000 were expected" in result.exception.message
    assert (benchmark_folder("pope") / "coco_pope_random.json").is_file()
    assert not (benchmark_folder("pope") / "coco_pope_popular.json").exists()


def test_images_keep_the_names_that_the_questions_give_them(tmp_path: Path) -> None:
    (tmp_path / "qa90_questions.jsonl").write_text('{"image": "000000441147.jpg"}\n{"image": "000000441147.jpg"}\n')
    bench = find_benchmark("llava-bench")
    assert bench is not None
    assert bench.members is not None
    assert bench.members.wanted(tmp_path) == {"val2014/000000441147.jpg": "val2014/COCO_val2014_000000441147.jpg"}


def test_every_address_is_https_at_a_commit_and_every_checksum_whole() -> None:
    lengths = {"sha256": 64, "md5": 32, "git": 40}
    for benchmark in BENCHMARK_FILES:
        assert benchmark.files or benchmark.members or benchmark.data
        for file in benchmark.files:
            assert file.url.startswith("https://raw.githubusercontent.com/")
            assert len(file.url.split("/")[5]) == 40
            assert file.check is not None
            if file.checksum:
                kind, _, value = file.checksum.partition(":")
                assert len(value) == lengths[kind]


def test_list_files_of_a_benchmark_names_places_and_what_is_known() -> None:
    result = CliRunner().invoke(app, ["download", "llava-bench", "amber", "--list-files", "--json"])
    assert result.exit_code == 0, result.exception
    bench, amber = json.loads(result.stdout)["downloads"]
    questions, archived = bench["files"][0], bench["files"][-1]
    assert questions["bytes"] == 12242
    assert questions["place"] == str(benchmark_folder("llava-bench") / "qa90_questions.jsonl")
    assert (archived["bytes"], archived["expected"]) == (6645013297, "md5:a3d79f5ed8d289b7a7554ce06a5782b3")
    assert amber["files"][0]["expected"] is None
    assert f"{benchmark_folder('amber')}/images/AMBER_1.jpg" in amber["notes"][0]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMP_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert benchmark_folder("pope") == Path("/cache/amp/benchmarks/pope")
    monkeypatch.setenv("AMP_HOME", "/data")
    assert benchmark_folder("pope") == Path("/data/benchmarks/pope")
