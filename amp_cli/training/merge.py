"""Merges a LoRA adapter into its base: a plain model folder, verified to answer as base plus adapter do."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from amp_cli import ui
from amp_cli.disk.jsonl import disk_errors_explained
from amp_cli.disk.replacing import NAME
from amp_cli.disk.run import Run, make_whole
from amp_cli.errors import AmpError
from amp_cli.models.adapters import merge_weights
from amp_cli.models.load import LoadedModel, load_model, save_model_folder
from amp_cli.models.precision import refuse_not_finite
from amp_cli.models.prompts import encode_prompts
from amp_cli.models.resolve import adapter_base, adapter_folder, check_model, is_folder_name, model_place, places_of
from amp_cli.models.spec import ModelSpec
from amp_cli.training.card import BEST

QUESTION = "Describe this image in detail."
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Allowed difference of a logit as a share of the largest one, by precision of the weights: W + BA is rounded."""


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
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """The merged folder, its base, and the largest difference of a logit on the test prompt."""

    out: Path
    base: str
    max_logit_difference: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "out": str(self.out)}


def merge_lora(settings: MergeSettings) -> MergeResult:
    """Merge on the CPU, in the base's precision unless told otherwise; a merge that is there already is left alone.

    Raises:
        AmpError: no adapter, a base that is not the adapter's, other files in `out`, or a merge that does not answer
            like base plus adapter.
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
        write=lambda part: {"max_logit_difference": _merge_into(part, spec)},
        overwrite=settings.overwrite,
        inputs=places_of(settings.adapter, str(adapter), base, settings.vision_tower),
    )
    difference = run.facts["max_logit_difference"]
    return MergeResult(out=settings.out, base=run.settings["base"], max_logit_difference=difference)


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
    recorded = _run_of(adapter)
    base = str(recorded.settings["base"] if recorded else adapter_base(adapter))
    if not base:
        raise AmpError(f"The adapter '{adapter}' does not name its base model", hint="Give --base MODEL")
    return base


def _run_of(adapter: Path) -> Run | None:
    if not (adapter.parent / NAME).is_file():
        return None
    run = Run.read(adapter.parent)
    return run if run.facts.get("command") == "train" else None


def _refuse_other_base(adapter: Path, given: str, identity: dict[str, str]) -> None:
    """Refuse a base of another name, unless its files are those that the run was trained on.

    A name that is somebody else's folder tells nothing here: the user is taken at their word, and told so.
    """
    recorded = _run_of(adapter)
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


def _merge_into(part: Path, spec: ModelSpec) -> float:
    """Write the merged model to `part`, load it back, and return its largest difference of a logit."""
    # the first model is let go of before the second one is loaded
    expected, precision = _save_merged(part, spec)
    merged = _logits(load_model(replace(spec, model=str(part), adapter=None, vision_tower=None, dtype="stored")))
    difference = float((merged - expected).abs().max())
    allowed = TOLERANCES[precision] * float(expected.abs().max())
    if not difference <= allowed:
        raise AmpError(
            f"The merged model differs from base plus adapter: a logit differs by "
            f"{difference:.3g}, and {allowed:.3g} is allowed",
            hint=f"Nothing was written to --out; the faulty merge is in '{part}'",
        )
    return difference


def _save_merged(part: Path, spec: ModelSpec) -> tuple[torch.Tensor, str]:
    """Merge and save; return the logits of base plus adapter from before, and the precision."""
    loaded = load_model(spec)
    for note in loaded.notes:
        ui.warn(note)
    expected = _logits(loaded)
    loaded.model = merge_weights(loaded.model, loaded.name)
    disk_errors_explained(lambda: save_model_folder(loaded, part), part)
    return expected, loaded.identity["dtype"]


@torch.no_grad()
def _logits(loaded: LoadedModel) -> torch.Tensor:
    """Return the logits, (length, ids that text can have) float32, of a prompt with an image."""
    batch = encode_prompts(loaded, [((QUESTION,), ())], [[_image()]])
    floats = {name: value.to(loaded.model.dtype) for name, value in batch.items() if value.is_floating_point()}
    logits: torch.Tensor = loaded.model(**{**batch, **floats}).logits[0, :, : loaded.vocabulary].float()
    refuse_not_finite(logits, loaded.name, loaded.identity["dtype"])
    return logits


def _image() -> Image.Image:
    """An image with colours and edges: a gradient behind a bright square."""
    ramp = Image.linear_gradient("L")
    image = Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))
    image.paste((250, 220, 30), (90, 60, 170, 140))
    return image
