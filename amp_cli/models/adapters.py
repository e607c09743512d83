"""Attaches and merges LoRA adapters strictly: every key has its place and every place its key, or nothing is loaded."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of an optional kernel at import

import torch  # noqa: E402
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model  # noqa: E402
from peft.tuners.lora import LoraLayer  # noqa: E402
from peft.tuners.lora import layer as lora_layers  # noqa: E402
from peft.tuners.tuners_utils import BaseTunerLayer  # noqa: E402
from peft.utils import set_peft_model_state_dict  # noqa: E402
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper  # noqa: E402
from peft.utils.warning import PeftWarning  # noqa: E402

from amp_cli.disk.parsing import read_object  # noqa: E402
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
_STARTS_IN_BASE = ("pissa", "olora")
"""Ways to initialise that also change the base, in a way that PEFT repeats when it attaches the adapter."""
ALLOWED_OF_CHANGE, ALLOWED_OF_OUTPUT = 1e-3, 1e-5
"""How far a merged layer may be off, in float32: a share of what the adapter changes, and of the largest output."""


def attach_adapter(
    network: Any, folder: Path, name: str, *, trainable: bool = False, as_stored: bool = False
) -> PeftModel:
    """Put the LoRA adapter in `folder` on `network`, and the projector that lies beside it, if any.

    Its places are those of its weights, which may be in any part of the network; their names may be those of the
    original LLaVA or of any transformers version. PEFT itself only warns when names do not fit; a half-loaded adapter
    answers like its base, so we refuse it.

    Args:
        trainable: leave the LoRA weights trainable, to go on with training; else all is frozen.
        as_stored: leave every weight of the adapter as it lies on the disk, unread and in its own precision, to be
            merged (`merged_weights`); the network cannot answer so.

    Raises:
        AmpError: no LoRA adapter, one of a kind that is not known here, or names or shapes that do not fit this base.
    """
    config, stored = read_adapter(folder, name)
    load_projector(network, projector_files(folder), name, as_stored=as_stored)
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
            adapted = get_peft_model(network, config, autocast_adapter_dtype=trainable, low_cpu_mem_usage=as_stored)
            outcome = set_peft_model_state_dict(adapted, places.weights, low_cpu_mem_usage=as_stored)
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
    if as_stored:
        _leave_as_stored(adapted, places.weights)
    return adapted


def _leave_as_stored(adapted: PeftModel, weights: dict[str, torch.Tensor]) -> None:
    """Undo that PEFT copies an adapter's weights into the base's precision."""
    parameters = {_plain(name): parameter for name, parameter in adapted.named_parameters(remove_duplicate=False)}
    for name, tensor in weights.items():
        parameters[_plain(name)].data = tensor


def _plain(name: str) -> str:
    """Return the name of an adapter's weight without what PEFT puts into it in memory."""
    return re.sub(r"(\.modules_to_save)?\.default(?=\.|$)", "", name).replace(
        "magnitude_vector.weight", "magnitude_vector"
    )


def merge_weights(model: PeftModel, name: str) -> Any:
    """Return the base with the adapter's weights in its own; a head that is tied to the embedding gets weights.

    Raises:
        AmpError: the adapter has weights that the base has no place for, or PEFT cannot merge it.
    """
    prepare_merge(model, name)
    with _merging_explained(name):
        return model.merge_and_unload()


def prepare_merge(model: PeftModel, name: str) -> None:
    """Untie a head from the embedding where the adapter changes one of them.

    Raises:
        AmpError: the adapter has weights that the base has no place for.
    """
    for module, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and any(layer.lora_bias.values()) and layer.get_base_layer().bias is None:
            raise AmpError(
                f"The adapter has a bias of its own (lora_bias) for '{module}', which has none in '{name}': "
                "a merged model has no place for it",
                hint="Use base and adapter as they are: --model BASE --adapter ADAPTER",
            )
    _untie_head(model.get_base_model())


