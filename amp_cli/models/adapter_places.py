"""Where the weights of a LoRA adapter belong in a network, told by the names they are stored under.

base_model.model. visual.blocks.0.attn.qkv .lora_A .weight
                  module, as its writer's transformers called it
"""

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from amp_cli.models.llava.names import NETWORK, respell

PEFT = "base_model.model."
_LORA = re.compile(r"(.+?)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.default)?(\.weight|\.bias)?")
_WRAPPED = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")


@dataclass(frozen=True, kw_only=True)
class Places:
    """An adapter's weights and the modules of one network that they belong to.

    Attributes:
        weights: PEFT's name in this network -> tensor. lora: module -> the name it is stored under.
        whole: modules that are stored whole. strange: keys without a place. untold: keys that should be there.
    """

    weights: dict[str, torch.Tensor]
    lora: dict[str, str]
    whole: tuple[str, ...]
    strange: tuple[str, ...]
    untold: tuple[str, ...]


def find_places(network: Any, config: LoraConfig, stored: dict[str, torch.Tensor]) -> Places:
    """Find the place of every stored weight, whichever version of transformers or LLaVA named it."""
    modules = dict(network.named_modules())
    parameters = dict(network.named_parameters(remove_duplicate=False))
    spelled = _speller(network, modules)
    weights: dict[str, torch.Tensor] = {}
    lora: dict[str, str] = {}
    others: dict[str, tuple[str, torch.Tensor]] = {}  # parameter's name in this network -> stored key and tensor
    strange = []
    for key, tensor in stored.items():
        inner = key.removeprefix(PEFT)
        if found := _LORA.fullmatch(inner):
            module = spelled(found[1])
            lora[module] = found[1]
            weights[f"{PEFT}{module}.{found[2]}{found[3] or ''}"] = tensor
            strange += [key] if module not in modules else []
            continue
        module, _, parameter = _WRAPPED.sub("", inner).rpartition(".")
        others[f"{spelled(module)}.{parameter}"] = key, tensor
    whole = _whole_modules(config.modules_to_save or (), modules, spelled)
    for name, (key, tensor) in others.items():
        module, _, parameter = name.rpartition(".")
        weights[f"{PEFT}{module}.base_layer.{parameter}" if module in lora else PEFT + name] = tensor
        strange += [key] if name not in parameters else []
    lora = {module: name for module, name in lora.items() if module in modules}
    untold = _unstored_lora(network, config, lora)
    untold += [PEFT + name for name in parameters if _inside(name, whole) and name not in others]
    weights = {name: _with_appended_rows(network, parameters, name, tensor) for name, tensor in weights.items()}
    return Places(weights=weights, lora=lora, whole=whole, strange=tuple(strange), untold=tuple(untold))


def _with_appended_rows(
    network: Any, parameters: dict[str, torch.Tensor], name: str, tensor: torch.Tensor
) -> torch.Tensor:
    """Fill up what an adapter of LLaVA's own code has for the vocabulary to the rows that the conversion appended.

    Those tokens are never said: LoRA adds nothing to them, a whole weight has the base's rows.
    """
    if network.config.model_type != "llava":
        return tensor
    first = int(network.config.image_token_index)
    module, _, part = name.removeprefix(PEFT).partition(".lora_")
    dim = {"B.weight": 0, "B.bias": 0, "embedding_A": 1}.get(part) if part else 0
    own = parameters.get(module if not part else f"{module}.weight")
    if own is None or dim is None or tensor.dim() <= dim or not tensor.shape[dim] == first < len(own):
        return tensor
    if not part:
        return torch.cat((tensor, own[first:].to(tensor.dtype)))
    shape = list(tensor.shape)
    shape[dim] = len(own) - tensor.shape[dim]
    return torch.cat((tensor, tensor.new_zeros(shape)), dim=dim)


def _speller(network: Any, modules: Container[str]) -> Callable[[str], str]:
    """Return what spells a module's name as the network does; unchanged when it is spelled so, or is nowhere."""
    renamings = [one for one in get_model_conversion_mapping(network) if isinstance(one, WeightRenaming)]

    @cache
    def spelled(name: str) -> str:
        if name in modules:
            return name
        weight = f"{name}.weight"
        renamed, _ = rename_source_key(weight, renamings, [])
        candidates = (renamed, respell(weight, NETWORK) or weight)
        return next((one for word in candidates if (one := word.removesuffix(".weight")) in modules), name)

    return spelled


def _whole_modules(named: Iterable[str], modules: Iterable[str], spelled: Callable[[str], str]) -> tuple[str, ...]:
    """Return the modules that `modules_to_save` means, by the ends of their names."""
    wanted = [spelled(name) for name in named]
    return tuple(module for module in modules if any(f".{module}".endswith(f".{name}") for name in wanted))


def _inside(name: str, modules: Iterable[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def _unstored_lora(network: Any, config: LoraConfig, lora: dict[str, str]) -> list[str]:
    """Return the LoRA weights that the configuration promises, in the parts of the network that have any, but lacks.

    The original LLaVA names bare projections and means those of the language model alone: so a part, such as the
    vision tower, that has no weight at all was not meant.
    """
    decoder = next(name for name, module in network.named_modules() if module is network.get_decoder())
    prefixes = {_part(module, decoder): _prefixes(module, name) for module, name in lora.items()}
    if not prefixes:
        prefixes = {decoder: ("", "")}
    promised = []
    for name, module in network.named_modules():
        part = _part(name, decoder)
        if name in lora or part not in prefixes or not isinstance(module, torch.nn.Linear):
            continue
        here, there = prefixes[part]
        if config.target_modules == "all-linear" or check_target_module_exists(config, there + name.removeprefix(here)):
            promised.append(name)
    return [f"{PEFT}{name}.lora_{letter}.weight" for name in promised for letter in "AB"]


def _part(module: str, decoder: str) -> str:
    """Return the decoder's name for what is in it, else the first two words of the name."""
    return decoder if module.startswith(f"{decoder}.") else ".".join(module.split(".")[:2])


def _prefixes(module: str, stored: str) -> tuple[str, str]:
    """Return what begins a module's name here and where it was stored, as far as they differ."""
    ours, theirs = module.split("."), stored.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return "".join(f"{word}." for word in ours), "".join(f"{word}." for word in theirs)


def by_place(patterns: dict[str, int], lora: dict[str, str]) -> dict[str, int]:
    """Return module -> value of `rank_pattern` or `alpha_pattern`, whose keys are ends of names or regular expressions.

    They are meant in the spelling that the weights are stored in, or in this network's.
    """
    values = {}
    for module, stored in lora.items():
        key = next((key for name in (stored, module) for key in patterns if _ends_with(name, key)), None)
        if key is not None:
            values[module] = patterns[key]
    return values


def _ends_with(name: str, pattern: str) -> bool:
    return re.match(rf"(?:.*\.)?(?:{pattern})$", name) is not None
