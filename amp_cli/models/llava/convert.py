"""Converts a model or a LoRA adapter between the original LLaVA layout and transformers': `amp convert`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from amp_cli import __version__
from amp_cli.disk.jsonl import write_text
from amp_cli.disk.parsing import read_object
from amp_cli.disk.run import make_whole
from amp_cli.disk.templates import template_path
from amp_cli.downloads.places import check_space
from amp_cli.downloads.reports import Advance, Progress
from amp_cli.errors import AmpError
from amp_cli.models.foreign import folder_read
from amp_cli.models.llava.adapter_folder import adapter_layout, write_adapter
from amp_cli.models.llava.files import ADAPTER_STEMS, weight_files
from amp_cli.models.llava.layout import LANGUAGE_MODEL, ORIGINAL, TRANSFORMERS, layout_of
from amp_cli.models.llava.original import OriginalCheckpoint, open_original
from amp_cli.models.llava.to_hf import write_hf
from amp_cli.models.llava.to_llava import write_llava
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.machine import HELD_MEMORY, memory_peak
from amp_cli.models.prompts import encode_prompts
from amp_cli.models.resolve import (
    adapter_base,
    adapter_folder,
    check_model,
    identity_of,
    is_folder_name,
    local_folder,
    model_place,
    places_of,
)
from amp_cli.models.spec import ModelSpec
from amp_cli.models.templates import CHAT_TEMPLATES, chat_template_text


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """What to convert, to which layout (`hf` or `llava`), and where to."""

    model: str
    out: Path
    to: str
    vision_tower: str | None = None
    verify: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ConvertResult:
    """What was written.

    Attributes:
        source: the layout it came in. max_logit_difference: None where it was not asked for.
        peak_memory_mb: MiB. peak_memory_kind: of which memory, as `held_memory` counts it.
    """

    out: Path
    source: str
    to: str
    tensors: int
    peak_memory_mb: float
    peak_memory_kind: str
    differences: dict[str, float]
    max_logit_difference: float | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        del record["notes"], record["source"]
        return {**record, "out": str(self.out), "from": self.source}


Written = tuple[int, str, dict[str, Any], tuple[str, ...]]
"""Tensors, layout of the source, facts for the card, notes."""


@contextmanager
def silent(_label: str, _total: int | None, _done: int) -> Iterator[Advance]:
    """A progress bar that nobody sees."""
    yield lambda _: None


def convert(settings: ConvertSettings, *, progress: Progress = silent) -> ConvertResult:
    """Convert on the CPU, shard by shard; a conversion that is already there is left as it is.

    Args:
        progress: opens a bar over the bytes of the weights.

    Raises:
        AmpError: nothing to convert, a part that is missing or does not fit, or other files in `out`.
    """
    is_adapter = _is_adapter(settings.model)
    identity = _identity(settings, is_adapter=is_adapter)

    def write(part: Path) -> dict[str, Any]:
        needed = _bytes_of(settings.model, is_adapter=is_adapter)
        check_space(part, needed, hint="Free some space, or choose another disk with --out")
        write_parts = _write_adapter if is_adapter else _write_model
        bar = progress(f"Converting {settings.model}", needed, 0)
        with folder_read(settings.model), bar as advance, memory_peak() as memory:
            tensors, source, facts, notes = write_parts(settings, part, advance)
        write_text(part / "README.md", _card(settings, identity, facts))
        measured = {"peak_memory_mb": memory.megabytes(), "peak_memory_kind": HELD_MEMORY}
        return {"tensors": tensors, "source": source, "notes": list(notes), **measured}

    facts = make_whole(
        settings.out,
        command="convert",
        settings={"model": settings.model, "to": settings.to, "vision_tower": settings.vision_tower},
        identity={**identity, "to": settings.to},
        write=write,
        overwrite=settings.overwrite,
        inputs=places_of(settings.model, settings.vision_tower),
    ).facts
    differences = _verify(settings, is_adapter=is_adapter) if settings.verify else {}
    return ConvertResult(
        out=settings.out,
        source=facts["source"],
        to=settings.to,
        tensors=facts["tensors"],
        peak_memory_mb=facts["peak_memory_mb"],
        peak_memory_kind=facts.get("peak_memory_kind", "resident"),  # what older versions measured
        differences=differences,
        max_logit_difference=max(differences.values(), default=None),
        notes=tuple(facts["notes"]),
    )


def _is_adapter(model: str) -> bool:
    folder = Path(model_place(model)).expanduser()
    if folder.is_dir():
        return any((place / "adapter_config.json").is_file() for place in (folder, folder / "adapter"))
    from amp_cli.downloads.zoo import find_model

    known = find_model(model)
    return known is not None and known.base is not None


def _identity(settings: ConvertSettings, *, is_adapter: bool) -> dict[str, Any]:
    if is_adapter:
        if settings.vision_tower is not None:
            raise AmpError("--vision-tower is for a model, not for an adapter", hint="Leave out --vision-tower")
        return {"adapter": identity_of(settings.model, adapter_folder(settings.model))}
    return check_model(ModelSpec(model=settings.model, vision_tower=settings.vision_tower))


def _bytes_of(model: str, *, is_adapter: bool) -> int:
    files = weight_files(adapter_folder(model), ADAPTER_STEMS) if is_adapter else weight_files(local_folder(model))
    return sum(file.stat().st_size for file in files)


def _write_model(settings: ConvertSettings, out: Path, advance: Advance) -> Written:
    folder = local_folder(settings.model)
    source = layout_of(folder)
    if source == LANGUAGE_MODEL:
        raise AmpError(
            f"'{settings.model}' is a language model without a projector or a vision tower",
            hint="Give a vision-language model",
        )
    if source == settings.to == TRANSFORMERS:
        _refuse_unknown_kind(settings.model, read_object(folder / "config.json"))
    if source == settings.to:
        raise AmpError(
            f"'{settings.model}' is already in the {settings.to} layout", hint="Give the other one with --to"
        )
    if source == ORIGINAL:
        checkpoint = open_original(folder, vision_tower=settings.vision_tower)
        return write_hf(checkpoint, out, advance), source, _facts(checkpoint), checkpoint.notes
    if settings.vision_tower is not None:
        raise AmpError(
            "--vision-tower is for a model in the original layout; this one already holds its tower",
            hint="Leave out --vision-tower",
        )
    return write_llava(folder, out, advance), source, {}, ()


def _refuse_unknown_kind(model: str, config: dict[str, Any]) -> None:
    """Refuse a model of neither layout, rather than say that it is in transformers' layout already."""
    kind = config.get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise AmpError(
            f"'{model}' is of model type '{kind}', which is neither a LLaVA nor known to transformers "
            f"{transformers.__version__}",
            hint="Only LLaVA-1.5 has an original layout to convert from",
        )


