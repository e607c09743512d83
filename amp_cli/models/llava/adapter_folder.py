"""Writes a LoRA adapter of a LLaVA model under the names of the other layout."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import ADAPTER_STEMS, read_tensors, save_tensors, stored_tensors, weight_files
from amp_cli.models.llava.layout import ORIGINAL as ORIGINAL_LAYOUT
from amp_cli.models.llava.layout import TRANSFORMERS
from amp_cli.models.llava.names import NETWORK, ORIGINAL, Spelling, respell, respell_adapter
from amp_cli.models.llava.projector import projector_files, read_projector

_SPELLINGS: dict[str, Spelling] = {ORIGINAL_LAYOUT: ORIGINAL, TRANSFORMERS: NETWORK}


def adapter_layout(folder: Path, name: str) -> str:
    """Return `llava` where every weight is named as in the original code, else `hf`.

    Raises:
        AmpError: a name that is no part of a LLaVA model.
    """
    names = list(stored_tensors(weight_files(folder, ADAPTER_STEMS)))
    strange = [key for key in names if respell_adapter(key, NETWORK) is None]
    if strange or not names:
        held = ", ".join(f"'{key}'" for key in strange[:3]) or "nothing"
        raise AmpError(
            f"The adapter '{name}' holds {held}, which is not part of a LLaVA model",
            hint="Give the adapter of a LLaVA-1.5 model",
        )
    return ORIGINAL_LAYOUT if all(respell_adapter(key, ORIGINAL) == key for key in names) else TRANSFORMERS


def write_adapter(folder: Path, name: str, out: Path, *, to: str) -> int:
    """Write the adapter in layout `to` (names since transformers 4.52 for `hf`); return how many tensors it has.

    Raises:
        AmpError: it is spelled so already.
    """
    spelling = _SPELLINGS[to]
    weights: dict[str, torch.Tensor] = {}
    is_new = False
    for file in weight_files(folder, ADAPTER_STEMS):
        for key, tensor in read_tensors(file).items():
            new = respell_adapter(key, spelling) or key
            is_new |= new != key
            weights[new] = tensor.contiguous()
    if not is_new:
        raise AmpError(f"The adapter '{name}' is already in the {to} layout", hint="Give the other one with --to")
    config = read_plain_object(folder / "adapter_config.json")
    out.mkdir(parents=True, exist_ok=True)
    save_tensors(weights, out / ADAPTER_STEMS[0])
    config["target_modules"] = _targets(config, weights, spelling, to)
    for patterns in ("rank_pattern", "alpha_pattern"):
        stored = config.get(patterns) or {}
        config[patterns] = {respell(module, spelling) or module: value for module, value in stored.items()}
    write_json(out / "adapter_config.json", config)
    return len(weights) + _write_projector(folder, out, spelling, to)


def _targets(config: dict[str, Any], weights: dict[str, torch.Tensor], spelling: Spelling, to: str) -> Any:
    """Bare names for the original code; for transformers a pattern that leaves the vision tower alone."""
    modules = sorted(
        {key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for key in weights if ".lora_" in key}
    )
    bare = sorted({module.rsplit(".", 1)[-1] for module in modules})
    in_language_model = all(module.startswith(spelling.language_model) for module in modules)
    if to == ORIGINAL_LAYOUT:
        return bare
    if not in_language_model or config.get("layers_to_transform") is not None:
        return modules
    return rf"{spelling.language_model.rstrip('.').replace('.', chr(92) + '.')}\..*\.({'|'.join(bare)})"


def _write_projector(folder: Path, out: Path, spelling: Spelling, to: str) -> int:
    """LLaVA's own loader reads a trained projector from a pickle of plain tensors, ours from safetensors too."""
    weights = {
        f"base_model.model.{name}": tensor.clone()
        for name, tensor in read_projector(projector_files(folder), spelling).items()
    }
    if weights and to == ORIGINAL_LAYOUT:
        pickled = BytesIO()
        torch.save(weights, pickled)
        file = out / "non_lora_trainables.bin"
        disk_errors_explained(lambda: file.write_bytes(pickled.getbuffer()), file)
    elif weights:
        save_tensors(weights, out / "non_lora_trainables.safetensors")
    return len(weights)
