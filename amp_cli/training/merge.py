"""Merges a LoRA adapter into its base: a plain model folder, verified to answer as base plus adapter do.

Base and adapter stay on the disk (memory-mapped). One layer at a time is merged in float32, checked and written:

    base, adapter -> network whose weights lie on the disk -> a layer: W + BA, checked -> its bytes in model.safetensors
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from PIL import Image
from transformers.core_model_loading import WeightConverter, revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from amp_cli import ui
from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.run import make_whole
from amp_cli.downloads.places import check_space, size_text
from amp_cli.downloads.reports import Progress
from amp_cli.errors import AmpError
from amp_cli.models.adapters import (
    merge_weights,
    merged_weights,
    needs_whole_model,
    prepare_merge,
    strange_layer,
    unload_unmerged,
)
from amp_cli.models.llava.convert import answer_logits, silent
from amp_cli.models.llava.files import INDEX, bytes_of, write_tensors
from amp_cli.models.llava.source import find_source
from amp_cli.models.load import LoadedModel, load_model, save_beside_weights, save_model_folder
from amp_cli.models.machine import HELD_MEMORY, free_memory, memory_peak
from amp_cli.models.precision import DTYPES, bytes_in, choose_dtype, refuse_not_finite
from amp_cli.models.prompts import encode_prompts
from amp_cli.models.resolve import (
    adapter_base,
    adapter_folder,
    check_model,
    is_folder_name,
    model_place,
    places_of,
    recorded_base,
    training_run_of,
)
from amp_cli.models.spec import ModelSpec
from amp_cli.training.card import BEST

QUESTION = "Describe this image in detail."
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Allowed difference of a logit as a share of the largest one, by precision of the weights: W + BA is rounded."""
MOST_IN_A_FILE = "50GB"
"""What a weight file may hold, as transformers has it."""
ROOM_TO_COMPUTE = 2 * 10**9
"""Bytes that answering the test prompt takes beside the weights, roughly and rather too many."""


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """What to merge, into what, and where to."""

    adapter: str  # adapter folder, run folder or hub id
    out: Path
    base: str | None = None  # None: what the run or the adapter names
    vision_tower: str | None = None  # of an original LLaVA base, in place of what it names
    best: bool = False  # of a run, the adapter that did best on held-out items, in place of the last one
    dtype: str = "stored"  # precision of the merged weights; `stored` is the base's own
    trust_remote_code: bool = False  # whether Python code that comes with the base may run
    verify: bool | None = None  # compare the answers of whole models; None: where memory has room for one
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """The merged folder and its base, and how it was verified.

    Attributes:
        max_layer_difference: between a merged layer and base + adapter on random numbers in float32, as a share of the
            largest output; None where the model could not be merged layer by layer.
        max_logit_difference: of a logit on the test prompt; None where the whole models were not compared.
        peak_memory_mb: MiB. peak_memory_kind: of which memory, as `held_memory` counts it.
    """

    out: Path
    base: str
    max_logit_difference: float | None
    max_layer_difference: float | None
    peak_memory_mb: float | None
    peak_memory_kind: str | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out)}


def merge_lora(settings: MergeSettings, *, progress: Progress = silent) -> MergeResult:
    """Merge on the CPU, in the base's precision unless told otherwise; a merge that is there already is left alone.

    Args:
        progress: opens a bar over the bytes of the merged weights.

    Raises:
        AmpError: no adapter, a base that is not the adapter's, other files in `out`, no room on the disk, or a merge
            that does not answer like base plus adapter.
    """
    adapter = adapter_folder(_best_adapter(settings.adapter) if settings.best else settings.adapter)
    base = settings.base or _recorded_base(adapter)
    spec = ModelSpec(
        model=base,
        adapter=str(adapter),
        vision_tower=settings.vision_tower,
        dtype=settings.dtype,
        device="cpu",
        trust_remote_code=settings.trust_remote_code,
    )
    identity = {**check_model(spec), "dtype": spec.dtype}
    if settings.base is not None:
        _refuse_other_base(adapter, settings.base, identity["model"])
    run = make_whole(
        settings.out,
        command="merge-lora",
        settings={"adapter": spec.adapter, "base": base, "vision_tower": spec.vision_tower, "dtype": spec.dtype},
        identity=identity,
        write=lambda part: _merge_into(part, spec, settings.verify, progress),
        overwrite=settings.overwrite,
        inputs=places_of(settings.adapter, str(adapter), base, settings.vision_tower),
    )
    return MergeResult(
        out=settings.out,
        base=run.settings["base"],
        max_logit_difference=run.facts["max_logit_difference"],
        max_layer_difference=run.facts.get("max_layer_difference"),  # an older version told none of these
        peak_memory_mb=run.facts.get("peak_memory_mb"),
        peak_memory_kind=run.facts.get("peak_memory_kind"),
    )


def _best_adapter(run: str) -> str:
    """Return the folder of a run's best adapter.

    Raises:
        AmpError: it is not a run that kept one.
    """
    folder = Path(run).expanduser() / BEST
    if not folder.is_dir():
        raise AmpError(
            f"'{run}' has no {BEST}",
            hint="A run of `amp train` with --held-out or --eval-prefs keeps one when it is done; or leave out --best",
        )
    return str(folder)


