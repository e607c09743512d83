"""`amp convert` leaves a whole folder or none, and says what it cannot do."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from amp_cli.errors import AmpError
from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.llava.files import save_tensors
from amp_cli.models.load import load_model
from amp_cli.models.resolve import TINY
from amp_cli.models.spec import ModelSpec
from tests.support.llava_checkpoints import (
    GOLDEN,
    TOWER,
    Tensors,
    answers,
    change_config,
    change_weights,
    files_in,
    golden_copy,
    read_config,
    saved_by_transformers,
    shard,
    to_hf,
    to_llava,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return golden_copy(tmp_path)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint in transformers' layout; not to be changed."""
    return to_hf(GOLDEN / "base", tmp_path_factory.mktemp("converted") / "hf")


# whole or not there


def test_a_killed_conversion_starts_again(base: Path, tmp_path: Path) -> None:
    part = tmp_path / "hf.part"
    part.mkdir()
    (part / "part-00001.safetensors").write_bytes(b"half")
    (part / "run.json").write_text(
        json.dumps({"amp_version": "0", "command": "convert", "settings": {}, "state": "running"})
    )
    out = to_hf(base, tmp_path / "hf")
    assert not part.exists()
    assert files_in(out) == files_in(to_hf(base, tmp_path / "undisturbed"))


def test_what_cannot_be_converted_leaves_nothing(base: Path, tmp_path: Path) -> None:
    change_config(base, mm_projector_type="mlp2x_silu")
    with pytest.raises(AmpError, match="mlp2x_silu"):
        to_hf(base, tmp_path / "hf")
    assert not list(tmp_path.glob("hf*"))


def test_the_same_command_again_does_nothing(base: Path, tmp_path: Path) -> None:
    out = to_hf(base, tmp_path / "hf")
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    settings = ConvertSettings(model=str(base), out=out, to="hf")
    assert convert(settings).tensors == 80
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == times


