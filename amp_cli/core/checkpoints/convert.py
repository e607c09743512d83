"""Converts a model or a LoRA adapter between the original LLaVA layout and transformers': `amp convert`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from amp_cli import __version__
from amp_cli.core.checkpoints.adapter_folder import adapter_layout, write_adapter
from amp_cli.core.checkpoints.files import ADAPTER_STEMS, weight_files
from amp_cli.core.checkpoints.layout import LANGUAGE_MODEL, ORIGINAL, layout_of
from amp_cli.core.checkpoints.original import OriginalCheckpoint, open_original
from amp_cli.core.checkpoints.to_hf import write_hf
from amp_cli.core.checkpoints.to_llava import write_llava
from amp_cli.core.downloads.reports import Advance, Progress
from amp_cli.core.hub import (
    adapter_base,
    adapter_folder,
    check_model,
    identity_of,
    is_folder_name,
    local_folder,
    model_place,
)
from amp_cli.core.machine import peak_memory_mb
from amp_cli.core.run import Run
from amp_cli.core.store import write_text
from amp_cli.core.templates import template_path
from amp_cli.core.whole_folder import made_before, part_of, put_in_place
from amp_cli.errors import AmpError


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
    """What was written. The difference is None where it was not asked for; `source` is the layout it came in."""

    out: Path
    source: str
    to: str
    tensors: int
    peak_memory_mb: float
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
    asked = {"model": settings.model, "to": settings.to, "vision_tower": settings.vision_tower}
    done = made_before(
        settings.out, command="convert", identity={**identity, "to": settings.to}, overwrite=settings.overwrite
    )
    if done is None:
        part = part_of(settings.out)
        run = Run.start(part, command="convert", settings=asked, identity={**identity, "to": settings.to})
        write = _write_adapter if is_adapter else _write_model
        with progress(f"Converting {settings.model}", _bytes_of(settings.model, is_adapter=is_adapter), 0) as advance:
            tensors, source, facts, notes = write(settings, part, advance)
        write_text(part / "README.md", _card(settings, identity, facts))
        run.finish("done", tensors=tensors, source=source, notes=list(notes), peak_memory_mb=peak_memory_mb())
        put_in_place(part, settings.out)
        done = run
    facts = done.facts
    differences = _verify(settings, is_adapter=is_adapter) if settings.verify else {}
    return ConvertResult(
        out=settings.out,
        source=facts["source"],
        to=settings.to,
        tensors=facts["tensors"],
        peak_memory_mb=facts["peak_memory_mb"],
        differences=differences,
        max_logit_difference=max(differences.values(), default=None),
        notes=tuple(facts["notes"]),
    )


def _is_adapter(model: str) -> bool:
    folder = Path(model_place(model)).expanduser()
    if folder.is_dir():
        return any((place / "adapter_config.json").is_file() for place in (folder, folder / "adapter"))
    from amp_cli.core.zoo import find_model

    known = find_model(model)
    return known is not None and known.base is not None


def _identity(settings: ConvertSettings, *, is_adapter: bool) -> dict[str, Any]:
    if is_adapter:
        if settings.vision_tower is not None:
            raise AmpError("--vision-tower goes with a model, not with an adapter")
        return {"adapter": identity_of(settings.model, adapter_folder(settings.model))}
    return check_model(settings.model, vision_tower=settings.vision_tower)


def _bytes_of(model: str, *, is_adapter: bool) -> int:
    files = weight_files(adapter_folder(model), ADAPTER_STEMS) if is_adapter else weight_files(local_folder(model))
    return sum(file.stat().st_size for file in files)


def _write_model(settings: ConvertSettings, out: Path, advance: Advance) -> Written:
    folder = local_folder(settings.model)
    source = layout_of(folder)
    if source == LANGUAGE_MODEL:
        raise AmpError(f"'{settings.model}' is a language model without a projector or a vision tower")
    if source == settings.to:
        raise AmpError(
            f"'{settings.model}' is in the {settings.to} layout already", hint="Give the other one with --to"
        )
    if source == ORIGINAL:
        checkpoint = open_original(folder, vision_tower=settings.vision_tower)
        return write_hf(checkpoint, out, advance), source, _facts(checkpoint), checkpoint.notes
    if settings.vision_tower is not None:
        raise AmpError("--vision-tower is for a model in the original layout; this one holds its tower")
    return write_llava(folder, out, advance), source, {}, ()


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
    """Return the largest logit difference of each test prompt between source and result."""
    from amp_cli.core.checkpoints.verify import largest_differences

    if not is_adapter:
        source = {"model": settings.model, "vision_tower": settings.vision_tower}
        return largest_differences(source, {"model": str(settings.out)})
    base = adapter_base(adapter_folder(settings.model))
    if not base:
        raise AmpError(f"The adapter '{settings.model}' names no base, which --verify needs")
    return largest_differences(
        {"model": base, "adapter": settings.model}, {"model": base, "adapter": str(settings.out)}
    )