@contextmanager
def _merging_explained(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise AmpError(
            f"The adapter cannot be merged into '{name}': {fault_line(error)}",
            hint="Use base and adapter as they are: --model BASE --adapter ADAPTER",
        ) from error


def unload_unmerged(model: PeftModel) -> tuple[Any, dict[str, LoraLayer]]:
    """Return the base with the adapter's whole modules in it, and module -> LoRA layer that is still to be merged."""
    network = model.get_base_model()
    layers: dict[str, LoraLayer] = {}
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            layers[name] = module
            network.set_submodule(name, module.get_base_layer())
        elif isinstance(module, AuxiliaryTrainingWrapper):
            whole = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            network.set_submodule(name, whole)
    return network, layers


def needs_whole_model(folder: Path) -> str | None:
    """Return why an adapter cannot be merged layer by layer, told by its configuration; None where it can."""
    start = str(read_object(folder / "adapter_config.json").get("init_lora_weights"))
    return f"its LoRA was initialised by {start}, which changes the base" if start.startswith(_STARTS_IN_BASE) else None


def strange_layer(model: PeftModel) -> str | None:
    """Return which layer `merged_weights` does not know: no matrix, embedding or convolution; None where there is none.

    A layer inside a module that was stored whole is PEFT's to merge, too.
    """
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            own = isinstance(layer, lora_layers.Linear | lora_layers.Embedding | lora_layers._ConvNd)
            if not own or type(layer).__module__ != lora_layers.__name__ or "modules_to_save" in name:
                return f"'{name}' is a {type(layer).__name__}, which cannot be merged on its own"
    return None


@torch.no_grad()
def merged_weights(layer: LoraLayer, module: str, name: str) -> tuple[dict[str, torch.Tensor], float]:
    """Merge one layer by PEFT in float32, and leave the layer itself as it was.

    What it then does to random numbers is compared with what base plus adapter do to them, which PEFT computes in
    another way.

    Returns:
        The base layer's parameters (`weight`, `bias`) with the adapter in them, float32; and the largest difference as
        a share of the largest number that came out.

    Raises:
        AmpError: they differ, or PEFT cannot merge the layer.
    """
    kept = [(parameter, parameter.data) for parameter in layer.parameters()]
    base = layer.get_base_layer()
    for parameter, stored in kept:
        parameter.data = stored.to(torch.float32, copy=True)
    try:
        numbers = _random_input(layer, base)
        with _merging_explained(name):
            plain, expected = base(numbers), layer(numbers)
            layer.merge()
        found = base(numbers)
        merged = {part: parameter.data for part, parameter in base.named_parameters()}
    finally:
        layer.merged_adapters.clear()
        for parameter, stored in kept:
            parameter.data = stored
    difference, largest = float((found - expected).abs().max()), float(expected.abs().max())
    allowed = ALLOWED_OF_CHANGE * float((expected - plain).abs().max()) + ALLOWED_OF_OUTPUT * largest
    if not difference <= allowed:
        raise AmpError(
            f"The merged model differs from base plus adapter: on random numbers '{module}' is {difference:.3g} off, "
            f"and {allowed:.3g} is allowed",
            hint="Use base and adapter as they are: --model BASE --adapter ADAPTER",
        )
    return merged, difference / largest if largest else 0.0


def _random_input(layer: LoraLayer, base: Any) -> torch.Tensor:
    """Return what the layer takes, the same at every call: ids, a patch of its kernel's size, or a vector."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, lora_layers.Embedding):
        return torch.randint(base.num_embeddings, (16,), generator=generator)
    if isinstance(layer, lora_layers._ConvNd):
        size = [(kernel - 1) * step + 1 for kernel, step in zip(base.kernel_size, base.dilation, strict=True)]
        return torch.randn((1, base.in_channels, *size), generator=generator)
    return torch.randn((2, layer.in_features), generator=generator)


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


PROJECTORS = r"model\.(?:multi_modal_projector|connector|visual\.merger|visual\.deepstack_merger_list\.\d+)"
"""What families call the modules that turn a tower's features into the language model's."""


def projector_modules(network: Any) -> list[str]:
    """Return the names of the modules that turn the tower's features into the language model's.

    Raises:
        AmpError: the family has none of its own.
    """
    found = [name for name, _ in network.named_modules() if re.fullmatch(PROJECTORS, name)]
    if not found:
        raise AmpError(
            f"Models of type '{network.config.model_type}' have no projector that could be trained",
            hint="Leave out --set train_projector=true",
        )
    return found


def train_whole_in_float32(model: PeftModel) -> None:
    """Let what is trained whole hold and compute float32, and answer in the precision that the base computes in."""
    for module in model.modules():
        if not isinstance(module, ModulesToSaveWrapper):
            continue
        precision = next(module.original_module.parameters()).dtype
        for whole in module.modules_to_save.values():
            whole.float()
            if precision != torch.float32:
                whole.register_forward_pre_hook(lambda _, given: tuple(map(torch.Tensor.float, given)))
                whole.register_forward_hook(lambda _, given, found, precision=precision: found.to(precision))


def _shape_line(error: Exception) -> str:
    """Return what PyTorch says of shapes, of the first three weights, or else the error's first line."""
    found = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", str(error))
    if found:
        first = ", ".join(f"'{key}' ({theirs}, not {ours})" for key, theirs, ours in found[:3])
        return f"{len(found)} weights have a different shape, first {first}"
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
