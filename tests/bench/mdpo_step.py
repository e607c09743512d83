"""Speed, memory and exactness of one MDPO step beside the released arithmetic and TRL's pairs, alternating in one run.

Usage: python tests/bench/mdpo_step.py [--shape b|tiny] [--repeats N] [--levels 2,4,8] [--json] [--out FILE]
       python tests/bench/mdpo_step.py --gpu [--levels 2,4,8] [--json] [--out FILE]
"""

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # before the libraries that read them
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
    }

import torch
from mdpo_setting import SHAPES, make_example, make_setting
from mdpo_table import Results, for_people, to_json

from amp_cli.disk.jsonl import write_json
from amp_cli.training.rows.layout import unique_tokens

LEVELS = 4


def run(shape: str, *, repeats: int, levels: tuple[int, ...]) -> Results:
    """Measure everything on one shape."""
    from mdpo_rounds import (
        all_variants,
        checkpointed_variants,
        checkpointing,
        double_difference,
        largest_difference,
        measure,
        measure_growth,
        measure_peaks,
        trl_difference,
    )
    from measuring import relative_difference

    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    peaks = measure_peaks(shape, LEVELS)
    setting = make_setting(shape)
    example = make_example(setting, LEVELS)
    variants = measure(all_variants(setting, example), peaks.kept, repeats=repeats)
    with checkpointing(setting.network):
        checkpointed = measure(checkpointed_variants(setting, example), peaks.checkpointed, repeats=repeats)
    gradients = {key: one.gradient for key, one in variants.items()}
    return Results(
        shape=shape,
        levels=LEVELS,
        unique_tokens=unique_tokens(example.encoded),
        variants=variants,
        checkpointed=checkpointed,
        growth=measure_growth(setting, levels, repeats=repeats),
        float32_difference=largest_difference(gradients),
        float64_difference=double_difference(setting, example.encoded),
        released_difference=relative_difference(gradients["released"], gradients["rows"]),
        trl_difference=trl_difference(setting, example.encoded, variants),
        memory_source=peaks.source,
        machine=machine(load_before),
    )


def machine(load_before: float) -> dict[str, Any]:
    """Return what the figures were taken on."""
    from importlib.metadata import version

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl")},
    }


def numbers(text: str) -> tuple[int, ...]:
    """Read "2,4,8": at least two different numbers of levels, rising."""
    found = tuple(sorted({int(part) for part in text.split(",")}))
    if len(found) < 2 or found[0] < 2:
        raise argparse.ArgumentTypeError("give at least two numbers from 2 up")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="b")
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed rounds, at least 1 (3); TRL takes part in two at most"
    )
    parser.add_argument("--levels", type=numbers, default=(2, 4, 8), help="for the growth with tokens (2,4,8)")
    parser.add_argument("--gpu", action="store_true", help="a 7B's shape on this machine's CUDA card instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="write the JSON to a file too")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    if arguments.gpu:
        if not torch.cuda.is_available():
            sys.exit("No CUDA card is visible to PyTorch here; --gpu needs one")
        import mdpo_gpu

        measured = mdpo_gpu.run(levels=arguments.levels, repeats=arguments.repeats)
        record, text = mdpo_gpu.to_json(measured), mdpo_gpu.for_people(measured)
    else:
        results = run(arguments.shape, repeats=arguments.repeats, levels=arguments.levels)
        record, text = to_json(results), for_people(results)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, record)
    print(json.dumps(record, indent=2) if arguments.json else text)


if __name__ == "__main__":
    main()
