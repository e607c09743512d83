"""Every option that several commands share, written once."""

from pathlib import Path
from typing import Annotated

import typer

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
