"""`amp eval pope`."""

from pathlib import Path
from typing import Annotated

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


def pope(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder with coco_pope_{random,popular,adversarial}.json.", rich_help_panel=DATA_PANEL
        ),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help="JSONL with question_id, image, text, category (default: found below --data).",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Ask about so many images only, always the same.", rich_help_panel=DATA_PANEL
        ),
    ] = None,
    rule: OfficialOption = "strict",
    only: OnlyOption = None,
    prompt_suffix: SuffixOption = ONE_WORD,
    num_beams: BeamsOption = 4,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: NewTokensOption = 16,
    no_repeat_ngram_size: NgramOption = 0,
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
    """Ask POPE's yes/no questions about objects and score accuracy, F1 and yes ratio of each split.

    Example: amp eval pope --model 7b --data POPE/output/coco --image-root val2014 --out runs/base-pope
    """
    evaluate("pope", locals())
