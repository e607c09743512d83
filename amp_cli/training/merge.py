"""Merges a LoRA adapter into its base: a plain model folder, verified to answer as base plus adapter do."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from amp_cli.core.hub import (
    adapter_base,
    adapter_folder,
    identity_of,
    is_folder_name,
    model_config,
    model_place,
    refuse_unusable_model,
)
from amp_cli.core.models import LoadedModel, load_model, save_model_folder, stored_dtype
from amp_cli.core.prompts import encode_prompts
from amp_cli.core.run import NAME, Run
from amp_cli.core.store import disk_errors_explained
from amp_cli.errors import AmpError

QUESTION = "Describe this image in detail."
TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Allowed difference of a logit as a share of the largest one, by precision of the weights: W + BA is rounded."""


@dataclass(frozen=True, kw_only=True)
class MergeSettings:
    """What to merge, into what, and where to."""

    adapter: str  # adapter folder, run folder or hub id
    out: Path
    base: str | None = None  # None: what the run or the adapter names
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
    """Merge on the CPU in the base's own precision; a merge that is already there is left as it is.

    Raises:
        AmpError: no adapter, a base that is not the adapter's, other files in `out`, or a merge that does not answer
            like base plus adapter.
    """
    adapter = adapter_folder(settings.adapter)
    base = settings.base or _recorded_base(adapter)
    config, folder = model_config(base)
    refuse_unusable_model(base, config, folder)
    identity = {"model": identity_of(base, folder), "adapter": identity_of(str(adapter), adapter)}
    if settings.base is not None:
        _refuse_other_base(adapter, settings.base, identity["model"])
    done = _merged_before(settings, identity)
    if done is not None:
        return done
    part = settings.out.with_name(settings.out.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    run = Run.start(part, command="merge-lora", settings={"adapter": str(adapter), "base": base}, identity=identity)
    difference = _merge_into(part, base, str(adapter))
    run.finish("done", max_logit_difference=difference)
    disk_errors_explained(lambda: _put_in_place(part, settings.out), settings.out)
    return MergeResult(out=settings.out, base=base, max_logit_difference=difference)


def _recorded_base(adapter: Path) -> str:
    """Return the base that the run's settings name, or else the adapter's own configuration."""
    recorded = _run_of(adapter)
    base = recorded.settings["base"] if recorded else adapter_base(adapter)
    if not base:
        raise AmpError(f"The adapter '{adapter}' does not say which base it belongs to", hint="Give --base MODEL")
    return str(base)


def _run_of(adapter: Path) -> Run | None:
    if not (adapter.parent / NAME).is_file():
        return None
    run = Run.read(adapter.parent)
    return run if run.facts.get("command") == "train" else None


def _refuse_other_base(adapter: Path, given: str, identity: dict[str, str]) -> None:
    """Refuse a base of another name, unless its files are those that the run was trained on."""
    recorded = _run_of(adapter)
    names = [name for name in (recorded.settings["base"] if recorded else "", adapter_base(adapter)) if name]
    if not names or any(_same_name(name, given) for name in names):
        return
    trained_on = recorded.facts["identity"]["model"] if recorded else {}
    if trained_on.get("hash") and trained_on.get("hash") == identity.get("hash"):
        return
    raise AmpError(
        f"The adapter was trained on '{names[0]}', not on '{given}'",
        hint="Leave out --base, or give a folder of the same name or with the same files",
    )


def _same_name(one: str, other: str) -> bool:
    """Whether two names mean one model: the same place, or a local folder named like the hub's repository."""
    places = [model_place(name) for name in (one, other)]
    resolved = [str(Path(place).expanduser().resolve()) if is_folder_name(place) else place for place in places]
    if resolved[0] == resolved[1]:
        return True
    on_hub = [not is_folder_name(place) for place in places]
    return any(on_hub) and Path(places[0]).name == Path(places[1]).name


def _merged_before(settings: MergeSettings, identity: dict[str, Any]) -> MergeResult | None:
    """Return the result of the same merge done before; refuse to write over anything else."""
    out = settings.out
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if out.is_dir() and (out / NAME).is_file():
        run = Run.read(out)
        same = run.facts.get("command") == "merge-lora" and run.facts.get("identity") == identity
        if same and not settings.overwrite:
            difference = run.facts["max_logit_difference"]
            return MergeResult(out=out, base=run.settings["base"], max_logit_difference=difference)
        if run.facts.get("command") == "merge-lora" and settings.overwrite:
            return None
    raise AmpError(
        f"'{out}' is not empty and holds no merge of this adapter into this base",
        hint="Choose a new folder with --out, or replace an older merge with --overwrite",
    )


def _merge_into(part: Path, base: str, adapter: str) -> float:
    """Write the merged model to `part`, load it back, and return its largest difference of a logit."""
    expected = _save_merged(part, base, adapter)  # has let go of its model before the second one is loaded
    merged = _logits(load_model(str(part), dtype="stored", device="cpu"))
    difference = float((merged - expected).abs().max())
    allowed = TOLERANCES[stored_dtype(base)] * float(expected.abs().max())
    if not difference <= allowed:
        raise AmpError(
            f"The merged model differs from base plus adapter: a logit by {difference:.3g}, allowed is {allowed:.3g}",
            hint=f"Nothing was written to --out; the faulty merge is in '{part}'",
        )
    return difference


def _save_merged(part: Path, base: str, adapter: str) -> torch.Tensor:
    """Merge and save; return the logits of base plus adapter from before."""
    loaded = load_model(base, adapter=adapter, dtype="stored", device="cpu")
    expected = _logits(loaded)
    loaded.model = loaded.model.merge_and_unload()
    disk_errors_explained(lambda: save_model_folder(loaded, part), part)
    return expected


@torch.no_grad()
def _logits(loaded: LoadedModel) -> torch.Tensor:
    """Return the logits, (length, vocabulary) float32, of a prompt with a picture."""
    batch = encode_prompts(loaded, [((QUESTION,), ())], [[_picture()]])
    floats = {name: value.to(loaded.model.dtype) for name, value in batch.items() if value.is_floating_point()}
    logits: torch.Tensor = loaded.model(**{**batch, **floats}).logits[0].float()
    return logits


def _picture() -> Image.Image:
    """A picture with colours and edges: a gradient behind a bright square."""
    ramp = Image.linear_gradient("L")
    picture = Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180)))
    picture.paste((250, 220, 30), (90, 60, 170, 140))
    return picture


def _put_in_place(part: Path, out: Path) -> None:
    if out.exists():
        shutil.rmtree(out)
    part.rename(out)