def _recorded_base(adapter: Path) -> str:
    """Return the base that the run's settings name, or else the adapter's own configuration."""
    base = recorded_base(adapter)
    if not base:
        raise AmpError(f"The adapter '{adapter}' does not name its base model", hint="Give --base MODEL")
    return base


def _refuse_other_base(adapter: Path, given: str, identity: dict[str, str]) -> None:
    """Refuse a base of another name, unless its files are those that the run was trained on.

    A name that is somebody else's folder tells nothing here: the user is taken at their word, and told so.
    """
    recorded = training_run_of(adapter)
    names = [name for name in (recorded.settings["base"] if recorded else "", adapter_base(adapter)) if name]
    if not names or any(_same_name(name, given) for name in names):
        return
    trained_on = recorded.facts["identity"]["model"] if recorded else {}
    if trained_on.get("hash") and trained_on.get("hash") == identity.get("hash"):
        return
    if all(_is_elsewhere(name) for name in names):
        ui.warn(
            f"The adapter names its base '{names[0]}', which is not on this disk; '{given}' is used without a check"
        )
        return
    raise AmpError(
        f"The adapter was trained on '{names[0]}', not on '{given}'",
        hint="Leave out --base, or give a folder of the same name or with the same files",
    )


def _is_elsewhere(name: str) -> bool:
    """Whether a name is a folder that is not on this disk."""
    place = model_place(name)
    return is_folder_name(place) and not Path(place).expanduser().exists()


def _same_name(one: str, other: str) -> bool:
    """Whether two names mean one model: the same place, or the same last part where one of them is not on this disk."""
    places = [model_place(name) for name in (one, other)]
    resolved = [str(Path(place).expanduser().resolve()) if is_folder_name(place) else place for place in places]
    if resolved[0] == resolved[1]:
        return True
    elsewhere = [not Path(place).exists() for place in resolved]
    return any(elsewhere) and Path(places[0]).name == Path(places[1]).name


def _merge_into(part: Path, spec: ModelSpec, verify: bool | None, progress: Progress) -> dict[str, Any]:
    """Write the merged model to `part`, verify it, and return how; one model at a time is in memory."""
    needed = _bytes_of_whole(spec)
    check_space(part, needed, hint="Free some space, or choose another disk with --out")
    compares = verify if verify is not None else needed + ROOM_TO_COMPUTE < free_memory()
    with memory_peak() as memory:
        if compares:
            ui.note("Asking base + adapter the test prompt")
        expected = _logits(load_model(spec)) if compares else None
        layer_difference = _write_merged(part, spec, progress)
        merged = load_model(replace(spec, model=str(part), adapter=None, vision_tower=None, dtype="stored"))
        if expected is None:
            logit_difference = None
        else:
            ui.note("Asking the merged model the test prompt")
            logit_difference = _compared(_logits(merged), expected, merged.identity["dtype"], part)
    if expected is None and verify is None:
        ui.note(
            f"The whole models were not compared: they take {size_text(needed)}, which is more than is free. "
            "--verify compares them all the same; every merged layer was checked"
        )
    return {
        "max_logit_difference": logit_difference,
        "max_layer_difference": layer_difference,
        "peak_memory_mb": memory.megabytes(),
        "peak_memory_kind": HELD_MEMORY,
    }


def _bytes_of_whole(spec: ModelSpec) -> int:
    """Return how many bytes the merged weights take."""
    source = find_source(spec)
    _, dtype = choose_dtype(spec.dtype, torch.device("cpu"), source.config())
    return bytes_in(source.tensors(), dtype)


def _compared(merged: torch.Tensor, expected: torch.Tensor, precision: str, part: Path) -> float:
    """Return the largest difference of a logit.

    Raises:
        AmpError: it is more than rounding explains.
    """
    difference = float((merged - expected).abs().max())
    allowed = TOLERANCES[precision] * float(expected.abs().max())
    if not difference <= allowed:
        raise AmpError(
            f"The merged model differs from base plus adapter: a logit differs by "
            f"{difference:.3g}, and {allowed:.3g} is allowed",
            hint=f"Nothing was written to --out; the faulty merge is in '{part}'",
        )
    return difference


def _write_merged(part: Path, spec: ModelSpec, progress: Progress) -> float | None:
    """Merge and save; return the largest difference of a layer, None where the whole model had to be loaded."""
    _, adapter = find_source(spec).adapter or ("", Path())
    reason = needs_whole_model(adapter)
    loaded = load_model(spec, as_stored=True) if reason is None else None
    if loaded is not None:
        reason = _why_not_by_layer(loaded)
        for note in loaded.notes:
            ui.warn(note)
    if loaded is not None and reason is None:
        return _write_by_layer(loaded, part, progress)
    del loaded
    ui.note(f"The whole model is loaded to merge it: {reason}")
    whole = load_model(spec)
    whole.model = merge_weights(whole.model, whole.name)
    disk_errors_explained(lambda: save_model_folder(whole, part), part)
    return None


