"""`amp eval chair`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from amp_cli.commands.evaluations.options import SCORING_PANEL, AnswersOption, OnlyOption
from amp_cli.commands.evaluations.run import evaluate
from amp_cli.commands.options import (
    DATA_PANEL,
    DECODING_PANEL,
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


def chair(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="Folder with COCO's instances*.json (captions*.json beside it).", rich_help_panel=DATA_PANEL
        ),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, help="Describe only so many images, always the same.", rich_help_panel=DATA_PANEL
        ),
    ] = None,
    sample: Annotated[
        Literal["auto", "pope", "hash", "all"],
        typer.Option(
            "--sample",
            help="Which of COCO's images: POPE's 500, the first 500 by hash, or all; auto is pope if it is at hand.",
            rich_help_panel=DATA_PANEL,
        ),
    ] = "auto",
    synonyms: Annotated[
        Path | None,
        typer.Option(
            "--synonyms",
            help='JSON {"car": ["car", "cars"]} (default: synonyms.json below --data, or a table for COCO).',
            rich_help_panel=SCORING_PANEL,
        ),
    ] = None,
    rule: Annotated[
        Literal["strict", "plain"],
        typer.Option("--rule", help='plain counts "there is no dog" as a dog.', rich_help_panel=SCORING_PANEL),
    ] = "strict",
    only: OnlyOption = None,
    prompt: Annotated[
        str, typer.Option("--prompt", help="What the model is asked.", rich_help_panel=DECODING_PANEL)
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
    given = dict(locals())
    from amp_cli.benchmarks.chair import resolve_sample
    from amp_cli.downloads.places import benchmark_folder
    from amp_cli.report.everything import images_of

    images = image_root or images_of("chair", data or benchmark_folder("chair"))
    evaluate("chair", given | {"sample": resolve_sample(sample, data), "image_root": images})
