"""Writes a run's adapter as others load it: weights, configuration, model card."""

import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from amp_cli import __version__
from amp_cli.disk.jsonl import write_json, write_text
from amp_cli.disk.modes import share_weights
from amp_cli.disk.parsing import read_object
from amp_cli.disk.templates import template_path
from amp_cli.models.llava.projector import projector_files
from amp_cli.models.resolve import adapter_folder, is_folder_name, whole_place
from amp_cli.training.config import OFF, TrainConfig

ADAPTER, BEST = "adapter", "adapter-best"
WEIGHTS = "adapter_model.safetensors"


def public_base(base: str) -> str:
    """Return how an adapter names its base: `tiny`, a hub id, or an absolute folder."""
    if base == "tiny":
        return base
    return whole_place(base)


def finish_adapter(
    written: Path, run_folder: Path, *, config: TrainConfig, facts: dict[str, Any], name: str = ADAPTER
) -> Path:
    """Turn a folder that the trainer wrote into one of the run's adapters: weights, configuration, model card."""
    share_weights(written)
    adapter_config = read_object(written / "adapter_config.json")
    adapter_config["base_model_name_or_path"] = public_base(config.base)
    write_json(written / "adapter_config.json", adapter_config)
    write_text(written / "README.md", model_card(config, facts))
    for file in written.iterdir():
        if file.name not in (WEIGHTS, "adapter_config.json", "README.md"):
            file.unlink()
    if config.adapter is not None:  # a projector that came with the adapter belongs to the new one too
        for file in projector_files(adapter_folder(config.adapter)):
            shutil.copyfile(file, written / file.name)
    adapter = run_folder / name
    if adapter.exists():
        shutil.rmtree(adapter)
    written.replace(adapter)
    return adapter


def model_card(config: TrainConfig, facts: dict[str, Any]) -> str:
    """Return the card's Markdown; `facts` are items, steps, loss, accuracy, and of the best adapter `held_out`."""
    text = template_path("report", "model_card.md.jinja").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(text)
    base = public_base(config.base)
    on_hub = base != "tiny" and not is_folder_name(base)
    facts = {"held_out": None, **facts}
    added = {name: getattr(config, name) for name, off in OFF.items() if getattr(config, name) != off}
    if config.image_pairs is not None:
        added["image_weight"] = config.image_weight
    return template.render(config=config, base=base, base_on_hub=on_hub, facts=facts, added=added, version=__version__)
