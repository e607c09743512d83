"""`amp eval`: ask a model, have its answers judged where a benchmark is judged, score them."""

import typer

from amp_cli.commands import sweep
from amp_cli.commands.evaluations import amber, chair, everything, llava_bench, mmhal, mrhal, pope

app = typer.Typer(help="Evaluate a model: answer, judge, score. Every benchmark is a command.", no_args_is_help=True)
FREE = "Without a judge"
JUDGED = "With a judge"

app.command("pope", rich_help_panel=FREE)(pope.pope)
app.command("chair", rich_help_panel=FREE)(chair.chair)
app.command("amber", rich_help_panel=FREE)(amber.amber)
app.command("mmhal", rich_help_panel=JUDGED)(mmhal.mmhal)
app.command("mrhal", rich_help_panel=JUDGED)(mrhal.mrhal)
app.command("llava-bench", rich_help_panel=JUDGED)(llava_bench.llava_bench)
app.command("llava-bench-wild", rich_help_panel=JUDGED)(llava_bench.llava_bench_wild)
app.command("all", rich_help_panel="More")(everything.everything)
app.command("sweep", rich_help_panel="More")(sweep.sweep)