def _why_not_by_layer(loaded: LoadedModel) -> str | None:
    """Return what keeps a model from being merged and written layer by layer; None where nothing does."""
    network = loaded.model.get_base_model()
    if getattr(network, "hf_quantizer", None) is not None:
        return "the base's weights are packed"
    if any(isinstance(one, WeightConverter) for one in network._weight_conversions):
        return "transformers stores its weights in other pieces than it computes with"
    if network._keep_in_fp32_modules or network._keep_in_fp32_modules_strict:
        return "transformers keeps some of its weights in float32"
    return strange_layer(loaded.model)


def _write_by_layer(loaded: LoadedModel, part: Path, progress: Progress) -> float:
    """Write the merged folder with one layer in memory; return the largest difference of a layer."""
    precision = loaded.identity["dtype"]
    loaded.model.eval()
    prepare_merge(loaded.model, loaded.name)
    network, layers = unload_unmerged(loaded.model)
    network.get_output_embeddings()._forward_hooks.clear()  # what silences appended rows would hide how they merge
    disk_errors_explained(lambda: _write_small_files(loaded, network, part), part)
    outlines, names = _outlines(network, DTYPES[precision])
    merged: dict[str, torch.Tensor] = {}
    differences = [0.0]

    def read(name: str) -> torch.Tensor:
        inner = names[name]
        module = inner.rpartition(".")[0]
        if inner not in merged and module in layers:
            weights, difference = merged_weights(layers[module], module, loaded.name)
            differences.append(difference)
            merged.clear()
            merged.update({f"{module}.{key}": tensor for key, tensor in weights.items()})
        tensor = merged.pop(inner) if module in layers else network.get_parameter_or_buffer(inner).data
        rounded = tensor.to(outlines[name].dtype)
        _refuse_overflow(rounded, tensor, inner, loaded.name)
        return rounded

    with progress(f"Merging into {loaded.name}", sum(map(bytes_of, outlines.values())), 0) as advance:
        _write_files(outlines, read, part, advance)
    return max(differences)


def _refuse_overflow(rounded: torch.Tensor, exact: torch.Tensor, name: str, model: str) -> None:
    """Refuse numbers that a coarser format cannot hold, such as more than 65504 in float16."""
    if rounded.dtype == torch.float16 and rounded is not exact and not bool(torch.isfinite(rounded).all()):
        raise AmpError(
            f"'{model}' does not fit float16: the weight '{name}' overflows", hint="Use --dtype bfloat16 or float32"
        )


def _write_small_files(loaded: LoadedModel, network: Any, part: Path) -> None:
    """Write what is in a model's folder beside the weights, as transformers does."""
    network.save_pretrained(part, state_dict={})
    for file in part.glob("model*.safetensors"):
        file.unlink()
    for config in (network.config, *(getattr(network.config, name) for name in network.config.sub_configs)):
        config.dtype = loaded.identity["dtype"]
    network.config.save_pretrained(part)
    save_beside_weights(replace(loaded, model=network), part)


def _outlines(network: Any, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return, for each tensor that a model's files hold, its format and shape (on the meta device), and its name here.

    Of tied weights one is stored.
    """
    state = {name: tensor.to("meta") for name, tensor in network.state_dict().items()}
    for ignored in network._keys_to_ignore_on_save or ():
        state.pop(ignored, None)
    outlines: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    for name, tensor in remove_tied_weights_from_state_dict(state, network).items():
        (stored,) = revert_weight_conversion(network, {name: tensor})
        outlines[stored] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        names[stored] = name
    return outlines, names


def _write_files(
    outlines: dict[str, torch.Tensor],
    read: Callable[[str], torch.Tensor],
    part: Path,
    advance: Callable[[int], object],
) -> None:
    """Write the weights into one file, or into several and an index where they are too many for one."""
    split = split_torch_state_dict_into_shards(
        outlines, filename_pattern="model{suffix}.safetensors", max_shard_size=MOST_IN_A_FILE
    )
    for file, names in split.filename_to_tensors.items():
        write_tensors({name: outlines[name] for name in names}, read, part / file, advance)
    if split.is_sharded:
        count = sum(outline.numel() for outline in outlines.values())
        metadata = {"total_parameters": count, **split.metadata}
        write_json(part / INDEX, {"metadata": metadata, "weight_map": split.tensor_to_filename})


@torch.no_grad()
def _logits(loaded: LoadedModel) -> torch.Tensor:
    """Return the logits, (length, ids that text can have) float32, of a prompt with an image."""
    batch = encode_prompts(loaded, [((QUESTION,), ())], [[_image()]])
    logits = answer_logits(loaded, dict(batch))
    refuse_not_finite(logits, loaded.name, loaded.identity["dtype"])
    return logits


def _image() -> Image.Image:
    """An image with colours and edges: a gradient behind a bright square."""
    ramp = Image.linear_gradient("L")
    image = Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))
    image.paste((250, 220, 30), (90, 60, 170, 140))
    return image
