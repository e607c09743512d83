"""`amp eval chair`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli.commands.evaluations.options import (
    DATA,
    DECODING,
    SCORING,
    AnswersOption,
    BeamsOption,
    NewTokensOption,
    NgramOption,
    OnlyOption,
    OptionalModelOption,
    ProcessesOption,
    TemperatureOption,
)
from amp_cli.commands.evaluations.run import evaluate
from amp_cli.commands.options import (
    AdapterOption,
    BatchSizeOption,
    ConcurrencyOption,
    DeviceOption,
    DtypeOption,
    ImageRootOption,
    JsonOption,
    OutOption,
    OverwriteOption,
    QuantizationOption,
    SeedOption,
    TemplateOption,
    TrustRemoteCodeOption,
    VisionTowerOption,
)


def chair(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder with COCO's instances*.json (captions*.json beside it).", rich_help_panel=DATA
        ),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Describe only so many images, always the same.", rich_help_panel=DATA),
    ] = None,
    sample: Annotated[
        Literal["auto", "pope", "hash", "all"],
        typer.Option(
            "--sample",
            help="Which of COCO's images: POPE's 500, the first 500 by hash, or all; auto is pope if it is at hand.",
            rich_help_panel=DATA,
        ),
    ] = "auto",
    synonyms: Annotated[
        Path | None,
        typer.Option(
            "--synonyms",
            help='JSON {"car": ["car", "cars"]} (default: synonyms.json below --data, or a table for COCO).',
            rich_help_panel=SCORING,
        ),
    ] = None,
    rule: Annotated[
        Literal["strict", "plain"],
        typer.Option("--rule", help='plain counts "there is no dog" as a dog.', rich_help_panel=SCORING),
    ] = "strict",
    only: OnlyOption = None,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What the model is asked.", rich_help_panel=DECODING)
    ] = "Describe this image in detail.",
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
    """Have images described and count the objects that are named but not there (CHAIR-i, CHAIR-s), and recall.

    Example: amp eval chair --model 7b --data coco --image-root coco/val2014 --limit 500 --out runs/base-chair
    """
    evaluate("chair", locals())
