"""Every option that several commands share, written once, and the groups that become one record."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from amp_cli import ui
from amp_cli.asking.answerer import Running
from amp_cli.asking.judge import JudgeSettings
from amp_cli.commands import completing
from amp_cli.models.spec import Decoding, Loading, ModelSpec
from amp_cli.ranges import RANGES

MODEL_PANEL = "Model"
DECODING_PANEL = "Decoding"
OUTPUT_PANEL = "Output"
RUNNING_PANEL = "Running"
DATA_PANEL = "Data"
JUDGE_PANEL = "Judge"


def number(name: str, *, of: str | None = None, **more: Any) -> Any:
    """Return a typer.Option for a number, with the range of its setting.

    Args:
        of: the setting, where the option is called otherwise.
    """
    least, most = RANGES[of or name.removeprefix("--").replace("-", "_")]
    return typer.Option(name, min=least, max=most, **more)


def typed_again(
    words: Sequence[object], options: Mapping[str, tuple[Any, Any]], values: Mapping[str, Any], **changes: Any
) -> str:
    """Return the command line that was typed, with other values for some options (None: without them).

    Args:
        options: name -> annotated type and default. values: name -> what the command was given.
    """
    given: dict[str, Any] = {}
    for name, (annotation, default) in options.items():
        value = changes.get(name, values[name])
        told = get_args(annotation)[1]  # within Annotated, typer keeps the first name as if it were a default
        flag = next(one for one in (told.default, *told.param_decls) if isinstance(one, str) and one.startswith("--"))
        if name in changes or value != default:
            given[flag.removeprefix("--")] = value
    return ui.command_line(*words, **given)


def options_in(command: Callable[..., None]) -> dict[str, tuple[Any, Any]]:
    """Return a command's options: name -> annotated type and default."""
    types = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    return {name: (types[name], one.default) for name, one in parameters.items() if types[name] is not typer.Context}


def train_line(
    prefs: Path | str, *, image_root: Path | None = None, model: str | None = None, max_length: int | None = None
) -> str:
    """Return the command that trains on a preference file."""
    size = model if model in ("tiny", "7b", "13b") else "7b"
    return ui.command_line(
        *("amp", "train"),
        size=size,
        base=None if model == size else model,
        prefs=prefs,
        image_root=image_root,
        set=None if max_length is None else f"max_length={max_length}",
        out="runs/mdpo",
    )


def _named(path: Path) -> Path:
    """Return a folder by a name that others beside it can be called after: `.` and `..` have none.

    A name that leaves no room for that is refused before hours are spent on what goes there.
    """
    if path.name in ("", ".."):
        path = path.resolve()
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise typer.BadParameter(f"the name is too long, a disk takes {LONGEST_NAME} bytes: '{path.name:.60}...'")
    return path


