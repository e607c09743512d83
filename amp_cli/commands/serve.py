"""`amp serve`: starts vLLM or SGLang for a model of ours, or prints the command."""

import os
import shutil
import sys
from importlib.util import find_spec
from typing import Annotated, Literal

import typer

from amp_cli import ui
from amp_cli.commands import completing
from amp_cli.commands.options import AdapterOption, JsonOption, TemplateOption, TrustRemoteCodeOption, number
from amp_cli.errors import AmpError


def serve(
    model: Annotated[
        str, typer.Argument(autocompletion=completing.models, help="Folder, hub id, or a name of `amp models`.")
    ],
    engine: Annotated[Literal["vllm", "sglang"], typer.Option("--engine", help="Which server.")] = "vllm",
    only_print: Annotated[bool, typer.Option("--print", help="Print the command and start nothing.")] = False,
    adapter: AdapterOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What requests call it (default: the folder's name)", show_default=False),
    ] = None,
    port: Annotated[
        int | None, number("--port", help="On 127.0.0.1 (default: vLLM's 8000, SGLang's 30000)", show_default=False)
    ] = None,
    images: Annotated[int, number("--images", help="Most images in one prompt.")] = 1,
    template: TemplateOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    json: JsonOption = False,
) -> None:
    """Serve a model to `amp generate-prefs` and `amp eval` through vLLM or SGLang, which answer many requests at once.

    The engine is installed by you, best in an environment of its own; --print works without it, for another machine.
    Only this machine can reach the server (127.0.0.1); ssh -L brings its port to another one.

    Example: amp serve merged --engine vllm --print
    """
    from amp_cli.models.serving import Served, serving_of

    serving = serving_of(
        Served(
            model=model,
            adapter=adapter,
            engine=engine,
            name=name,
            port=port,
            images=images,
            template=template,
            trust_remote_code=trust_remote_code,
        )
    )
    program = None if only_print else _program(engine)
    for note in serving.notes:
        ui.warn(note)
    if json and only_print:
        ui.data(serving.to_json())
        return
    if only_print:
        ui.line(serving.command)
    else:
        ui.step(serving.command)
    ui.hint(f"amp generate-prefs data.json --method meg --expert {serving.name}={serving.asked} --out runs/prefs")
    ui.hint(f"amp eval pope --model {serving.asked} --data DIR --out DIR")
    if program is not None:
        sys.stdout.flush()
        os.execv(program, [program, *serving.words[1:]])  # signals and the exit status are the server's own


def _program(engine: str) -> str:
    """Return the program that starts an engine.

    Raises:
        AmpError: the engine is not installed.
    """
    from amp_cli.models.serving import ENGINES

    program = shutil.which("vllm") if engine == "vllm" else sys.executable if find_spec("sglang") else None
    if program is None:
        place = "in an environment whose bin folder is in PATH" if engine == "vllm" else "in the environment of amp"
        raise AmpError(
            f"{ENGINES[engine]} is not installed here",
            hint=f"pip install {engine} {place}, or run the command of --print where the engine is installed",
        )
    return program
