"""The quickstart's loop: draws the world's data, then runs the same commands a user would type."""

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amp_cli import stopping, ui
from amp_cli.commands.options import RUNNING_PANEL, JsonOption, OverwriteOption, SeedOption
from amp_cli.disk.jsonl import RecordLog, write_json
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from amp_cli.models.machine import MemoryPeak
    from amp_cli.training.matching import FedTokens


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

    Images are drawn, the embedded model describes them, a simulated annotator corrects it; preferences are generated.
    MDPO learns from all pairs of levels; ordinary DPO, on the same answers, and plain fine-tuning are its controls at
    equal tokens. All are evaluated on held-out images. Then open report.html.

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
ASK = ("--num-beams", "1", "--batch-size", "100", "--device", "cpu")
"""On the CPU whatever there is besides: the figures of docs/demo.md are a CPU's, and no driver can spoil a demo."""
DESCRIBE = (*ASK, "--max-new-tokens", "70", "--no-repeat-ngram-size", "0")
SETTINGS = (
    "learning_rate=1e-3",
    "lora_r=16",
    "lora_alpha=32",
    "warmup_steps=0.1",
    "max_grad_norm=1.0",
    f"global_batch_size={BATCH}",
)
PENALTY = "penalty=0.05"
"""Chosen on seeds 0 and 1; docs/demo.md has the dial."""
VARIANTS = {
    "mdpo": ("mdpo", (PENALTY,)),
    "dpo": ("mdpo", (PENALTY, "pairs=best-vs-rest")),
    "sft": ("sft", ("logging_steps=50", f"per_device_batch_size={BATCH}")),
}
"""What is trained: the method, and the settings that only this one has. Nothing but the pairs tells dpo from mdpo."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is drawn and trained; the defaults take a few minutes on two cores."""

    scenes: int = 240  # to learn from
    test_scenes: int = 300
    steps: int = 160  # of MDPO


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
    from amp_cli.launching import use_one_thread
    from amp_cli.models.machine import memory_peak

    started = time.monotonic()
    use_one_thread()
    size = size or Size()
    settings = {"levels": levels, "seed": seed, **asdict(size)}
    run = Run.start(out, command="quickstart", settings=settings, seed=seed, overwrite=overwrite)
    with run, memory_peak() as memory:
        loop = Loop(out, type_in)
        prepare_data(loop, size, seed)
        generate_levels(loop, levels, seed)
        tokens = _train(loop, size, seed)
        for name in RUNS:
            _evaluate(loop, name)
        measured = {"seconds": round(time.monotonic() - started, 1), "peak_memory_mb": _peak_memory_mb(out, memory)}
        result = _collect(loop, tokens, {**measured, "seed": seed, "levels": levels})
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


def _train(loop: Loop, size: Size, seed: int) -> dict[str, int]:
    """Train MDPO and its controls; return the tokens of each, in the units of `FedTokens`."""
    prefs = loop.out / "prefs" / "preferences.jsonl"
    tokens: dict[str, int] = {}
    for name, (method, own) in VARIANTS.items():
        settings = [*SETTINGS, *own, f"seed={seed}"]
        fed = _fed_tokens(prefs, method, settings)
        steps = fed.steps_for(tokens["mdpo"]) if name == "sft" else size.steps  # pairs do not change what is read
        tokens[name] = fed.of(steps)
        options = [word for setting in (*settings, f"max_steps={steps}") for word in ("--set", setting)]
        loop.run(
            "train", "--size", "tiny", "--method", method, "--prefs", prefs, "--out", loop.out / "train" / name,
            "--accelerate-config", "cpu", *options,
        )  # fmt: skip
    loop.run("merge-lora", loop.out / "train" / "mdpo", "--out", loop.out / "merged")
    return tokens


def _fed_tokens(prefs: Path, method: str, settings: Sequence[str]) -> "FedTokens":
    from amp_cli.models.load import load_outline
    from amp_cli.training.config import load_config
    from amp_cli.training.matching import FedTokens

    config = load_config("tiny", method=method, overrides=[*settings, "max_steps=1"])
    return FedTokens(config, load_outline(config.spec), prefs)


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


