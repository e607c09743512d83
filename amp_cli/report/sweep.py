"""Scores every checkpoint of a training run on the cheap benchmarks: which step was best, was it trained too long?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.comparing import Difference
from amp_cli.benchmarks.runner import EvalResult, inputs_of, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.benchmarks.showing import Column
from amp_cli.disk.jsonl import disk_errors_explained, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError
from amp_cli.report.compare import Scored, compare_scored

SWEEP, PLOT = "sweep.json", "sweep.png"
CHECKPOINTS, MARKER, ADAPTER, RESULT = "checkpoints", "complete.json", "adapter", "result.json"
"""What `amp train` calls its checkpoints' folder, the file that makes one whole, its adapter, its result."""
PROJECTORS = ("non_lora_trainables", "mm_projector")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A state of the model in training; `adapter` is None before the first step."""

    step: int
    adapter: Path | None

    @property
    def folder(self) -> str:
        """The name of its evaluations' folder."""
        return f"step-{self.step:06}"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All points with their scores by benchmark, the best step of each benchmark, and whether the last one is worse."""

    points: tuple[Point, ...]
    scores: tuple[dict[str, dict[str, Any]], ...]
    best: dict[str, int]
    overtrained: tuple[Difference, ...]
    rejected: int
    out: Path

    def to_json(self) -> dict[str, Any]:
        return {
            "points": [
                {"step": point.step, "adapter": None if point.adapter is None else str(point.adapter), "scores": scores}
                for point, scores in zip(self.points, self.scores, strict=True)
            ],
            "best": self.best,
            "last": self.points[-1].step,
            "last_is_worse": [difference.to_json() for difference in self.overtrained],
            "rejected": self.rejected,
            "plot": str(self.out / PLOT),
        }


def find_points(run: Path) -> tuple[list[Point], list[str]]:
    """Return the points of a training run by step (0 is its start), and a sentence for each that cannot be used.

    Raises:
        AmpError: `run` is not a training run, or has saved nothing yet.
    """
    facts = Run.read(run)
    if facts.facts.get("command") != "train":
        raise AmpError(f"'{run}' is not a training run", hint="Give the --out of `amp train`")
    start = facts.settings.get("adapter")
    adapters: dict[int, Path | None] = {0: Path(start) if start else None}
    left_out = []
    for folder in sorted((run / CHECKPOINTS).glob("checkpoint-*")):
        if not (folder / MARKER).is_file() or not (folder / "adapter_config.json").is_file():
            left_out.append(f"'{folder.name}' is not whole and was left out")
        elif start and _brings_projector(Path(start)):
            left_out.append(f"'{folder.name}' lacks the projector that '{start}' brought and was left out")
        else:
            adapters[int(read_plain_object(folder / MARKER, step=int)["step"])] = folder
    if (run / RESULT).is_file() and (run / ADAPTER / "adapter_config.json").is_file():
        # of equal steps the checkpoint stays, so that a sweep that began while the run trained goes on
        adapters.setdefault(int(read_plain_object(run / RESULT, steps=int)["steps"]), run / ADAPTER)
    if len(adapters) == 1:
        raise AmpError(
            f"'{run}' has no checkpoint and no adapter yet", hint="Wait for the first checkpoint (save_steps)"
        )
    return [Point(step=step, adapter=adapters[step]) for step in sorted(adapters)], left_out


def _brings_projector(adapter: Path) -> bool:
    """Tell whether an adapter folder holds more than LoRA weights; `amp train` copies that beside its final adapter."""
    return any(file for name in PROJECTORS for file in adapter.glob(f"{name}.*"))


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The base that a run's adapters belong to, and how it was spoken to."""

    model: str
    vision_tower: str | None
    template: str


def trained_model(run: Path) -> TrainedModel:
    """Return what a training run was started with."""
    settings = Run.read(run).settings
    return TrainedModel(
        model=settings["base"], vision_tower=settings.get("vision_tower"), template=settings.get("template", "auto")
    )


def run_sweep(
    training: Path,
    points: Sequence[Point],
    benchmarks: Sequence[EvalSettings],
    out: Path,
    *,
    overwrite: bool = False,
    evaluate: Callable[[EvalSettings], EvalResult] = run_benchmark,
) -> Sweep:
    """Evaluate every point on every benchmark; what was scored before is not asked again.

    Args:
        benchmarks: how each is asked of the base; adapter and output folder are put in here.
    """
    settings = {"training": training.resolve(), "benchmarks": {one.benchmark: one.limit for one in benchmarks}}
    inputs: list[Path | None] = [training, *(point.adapter for point in points)]
    inputs += [path for one in benchmarks for path in inputs_of(one)] if overwrite else []
    with Run.start(out, command="eval sweep", settings=settings, overwrite=overwrite, inputs=inputs) as run:
        sweep = _sweep(points, benchmarks, out, evaluate)
        draw_sweep(sweep, out / PLOT)
        write_json(out / SWEEP, sweep.to_json())
        run.finish(best=sweep.best)
    return sweep