LONGEST_NAME = 255 - len(".rejected.jsonl.part")
OutOption = Annotated[
    Path,
    typer.Option("--out", "-o", callback=_named, help="Folder for the results.", rich_help_panel=OUTPUT_PANEL),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Start afresh in --out.", rich_help_panel=OUTPUT_PANEL)
]
JSON_HELP = "Print one JSON object instead of a table."
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP, rich_help_panel=OUTPUT_PANEL)]
_of_model = partial(typer.Option, rich_help_panel=MODEL_PANEL)
ModelOption = Annotated[
    str,
    _of_model(
        "--model",
        autocompletion=completing.models,
        help="Folder, hub id, or a name of `amp models`: 7b, amp-meg-7b, tiny, ...",
    ),
]
AdapterOption = Annotated[
    str | None,
    _of_model("--adapter", autocompletion=completing.adapters, help="LoRA adapter: folder, run folder or hub id."),
]
VisionTowerOption = Annotated[
    str | None,
    _of_model(
        "--vision-tower", help="Tower of an original LLaVA checkpoint: folder or hub id (default: the one it names)"
    ),
]
DtypeOption = Annotated[
    str,
    _of_model(
        "--dtype",
        autocompletion=completing.dtypes,
        help="float32, bfloat16, float16, stored (as on disk) or auto: float32 on a CPU, bfloat16 on a GPU, float16 on "
        "an older one.",
    ),
]
DeviceOption = Annotated[
    str,
    _of_model("--device", autocompletion=completing.devices, help="cpu, cuda, cuda:1, mps or auto."),
]
QuantizationOption = Annotated[
    str | None,
    _of_model(
        "--quantization", autocompletion=completing.quantizations, help="nf4 (4 bit) or int8, through bitsandbytes."
    ),
]
TemplateOption = Annotated[
    str,
    _of_model(
        "--template",
        autocompletion=completing.templates,
        help="Chat template: auto, authors (llava_v1 for LLaVA-1.5), own (the model's), vicuna_v1, llava_v1 or a file.",
    ),
]
TrustRemoteCodeOption = Annotated[
    bool,
    _of_model("--trust-remote-code", help="Run Python code that comes with the model."),
]
ImageRootOption = Annotated[
    Path | None,
    typer.Option(
        "--image-root", help="Folder that image paths start from (default: the data file's)", show_default=False
    ),
]
BatchSizeOption = Annotated[
    int,
    number("--batch-size", help="Items per forward; halved when memory runs out.", rich_help_panel=RUNNING_PANEL),
]
ConcurrencyOption = Annotated[
    int,
    number("--concurrency", help="Items under way at once at an endpoint.", rich_help_panel=RUNNING_PANEL),
]
SeedOption = Annotated[int, number("--seed", help="Seed of everything random.", rich_help_panel=RUNNING_PANEL)]
OptionalModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        autocompletion=completing.models,
        help="Folder, hub id, a name of `amp models` (7b, amp-meg-7b, tiny), or an endpoint's URL#NAME "
        "(several servers: URL,URL#NAME).",
        rich_help_panel=MODEL_PANEL,
    ),
]
BeamsOption = Annotated[int, number("--num-beams", help="Beams.", rich_help_panel=DECODING_PANEL)]
TemperatureOption = Annotated[
    float, number("--temperature", help="0 is deterministic.", rich_help_panel=DECODING_PANEL)
]
NewTokensOption = Annotated[
    int,
    number("--max-new-tokens", help="Length limit of an answer, tokens.", rich_help_panel=DECODING_PANEL),
]
NgramOption = Annotated[
    int,
    number(
        "--no-repeat-ngram-size",
        help="No n tokens twice in an answer; 0 is off.",
        rich_help_panel=DECODING_PANEL,
    ),
]
ProcessesOption = Annotated[
    int | None,
    number(
        "--num-processes",
        help="Processes that share the questions, each with the model (default: one per GPU, one on a CPU)",
        rich_help_panel=RUNNING_PANEL,
        show_default=False,
    ),
]
_of_judge = partial(typer.Option, rich_help_panel=JUDGE_PANEL)
_judge_number = partial(number, rich_help_panel=JUDGE_PANEL)
JudgeOption = Annotated[
    str | None,
    _of_judge(
        "--judge",
        metavar="NAME",
        help="Model of an OpenAI-compatible endpoint (key: OPENAI_API_KEY), local:MODEL, or replay:FILE of replies.",
    ),
]
JudgeUrlOption = Annotated[
    str | None,
    _of_judge(
        "--judge-url",
        metavar="URL",
        help="The endpoint, as in http://127.0.0.1:8000/v1 (default: OPENAI_BASE_URL, else OpenAI's)",
    ),
]
JudgeApiVersionOption = Annotated[
    str | None,
    _of_judge(
        "--judge-api-version",
        metavar="VERSION",
        help="What stands after ?api-version= in an address of classic Azure, as in 2024-10-21.",
    ),
]
JudgeTemplateOption = Annotated[
    Path | None,
    _of_judge(
        "--judge-template",
        help="What the judge is told (default: the official file beside the data, else our own wording)",
    ),
]
JudgeTemperatureOption = Annotated[
    float | None,
    _judge_number("--judge-temperature", help="Temperature (default: the benchmark's own)"),
]
JudgeTokensOption = Annotated[
    int,
    _judge_number("--judge-max-tokens", help="Longest reply; a judge that reasons at length needs 16,384 or so."),
]
JudgeConcurrencyOption = Annotated[int, _judge_number("--judge-concurrency", help="Requests under way at once.")]
JudgeTimeoutOption = Annotated[
    float,
    _judge_number("--judge-timeout", help="Seconds until a reply is given up."),
]
MaxCostOption = Annotated[
    float | None,
    _judge_number("--max-cost", help="Stop before it costs more, in --price's money."),
]
PriceOption = Annotated[
    str | None,
    _of_judge("--price", metavar="IN,OUT", help="What a million prompt and completion tokens cost, as in 2.5,10."),
]
RepeatOption = Annotated[
    int,
    _judge_number("--repeat", help="Verdicts per item; their spread is reported."),
]
VerdictsOption = Annotated[
    Path | None,
    typer.Option(
        "--verdicts",
        help="Verdicts that exist already, in place of a judge: ours, or the released code's evaluation file.",
        rich_help_panel=DATA_PANEL,
    ),
]