def _facts(checkpoint: OriginalCheckpoint) -> dict[str, Any]:
    return {
        "vocabulary": checkpoint.vocabulary,
        "pads": checkpoint.pads_to_square,
        "tower": checkpoint.tower.name or "inside the checkpoint",
    }


def _write_adapter(settings: ConvertSettings, out: Path, _advance: Advance) -> Written:
    folder = adapter_folder(settings.model)
    source = adapter_layout(folder, settings.model)
    return write_adapter(folder, settings.model, out, to=settings.to), source, {"is_adapter": True}, ()


def _card(settings: ConvertSettings, identity: dict[str, Any], facts: dict[str, Any]) -> str:
    from jinja2 import Environment

    text = template_path("report", "converted_card.md.jinja").read_text(encoding="utf-8")
    place = model_place(settings.model)
    known = next(iter(identity.values()))
    return (
        Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(text)
        .render(
            source=place,
            to=settings.to,
            revision=f"revision {known['revision']}" if "revision" in known else f"fingerprint {known['hash']}",
            base_on_hub=not is_folder_name(place),
            version=__version__,
            **facts,
        )
    )


def _verify(settings: ConvertSettings, *, is_adapter: bool) -> dict[str, float]:
    """Return the largest logit difference of each test prompt between source and result, in the stored precision.

    Both sides hold the same numbers, so no finer arithmetic is needed; the weights stay on the disk.
    """
    if not is_adapter:
        source = ModelSpec(model=settings.model, vision_tower=settings.vision_tower, dtype="stored")
        return largest_differences(source, ModelSpec(model=str(settings.out), dtype="stored"))
    base = adapter_base(adapter_folder(settings.model))
    if not base:
        raise AmpError(f"The adapter '{settings.model}' names no base, which --verify needs", hint="Leave out --verify")
    return largest_differences(
        ModelSpec(model=base, adapter=settings.model, dtype="stored"),
        ModelSpec(model=base, adapter=str(settings.out), dtype="stored"),
    )


