"""Draws a run's metrics.jsonl as curves.png."""

import shutil
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from amp_cli import __version__
from amp_cli.disk.jsonl import RecordLog, disk_errors_explained, write_json, write_text
from amp_cli.disk.modes import share_weights
from amp_cli.disk.parsing import read_object
from amp_cli.disk.templates import template_path
from amp_cli.models.llava.projector import projector_files
from amp_cli.models.resolve import adapter_folder, is_folder_name, whole_place
from amp_cli.training.config import TrainConfig
from amp_cli.training.held_out import PREFIX, PROXY

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
    return template.render(config=config, base=base, base_on_hub=on_hub, facts=facts, version=__version__)


CURVES = "curves.png"


def draw_curves(run_folder: Path) -> Path | None:
    """Draw loss, margins, accuracy by pair distance and reward by level over the steps; None without metrics."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = RecordLog(run_folder / "metrics.jsonl").read()
    if not records:
        return None
    panels = {
        "loss": _series(records, "loss"),
        "margin (nats)": _series(records, "margin_distance_") or {},
        "share of pairs in order": _series(records, "accuracy_distance_") or _series(records, "mean_token_accuracy"),
        "reward by level (nats)": _series(records, "reward_level_"),
        "best answer against the reference, held out (nats a token)": _series(records, PROXY),
    }
    panels = {title: series for title, series in panels.items() if series}
    figure = Figure(figsize=(6 * min(2, len(panels)), 3.8 * ((len(panels) + 1) // 2)), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, series) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot((len(panels) + 1) // 2, min(2, len(panels)), number)
        for name, (steps, values) in series.items():
            is_held_out = name.startswith(PREFIX)
            (line,) = axes.plot(steps, values, "--" if is_held_out else "-", label=_label(name))
            for steps_of, values_of in _series(records, f"{PREFIX}{name}", is_whole_name=True).values():
                axes.plot(steps_of, values_of, "--", color=line.get_color(), label=f"{_label(name)}, held out")
        axes.set_title("share of answer tokens right" if "mean_token_accuracy" in series else title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", integer=True)
        if len(axes.get_lines()) > 4:  # with held-out items twice as many: below, where no line is hidden
            axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        elif len(axes.get_lines()) > 1:
            axes.legend()
    path = run_folder / CURVES
    beside = path.with_suffix(".part")  # a kill while it is drawn would leave half of it

    def draw() -> None:
        figure.savefig(beside, format="png", dpi=110, metadata={"Software": None})
        beside.replace(path)

    disk_errors_explained(draw, path)
    return path


def _series(
    records: list[dict[str, Any]], prefix: str, *, is_whole_name: bool = False
) -> dict[str, tuple[list[int], list[float]]]:
    """Return name -> (steps, values) of the metrics whose name starts so; a metric may be absent from some lines."""
    names = sorted({name for record in records for name in record if name.startswith(prefix)})
    names = [name for name in names if not is_whole_name or name == prefix]
    return {
        name: (
            [record["step"] for record in records if name in record],
            [record[name] for record in records if name in record],
        )
        for name in names
    }


def _label(name: str) -> str:
    """Return the legend of a metric: what a number at its end stands for."""
    name = name.removeprefix(PREFIX)
    kind, _, number = name.rpartition("_")
    if kind.endswith("distance"):
        return "adjacent levels" if number == "1" else f"{number} levels apart"
    if kind.endswith("level"):
        return f"level {number}" + (" (best)" if number == "0" else "")
    return name