REQUIRED: Any = inspect.Parameter.empty
"""The default of an option that has none."""


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Options that make one record: name -> (annotated type, default).

    `make` gets their values by name and returns the record. `shared` are options of other groups, or of the command
    itself, that it gets too where they are.
    """

    options: Mapping[str, tuple[Any, Any]]
    make: Callable[..., Any]
    shared: tuple[str, ...] = ()

    def with_defaults(self, **defaults: Any) -> "OptionGroup":
        """Return the group with other defaults; an option without one here is left out and keeps the record's."""
        unknown = defaults.keys() - self.options.keys()
        assert not unknown, unknown
        options = {name: (kind, defaults.get(name, value)) for name, (kind, value) in self.options.items()}
        return replace(self, options=options)

    def only(self, *names: str) -> "OptionGroup":
        """Return the group with these options only; the record keeps its own defaults for the others."""
        return replace(self, options={name: self.options[name] for name in names})

    def in_panel(self, title: str) -> "OptionGroup":
        """Return the group with its options under another title of the help page."""
        return replace(
            self, options={name: (_under(title, kind), value) for name, (kind, value) in self.options.items()}
        )


def _under(title: str, kind: Any) -> Any:
    plain, option = get_args(kind)
    option = copy(option)
    option.rich_help_panel = title
    return Annotated[plain, option]


def records_of(groups: Mapping[str, OptionGroup], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of each group, made of what a command was given by name."""
    return {
        parameter: group.make(**{name: values[name] for name in (*group.options, *group.shared) if name in values})
        for parameter, group in groups.items()
    }


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
            records = records_of(groups, values)
            return command(**{name: values[name] for name in own if name not in groups}, **records)

        parameters: list[inspect.Parameter] = []
        for name, parameter in own.items():
            if name in groups:
                parameters += [_keyword(option, *declared) for option, declared in groups[name].options.items()]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        return _signed(run, parameters)

    return decorate


def command(
    run: Callable[[Mapping[str, Any]], None], options: Mapping[str, tuple[Any, Any]], *, help: str
) -> Callable[..., None]:
    """Return a command that hands its options' values on by name.

    Args:
        options: name -> (annotated type, default), in the order of the help page.
    """

    def called(**values: Any) -> None:
        run(values)

    called.__doc__ = help
    return _signed(called, [_keyword(name, *declared) for name, declared in options.items()])


def _signed(run: Callable[..., Any], parameters: Sequence[inspect.Parameter]) -> Callable[..., Any]:
    # typer reads a command by its signature and its annotations, whatever it takes in truth
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)


def _spec_or_none(*, model: str | None = None, **options: Any) -> ModelSpec | None:
    return None if model is None else ModelSpec(model=model, **options)


LOADING = OptionGroup(
    options={
        "vision_tower": (VisionTowerOption, None),
        "dtype": (DtypeOption, "auto"),
        "device": (DeviceOption, "auto"),
        "quantization": (QuantizationOption, None),
        "template": (TemplateOption, "auto"),
        "trust_remote_code": (TrustRemoteCodeOption, False),
    },
    make=Loading,
)
MODEL = OptionGroup(
    options={"model": (OptionalModelOption, None), "adapter": (AdapterOption, None), **LOADING.options},
    make=_spec_or_none,
)
"""The model that is asked, or None where answers exist already."""
DECODING = OptionGroup(
    options={
        "num_beams": (BeamsOption, 4),
        "temperature": (TemperatureOption, 0.0),
        "max_new_tokens": (NewTokensOption, 512),
        "no_repeat_ngram_size": (NgramOption, 0),
    },
    make=Decoding,
)
RUNNING = OptionGroup(
    options={
        "batch_size": (BatchSizeOption, 8),
        "concurrency": (ConcurrencyOption, 8),
        "num_processes": (ProcessesOption, None),
        "seed": (SeedOption, 0),
    },
    make=Running,
)
JUDGE = OptionGroup(
    options={
        "verdicts": (VerdictsOption, None),
        "judge": (JudgeOption, None),
        "judge_url": (JudgeUrlOption, None),
        "judge_api_version": (JudgeApiVersionOption, None),
        "judge_template": (JudgeTemplateOption, None),
        "judge_temperature": (JudgeTemperatureOption, None),
        "judge_max_tokens": (JudgeTokensOption, 1024),
        "judge_concurrency": (JudgeConcurrencyOption, 8),
        "judge_timeout": (JudgeTimeoutOption, 120.0),
        "max_cost": (MaxCostOption, None),
        "price": (PriceOption, None),
        "repeat": (RepeatOption, 1),
    },
    shared=("device", "dtype", "seed"),
    make=JudgeSettings,
)
"""A local judge is loaded on the device that is named for the model."""
