"""Attaches LoRA adapters strictly: every LoRA key finds its place and every place its key, or nothing is loaded."""

import logging
import re
from pathlib import Path
from typing import Any

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel at import

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model  # noqa: E402
from peft.utils import load_peft_weights, set_peft_model_state_dict  # noqa: E402
from safetensors import SafetensorError  # noqa: E402

from amp_cli.errors import AmpError  # noqa: E402

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def attach_adapter(network: Any, folder: Path, name: str) -> PeftModel:
    """Put the LoRA adapter in `folder` on `network`, frozen.

    PEFT itself only warns when names do not fit; a half-loaded adapter answers like its base, so we refuse it.

    Raises:
        AmpError: no LoRA adapter, or its names or shapes do not fit this base.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except (ValueError, OSError, TypeError, RuntimeError, SafetensorError) as error:
        raise AmpError(f"The adapter '{name}' cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(config, LoraConfig):
        raise AmpError(f"The adapter '{name}' is of type '{config.peft_type}', not LoRA")
    config.inference_mode = True
    config.base_model_name_or_path = network.name_or_path  # PEFT warns of every other spelling
    if isinstance(config.target_modules, set | list):
        config.target_modules = _only_in_language_model(network, config.target_modules)
    try:
        adapted = get_peft_model(network, config, autocast_adapter_dtype=False)
        outcome = set_peft_model_state_dict(adapted, weights)
    except (ValueError, RuntimeError) as error:
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {_shape_line(error)}",
            hint="Give the base it was trained on (see base_model_name_or_path in its adapter_config.json)",
        ) from error
    missing = [key for key in outcome.missing_keys if "lora_" in key]
    unexpected = list(outcome.unexpected_keys)
    if missing or unexpected:
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {len(missing)} places get no weight and "
            f"{len(unexpected)} weights have no place, first {(missing + unexpected)[:3]}",
            hint="Give the base it was trained on (see base_model_name_or_path in its adapter_config.json)",
        )
    for parameter in adapted.parameters():
        parameter.requires_grad_(False)
    return adapted


def language_lora_targets(network: Any) -> str:
    """Return a regular expression for the language model's linear projections, matching nothing in the vision tower.

    Bare names such as `q_proj` would also match CLIP's.
    """
    return _language_pattern(network, PROJECTIONS)


def _language_pattern(network: Any, names: tuple[str, ...]) -> str:
    decoder = network.get_decoder()
    prefix = next(name for name, module in network.named_modules() if module is decoder)
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in names
    }
    if not found:
        raise AmpError(
            f"The language model has none of the projections {', '.join(names)}",
            hint="LoRA on this architecture is not supported",
        )
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(found))})"


def _only_in_language_model(network: Any, targets: set[str] | list[str]) -> str | set[str] | list[str]:
    """An adapter's bare module names mean the language model's; full paths are kept as they are."""
    if all("." not in target for target in targets):
        return _language_pattern(network, tuple(targets))
    return targets


def _shape_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)[:300]
