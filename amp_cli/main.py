"""Assembles the `amp` command line; AmpError becomes an `Error:` and a `Hint:` line."""

import os
import sys
from pathlib import Path

if __name__ == "__main__" and not sys.flags.safe_path:  # `python -m amp_cli.main`
    del sys.path[0]  # the current folder, whose yaml.py is not the library

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, NoReturn

import typer

from amp_cli import __version__, stopping, ui
from amp_cli.commands import (
    ablate,
    compare,
    convert,
    doctor,
    download,
    eval,
    generate_prefs,
    init,
    loop,
    merge_lora,
    models,
    prefs,
    push,
    quickstart,
    report,
    run,
    serve,
    train,
    version,
)
from amp_cli.commands.command_line import CommandLine
from amp_cli.commands.defaults import PREFIX, apply_config
from amp_cli.disk.jsonl import full_disk_told
from amp_cli.errors import AmpError
from amp_cli.records import is_storable

app = CommandLine(
    name="amp",
    help="Make vision-language models hallucinate less, by multi-level preference learning.",
    no_args_is_help=True,
    context_settings={"auto_envvar_prefix": PREFIX},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("quickstart", rich_help_panel="Start here")(quickstart.quickstart)
app.command("doctor", rich_help_panel="Start here")(doctor.doctor)
app.command("models", rich_help_panel="Start here")(models.models)
app.command("download", rich_help_panel="Start here")(download.download)
app.command("version", rich_help_panel="Start here")(version.version)
app.command("init", rich_help_panel="Start here")(init.init)
app.command("run", rich_help_panel="The loop")(run.run)
app.command("loop", rich_help_panel="The loop")(loop.loop)
app.command("generate-prefs", rich_help_panel="The loop")(generate_prefs.generate_prefs)
app.add_typer(prefs.app, name="prefs", rich_help_panel="The loop")
app.command("train", rich_help_panel="The loop")(train.train)
app.command("merge-lora", rich_help_panel="The loop")(merge_lora.merge_lora)
app.command("convert", rich_help_panel="The loop")(convert.convert)
app.command("serve", rich_help_panel="The loop")(serve.serve)
app.add_typer(eval.app, name="eval", rich_help_panel="The loop")
app.command("compare", rich_help_panel="The loop")(compare.compare)
app.command("push", rich_help_panel="The loop")(push.push)
app.command("report", rich_help_panel="The loop")(report.report)
app.command("ablate", rich_help_panel="The loop")(ablate.ablate)


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"amp {__version__}\n")
        raise typer.Exit


@app.callback()
def _start(
    offline: Annotated[
        bool, typer.Option("--offline", help="Never ask the hub: use only what is on this disk.")
    ] = False,
    cache_converted: Annotated[
        bool,
        typer.Option(
            "--cache-converted",
            help="Keep the conversion of an original LLaVA checkpoint on disk, for faster loading next time.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            is_eager=True,
            callback=apply_config,
            expose_value=False,
            help="File with defaults, or none (default: the amp.toml of this folder, or of the nearest above it)",
            show_default=False,
        ),
    ] = None,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported, by us or by a worker
    if cache_converted:
        os.environ["AMP_CACHE_CONVERTED"] = "1"  # read by load_model, here and in workers


def main() -> None:
    """Run the command line; what the user can mend is a sentence, not a traceback.

    With `--json`, an error is an object on stdout as well: {"error", "hint"}.
    """
    try:
        with stopping.heard(), full_disk_told(), _told_if_slow():
            _refuse_unreadable_words(sys.argv[1:])
            status = app(standalone_mode=False, prog_name="amp")
            if stopping.is_told():  # typer has made a status of it
                raise stopping.Stopped
    except AmpError as error:
        _fail(error.message, error.hint, error.status)
    except RuntimeError as error:  # Path.resolve() says it so, wherever a path is resolved
        if not str(error).startswith("Symlink loop from"):
            raise
        _fail(f"{str(error).removeprefix('Symlink loop from ')} is a link that leads back to itself", "Remove the link")
    except typer.TyperException as error:  # wrong usage
        from typer.rich_utils import rich_format_error

        rich_format_error(error)  # type: ignore[arg-type]
        _report(error.format_message(), "Run the command with --help to see its options")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(1)
    sys.exit(status)


def _told_if_slow() -> AbstractContextManager[None]:
    """Say that a command is at work; not where a shell asks what it may offer, whose line would be written over."""
    if COMPLETING in os.environ:
        return nullcontext()
    return ui.busy(f"{' '.join(('amp', *sys.argv[1:2]))} is at work")


COMPLETING = "_AMP_COMPLETE"
"""The variable by which typer's completion scripts ask."""


def _fail(message: str, hint: str, status: int = 1) -> NoReturn:
    ui.error(message, hint)
    _report(message, hint)
    sys.exit(status)


def _report(message: str, hint: str) -> None:
    if "--json" in sys.argv:
        ui.data({"error": message, "hint": hint})


def _refuse_unreadable_words(words: list[str]) -> None:
    """Refuse bytes that are not UTF-8: neither run.json nor a page could name such a file."""
    for word in words:
        if not is_storable(word):
            raise AmpError(f"{word!r:.80} is not valid UTF-8", hint="Rename the file or folder")


if __name__ == "__main__":
    main()
