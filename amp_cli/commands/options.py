"""Every option that several commands share, written once, and the groups that become one record."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from amp_cli.models.spec import ModelSpec

MODEL = "Model"
OUTPUT = "Output"
RUNNING = "Running"

OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.", rich_help_panel=OUTPUT)]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start afresh in --out.", rich_help_panel=OUTPUT)]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object instead of a table.", rich_help_panel=OUTPUT)
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="Folder, hub id, or a name of `amp models`: 7b, amp-meg-7b, tiny, ...", rich_help_panel=MODEL
    ),
]
AdapterOption = Annotated[
    str | None,
    typer.Option("--adapter", help="LoRA adapter: folder, run folder or hub id.", rich_help_panel=MODEL),
]
VisionTowerOption = Annotated[
    str | None,
    typer.Option(
        "--vision-tower",
        help="Tower of an original LLaVA checkpoint: folder or hub id (default: the one it names)",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        help="float32, bfloat16, float16 or auto (float32 on a CPU, the model's own on a GPU).",
        rich_help_panel=MODEL,
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps or auto.", rich_help_panel=MODEL)]
QuantizationOption = Annotated[
    str | None,
    typer.Option("--quantization", help="nf4 (4 bit) or int8, through bitsandbytes.", rich_help_panel=MODEL),
]
TemplateOption = Annotated[
    str,
    typer.Option(
        "--template",
        help="Chat template: auto, authors (llava_v1 for LLaVA-1.5), own (the model's), vicuna_v1, llava_v1 or a file.",
        rich_help_panel=MODEL,
    ),
]
TrustRemoteCodeOption = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that comes with the model.", rich_help_panel=MODEL),
]
ImageRootOption = Annotated[
    Path | None,
    typer.Option(
        "--image-root", help="Folder that image paths start from (default: the data file's)", show_default=False
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        "--batch-size", min=1, help="Items per forward; halved when memory runs out.", rich_help_panel=RUNNING
    ),
]
ConcurrencyOption = Annotated[
    int,
    typer.Option("--concurrency", min=1, help="Items under way at once at an endpoint.", rich_help_panel=RUNNING),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.", rich_help_panel=RUNNING)]


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that make one record: name -> (annotated type, default).

    `make` gets their values by name and returns the record.
    """

    options: Mapping[str, tuple[Any, Any]]
    make: Callable[..., Any]

    def with_defaults(self, **defaults: Any) -> "OptionGroup":
        """Return the group with other defaults; an option without one here is left out and keeps the record's."""
        unknown = defaults.keys() - self.options.keys()
        assert not unknown, unknown
        options = {name: (kind, defaults.get(name, value)) for name, (kind, value) in self.options.items()}
        return OptionGroup(options=options, make=self.make)

    def only(self, *names: str) -> "OptionGroup":
        """Return the group with these options only; the record keeps its own defaults for the others."""
        return OptionGroup(options={name: self.options[name] for name in names}, make=self.make)


def takes(**groups: OptionGroup) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command groups of options: each parameter that names a group gets the record made of its options.

    The options stand where the parameter stands, so that the order of a help page is that of the command's signature:

        @takes(spec=MODEL, decoding=DECODING)
        def pope(out: OutOption, spec: ModelSpec, decoding: Decoding, seed: SeedOption = 0) -> None: ...
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command).parameters
        assert groups.keys() <= own.keys(), f"{command.__name__} has no parameter for {groups.keys() - own.keys()}"

        @wraps(command)
        def run(**values: Any) -> Any:
            for parameter, group in groups.items():
                values[parameter] = group.make(**{name: values.pop(name) for name in group.options})
            return command(**values)

        parameters: list[inspect.Parameter] = []
        for name, parameter in own.items():
            if name in groups:
                parameters += [_keyword(option, *declared) for option, declared in groups[name].options.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        # typer reads a command by its signature and its annotations; wraps() copied those of the command
        vars(run)["__signature__"] = inspect.Signature(parameters)
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _spec_or_none(*, model: str | None = None, **options: Any) -> ModelSpec | None:
    return None if model is None else ModelSpec(model=model, **options)
