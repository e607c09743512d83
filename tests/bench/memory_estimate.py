"""Holds the estimate of a pass's memory against what passes take: shape B and the tiny model, several lengths.

Run: python tests/bench/memory_estimate.py [--json] [--shape b] [--items 1,2,4] [--bfloat16]
On a CPU the kernel's high-water mark is read, on a GPU (--device cuda) PyTorch's own; weights, adapter and gradients
are there before, so what is compared is activations, head and images. --bfloat16 is how a GPU trains: autocast.
Where malloc may keep freed memory (its default, and faster by half) a CPU process takes once to twice as much again; so
this script has malloc give everything back at once (--malloc-keeps does not).
"""

import argparse
import json
import os
import sys
from contextlib import nullcontext
from typing import Any

import torch
from mdpo_setting import SHAPES, adapter_parameters, make_example, make_setting
from measuring import memory_source, peak_mb

from amp_cli.models.prompts import EncodedItem
from amp_cli.training.config import TrainConfig
from amp_cli.training.memory import estimate_memory
from amp_cli.training.rows.forward import SHARED, ForwardPass

LEVELS = 4
CLAIM = 0.25
LIBRARIES_MB = 8
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # bytes; glibc's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default=None)
    parser.add_argument("--items", default="1,2,4", help="items in a pass, comma-separated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="passes of which the median counts")
    parser.add_argument("--malloc-keeps", action="store_true", help="leave malloc as it is by default")
    given = parser.parse_args()
    if not given.malloc_keeps and RETURN_AT_ONCE.items() - os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **RETURN_AT_ONCE})
    torch.set_num_threads(1)
    rows = [
        row
        for shape in ([given.shape] if given.shape else SHAPES)
        for row in measure(
            shape, [int(count) for count in given.items.split(",")], given.device, given.bfloat16, given.repeats
        )
    ]
    if given.json:
        json.dump(
            {"source": memory_source(), "rows": rows, "worst": max(abs(row["error"]) for row in rows)}, sys.stdout
        )
        return
    print(f"{'shape':6} {'items':>5} {'tokens':>6} {'checkpointing':>13} {'estimate':>9} {'measured':>9} MiB   error")
    for row in rows:
        is_on = "on" if row["checkpointing"] else "off"
        print(
            f"{row['shape']:6} {row['items']:5} {row['tokens']:6} {is_on:>13} {row['estimate_mb']:9.0f} "
            f"{row['measured_mb']:9.0f}     {row['error']:+6.1%}"
        )
    held = all(
        abs(row["error"]) <= CLAIM or abs(row["estimate_mb"] - row["measured_mb"]) <= LIBRARIES_MB for row in rows
    )
    print(f"within {CLAIM:.0%} (or {LIBRARIES_MB} MiB, which libraries take for themselves): {'yes' if held else 'NO'}")


def measure(shape: str, counts: list[int], device: str, bfloat16: bool, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each number of items, without and with gradient checkpointing."""
    setting = make_setting(shape)
    precision = "bfloat16" if bfloat16 else "float32"
    for parameter in setting.policy.parameters():
        if bfloat16 and not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    setting.policy.to(device)
    item = make_example(setting, LEVELS).encoded
    forward = ForwardPass(network=setting.network, pad_id=setting.pad_id)
    forward.use()
    rows = []
    for count in counts:
        config = TrainConfig(
            base=shape,
            max_steps=1,
            lora_r=setting.lora.r,
            global_batch_size=count,
            tokens_per_step=count * forward.tokens([item]),
        )
        estimate = estimate_memory(
            setting.network,
            config,
            [item],
            precision=precision,
            on_gpu=bfloat16,
            processes=1,
            layout=SHARED,
        )
        for is_on in (False, True):
            if is_on:
                setting.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            else:
                setting.network.gradient_checkpointing_disable()
            estimated = estimate.of_pass(checkpointing=is_on) / 2**20
            measured = peak_of_step(setting, forward, [item] * count, device, bfloat16, repeats)
            rows.append(
                {
                    "shape": shape,
                    "items": count,
                    "tokens": estimate.tokens,
                    "checkpointing": is_on,
                    "estimate_mb": estimated,
                    "measured_mb": measured,
                    "error": estimated / measured - 1,
                }
            )
    return rows


def peak_of_step(
    setting: Any, forward: ForwardPass, items: list[EncodedItem], device: str, autocast: bool, repeats: int
) -> float:
    """Return the MiB that a pass takes above what is held before it, the median of some."""

    def step() -> None:
        batch = forward.lay_out(items).to(torch.device(device))
        with torch.autocast(device, dtype=torch.bfloat16) if autocast else nullcontext():
            sums = forward.round_logps(setting.policy, batch, forward.show_images(setting.policy, batch))
        sums.sum().backward()

    step()  # gradients are there from now on
    assert all(parameter.grad is not None for parameter in adapter_parameters(setting.policy))
    found = []
    for _ in range(repeats):
        if device == "cpu":
            found.append(peak_mb(step, memory_source()))
            continue
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        found.append((torch.cuda.max_memory_allocated() - before) / 2**20)
    return sorted(found)[repeats // 2]


if __name__ == "__main__":
    main()
