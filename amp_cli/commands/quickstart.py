"""The quickstart's loop: draws the world's data, then runs the same commands a user would type."""

import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from amp_cli import stopping, ui
from amp_cli.commands.options import RUNNING_PANEL, JsonOption, OverwriteOption, SeedOption
from amp_cli.disk.jsonl import RecordLog, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError


def quickstart(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that is made.")] = Path("demo"),
    levels: Annotated[
        int,
        typer.Option(
            "--levels", min=3, max=6, help="K: levels of an item, the standard included.", rich_help_panel=RUNNING_PANEL
        ),
    ] = 4,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Watch a tiny vision-language model hallucinate less: the whole loop, on a CPU, offline, in a few minutes.

    Images are drawn, the embedded model describes them, a simulated annotator corrects it; preferences are generated,
    MDPO and two plain fine-tuning controls trained, all evaluated on held-out images. Then open report.html.

    Example: amp quickstart --out demo --seed 1
    """
    from amp_cli import ui

    amp = context.find_root().command

    def type_in(words: list[str]) -> object:
        return amp.main(words, prog_name="amp", standalone_mode=False)

    result = run_loop(out, type_in=type_in, levels=levels, seed=seed, overwrite=overwrite)
    if json:
        ui.data(result)
    else:
        show_summary(result)


BATCH = 8
NOTICED = 0.5
"""Share of the overlooked things in plain sight that the simulated annotator adds to a description."""
ASK = ("--num-beams", "1", "--batch-size", "100")
DESCRIBE = (*ASK, "--max-new-tokens", "70", "--no-repeat-ngram-size", "0")
SETTINGS = ("learning_rate=1e-3", "lora_r=16", "lora_alpha=32", "warmup_steps=0.1", "max_grad_norm=1.0")
OF_METHOD = {"mdpo": "penalty=0.01", "sft": "logging_steps=50"}


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is drawn and trained; the defaults take a few minutes on two cores."""

    scenes: int = 240  # to learn from
    test_scenes: int = 300
    steps: int = 160  # of MDPO


def equal_compute_steps(steps: int, levels: int) -> int:
    """Return the fine-tuning steps that cost what MDPO's do with a row per response, which is more than ours take.

    Such an MDPO step takes each of K responses forward and backward (3 units) and once more forward as the reference
    (1 unit); a fine-tuning step takes the one standard response forward and backward.
    """
    return round(steps * levels * 4 / 3)


INTERRUPTED = 130


class Loop:
    """Runs commands in-process and keeps the list of what was typed."""

    def __init__(self, out: Path, type_in: Callable[[list[str]], object]) -> None:
        self.out = out
        self.type_in = type_in
        self.commands: list[str] = []

    def run(self, *arguments: object) -> None:
        """Show a command line and run it; the results are read from its files.

        Raises:
            AmpError: the command's own, or items that it had to leave out (the world has none such).
        """
        words = [str(argument) for argument in arguments]
        line = shlex.join(["amp", *words])
        self.commands.append(line)
        ui.step(line)
        with ui.command_within_a_loop():
            status = self.type_in(words)
        if status == INTERRUPTED:  # the command line turns Ctrl-C into a status
            raise stopping.Stopped
        if status:
            raise AmpError(f"`{line}` ended with exit status {status}", hint="Run that command by itself to see why")


def run_loop(
    out: Path,
    *,
    type_in: Callable[[list[str]], object],
    levels: int,
    seed: int,
    overwrite: bool = False,
    size: Size | None = None,
) -> dict[str, Any]:
    """Run all steps in `out` (the same call goes on where an earlier one stopped) and return the result object.

    Args:
        type_in: runs the words of an `amp` command line and returns its exit status (None or 0 when all went well).
    """
    started = time.monotonic()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # so small a model is slower on two threads, most on a busy machine
    size = size or Size()
    settings = {"levels": levels, "seed": seed, **asdict(size)}
    run = Run.start(out, command="quickstart", settings=settings, seed=seed, overwrite=overwrite)
    with run:
        loop = Loop(out, type_in)
        prepare_data(loop, size, seed)
        generate_levels(loop, levels, seed)
        _train(loop, size, levels, seed)
        for name in RUNS:
            _evaluate(loop, name)
        result = _collect(loop, levels=levels, seed=seed, started=started)
        run.finish(result=result)
    return result


def prepare_data(loop: Loop, size: Size, seed: int) -> None:
    """Draw the images; have the base describe the training ones, and an annotator who knows the scenes correct it."""
    from amp_cli.world.files import write_evaluation, write_standards, write_training_scenes

    world = loop.out / "world"
    ui.note(f"Drawing {size.scenes} scenes to learn from and {size.test_scenes} to be tested on, in '{world}'")
    scenes = write_training_scenes(world / "train", scenes=size.scenes, seed=seed)
    write_evaluation(world / "test", scenes=size.test_scenes, seed=seed)
    described = loop.out / "described"
    loop.run("eval", "chair", "--model", "tiny", "--data", world / "train", "--out", described, *DESCRIBE)
    captions = {record["id"]: record["answers"][0] for record in RecordLog(described / "answers.jsonl").read()}
    ui.note("A simulated annotator mends what is false and adds half of what was overlooked: train.json")
    write_standards(world / "train" / "train.json", scenes, captions, noticed=NOTICED)


def generate_levels(loop: Loop, levels: int, seed: int) -> None:
    """Have the base, and versions of it fine-tuned on parts of the standards, describe the images; auto-check ranks."""
    data = loop.out / "world" / "train" / "train.json"
    loop.run(
        "generate-prefs", data, "--out", loop.out / "prefs", "--method", "ig", "--base", "tiny", "--finetune-data",
        data, "--levels", levels, "--encoder", "world", "--autocheck-coverage", "both",
        "--finetune-steps", 10, "--finetune-learning-rate", "1e-3",
        "--finetune-lora-r", 16, "--finetune-lora-alpha", 32,
        "--temperature", 0, "--repetition-penalty", 1, "--max-new-tokens", 70, *ASK, "--seed", seed,
    )  # fmt: skip


def _train(loop: Loop, size: Size, levels: int, seed: int) -> None:
    prefs = loop.out / "prefs"
    runs = {
        "mdpo": ("mdpo", size.steps),
        "sft": ("sft", size.steps),
        "sft_compute": ("sft", equal_compute_steps(size.steps, levels)),
    }
    for name, (method, steps) in runs.items():
        settings = [*SETTINGS, f"max_steps={steps}", f"seed={seed}", f"global_batch_size={BATCH}"]
        settings += [OF_METHOD[method], *([f"per_device_batch_size={BATCH}"] if method == "sft" else [])]
        options = [word for setting in settings for word in ("--set", setting)]
        loop.run(
            "train", "--size", "tiny", "--method", method, "--prefs", prefs / "preferences.jsonl",
            "--out", loop.out / "train" / name, *options,
        )  # fmt: skip
    loop.run("merge-lora", loop.out / "train" / "mdpo", "--out", loop.out / "merged")


def _evaluate(loop: Loop, name: str) -> None:
    """MDPO is evaluated as the merged model; the controls as base plus adapter."""
    model: list[object] = ["--model", "tiny"]
    if name == "mdpo":
        model = ["--model", loop.out / "merged"]
    elif name != "base":
        model += ["--adapter", loop.out / "train" / name]
    data, folder = loop.out / "world" / "test", loop.out / "eval" / name
    loop.run(
        "eval", "pope", *model, "--data", data, "--out", folder / "pope", *ASK, "--prompt-suffix", "",
        "--max-new-tokens", 2,
    )  # fmt: skip
    pope = read_plain_object(folder / "pope" / "scores.json")
    ui.note(f"{RUNS[name]}: POPE accuracy {pope['overall']['accuracy']:.3f}")
    loop.run("eval", "chair", *model, "--data", data, "--out", folder / "chair", *DESCRIBE)
    chair = read_plain_object(folder / "chair" / "scores.json")
    ui.note(f"{RUNS[name]}: CHAIR-i {chair['chair_i']:.3f}, recall {chair['recall']:.3f}")


def _collect(loop: Loop, *, levels: int, seed: int, started: float) -> dict[str, Any]:
    """Read all scores and paired differences from disk, write report.html and quickstart.json."""
    from amp_cli.report.compare import compare_runs
    from amp_cli.report.report import build_report
    from amp_cli.report.runs import ReportRun

    folders = {name: loop.out / "eval" / name for name in RUNS}
    result: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": _peak_memory_mb(),
        "seed": seed,
        "levels": levels,
    }
    for name, folder in folders.items():
        scores = {benchmark: read_plain_object(folder / benchmark / "scores.json") for benchmark in ("pope", "chair")}
        result[name] = {**scores, "train_seconds": _train_seconds(loop.out, name)}
    pairs = (("base", "mdpo"), ("base", "sft"), ("base", "sft_compute"), ("sft_compute", "mdpo"), ("sft", "mdpo"))
    result["differences"] = {
        f"{after} - {before}": [
            difference.to_json()
            for benchmark in ("pope", "chair")
            for difference in compare_runs(folders[before] / benchmark, folders[after] / benchmark)
        ]
        for before, after in pairs
    }
    result["out"] = str(loop.out)
    build_report(
        [ReportRun(name=RUNS[name], path=folder) for name, folder in folders.items()]
        + [ReportRun(name="MDPO training", path=loop.out / "train" / "mdpo")],
        title="A vision-language model learns to hallucinate less",
        notes=notes(result),
        commands=loop.commands,
        html=loop.out / "report.html",
    )
    write_json(loop.out / "quickstart.json", result)
    return result


