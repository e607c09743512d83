"""`amp eval amber`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli.commands.evaluations.options import ONE_WORD, AnswersOption, OfficialOption, OnlyOption, SuffixOption
from amp_cli.commands.evaluations.run import evaluate
from amp_cli.commands.options import (
    DATA_PANEL,
    AdapterOption,
    BatchSizeOption,
    BeamsOption,
    ConcurrencyOption,
    DeviceOption,
    DtypeOption,
    ImageRootOption,
    JsonOption,
    NewTokensOption,
    NgramOption,
    OptionalModelOption,
    OutOption,
    OverwriteOption,
    ProcessesOption,
    QuantizationOption,
    SeedOption,
    TemperatureOption,
    TemplateOption,
    TrustRemoteCodeOption,
    VisionTowerOption,
)


def amber(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with AMBER's queries and annotations.json.", rich_help_panel=DATA_PANEL),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    part: Annotated[
        Literal["all", "generative", "discriminative", "existence", "attribute", "relation"],
        typer.Option("--part", help="Which of its questions.", rich_help_panel=DATA_PANEL),
    ] = "all",
    rule: OfficialOption = "strict",
    only: OnlyOption = None,
    prompt_suffix: SuffixOption = ONE_WORD,
    num_beams: BeamsOption = 4,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: NewTokensOption = 512,
    no_repeat_ngram_size: NgramOption = 5,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    template: TemplateOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    batch_size: BatchSizeOption = 8,
    concurrency: ConcurrencyOption = 8,
    num_processes: ProcessesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Ask AMBER's questions: descriptions (CHAIR, Cover, Hal, Cog) and yes/no (accuracy, F1); no judge.

    Example: amp eval amber --model 7b --part discriminative --out runs/base-amber
    """
    evaluate("amber", locals())
