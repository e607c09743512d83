"""Says what the quickstart measured: a table, what held and what did not, and how to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

RUNS = {"base": "base", "sft": "SFT same steps", "sft_compute": "SFT same compute", "mdpo": "MDPO"}
"""SFT is the control: plain fine-tuning on the standard answers that are MDPO's best level."""
COLUMNS = ("", "POPE", "advers.", "yes", "CHAIR-i", "recall", "train s")
READING = (
    "POPE asks whether a thing is in the picture (adversarial: one that usually comes with what is there); "
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

    ui.table(f"Held-out pictures, seed {result['seed']}, {result['levels']} levels", COLUMNS, _rows(result))
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