def _sweep(
    points: Sequence[Point],
    benchmarks: Sequence[EvalSettings],
    out: Path,
    evaluate: Callable[[EvalSettings], EvalResult],
) -> Sweep:
    scores: list[dict[str, dict[str, Any]]] = []
    rejected = 0
    for number, point in enumerate(points, start=1):
        of_point = {}
        for settings in benchmarks:
            ui.note(f"Step {point.step:,} ({number} of {len(points)}): {settings.benchmark}")
            adapter = None if point.adapter is None else str(point.adapter)
            spec = None if settings.spec is None else replace(settings.spec, adapter=adapter)
            result = evaluate(replace(settings, spec=spec, out=out / point.folder / settings.benchmark))
            of_point[settings.benchmark] = result.scores
            rejected += result.undone
        scores.append(of_point)
    names = [settings.benchmark for settings in benchmarks]
    best = {name: points[_best([of_point[name] for of_point in scores], deciding(name))].step for name in names}
    return Sweep(
        points=tuple(points),
        scores=tuple(scores),
        best=best,
        overtrained=tuple(_last_against_best(points, best, out)),
        rejected=rejected,
        out=out,
    )


def swept() -> list[str]:
    """Return the benchmarks that are cheap enough to score every checkpoint on: those that declare curves."""
    return [name for name, benchmark in BENCHMARKS.items() if benchmark.curves]


def deciding(name: str) -> Column:
    """Return the score that a step is judged by. The others are drawn beside it: a short description invents little."""
    return BENCHMARKS[name].curves[0]


def _best(scores: Sequence[Mapping[str, Any]], curve: Column) -> int:
    """Return the place of the best score; of equal ones the earliest, which cost the least training."""
    goodness = [_goodness(curve.value(of_point), curve) for of_point in scores]
    return goodness.index(max(goodness))


def _goodness(value: float | None, curve: Column) -> float:
    """Return a number that is higher for better scores; an undefined score is the worst."""
    if value is None:
        return float("-inf")
    return -value if curve.lower_is_better else value


def _last_against_best(points: Sequence[Point], best: Mapping[str, int], out: Path) -> list[Difference]:
    """Return the differences of the last point to the best one that are clear, and for the worse."""
    worse = []
    for name, step in best.items():
        folders = [out / point.folder / name for point in points if point.step in (step, points[-1].step)]
        if len(folders) == 1:  # the last one is the best
            continue
        curve = deciding(name)
        differences = compare_scored(*map(Scored.read, folders), with_measures=False)
        difference = next(one for one in differences if one.name == curve.difference)
        if difference.is_clear and difference.difference is not None:
            is_worse = (difference.difference > 0) == bool(curve.lower_is_better)
            worse += [difference] if is_worse else []
    return worse


BLUE, GREEN = "#2f6fb5", "#1a7440"


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """Draw each score over the steps with its 95 % interval, the best step of a deciding one marked."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [(name, curve) for name in sweep.best for curve in BENCHMARKS[name].curves]
    rows = (len(curves) + 1) // 2
    columns = min(2, len(curves))
    figure = Figure(figsize=(6 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (name, curve) in enumerate(curves, start=1):
        drawn = [
            (point.step, value, curve.interval(of_point[name]))
            for point, of_point in zip(sweep.points, sweep.scores, strict=True)
            if (value := curve.value(of_point[name])) is not None
        ]
        axes = figure.add_subplot(rows, columns, number)
        axes.plot([step for step, _, _ in drawn], [value for _, value, _ in drawn], marker="o", color=BLUE)
        bands = [(step, *bounds) for step, _, bounds in drawn if bounds is not None]
        if bands:
            steps, low, high = zip(*bands, strict=True)
            axes.fill_between(steps, low, high, color=BLUE, alpha=0.18, linewidth=0, label="95 % interval")
        if curve is deciding(name):
            best = sweep.best[name]
            axes.axvline(best, color=GREEN, linestyle="--", label=f"best: step {best:,}")
        axes.set_title(curve.title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    disk_errors_explained(lambda: figure.savefig(path, dpi=110, metadata={"Software": None}), path)