def test_a_folder_that_is_not_ours_or_of_another_model_is_left_alone(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(AmpError, match="is not empty, and it does not hold a result of this `amp convert`"):
            convert(ConvertSettings(model=str(base), out=out, to="hf", overwrite=overwrite))
    assert [file.name for file in out.iterdir()] == ["chapter1.tex"]
    made = to_hf(base, tmp_path / "hf")
    change_config(base, rms_norm_eps=1e-6)
    with pytest.raises(AmpError, match="is not empty"):
        to_hf(base, made)
    assert read_config(made)["text_config"]["rms_norm_eps"] == 1e-5
    convert(ConvertSettings(model=str(base), out=made, to="hf", overwrite=True))
    assert read_config(made)["text_config"]["rms_norm_eps"] == 1e-6


LIMITED = """
import resource, shutil, sys
from collections.abc import Callable
from pathlib import Path
from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.llava.files import save_tensors
from amp_cli.errors import AmpError
out = Path(sys.argv.pop())
for source, to in zip(sys.argv[1::2], sys.argv[2::2]):
    for allowed in (10, 1500, 20_000, 60_000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, resource.RLIM_INFINITY))
        try:
            convert(ConvertSettings(model=source, out=out, to=to))
            print("whole", source, allowed)
        except AmpError as error:
            print(error.message.replace(str(out), "OUT"))
        print("there" if out.exists() else "not there")
"""


@pytest.mark.slow
def test_a_disk_that_is_full_is_a_sentence_and_leaves_nothing_under_the_name(
    base: Path, converted: Path, tmp_path: Path
) -> None:
    """Files that may not grow beyond a few bytes fail as they do on a full disk, at ever later places."""
    adapter = tmp_path / "adapter"
    shutil.copytree(GOLDEN / "adapter", adapter)
    torch.save({"mm_projector.0.weight": torch.zeros(400, 400)}, adapter / "non_lora_trainables.bin")
    cases = [str(base), "hf", str(converted), "llava", str(adapter), "hf"]
    command = [sys.executable, "-c", LIMITED, *cases, str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 5 * 3
    assert all(line.startswith("Cannot write 'OUT") for line in lines[0::2]), lines
    assert set(lines[1::2]) == {"not there"}


# refusals


@pytest.mark.parametrize("to", ["hf", "llava"])
def test_a_model_that_is_in_that_layout_already_is_told_so(
    base: Path, converted: Path, tmp_path: Path, to: str
) -> None:
    model = converted if to == "hf" else base
    with pytest.raises(AmpError, match=f"is already in the {to} layout"):
        convert(ConvertSettings(model=str(model), out=tmp_path / "out", to=to))
    assert not (tmp_path / "out").exists()


def test_models_that_the_original_layout_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AmpError, match=r"has no tokenizer\.model"):
        to_llava(TINY, tmp_path / "out")
    other = saved_by_transformers(tmp_path / "other", rows=1024)
    change_config(other, model_type="llava_next")
    with pytest.raises(AmpError, match=r"is only for LLaVA-1\.5"):
        to_llava(other, tmp_path / "out")
    early = saved_by_transformers(tmp_path / "early", rows=1024)
    change_config(early, image_token_index=500)
    with pytest.raises(AmpError, match=r"has its image token \(500\) among the 1,000 tokens"):
        to_llava(early, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes", [{"projector_hidden_act": "relu"}, {"vision_feature_layer": [-2, -3]}], ids=["activation", "layers"]
)
def test_settings_that_the_original_layout_cannot_say_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = saved_by_transformers(tmp_path / "hf", rows=1024)
    change_config(folder, **changes)
    with pytest.raises(AmpError, match=next(iter(changes))):
        to_llava(folder, tmp_path / "out")


def test_weights_that_a_transformers_folder_lacks_are_named_before_any_is_written(tmp_path: Path) -> None:
    folder = saved_by_transformers(tmp_path / "hf", rows=1024)
    lost = "layers.1.mlp.up_proj.weight"
    change_weights(folder, lambda weights: {key: value for key, value in weights.items() if not key.endswith(lost)})
    with pytest.raises(AmpError, match=f"lacks 1 of the weights .*{lost}"):
        to_llava(folder, tmp_path / "out")


def test_a_tower_that_was_named_by_a_folder_elsewhere_moves_into_the_result(base: Path, tmp_path: Path) -> None:
    for number, name in enumerate((str(tmp_path / TOWER), f"../{tmp_path.name}/{TOWER}", None)):
        change_config(base, mm_vision_tower=name)
        settings = ConvertSettings(
            model=str(base), out=tmp_path / f"hf{number}", to="hf", vision_tower=str(tmp_path / TOWER)
        )
        back = to_llava(convert(settings).out, tmp_path / f"back{number}")
        assert read_config(back) == {**read_config(base), "mm_vision_tower": "vision_tower"}
        assert torch.equal(
            answers(load_model(ModelSpec(model=str(back)))), answers(load_model(ModelSpec(model=str(GOLDEN / "base"))))
        )


def test_a_tower_is_given_with_original_models_alone(converted: Path, tmp_path: Path) -> None:
    settings = ConvertSettings(model=str(converted), out=tmp_path / "out", to="llava", vision_tower=str(GOLDEN / TOWER))
    with pytest.raises(AmpError, match="--vision-tower is for a model in the original layout"):
        convert(settings)


def test_verify_compares_both_layouts(base: Path, tmp_path: Path) -> None:
    result = convert(ConvertSettings(model=str(base), out=tmp_path / "hf", to="hf", verify=True))
    assert len(result.differences) == 6
    assert result.max_logit_difference is not None
    assert result.max_logit_difference < 1e-5
    assert result.to_json()["from"] == "llava"


def test_verify_sees_a_result_that_was_changed(base: Path, tmp_path: Path) -> None:
    settings = ConvertSettings(model=str(base), out=tmp_path / "hf", to="hf", verify=True)
    convert(settings)
    for file in settings.out.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: tensor * 1.5 for name, tensor in weights.items()}, file, {"format": "pt"})
    again = convert(settings)
    assert again.max_logit_difference is not None
    assert again.max_logit_difference > 0.1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is in memory")
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "bin"])
@pytest.mark.parametrize("to", ["hf", "llava"])
def test_of_the_source_one_file_at_a_time_is_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, pickled: bool
) -> None:
    """Files are mapped, not read, and a view of one tensor would hold its whole file."""
    source = saved_by_transformers(tmp_path / "source", rows=1024) if to == "llava" else golden_copy(tmp_path)
    shard(source, pickled=pickled)
    mapped: list[set[str]] = []

    def counting(tensors: Tensors, file: Path, advance: Callable[[int], object]) -> None:
        lines = Path("/proc/self/maps").read_text().splitlines()
        mapped.append({line.split()[-1] for line in lines if line.split()[-1].startswith(f"{source}/")})
        save_tensors(tensors, file, advance)

    monkeypatch.setattr("amp_cli.models.llava.files.save_tensors", counting)
    convert(ConvertSettings(model=str(source), out=tmp_path / "out", to=to))
    shards_written = [files for files in mapped if files]
    assert len(shards_written) == 2
    assert all(len(files) == 1 for files in shards_written)
    assert shards_written[0] != shards_written[1]
