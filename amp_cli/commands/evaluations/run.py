"""What every command of `amp eval` does with its options: run the benchmark, show the scores."""

from collections.abc import Mapping
from typing import Any

import typer


def evaluate(benchmark: str, options: Mapping[str, Any]) -> None:
    """Run a benchmark and show its scores; exit status 3 when items had to be left out.

    Args:
        options: a command's own, by name; each is a field of EvalSettings but `json`.
    """
    from amp_cli import ui
    from amp_cli.benchmarks import BENCHMARKS
    from amp_cli.benchmarks.answering import REJECTED
    from amp_cli.benchmarks.runner import run_benchmark
    from amp_cli.benchmarks.settings import EvalSettings

    fields = {name: value for name, value in options.items() if name != "json"}
    if "prompt_suffix" in fields:
        fields["prompt_suffix"] = fields["prompt_suffix"].replace("\\n", "\n")
    settings = EvalSettings(benchmark=benchmark, **fields)
    result = run_benchmark(settings)
    if options["json"]:
        ui.data(result.scores)
    elif settings.only == "answer":
        ui.note(f"{result.scores['n']:,} answers are in '{result.scores['answers']}'")
    else:
        for table in BENCHMARKS[benchmark].tables(result.scores):
            ui.table(*table)
        if sentence := BENCHMARKS[benchmark].about(result.scores):
            ui.note(sentence[0].upper() + sentence[1:])
    if result.rejected:
        first, reason = next(iter(result.rejected.items()))
        ui.warn(
            f"{len(result.rejected):,} items were left out (see '{result.out / REJECTED}'), first '{first}': {reason}"
        )
    if settings.only == "answer":
        ui.hint(f"amp eval {benchmark} --out {result.out} --only judge --judge NAME")
    else:
        ui.hint(f"amp report {result.out} OTHER_RUN --html report.html")
    if result.rejected:
        raise typer.Exit(3)
