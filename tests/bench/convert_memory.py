"""Peak memory of `amp convert` both ways and `amp merge-lora` on 2 GB, beside transformers' load and save, in one run.

Usage: python tests/bench/convert_memory.py [--json] [--pickled] [--layers N]
Memory is what is held: on Linux without mapped pages of files, elsewhere all that is resident.
The bar is 1.3 x the largest shard + 1 GB. Everything is written below TMPDIR and removed.
"""

import argparse
import contextlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / "golden" / "llava" / "model"
TOWER = "openai/clip-vit-tiny-patch14-56"
SHARDS = 4
HIDDEN, INTERMEDIATE = 2048, 5504
VOCABULARY = 1000  # of the golden tokenizer
AMP = [sys.executable, "-c", "from amp_cli.main import main; main()"]
PEER = """
import sys, torch
from transformers import AutoModelForImageTextToText
AutoModelForImageTextToText.from_pretrained(sys.argv[1], dtype="auto").save_pretrained(sys.argv[2])
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One program's run on one folder; the share is that of the bar that it took."""

    what: str
    largest_shard_gb: float
    peak_memory_gb: float
    bar_gb: float
    share_of_bar: float
    seconds: float


def shards(layers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Random half-precision weights of a Llama with a projector, in equal parts."""

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape).mul_(0.02).half()

    for part in range(SHARDS):
        weights: dict[str, torch.Tensor] = {}
        for layer in range(part * layers // SHARDS, (part + 1) * layers // SHARDS):
            name = f"model.layers.{layer}"
            for side in "qkvo":
                weights[f"{name}.self_attn.{side}_proj.weight"] = drawn(HIDDEN, HIDDEN)
            weights[f"{name}.mlp.gate_proj.weight"] = drawn(INTERMEDIATE, HIDDEN)
            weights[f"{name}.mlp.up_proj.weight"] = drawn(INTERMEDIATE, HIDDEN)
            weights[f"{name}.mlp.down_proj.weight"] = drawn(HIDDEN, INTERMEDIATE)
            weights[f"{name}.input_layernorm.weight"] = torch.ones(HIDDEN).half()
            weights[f"{name}.post_attention_layernorm.weight"] = torch.ones(HIDDEN).half()
        if part == 0:
            weights["model.embed_tokens.weight"] = drawn(VOCABULARY, HIDDEN)
        if part == SHARDS - 1:
            weights["model.norm.weight"] = torch.ones(HIDDEN).half()
            weights["lm_head.weight"] = drawn(VOCABULARY, HIDDEN)
            weights["model.mm_projector.0.weight"] = drawn(HIDDEN, 32)
            weights["model.mm_projector.2.weight"] = drawn(HIDDEN, HIDDEN)
            weights |= {f"model.mm_projector.{number}.bias": drawn(HIDDEN) for number in (0, 2)}
        yield weights


def write_checkpoint(folder: Path, *, layers: int, pickled: bool) -> None:
    """Write the original checkpoint and, beside it, a tiny vision tower."""
    folder.mkdir(parents=True)
    stem, suffix = ("pytorch_model", ".bin") if pickled else ("model", ".safetensors")
    weight_map: dict[str, str] = {}
    for number, weights in enumerate(shards(layers), start=1):
        file = folder / f"{stem}-{number:05d}-of-{SHARDS:05d}{suffix}"
        if pickled:
            torch.save(weights, file)
        else:
            save_file(weights, file, {"format": "pt"})
        weight_map |= dict.fromkeys(weights, file.name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = json.loads((GOLDEN / "base" / "config.json").read_text())
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 16}
    (folder / "config.json").write_text(json.dumps({**config, **sizes, **heads}))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(GOLDEN / "base" / name, folder / name)
    shutil.copytree(GOLDEN / TOWER, folder.parent / TOWER)


def write_adapter(folder: Path, *, layers: int) -> None:
    """Write a LoRA of rank 64 on every projection, in the authors' names."""
    wide = {f"self_attn.{side}_proj": (HIDDEN, HIDDEN) for side in "qkvo"}
    wide |= {"mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN)}
    wide |= {"mlp.down_proj": (HIDDEN, INTERMEDIATE)}
    weights: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        for module, (rows, columns) in wide.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            weights[f"{name}.lora_A.weight"] = torch.randn(64, columns).mul_(0.02).half()
            weights[f"{name}.lora_B.weight"] = torch.randn(rows, 64).mul_(0.02).half()
    folder.mkdir(parents=True)
    save_file(weights, folder / "adapter_model.safetensors")
    targets = [module.rpartition(".")[2] for module in wide]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 64, "lora_alpha": 16, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def measured(what: str, command: list[str], source: Path) -> Measured:
    """Run a program to its end and look often at the memory that it holds."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    held = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            memory = process.memory_info()
            held = max(held, memory.rss - getattr(memory, "shared", 0))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{what} failed")
    largest = max(file.stat().st_size for file in source.iterdir() if file.suffix in (".bin", ".safetensors")) / 1e9
    peak = held / 1e9
    bar = 1.3 * largest + 1
    return Measured(
        what=what,
        largest_shard_gb=round(largest, 3),
        peak_memory_gb=round(peak, 3),
        bar_gb=round(bar, 3),
        share_of_bar=round(peak / bar, 3),
        seconds=round(time.perf_counter() - start, 1),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--pickled", action="store_true", help="shards as pytorch_model-*.bin")
    parser.add_argument("--layers", type=int, default=20, help="0.1 GB each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        names = ("original", "hf", "back", "saved", "adapter", "merged")
        original, hf, back, saved, adapter, merged = (Path(temporary) / name for name in names)
        write_adapter(adapter, layers=arguments.layers)
        merge = [*AMP, "merge-lora", str(adapter), "--base", str(original), "--out", str(merged), "--no-verify"]
        options = {"layers": arguments.layers, "pickled": arguments.pickled}
        writer = multiprocessing.get_context("spawn").Process(target=write_checkpoint, args=(original,), kwargs=options)
        writer.start()
        writer.join()
        results = [
            measured("amp convert --to hf", [*AMP, "convert", str(original), "--to", "hf", "--out", str(hf)], original),
            measured("amp convert --to llava", [*AMP, "convert", str(hf), "--to", "llava", "--out", str(back)], hf),
            measured("amp merge-lora --no-verify", merge, original),
            measured("transformers, load and save", [sys.executable, "-c", PEER, str(hf), str(saved)], hf),
        ]
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print(f"{'':28} {'largest shard':>14} {'peak':>8} {'bar':>8} {'of bar':>7} {'seconds':>8}")
    for one in results:
        gigabytes = f"{one.largest_shard_gb:11.3f} GB {one.peak_memory_gb:5.2f} GB {one.bar_gb:5.2f} GB"
        print(f"{one.what:28} {gigabytes} {one.share_of_bar:7.2f} {one.seconds:8.1f}")


if __name__ == "__main__":
    main()