def _train_seconds(out: Path, name: str) -> float | None:
    if name == "base":
        return None
    return float(Run.read(out / "train" / name).facts["result"]["seconds"])


def _peak_memory_mb() -> float:
    """This process's peak plus the largest worker's: an upper bound of what was in use at one time, in MB."""
    usage = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return round(sum(usage) / unit, 1)


RUNS = {"base": "base", "sft": "SFT same steps", "sft_compute": "SFT same compute", "mdpo": "MDPO"}
"""SFT is the control: plain fine-tuning on the standard answers that are MDPO's best level."""
COLUMNS = ("", "POPE", "advers.", "yes", "CHAIR-i", "recall", "train s")
READING = (
    "POPE asks whether a thing is in the image (adversarial: one that usually comes with what is there); "
    "CHAIR-i is the share of named things that are not there, CHAIR-s the share of descriptions with at least "
    "one. Lower CHAIR is better only while recall holds: who says less invents less.",
    "SFT is the control: plain fine-tuning on the standard answers alone, for as many steps as MDPO, and for as much "
    "computing as MDPO takes with a row per answer; here answers share their prefix, so that MDPO took less.",
    "The base was taught nothing false: its captions are true, of a world in which things come in pairs and one "
    "of a pair is often out of sight. So it says what is usual. Only descriptions were trained on here; what "
    "changes on POPE is carried over.",
    "Drawn scenes and a model of 1.4 million parameters are no photographs: this shows that the loop works, not "
    "how much a large model gains, nor which number of levels is best.",
)


