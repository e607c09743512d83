"""Attaches and merges LoRA adapters strictly: every key has its place and every place its key, or nothing is loaded."""

import logging
import re
import warnings
from pathlib import Path
from typing import Any

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel at import

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from peft.utils import set_peft_model_state_dict  # noqa: E402
from peft.utils.other import AuxiliaryTrainingWrapper  # noqa: E402
from peft.utils.warning import PeftWarning  # noqa: E402

from amp_cli.errors import AmpError  # noqa: E402
from amp_cli.models.adapter_places import by_place, find_places  # noqa: E402
from amp_cli.models.foreign import FAULTS, fault_line, is_out_of_memory  # noqa: E402
from amp_cli.models.llava.files import ADAPTER_STEMS, read_tensors, weight_files  # noqa: E402
from amp_cli.models.llava.projector import load_projector, projector_files  # noqa: E402

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_OTHER_BASE = "Give the base it was trained on (see base_model_name_or_path in its adapter_config.json)"
_OTHER_KINDS = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
"""Settings that make of LoRA something else than W + BA at some modules."""
_CHANGES_BASE = ("loftq", "corda", "lora_ga")
"""Ways to initialise that also change the base, by data that are not in the adapter."""


def attach_adapter(network: Any, folder: Path, name: str, *, trainable: bool = False) -> PeftModel:
    """Put the LoRA adapter in `folder` on `network`, and the projector that lies beside it, if any.

    Its places are those of its weights, which may be in any part of the network; their names may be those of the
    original LLaVA or of any transformers version. PEFT itself only warns when names do not fit; a half-loaded adapter
    answers like its base, so we refuse it.

    Args:
        trainable: leave the LoRA weights trainable, to go on with training; else all is frozen.

    Raises:
        AmpError: no LoRA adapter, one of a kind that is not known here, or names or shapes that do not fit this base.
    """
    config, stored = read_adapter(folder, name)
    load_projector(network, projector_files(folder), name)
    places = find_places(network, config, stored)
    _refuse_gaps(name, list(places.untold), list(places.strange))
    config.inference_mode = not trainable
    config.base_model_name_or_path = network.name_or_path  # PEFT warns of every other spelling
    config.target_modules = sorted(places.lora)
    config.modules_to_save = list(places.whole) or None
    config.exclude_modules, config.layers_to_transform, config.layers_pattern = None, None, None  # they are told now
    config.rank_pattern = by_place(config.rank_pattern, places.lora)
    config.alpha_pattern = by_place(config.alpha_pattern, places.lora)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PeftWarning)  # of what is checked here, or when it is merged
            adapted = get_peft_model(network, config, autocast_adapter_dtype=trainable)
            outcome = set_peft_model_state_dict(adapted, places.weights)
    except FAULTS as error:
        if is_out_of_memory(error):
            raise
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {_shape_line(error)}", hint=_OTHER_BASE
        ) from error
    _refuse_gaps(name, [key for key in outcome.missing_keys if "lora_" in key], list(outcome.unexpected_keys))
    if not trainable:
        for parameter in adapted.parameters():
            parameter.requires_grad_(False)
    return adapted


def merge_weights(model: PeftModel, name: str) -> Any:
    """Return the base with the adapter's weights in its own; a head that is tied to the embedding gets weights.

    Raises:
        AmpError: the adapter has weights that the base has no place for, or PEFT cannot merge it.
    """
    for module, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and any(layer.lora_bias.values()) and layer.get_base_layer().bias is None:
            raise AmpError(
                f"The adapter has a bias of its own (lora_bias) for '{module}', which has none in '{name}': "
                "a merged model has no place for it",
                hint="Use base and adapter as they are: --model BASE --adapter ADAPTER",
            )
    _untie_head(model.get_base_model())
    try:
        return model.merge_and_unload()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise AmpError(
            f"The adapter cannot be merged into '{name}': {fault_line(error)}",
            hint="Use base and adapter as they are: --model BASE --adapter ADAPTER",
        ) from error


def _untie_head(network: Any) -> None:
    """Give the head weights of its own where it shares the embedding's and the adapter changes one of the two."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if not any(isinstance(layer, BaseTunerLayer | AuxiliaryTrainingWrapper) for layer in (head, embedding)):
        return
    for config in (network.config, network.config.get_text_config()):
        config.tie_word_embeddings = False
    plain = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    if isinstance(plain, torch.nn.Linear):  # a whole module that was stored has weights of its own already
        plain.weight = torch.nn.Parameter(plain.weight.detach().clone(), requires_grad=False)


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
    _refuse_other_kinds(name, config)
    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder, ADAPTER_STEMS):
        weights |= read_tensors(file)
    broken = next((key for key, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise AmpError(
            f"The adapter '{name}' is damaged: its weight '{broken}' holds numbers that are not finite",
            hint="Its training failed; train again with a lower learning_rate",
        )
    return config, weights


def _refuse_gaps(name: str, missing: list[str], unexpected: list[str]) -> None:
    if missing or unexpected:
        raise AmpError(
            f"The adapter '{name}' does not fit this base model: {len(missing)} modules get no weight and "
            f"{len(unexpected)} weights match no module, first {sorted(missing + unexpected)[:3]}",
            hint=_OTHER_BASE,
        )


def _refuse_other_kinds(name: str, config: LoraConfig) -> None:
    settings = [setting for setting in _OTHER_KINDS if getattr(config, setting)]
    if str(config.init_lora_weights).startswith(_CHANGES_BASE):
        settings.append("init_lora_weights")
    if settings:
        raise AmpError(
            f"The adapter '{name}' has {settings[0]} = {getattr(config, settings[0])!r:.80}, which is not supported",
            hint="Merge it with the code that trained it, and give the merged model",
        )


def language_lora_targets(network: Any) -> str:
    """Return a regular expression for the language model's linear projections, matching nothing in the vision tower.

    Bare names such as `q_proj` would also match CLIP's.

    Raises:
        AmpError: it has none of them.
    """
    decoder = network.get_decoder()
    prefix = next(name for name, module in network.named_modules() if module is decoder)
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and name.rsplit(".", 1)[-1] in PROJECTIONS
    }
    if not found:
        raise AmpError(
            f"The language model has none of the projections {', '.join(PROJECTIONS)}",
            hint="LoRA on this architecture is not supported",
        )
    return rf"{re.escape(prefix)}\..*\.({'|'.join(sorted(found))})"


def _shape_line(error: Exception) -> str:
    """Return what PyTorch says of shapes, of the first three weights, or else the error's first line."""
    found = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", str(error))
    if found:
        first = ", ".join(f"'{key}' ({theirs}, not {ours})" for key, theirs, ours in found[:3])
        return f"{len(found)} weights have a different shape, first {first}"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
