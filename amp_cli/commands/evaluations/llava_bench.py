"""`amp eval llava-bench` and `amp eval llava-bench-wild`."""

from pathlib import Path
from typing import Annotated

import typer

from amp_cli.commands.evaluations.options import AnswersOption, OfficialOption, OnlyJudgedOption
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
    JudgeConcurrencyOption,
    JudgeOption,
    JudgeTemperatureOption,
    JudgeTemplateOption,
    JudgeTimeoutOption,
    JudgeUrlOption,
    MaxCostOption,
    NewTokensOption,
    NgramOption,
    OptionalModelOption,
    OutOption,
    OverwriteOption,
    PriceOption,
    ProcessesOption,
    QuantizationOption,
    RepeatOption,
    SeedOption,
    TemperatureOption,
    TemplateOption,
    TrustRemoteCodeOption,
    VerdictsOption,
    VisionTowerOption,
)


def llava_bench(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder with qa90_*.jsonl, caps_boxes*.jsonl, rule.json (default: what `amp download` fetched)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    verdicts: VerdictsOption = None,
    judge: JudgeOption = None,
    judge_url: JudgeUrlOption = None,
    judge_template: JudgeTemplateOption = None,
    judge_temperature: JudgeTemperatureOption = None,
    judge_concurrency: JudgeConcurrencyOption = 8,
    judge_timeout: JudgeTimeoutOption = 120.0,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    repeat: RepeatOption = 1,
    rule: OfficialOption = "strict",
    only: OnlyJudgedOption = None,
    num_beams: BeamsOption = 4,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: NewTokensOption = 512,
    no_repeat_ngram_size: NgramOption = 5,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    template: TemplateOption = "authors",
    trust_remote_code: TrustRemoteCodeOption = False,
    batch_size: BatchSizeOption = 8,
    concurrency: ConcurrencyOption = 8,
    num_processes: ProcessesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Ask LLaVA-Bench's 90 questions about COCO images; a judge scores reference and answer from 1 to 10.

    Example: amp eval llava-bench --model 7b --judge gpt-4o-2024-08-06 --out runs/base-llava-bench
    """
    evaluate("llava-bench", locals())


def llava_bench_wild(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Folder with questions, context and answers_gpt4.jsonl (default: what `amp download` fetched)",
            rich_help_panel=DATA_PANEL,
        ),
    ] = None,
    model: OptionalModelOption = None,
    adapter: AdapterOption = None,
    vision_tower: VisionTowerOption = None,
    image_root: ImageRootOption = None,
    answers: AnswersOption = None,
    verdicts: VerdictsOption = None,
    judge: JudgeOption = None,
    judge_url: JudgeUrlOption = None,
    judge_template: JudgeTemplateOption = None,
    judge_temperature: JudgeTemperatureOption = None,
    judge_concurrency: JudgeConcurrencyOption = 8,
    judge_timeout: JudgeTimeoutOption = 120.0,
    max_cost: MaxCostOption = None,
    price: PriceOption = None,
    repeat: RepeatOption = 1,
    rule: OfficialOption = "strict",
    only: OnlyJudgedOption = None,
    num_beams: BeamsOption = 4,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: NewTokensOption = 512,
    no_repeat_ngram_size: NgramOption = 5,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "auto",
    quantization: QuantizationOption = None,
    template: TemplateOption = "authors",
    trust_remote_code: TrustRemoteCodeOption = False,
    batch_size: BatchSizeOption = 8,
    concurrency: ConcurrencyOption = 8,
    num_processes: ProcessesOption = None,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Ask LLaVA-Bench's 60 in-the-wild questions; a judge scores reference and answer from 1 to 10.

    Example: amp eval llava-bench-wild --model 7b --judge gpt-4o-2024-08-06 --out runs/base-wild
    """
    evaluate("llava-bench-wild", locals())