_DIALOGUES: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], tuple[int, int] | None]] = {
    "text only": ((("What can you do?",), ()), None),
    "wide image": ((("Describe this image in detail.",), ()), (96, 40)),
    "tall image, two rounds": ((("Is there a cat?", "And a dog?"), ("No, there is not.",)), (40, 96)),
}
"""Questions and earlier answers, and the size of the image."""


def largest_differences(first: ModelSpec, second: ModelSpec) -> dict[str, float]:
    """Load two models one after the other, on the CPU, and compare them on a few prompts.

    Returns:
        Template and prompt -> largest difference of a logit, over all positions.

    Raises:
        AmpError: token ids or pixels differ.
    """
    before, after = _outputs(first), _outputs(second)
    differences = {}
    for name, (inputs, logits) in before.items():
        others, other_logits = after[name]
        for key, value in inputs.items():
            if key not in others or not torch.equal(value, others[key]):
                raise AmpError(
                    f"The two layouts differ in {key} on the prompt '{name}'",
                    hint="The model is not of LLaVA-1.5's shape: use it in the layout it came in",
                )
        differences[name] = _largest_difference(logits, other_logits, name)
    return differences


def _largest_difference(first: torch.Tensor, second: torch.Tensor, prompt: str) -> float:
    """Return the largest difference of logits; the same arithmetic may overflow, but then on both sides alike.

    Raises:
        AmpError: on one side only, or everywhere.
    """
    finite = torch.isfinite(first)
    if not torch.equal(finite, torch.isfinite(second)) or not bool(finite.any()):
        raise AmpError(
            f"The stored precision is too coarse for the prompt '{prompt}': the model's activations overflow",
            hint="Compare the two layouts in float32: amp eval --dtype float32 on both",
        )
    return float((first - second)[finite].abs().max())


@torch.no_grad()
def _outputs(spec: ModelSpec) -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]]:
    loaded = load_model(replace(spec, device="cpu"))
    found = {}
    for template in CHAT_TEMPLATES:
        loaded.chat_template = chat_template_text(template)
        for name, (dialogue, size) in _DIALOGUES.items():
            images = [] if size is None else [_image(size)]
            inputs = dict(encode_prompts(loaded, [dialogue], [images]))
            logits = answer_logits(loaded, inputs)  # (length, ids that text can have)
            found[f"{template}, {name}"] = inputs, logits
    return found


def answer_logits(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of an encoded prompt, (length, ids that text can have) float32."""
    floats = {name: value.to(loaded.model.dtype) for name, value in inputs.items() if value.is_floating_point()}
    logits: torch.Tensor = loaded.model(**{**inputs, **floats}).logits[0, :, : loaded.vocabulary].float()
    return logits


def _image(size: tuple[int, int]) -> Image.Image:
    """A gradient in three colours."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp))
