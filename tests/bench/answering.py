"""Answering beside plain `generate` one by one and in batches, on work of POPE's shape: several questions an image.

Usage: python tests/bench/answering.py [--shape b|tiny] [--images N] [--questions N] [--beams N] [--tokens N]
                                       [--repeats N] [--json] [--out FILE]

The ways take turns in one process, on one thread; the fewest CPU seconds of each count, those of threads that prepare
images with them. Random weights hardly ever end an answer, so all ways write as many tokens as they may.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
from mdpo_setting import SHAPES, VOCABULARY, random_llava
from mdpo_step import machine
from measuring import counting_tokens, cpu_seconds
from prefs_check import write_images

from amp_cli.asking.answerer import Request
from amp_cli.asking.generation import generation_config
from amp_cli.asking.local import answer_requests
from amp_cli.disk.jsonl import write_json
from amp_cli.models.images import open_image
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import encode_prompts
from amp_cli.models.spec import Decoding, ModelSpec

BATCH_SIZE = 8
WORDS = ("dog", "car", "tree", "boat", "ball", "house", "lamp", "cup")
Texts = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one way did: CPU seconds, tokens that entered the decoder, answers that are those of one by one."""

    cpu_seconds: float
    tokens: int
    same_texts: int


def one_by_one(loaded: LoadedModel, requests: Sequence[Request], decoding: Decoding) -> Texts:
    """Ask as a plain script does: open the image, prepare it, generate."""
    return {key: text for one in requests for key, text in _whole_prompts(loaded, [one], decoding).items()}


def in_batches(loaded: LoadedModel, requests: Sequence[Request], decoding: Decoding) -> Texts:
    """Ask as `amp` did before prefixes were shared: whole prompts in batches by length, images opened every time."""
    ordered = sorted(requests, key=lambda request: (len(request.questions[0]), request.id))
    texts: Texts = {}
    for start in range(0, len(ordered), BATCH_SIZE):
        texts |= _whole_prompts(loaded, ordered[start : start + BATCH_SIZE], decoding)
    return texts


def shared(loaded: LoadedModel, requests: Sequence[Request], decoding: Decoding) -> Texts:
    """Ask as `amp` does."""
    texts: Texts = {}

    def refuse(item: str, reason: str) -> None:
        raise ValueError(f"{item}: {reason}")

    answer_requests(
        loaded,
        requests,
        decoding,
        batch_size=BATCH_SIZE,
        seed=0,
        done=(),
        on_answer=lambda answer: texts.update({answer.id: answer.answers[0]}),
        on_reject=refuse,
    )
    return texts


WAYS: dict[str, Callable[[LoadedModel, Sequence[Request], Decoding], Texts]] = {
    "one by one": one_by_one,
    "in batches": in_batches,
    "shared": shared,
}


def run(
    shape: str, *, images: int, questions: int, beams: int, tokens: int, repeats: int, folder: Path
) -> dict[str, Any]:
    """Measure all ways on as many images, which are written to the folder."""
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    loaded = load_model(ModelSpec(model="tiny", device="cpu")) if shape == "tiny" else random_llava()
    loaded.identity.setdefault("dtype", "float32")
    loaded.model.eval()
    requests = make_requests(folder, shape, images=images, questions=questions)
    decoding = Decoding(num_beams=beams, max_new_tokens=tokens)
    texts: dict[str, Texts] = {}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    entered: dict[str, int] = {}
    for _ in range(repeats):
        for name, ask in WAYS.items():
            with counting_tokens([loaded.model]) as seen:
                seconds[name].append(cpu_seconds(lambda: texts.update({name: ask(loaded, requests, decoding)})))  # noqa: B023
            entered[name] = sum(seen)
    return {
        "shape": shape,
        "images": images,
        "questions": questions,
        "beams": beams,
        "tokens": tokens,
        "ways": {
            name: asdict(
                Way(
                    cpu_seconds=min(seconds[name]),
                    tokens=entered[name],
                    same_texts=sum(texts[name][key] == text for key, text in texts["one by one"].items()),
                )
            )
            for name in WAYS
        },
        "machine": machine(load_before),
    }


def make_requests(folder: Path, shape: str, *, images: int, questions: int) -> list[Request]:
    """Return questions about JPEGs as large as COCO's, in an order that scatters those about one image."""
    write_images(folder / "images", images, seed=0)
    stream = random.Random(0)
    return [
        Request(
            id=f"{question}-{image}",
            images=(folder / "images" / f"{image}.jpg",),
            questions=(_question(shape, stream),),
        )
        for question in range(questions)
        for image in range(images)
    ]


def _question(shape: str, stream: random.Random) -> str:
    if shape == "tiny":
        return f"is there a {stream.choice(WORDS)} in the image?"
    return " ".join(f"t{stream.randrange(VOCABULARY - 6)}" for _ in range(stream.randint(7, 12)))


def _whole_prompts(loaded: LoadedModel, requests: Sequence[Request], decoding: Decoding) -> Texts:
    images = [[open_image(path) for path in request.images] for request in requests]
    batch = encode_prompts(loaded, [(request.questions, ()) for request in requests], images)
    with torch.inference_mode():
        ids = loaded.model.generate(**batch, generation_config=generation_config(loaded, decoding))
    new = ids[:, batch["input_ids"].shape[1] :]  # (requests, new tokens)
    texts = loaded.tokenizer.batch_decode(new, skip_special_tokens=True)
    return {request.id: text.strip() for request, text in zip(requests, texts, strict=True)}


def for_people(record: dict[str, Any]) -> str:
    """Return a table, and how often plain one-by-one costs more."""
    count = record["images"] * record["questions"]
    ways = record["ways"]
    lines = [
        f"{record['images']} images, {record['questions']} questions each, {record['beams']} beams, "
        f"{record['tokens']} new tokens, shape {record['shape']}",
        "| way | CPU s a question | tokens into the decoder | same texts | times shared |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, way in ways.items():
        times = way["cpu_seconds"] / ways["shared"]["cpu_seconds"]
        lines.append(
            f"| {name} | {way['cpu_seconds'] / count:.3f} | {way['tokens']:,} | {way['same_texts']} of {count} | "
            f"{times:.1f} |"
        )
    loads = record["machine"]
    lines.append(f"load average {loads['load_before']:.1f} before, {loads['load_after']:.1f} after")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="b")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--questions", type=int, default=6, help="for each image (6, as in a set of POPE)")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=16, help="new tokens of an answer (16, POPE's most)")
    parser.add_argument("--repeats", type=int, default=2, help="timed rounds (2)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, help="write the JSON to a file too")
    arguments = parser.parse_args()
    if min(arguments.images, arguments.questions, arguments.beams, arguments.tokens, arguments.repeats) < 1:
        sys.exit("All numbers must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        record = run(
            arguments.shape,
            images=arguments.images,
            questions=arguments.questions,
            beams=arguments.beams,
            tokens=arguments.tokens,
            repeats=arguments.repeats,
            folder=Path(folder),
        )
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out, record)
    print(json.dumps(record, indent=2) if arguments.json else for_people(record))


if __name__ == "__main__":
    main()
