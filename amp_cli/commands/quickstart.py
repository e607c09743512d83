"""`amp quickstart`: the whole loop on the embedded picture world, every step a command that is shown and run."""

from pathlib import Path
from typing import Annotated

import typer

from amp_cli.commands.options import RUNNING, JsonOption, OverwriteOption, SeedOption


def quickstart(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that is made.")] = Path("demo"),
    levels: Annotated[
        int,
        typer.Option(
            "--levels", min=3, max=6, help="K: levels of an item, the standard included.", rich_help_panel=RUNNING
        ),
    ] = 4,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Watch a tiny vision-language model hallucinate less: the whole loop, on a CPU, offline, in a few minutes.

    Pictures are drawn, the embedded model describes them, a simulated annotator corrects it; preferences are generated,
    MDPO and two plain fine-tuning controls trained, all evaluated on held-out pictures. Then open report.html.

    Example: amp quickstart --out demo --seed 1
    """
    from amp_cli import ui
    from amp_cli.commands.loop import run_loop
    from amp_cli.commands.loop_summary import show_summary

    amp = context.find_root().command

    def type_in(words: list[str]) -> object:
        return amp.main(words, prog_name="amp", standalone_mode=False)

    result = run_loop(out, type_in=type_in, levels=levels, seed=seed, overwrite=overwrite)
    if json:
        ui.data(result)
    else:
        show_summary(result)