def _collect(loop: Loop, tokens: Mapping[str, int], result: dict[str, Any]) -> dict[str, Any]:
    """Add all scores and paired differences from disk to what was measured, write report.html and quickstart.json."""
    from amp_cli.benchmarks.margins import explanation
    from amp_cli.report.compare import compare_runs
    from amp_cli.report.report import build_report
    from amp_cli.report.runs import ReportRun
    from amp_cli.world.files import EVALUATED

    folders = {name: loop.out / "eval" / name for name in RUNS}
    for name, folder in folders.items():
        scores = {benchmark: read_plain_object(folder / benchmark / "scores.json") for benchmark in EVALUATED}
        result[name] = {**scores, "train_seconds": _train_seconds(loop.out, name), "tokens": tokens.get(name)}
    pairs = (("base", "mdpo"), ("base", "dpo"), ("base", "sft"), ("dpo", "mdpo"), ("sft", "mdpo"))
    differences = {
        f"{after} - {before}": {
            benchmark: compare_runs(folders[before] / benchmark, folders[after] / benchmark) for benchmark in EVALUATED
        }
        for before, after in pairs
    }
    result["differences"] = {
        pair: [one.to_json() for some in of_pair.values() for one in some] for pair, of_pair in differences.items()
    }
    result["sight"] = explanation(differences["mdpo - base"]["pope"], "overall")
    result["out"] = str(loop.out)
    build_report(
        [ReportRun(name=RUNS[name], path=folder) for name, folder in folders.items()]
        + [ReportRun(name="MDPO training", path=loop.out / "train" / "mdpo")],
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


def _peak_memory_mb(out: Path, memory: "MemoryPeak") -> float:
    """This process's peak plus the largest training's: an upper bound of what was in use at one time, MiB."""
    trainings = [Run.read(out / "train" / name).facts["result"]["peak_memory_mb"] for name in RUNS if name != "base"]
    return round(memory.megabytes() + float(max(trainings)), 1)


RUNS = {"base": "base", "sft": "SFT", "dpo": "DPO", "mdpo": "MDPO"}
"""DPO: the best answer against each other one. SFT: plain fine-tuning on the best answers alone."""
COLUMNS = ("", "POPE", "AUC", "yes", "CHAIR-i", "recall", "words", "tokens")
READING = (
    "MDPO, DPO and SFT went through equally many tokens (forward and backward count as 3, the reference's as 1). "
    "DPO sees the same answers in the same order, with the same penalty: it only compares other pairs, the best "
    "answer with each of the rest. The best answers are of another hand than the rest and shorter, so that those "
    "pairs also teach a length; pairs among the rest do not.",
    "POPE asks whether a thing is in the image (adversarial: one that usually comes with what is there); "
    "CHAIR-i is the share of named things that are not there, CHAIR-s the share of descriptions with at least "
    "one. Lower CHAIR is better only while recall holds: who says less invents less.",
    "AUC says how well the probability of yes tells what is there from what is not, wherever the threshold lies: it is "
    "the model's sight. A rise of POPE without a rise of AUC is better calibration.",
    "The base was taught nothing false: its captions are true, of a world in which things come in pairs and one "
    "of a pair is often out of sight. So it says what is usual. Only descriptions were trained on here; what "
    "changes on POPE is carried over.",
    "Intervals are over the images of this one seed; another seed trains another model. docs/demo.md has ten seeds. "
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
        run = result[name]
        pope, chair = run["pope"], run["chair"]
        rows.append(
            (
                label,
                pope["overall"]["accuracy"],
                pope["overall"]["auc"],
                pope["overall"]["yes_ratio"],
                chair["chair_i"],
                chair["recall"],
                f"{chair['words']:.1f}",
                "-" if name == "base" else f"{run['tokens'] / 1000:.0f} k",
            )
        )
    return rows


def findings(result: Mapping[str, Any]) -> list[str]:
    """Return what this run says, for better or worse, one sentence each; intervals are over its images alone."""
    accuracy = {name: result[name]["pope"]["overall"]["accuracy"] for name in RUNS}
    against_base, against_dpo, against_sft = (_by_name(result, f"mdpo - {name}") for name in ("base", "dpo", "sft"))
    base, trained = result["base"]["chair"]["chair_i"], result["mdpo"]["chair"]["chair_i"]
    share = f" It is {trained / base:.2f} of the base's." if base else ""
    return [
        f"Same answers, same tokens, other pairs: POPE accuracy is {accuracy['mdpo']:.3f} with all pairs and "
        f"{accuracy['dpo']:.3f} with the best against the rest; the base has {accuracy['base']:.3f}.",
        _sentence("All pairs (MDPO) against best-against-rest (DPO), POPE accuracy", against_dpo["pope", ACCURACY]),
        _sentence("MDPO against the base, POPE accuracy", against_base["pope", ACCURACY]),
        result["sight"] + ".",
        _sentence("MDPO against the base, CHAIR-i", against_base["chair", "chair_i"]) + share,
        _sentence("MDPO against the base, recall", against_base["chair", "recall"]),
        _sentence("MDPO against SFT, POPE accuracy", against_sft["pope", ACCURACY]),
        _sentence("MDPO against SFT, CHAIR-i", against_sft["chair", "chair_i"]),
    ]


ACCURACY = "overall/accuracy"


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return the report's paragraphs: findings, then how to read them."""
    return [*findings(result), *READING]


def _by_name(result: Mapping[str, Any], pair: str) -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(row["benchmark"], row["name"]): row for row in result["differences"][pair]}


def _sentence(what: str, row: Mapping[str, Any]) -> str:
    if row["difference"] is None or row["ci95"] is None:
        return f"{what}: not defined."
    low, high = row["ci95"]
    return f"{what}: {row['difference']:+.3f}, 95 % interval over the images {low:+.3f} to {high:+.3f}."
