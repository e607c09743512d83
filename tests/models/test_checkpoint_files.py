"""Weight files as people have them: sharded, pickled, cut off, or made to do harm."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_cli.errors import AmpError
from amp_cli.models.llava.files import read_tensors, refuse_unfinished, stored_tensors, weight_files
from amp_cli.models.load import load_model
from amp_cli.models.resolve import check_model
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import GOLDEN, answers, change_config, golden_adapter, golden_copy, shard, to_hf


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    return answers(load_model(ModelSpec(model=str(GOLDEN / "base"))))


class Harmful:
    """Writes a file when it is unpickled in the ordinary way."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def pickled(folder: Path) -> Path:
    """Turn a checkpoint's only weight file into a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder / "pytorch_model.bin"


@pytest.mark.parametrize("is_pickled", [False, True], ids=["safetensors", "bin"])
def test_shards_with_an_index_are_the_whole_model(base: Path, expected: torch.Tensor, is_pickled: bool) -> None:
    shard(base, pickled=is_pickled)
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_single_pickle_is_the_whole_model(base: Path, expected: torch.Tensor) -> None:
    pickled(base)
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_a_pickle_of_before_pytorch_1_6_is_read(base: Path, expected: torch.Tensor) -> None:
    file = pickled(base)
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    assert file.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


def test_safetensors_win_over_a_pickle(base: Path, expected: torch.Tensor) -> None:
    weights = load_file(base / "model.safetensors")
    torch.save({name: tensor * 2 for name, tensor in weights.items()}, base / "pytorch_model.bin")
    assert weight_files(base) == [base / "model.safetensors"]
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


@pytest.mark.parametrize("is_pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_shard_that_was_downloaded_in_part_is_named(base: Path, is_pickled: bool, share: float) -> None:
    second = shard(base, pickled=is_pickled)[1]
    content = second.read_bytes()
    second.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AmpError, match=rf"'{second}' is damaged"):
        check_model(ModelSpec(model=str(base)))


@pytest.mark.parametrize("share", [0.3, 0.9, 0.9999])
def test_half_of_an_old_pickle_is_damaged_and_not_harmful(base: Path, share: float) -> None:
    file = pickled(base)
    torch.save(torch.load(file), file, _use_new_zipfile_serialization=False)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(AmpError, match=rf"'{file}' is damaged"):
        load_model(ModelSpec(model=str(base)))


def header_only(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        header_only({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"1234" + b"surplus",
        header_only({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + b"1234",
        header_only({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + b"1234",
        header_only({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}}) + b"1234",
        header_only([1, 2]),
        b"\xff" * 100,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ],
    ids=["too long", "shape", "dtype", "offset", "list", "noise", "git-lfs pointer"],
)
def test_a_safetensors_file_that_contradicts_itself_is_damaged(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(AmpError, match=r"model\.safetensors' is damaged"):
        stored_tensors(weight_files(tmp_path))


def test_a_text_file_is_no_pickle(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(AmpError, match="it is not a PyTorch file"):
        refuse_unfinished(file)


def test_an_index_that_names_a_missing_file_is_refused(base: Path) -> None:
    shard(base, pickled=False)[1].unlink()
    with pytest.raises(AmpError, match=r"names 'model-00002-of-00002\.safetensors', which is missing"):
        check_model(ModelSpec(model=str(base)))


def test_a_weight_that_its_shard_lacks_is_named_when_loading_and_when_converting(base: Path, tmp_path: Path) -> None:
    first = shard(base, pickled=False)[0]
    weights = load_file(first)
    del weights["model.norm.weight"]
    save_file(weights, first, {"format": "pt"})
    with pytest.raises(AmpError, match=r"lacks 1 of the weights its configuration asks for, first '.*norm\.weight'"):
        load_model(ModelSpec(model=str(base)))
    with pytest.raises(AmpError, match=r"lacks 1 of the weights its configuration asks for, first '.*norm\.weight'"):
        to_hf(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../outside.safetensors", "/absolute.safetensors", "inner/part.safetensors"])
def test_an_index_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    name = name.replace("/absolute", f"{tmp_path}/absolute")
    save_file({"a": torch.zeros(1)}, tmp_path / "real.safetensors")
    (folder / name).symlink_to(tmp_path / "real.safetensors")  # the hub's cache is made of links
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(AmpError, match="names files outside its folder"):
        weight_files(folder)


def test_shards_may_be_links_as_in_the_hubs_cache(base: Path, tmp_path: Path, expected: torch.Tensor) -> None:
    for file in shard(base, pickled=False):
        blob = tmp_path / f"blob-{file.name}"
        file.rename(blob)
        file.symlink_to(blob)
    assert torch.equal(answers(load_model(ModelSpec(model=str(base)))), expected)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([], "does not hold a JSON object"),
        ({}, "lacks the field 'weight_map'"),
        ({"weight_map": []}, "must be an object"),
        ({"weight_map": {}}, "is not an index of weight files"),
    ],
)
def test_an_index_without_files_is_refused(tmp_path: Path, index: object, words: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(AmpError, match=words):
        weight_files(tmp_path)


@pytest.mark.parametrize("protocol", ["torch", 2, 4])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "non_lora_trainables.bin"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    base: Path, tmp_path: Path, name: str, protocol: str | int
) -> None:
    marker = tmp_path / "harm"
    adapter = golden_adapter(tmp_path)
    folder = base if name == "pytorch_model.bin" else adapter
    content = {"base_model.model.model.mm_projector.0.weight": Harmful(marker)}
    if isinstance(protocol, int):
        (folder / name).write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        torch.save(content, folder / name)
    for file in {"pytorch_model.bin": [base / "model.safetensors"]}.get(name, []):
        file.unlink()
    if name == "adapter_model.bin":
        (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(AmpError, match=rf"{name}' is (a pickle that would run code; it was not loaded|damaged)"):
        load_model(ModelSpec(model=str(base), adapter=str(adapter)))
    assert not marker.exists()
    pickle.loads(pickle.dumps(content))
    assert marker.exists()  # the pickle is harmful indeed


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"lm_head.weight": torch.zeros(2, 2)}},
        {"lm_head.weight": torch.zeros(2, 2), "step": 3},
        {0: torch.zeros(2, 2)},
        [torch.zeros(2, 2)],
        torch.zeros(2, 2),
    ],
    ids=["nested", "with a number", "numbered", "list", "tensor"],
)
def test_a_pickle_of_anything_but_named_tensors_is_refused(tmp_path: Path, content: object) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save(content, file)
    for read in (read_tensors, lambda file: stored_tensors([file])):
        with pytest.raises(AmpError, match="is not a plain list of named tensors"):
            read(file)


def test_a_folder_without_weights_says_which_were_looked_for(base: Path) -> None:
    (base / "model.safetensors").unlink()
    with pytest.raises(AmpError, match=r"has no weights \(model\.safetensors or pytorch_model\.bin\)"):
        check_model(ModelSpec(model=str(base)))


def test_a_configuration_that_is_no_configuration_is_refused(base: Path) -> None:
    change_config(base)
    (base / "config.json").write_text("[]")
    with pytest.raises(AmpError, match=r"config\.json' does not hold a JSON object"):
        load_model(ModelSpec(model=str(base)))
