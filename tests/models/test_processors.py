"""Processors of today's families: images and text, whatever of torchvision is there, and nothing of a folder lost."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amp_cli.errors import AmpError
from amp_cli.models.llava.to_hf import save_processor
from amp_cli.models.packages import refuse_missing_package
from amp_cli.models.processors import for_images, keep_video_settings, load_processor
from tests.support.family_folders import FOLDERS, write_folder

HAS_TORCHVISION = find_spec("torchvision") is not None
DIALOGUE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is there a dog?"}]}]


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl3", "llava-onevision", "gemma-3"])
def test_a_processor_that_is_saved_again_is_the_same_with_its_settings_for_videos(name: str, tmp_path: Path) -> None:
    folder = write_folder(name, tmp_path / "base")
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    found = load_processor(folder, kind, trust_remote_code=False)
    assert type(found).__name__ == FOLDERS[name].processor[0]
    assert type(found.image_processor).__name__.endswith("Pil")
    out = tmp_path / "out"
    save_processor(found, out)
    keep_video_settings(folder, out)
    again = load_processor(out, kind, trust_remote_code=False)
    text = found.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True)
    one, other = (each(images=[[noise()]], text=[text], return_tensors="pt") for each in (found, again))
    assert torch.equal(one["input_ids"], other["input_ids"])
    assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert again.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True) == text
    stored = {file.name: file.read_bytes() for file in folder.glob("video*.json")}
    assert {file.name: file.read_bytes() for file in out.glob("video*.json")} == stored
    assert bool(stored) == (FOLDERS[name].video is not None)


def test_settings_for_videos_inside_the_processor_s_own_file_are_kept_too(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": {"fps": 2}, "processor_class": "X"}))
    (tmp_path / "out" / "processor_config.json").write_text(json.dumps({"processor_class": "X"}))
    keep_video_settings(tmp_path, tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "processor_config.json").read_text())
    assert kept == {"processor_class": "X", "video_processor": {"fps": 2}}


def test_one_class_stands_for_one_family() -> None:
    from transformers import Qwen3VLProcessor

    assert for_images(Qwen3VLProcessor) is for_images(Qwen3VLProcessor)
    assert for_images(Qwen3VLProcessor).get_attributes() == ["image_processor", "tokenizer"]


@pytest.mark.skipif(find_spec("num2words") is not None, reason="num2words is installed")
def test_a_package_that_a_family_needs_is_asked_for_before_anything_is_loaded() -> None:
    with pytest.raises(
        AmpError, match="The processor of 'm' needs the package num2words, which is not installed"
    ) as no:
        refuse_missing_package("m", {"model_type": "smolvlm"})
    assert no.value.hint == "pip install 'amp-cli[vision]', then give the command again"
    refuse_missing_package("m", {"model_type": "qwen3_vl"})


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCHVISION, reason="needs torchvision beside its own torch: make test-vision")
@pytest.mark.parametrize("name", FOLDERS)
def test_transformers_own_processor_reads_what_we_save_and_differs_by_rounding_alone(name: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    folder = write_folder(name, tmp_path / "base")
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    ours = load_processor(folder, kind, trust_remote_code=False)
    save_processor(ours, tmp_path / "out")
    keep_video_settings(folder, tmp_path / "out")
    text = ours.apply_chat_template(DIALOGUE, tokenize=False, add_generation_prompt=True)
    before, after, own = (
        one(images=[[noise()]], text=[text], return_tensors="pt")
        for one in (AutoProcessor.from_pretrained(folder), AutoProcessor.from_pretrained(tmp_path / "out"), ours)
    )
    assert torch.equal(before["pixel_values"], after["pixel_values"])
    assert torch.equal(before["input_ids"], own["input_ids"])
    grey = 1 / 255 / 0.5  # a level of grey after division by the standard deviation
    assert (before["pixel_values"] - own["pixel_values"]).abs().max() <= 2.01 * grey
