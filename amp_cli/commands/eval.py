"""`amp eval pope|chair`: ask a model, score what it answered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from amp_cli.commands.options import (
    MODEL,
    AdapterOption,
    BatchSizeOption,
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

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings

app = typer.Typer(help="Evaluate a model: answer, score. Every benchmark is a command.", no_args_is_help=True)

DATA = "Data"
DECODING = "Decoding"
SCORING = "Scoring"

OptionalModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Folder, hub id, or a name of `amp models`: 7b, amp-meg-7b, tiny, ...", rich_help_panel=MODEL
    ),
]
OnlyOption = Annotated[
    Literal["score"] | None,
    typer.Option("--only", help="Score the answers in --out again, without a model.", rich_help_panel=SCORING),
]
AnswersOption = Annotated[
    Path | None,
    typer.Option("--answers", help="Answers that exist already, ours or the released code's.", rich_help_panel=DATA),
]
BeamsOption = Annotated[int, typer.Option("--num-beams", min=1, help="Beams.", rich_help_panel=DECODING)]
TemperatureOption = Annotated[
    float, typer.Option("--temperature", min=0.0, help="0 is deterministic.", rich_help_panel=DECODING)
]
NewTokensOption = Annotated[
    int, typer.Option("--max-new-tokens", min=1, help="Length limit of an answer, tokens.", rich_help_panel=DECODING)
]
NgramOption = Annotated[
    int,
    typer.Option(
        "--no-repeat-ngram-size", min=0, help="No n tokens twice in an answer; 0 is off.", rich_help_panel=DECODING
    ),
]


@app.command()
def pope(
    out: OutOption,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder with coco_pope_{random,popular,adversarial}.json.", rich_help_panel=DATA),
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
            rich_help_panel=DATA,
        ),
    ] = None,
    rule: Annotated[
        Literal["strict", "official"],
        typer.Option("--rule", help="How answers are read: official is POPE's own script.", rich_help_panel=SCORING),
    ] = "strict",
    only: OnlyOption = None,
    prompt_suffix: Annotated[
        str,
        typer.Option("--prompt-suffix", help="Put after each question that lacks it.", rich_help_panel=DECODING),
    ] = "\\nAnswer the question using a single word or phrase.",
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
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Ask POPE's yes/no questions about objects and score accuracy, F1 and yes ratio of each split.

    Example: amp eval pope --model 7b --data POPE/output/coco --image-root val2014 --out runs/base-pope
    """
    from amp_cli.benchmarks.settings import EvalSettings

    settings = EvalSettings(
        benchmark="pope",
        out=out,
        data=data,
        model=model,
        adapter=adapter,
        vision_tower=vision_tower,
        image_root=image_root,
        answers=answers,
        questions=questions,
        rule=rule,
        only_score=only == "score",
        prompt_suffix=prompt_suffix.replace("\\n", "\n"),
        num_beams=num_beams,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        no_repeat_ngram_size=no_repeat_ngram_size,
        dtype=dtype,
        device=device,
        quantization=quantization,
        template=template,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
    )
    _evaluate(settings, as_json=json)


@app.command()
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
        typer.Option("--limit", min=1, help="Describe only so many pictures, always the same.", rich_help_panel=DATA),
    ] = None,
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
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Have pictures described and count the objects that are named but not there (CHAIR-i, CHAIR-s), and recall.

    Example: amp eval chair --model 7b --data coco --image-root coco/val2014 --limit 500 --out runs/base-chair
    """
    from amp_cli.benchmarks.settings import EvalSettings

    settings = EvalSettings(
        benchmark="chair",
        out=out,
        data=data,
        model=model,
        adapter=adapter,
        vision_tower=vision_tower,
        image_root=image_root,
        answers=answers,
        limit=limit,
        synonyms=synonyms,
        rule=rule,
        only_score=only == "score",
        prompt=prompt,
        num_beams=num_beams,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        no_repeat_ngram_size=no_repeat_ngram_size,
        dtype=dtype,
        device=device,
        quantization=quantization,
        template=template,
        trust_remote_code=trust_remote_code,
        batch_size=batch_size,
        seed=seed,
        overwrite=overwrite,
    )
    _evaluate(settings, as_json=json)


def _evaluate(settings: "EvalSettings", *, as_json: bool) -> None:
    """Run the benchmark and show its scores; exit status 3 when items had to be left out."""
    from amp_cli import ui
    from amp_cli.benchmarks.runner import REJECTED, run_benchmark
    from amp_cli.benchmarks.tables import score_rows

    result = run_benchmark(settings)
    if as_json:
        ui.data(result.scores)
    else:
        ui.table(*score_rows(result.scores))
    if result.rejected:
        first, reason = next(iter(result.rejected.items()))
        ui.warn(
            f"{len(result.rejected):,} items were left out (see '{result.out / REJECTED}'), first '{first}': {reason}"
        )
    ui.hint(f"amp report {result.out} OTHER_RUN --html report.html")
    if result.rejected:
        raise typer.Exit(3)
