"""Small checkpoints in the original LLaVA layout for tests: the golden one, changed in one way at a time."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from amp_cli.models.llava.convert import ConvertSettings, convert
from amp_cli.models.llava.names import ORIGINAL, Spelling, respell, respell_adapter
from amp_cli.models.load import LoadedModel
from amp_cli.models.prompts import encode_prompts

GOLDEN = Path(__file__).parents[1] / "golden" / "llava" / "model"
TOWER = "openai/clip-vit-tiny-patch14-56"
Tensors = dict[str, torch.Tensor]


def golden_copy(folder: Path, name: str = "base") -> Path:
    """Copy a golden checkpoint and its tower, which lies beside it; safetensors only."""
    shutil.copytree(GOLDEN / TOWER, folder / TOWER, dirs_exist_ok=True)
    return Path(shutil.copytree(GOLDEN / name, folder / name, ignore=shutil.ignore_patterns("*.bin")))


def golden_adapter(folder: Path) -> Path:
    """Copy the golden adapter, in the original spelling; safetensors only."""
    return Path(shutil.copytree(GOLDEN / "adapter", folder / "adapter", ignore=shutil.ignore_patterns("*.bin")))


def change_config(folder: Path, *, without: tuple[str, ...] = (), name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text())
    kept = {key: value for key, value in config.items() if key not in without}
    (folder / name).write_text(json.dumps({**kept, **changes}))


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def change_weights(folder: Path, change: Callable[[Tensors], Mapping[str, torch.Tensor]]) -> None:
    """Replace the tensors of the folder's only safetensors file."""
    file = next(folder.glob("*model.safetensors"))
    changed = {name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}
    save_file(changed, file, {"format": "pt"})


def all_weights(folder: Path) -> Tensors:
    """Read every safetensors file of a folder, not of those in it."""
    found: Tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found


def same_tensors(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether names, number formats and every bit are the same."""
    return set(first) == set(second) and all(
        tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]) for name, tensor in first.items()
    )


def shard(folder: Path, *, pickled: bool) -> list[Path]:
    """Split the folder's only weight file into two with an index, safetensors or pickles."""
    whole = folder / "model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    stem, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    names = sorted(weights)
    halves = [names[::2], names[1::2]]
    files = [folder / f"{stem}-{number:05d}-of-00002{suffix}" for number in (1, 2)]
    for file, half in zip(files, halves, strict=True):
        part = {name: weights[name].clone() for name in half}
        if pickled:
            torch.save(part, file)
        else:
            save_file(part, file, {"format": "pt"})
    weight_map = {name: file.name for file, half in zip(files, halves, strict=True) for name in half}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def image(width: int = 96, height: int = 40) -> Image.Image:
    """A gradient whose left end differs from its right end."""
    ramp = Image.linear_gradient("L").rotate(90).resize((width, height))
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), ramp))


@torch.no_grad()
def answers(loaded: LoadedModel, size: tuple[int, int] = (96, 40)) -> torch.Tensor:
    """Return the logits, (length, text vocabulary) float32, of a question about an image."""
    batch = encode_prompts(loaded, [(("What is on the left?",), ())], [[image(*size)]])
    return loaded.model(**batch).logits[0, :, : loaded.vocabulary].float()  # type: ignore[no-any-return]


def random_checkpoint(folder: Path, *, hidden: int = 64, layers: int = 2) -> Path:
    """Write an original checkpoint of random tensors, its tower inside; all widths are multiples of 64."""
    tower = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        patch_size=14,
        image_size=56,
        hidden_act="quick_gelu",
    )
    text = {"hidden_size": hidden, "intermediate_size": 128, "num_hidden_layers": layers, "num_attention_heads": 4}
    torch.manual_seed(0)
    network = LlavaForConditionalGeneration(
        LlavaConfig(text_config={"model_type": "llama", "vocab_size": 1000, **text}, vision_config=tower)
    )
    folder.mkdir(parents=True)
    weights = {respell(name, ORIGINAL): tensor.half() for name, tensor in network.state_dict().items()}
    save_file({str(name): tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / "base" / name, folder / name)
    change_config(folder, **text, num_key_value_heads=4, mm_hidden_size=64)
    return folder


def to_hf(model: Path, out: Path) -> Path:
    """Convert to transformers' layout."""
    return convert(ConvertSettings(model=str(model), out=out, to="hf")).out


def to_llava(model: Path, out: Path) -> Path:
    """Convert to the original layout."""
    return convert(ConvertSettings(model=str(model), out=out, to="llava")).out


def spell_adapter(adapter: Path, spelling: Spelling, **config: Any) -> Path:
    """Rename an adapter's weights in place, as that layout's training would have left them."""

    def renamed(weights: Tensors) -> Tensors:
        return {str(respell_adapter(name, spelling)): tensor for name, tensor in weights.items()}

    change_weights(adapter, renamed)
    change_config(adapter, name="adapter_config.json", **config)
    return adapter


def adapter_modules(adapter: Path) -> list[str]:
    """The full names of the layers that an adapter has weights for, in its own spelling."""
    names = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in all_weights(adapter)}
    return sorted(names)


def train_projector(adapter: Path) -> Path:
    """Put a projector beside an adapter as LLaVA's own training does: the base's, half as large again."""
    torch.save(_trained_projector("base_model.model."), adapter / "non_lora_trainables.bin")
    return adapter


def golden_with_trained_projector(folder: Path) -> Path:
    """Copy the golden base with that projector inside."""
    base = golden_copy(folder)
    change_weights(base, lambda weights: {**weights, **_trained_projector("")})
    return base


def _trained_projector(prefix: str) -> Tensors:
    weights = load_file(GOLDEN / "base" / "model.safetensors")
    return {f"{prefix}{name}": tensor.float() * 1.5 for name, tensor in weights.items() if "mm_projector" in name}


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file but `run.json`, which holds the time, by its name."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "run.json"
    }


def saved_by_transformers(folder: Path, *, rows: int) -> Path:
    """A random LLaVA that transformers itself saved, with the tokenizer.model that the original layout needs."""
    config = read_config(GOLDEN / "base")
    text = {key: config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps")}
    torch.manual_seed(1)
    network = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={"model_type": "llama", "num_attention_heads": 4, "vocab_size": rows, **text},
            vision_config=read_config(GOLDEN / TOWER),
            image_token_index=1000,
        )
    )
    network.half().save_pretrained(folder)
    shutil.copyfile(GOLDEN / "base" / "tokenizer.model", folder / "tokenizer.model")
    return folder