def show_summary(result: Mapping[str, Any]) -> None:
    """Print the table on stdout, and the findings and next commands on stderr."""
    from amp_cli import ui

    ui.table(f"Held-out images, seed {result['seed']}, {result['levels']} levels", COLUMNS, _rows(result))
    for finding in findings(result):
        ui.note(finding)
    ui.note(f"{result['seconds']:.0f} s in this call, at most {result['peak_memory_mb'] / 1024:.1f} GB of memory")
    ui.hint(
        f"open {result['out']}/report.html and {result['out']}/prefs/preferences.html in a browser; then `amp doctor`"
    )


def _rows(result: Mapping[str, Any]) -> list[Sequence[object]]:
    rows: list[Sequence[object]] = []
    for name, label in RUNS.items():
        pope, chair = result[name]["pope"], result[name]["chair"]
        rows.append(
            (
                label,
                pope["overall"]["accuracy"],
                pope["splits"]["adversarial"]["accuracy"],
                pope["overall"]["yes_ratio"],
                chair["chair_i"],
                chair["recall"],
                "-" if (seconds := result[name]["train_seconds"]) is None else f"{seconds:.0f}",
            )
        )
    return rows


def findings(result: Mapping[str, Any]) -> list[str]:
    """Return what the paired comparisons say of this run, for better or worse, one sentence each."""
    against_base = _by_name(result, "mdpo - base")
    against_control = _by_name(result, "mdpo - sft_compute")
    base, trained = result["base"]["chair"]["chair_i"], result["mdpo"]["chair"]["chair_i"]
    ratio = trained / base if base else float("nan")
    return [
        _sentence("MDPO against the base, POPE accuracy", against_base["pope", "overall/accuracy"]),
        _sentence("MDPO against the base, adversarial POPE accuracy", against_base["pope", "adversarial/accuracy"]),
        _sentence("MDPO against the base, CHAIR-i", against_base["chair", "chair_i"])
        + f" It is {ratio:.2f} of the base's.",
        _sentence("MDPO against the base, recall", against_base["chair", "recall"]),
        _sentence("MDPO against SFT at the same compute, POPE accuracy", against_control["pope", "overall/accuracy"]),
        _sentence("MDPO against SFT at the same compute, CHAIR-i", against_control["chair", "chair_i"]),
    ]


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return the report's paragraphs: findings, then how to read them."""
    return [*findings(result), *READING]


def _by_name(result: Mapping[str, Any], pair: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["benchmark"], row["name"]): row for row in result["differences"][pair]}


def _sentence(what: str, row: Mapping[str, Any]) -> str:
    if row["difference"] is None or row["ci95"] is None:
        return f"{what}: not defined."
    low, high = row["ci95"]
    clear = "clear of zero" if row["clear"] else "not clear of zero"
    return f"{what}: {row['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, {clear}."
