"""Attaches LoRA adapters strictly: every LoRA key finds its place and every place its key, or nothing is loaded."""

import logging
import re
from pathlib import Path
from typing import Any

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel at import

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model  # noqa: E402
from peft.utils import set_peft_model_state_dict  # noqa: E402

from amp_cli.errors import AmpError  # noqa: E402
from amp_cli.models.foreign import FAULTS, fault_line  # noqa: E402
from amp_cli.models.llava.files import ADAPTER_STEMS, read_tensors, weight_files  # noqa: E402
from amp_cli.models.llava.names import HUB, NETWORK, ORIGINAL, respell, respell_adapter  # noqa: E402
from amp_cli.models.llava.projector import load_projector, projector_files  # noqa: E402

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OTHER_BASE = "Give the base it was trained on (see base_model_name_or_path in its adapter_config.json)"
_INSIDE = re.compile(r"^base_model\.model\.(.+?)\.(?:lora_|modules_to_save)")


def attach_adapter(network: Any, folder: Path, name: str, *, trainable: bool = False) -> PeftModel:
    """Put the LoRA adapter in `folder` on `network`, and the projector that lies beside it, if any.

    Its names may be those of the original LLaVA or of any transformers version. PEFT itself only warns when names do
    not fit; a half-loaded adapter answers like its base, so we refuse it.

    Args:
        trainable: leave the LoRA weights trainable, to go on with training; else all is frozen.

    Raises:
        AmpError: no LoRA adapter, or its names or shapes do not fit this base.
    """
    config, stored = read_adapter(folder, name)
    load_projector(network, projector_files(folder), name)
    modules = {module for module, _ in network.named_modules()}
    weights = {_fitting_name(key, modules): tensor for key, tensor in stored.items()}
    config.inference_mode = not trainable
    config.base_model_name_or_path = network.name_or_path  # PEFT warns of every other spelling
    config.target_modules = _targets(network, config, weights)
    config.layers_to_transform, config.layers_pattern = None, None  # they are in the targets now
    for patterns in (config.rank_pattern, config.alpha_pattern):
        for pattern in list(patterns):
            patterns[respell(pattern, NETWORK) or pattern] = patterns.pop(pattern)
    try:
        adapted = get_peft_model(network, config, autocast_adapter_dtype=trainable)
        outcome = set_peft_model_state_dict(adapted, weights)
    except FAULTS as error:
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {_shape_line(error)}", hint=_OTHER_BASE
        ) from error
    _refuse_gaps(name, [key for key in outcome.missing_keys if "lora_" in key], list(outcome.unexpected_keys))
    if not trainable:
        for parameter in adapted.parameters():
            parameter.requires_grad_(False)
    return adapted


def read_adapter(folder: Path, name: str) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """Return an adapter folder's configuration and weights, by the names they are stored under.

    Raises:
        AmpError: it cannot be read, or is no LoRA adapter.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except FAULTS as error:
        raise AmpError(
            f"The adapter '{name}' cannot be read: {fault_line(error)}",
            hint="Copy it again, or train it again with `amp train`",
        ) from error
    if not isinstance(config, LoraConfig):
        raise AmpError(f"The adapter '{name}' is of type '{config.peft_type}', not LoRA", hint="Give a LoRA adapter")
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder, ADAPTER_STEMS):
        weights |= read_tensors(file)
    return config, weights


def _refuse_gaps(name: str, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {len(missing)} modules get no weight and "
            f"{len(unexpected)} weights match no module, first {sorted(missing + unexpected)[:3]}",
            hint=_OTHER_BASE,
        )


def _fitting_name(key: str, modules: set[str]) -> str:
    """Return an adapter weight's name as this network spells it; unchanged when it is spelled so, or fits nowhere."""
    inside = _INSIDE.match(key)
    if inside is None or inside[1] in modules:
        return key
    return respell_adapter(key, NETWORK) or key


def _targets(network: Any, config: LoraConfig, weights: dict[str, torch.Tensor]) -> str | set[str] | list[str]:
    """Return the modules that the configuration means, as this network spells them."""
    targets = config.target_modules
    if isinstance(targets, str):
        return targets if targets == "all-linear" else _matched(network, targets)
    names = sorted(targets or ())
    if any("." in name for name in names):
        modules = {module for module, _ in network.named_modules()}
        return [name if name in modules else respell(name, NETWORK) or name for name in names]
    if any("vision_tower" in key for key in weights):
        return names  # trained on the tower too
    return language_pattern(network, tuple(names), layers=config.layers_to_transform)


def _matched(network: Any, pattern: str) -> str | list[str]:
    """A regular expression for names in another spelling becomes the list of the modules that it means."""
    modules = [module for module, part in network.named_modules() if isinstance(part, torch.nn.Linear)]
    if any(re.fullmatch(pattern, module) for module in modules):
        return pattern
    spelled = ((module, respell(module + ".", spelling)) for module in modules for spelling in (HUB, ORIGINAL))
    found = sorted({module for module, other in spelled if other and re.fullmatch(pattern, other.rstrip("."))})
    return found or pattern


def language_lora_targets(network: Any) -> str:
    """Return a regular expression for the language model's linear projections, matching nothing in the vision tower.

    Bare names such as `q_proj` would also match CLIP's.
    """
    return language_pattern(network, PROJECTIONS)


def language_pattern(network: Any, names: tuple[str, ...], *, layers: list[int] | int | None = None) -> str:
    """Return a regular expression for the language model's linear layers of these bare names, in `layers` or in all.

    Raises:
        AmpError: it has none of them.
    """
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
    numbers = [layers] if isinstance(layers, int) else layers
    between = ".*" if numbers is None else rf"layers\.(?:{'|'.join(map(str, numbers))})\..*"
    return rf"{re.escape(prefix)}\.{between}\.({'|'.join(sorted(found))})"


def _shape_line(error: Exception) -> str:
    """Return what PyTorch says of shapes, of the first three weights, or else the error's first line."""
    found = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", str(error))
    if found:
        first = ", ".join(f"'{key}' ({theirs}, not {ours})" for key, theirs, ours in found[:3])
        return f"{len(found)} weights have a different shape, first {first}"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
