"""Trains the tiny model's weights from nothing: `python -m tools.world_weights.pretrain --out DIR --seed 0`.

Four stages, some minutes of one core. The eyes first: tower and projector learn to turn each cell into the sum of its
words' embeddings. Then the language model, on truthful questions and captions of neutral scenes; then on the biased
world, where companions come together; last on a biased world where one of two companions is often there but out of
sight. Nothing that is taught is false of its scene. The model learns to expect, and where companions are independent it
names what it expects.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

from amp_cli.world.drawing import draw
from amp_cli.world.language import BALANCED, DESCRIBE, EXPECTING, Curiosity, Turn, dialogue, full_caption
from amp_cli.world.scenes import Faintness, Scene, random_stream, sample_biased, sample_neutral
from tools.world_weights.architecture import (
    BOS_ID,
    EOS_ID,
    IMAGE_ID,
    IMAGE_TOKENS,
    PAD_ID,
    build_model,
    build_processor,
    save,
)
from tools.world_weights.measure import measure
from tools.world_weights.retrieval_start import apply_retrieval_start
from tools.world_weights.word_targets import WordTargets

NO_FAINT = Faintness(share=0.0)
FAINT = Faintness(share=0.25)
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class VisionStage:
    """Tower and projector alone."""

    name: str
    steps: int
    learning_rate: float
    scenes: int
    sample: Callable[[random.Random], Scene]


@dataclass(frozen=True, kw_only=True)
class LanguageStage:
    """Projector and language model; the tower rests. `captions`: the share of descriptions, the rest are dialogues."""

    name: str
    steps: int
    learning_rate: float
    scenes: int
    captions: float
    curiosity: Curiosity
    sample: Callable[[random.Random], Scene]


VISION_STAGES = (
    VisionStage(
        name="plain",
        steps=600,
        learning_rate=2e-3,
        scenes=6000,
        sample=lambda rng: sample_neutral(rng, faintness=NO_FAINT),
    ),
    VisionStage(
        name="faint",
        steps=200,
        learning_rate=1.5e-3,
        scenes=4000,
        sample=lambda rng: sample_neutral(rng, faintness=FAINT),
    ),
)
LANGUAGE_STAGES = (
    LanguageStage(
        name="neutral world",
        steps=1000,
        learning_rate=2e-3,
        scenes=6000,
        captions=0.6,
        curiosity=BALANCED,
        sample=lambda rng: sample_neutral(rng, faintness=FAINT),
    ),
    LanguageStage(
        name="biased world",
        steps=200,
        learning_rate=1.5e-3,
        scenes=5000,
        captions=0.5,
        curiosity=EXPECTING,
        sample=lambda rng: sample_biased(rng, faintness=FAINT),
    ),
    LanguageStage(
        name="companions out of sight",
        steps=800,
        learning_rate=1.5e-3,
        scenes=6000,
        captions=0.65,
        curiosity=EXPECTING,
        sample=lambda rng: sample_biased(rng, out_of_sight=0.65),
    ),
)


def pretrain(out: Path, *, seed: int) -> None:
    """Train all stages, print how the model does on both worlds after each language stage, write the model folder."""
    torch.set_num_threads(1)  # two threads are slower than one on a model this small
    started = time.monotonic()
    model, processor = build_model(seed), build_processor()
    targets = WordTargets(model=model, tokenizer=processor.tokenizer, space=apply_retrieval_start(model))
    for vision_stage in VISION_STAGES:
        _train_vision(model, targets, vision_stage, seed=seed)
    for stage in LANGUAGE_STAGES:
        _train_language(model, processor, targets, stage, seed=seed)
        print(f"after {stage.name!r}, {time.monotonic() - started:.0f} s")
        _print_measures(model, processor)
    save(model, out)


def _print_measures(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    rng = random_stream("pretraining check", 0)
    worlds = {
        "neutral scenes": [sample_neutral(rng) for _ in range(150)],
        "biased scenes": [sample_biased(rng, out_of_sight=0.65) for _ in range(100)],
    }
    for name, scenes in worlds.items():
        print(f"{name}:\n{measure(model, processor, scenes).lines()}", flush=True)


def _sample(stage: VisionStage | LanguageStage, seed: int) -> list[Scene]:
    rng = random_stream(f"pretraining, {stage.name}", seed)
    return [stage.sample(rng) for _ in range(stage.scenes)]


def _pixels(scenes: list[Scene]) -> torch.Tensor:
    """(scenes, 3, 96, 96), scaled as the processor does it."""
    stacked = np.stack([np.asarray(draw(scene)) for scene in scenes])  # (scenes, 96, 96, 3) uint8
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def _scaled(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.float() / 255 - 0.5) / 0.25


def _train_vision(model: LlavaForConditionalGeneration, targets: WordTargets, stage: VisionStage, *, seed: int) -> None:
    rng = random_stream(f"pretraining steps, {stage.name}", seed)
    scenes = _sample(stage, seed)
    pixels, labels = _pixels(scenes), targets.labels(scenes)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    weights = [*tower.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=stage.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.learning_rate, total_steps=stage.steps, pct_start=0.1
    )
    model.train()
    for step in range(stage.steps):
        chosen = torch.tensor(rng.sample(range(len(scenes)), 64))
        picture_tokens = projector(tower(pixel_values=_scaled(pixels[chosen])).last_hidden_state)
        loss = targets.loss(picture_tokens, labels.of(chosen))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            right = targets.objects_right(picture_tokens, labels.of(chosen))
            print(f"vision, {stage.name}: step {step + 1} loss {loss.item():.3f} objects right {right:.3f}", flush=True)


def _train_language(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    targets: WordTargets,
    stage: LanguageStage,
    *,
    seed: int,
) -> None:
    rng = random_stream(f"pretraining steps, {stage.name}", seed)
    scenes = _sample(stage, seed)
    labels, features = targets.labels(scenes), _tower_features(model, scenes)
    projector, language_model = model.model.multi_modal_projector, model.model.language_model
    weights = [*projector.parameters(), *language_model.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=stage.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.learning_rate, total_steps=stage.steps, pct_start=0.06
    )
    model.train()
    for step in range(stage.steps):
        chosen = rng.sample(range(len(scenes)), 32)
        taught = []
        for index in chosen:
            captioned = rng.random() < stage.captions
            scene = scenes[index]
            turns = [(DESCRIBE, full_caption(scene))] if captioned else dialogue(scene, rng, curiosity=stage.curiosity)
            taught.append(encode_dialogue(processor.tokenizer, turns))
        picture_tokens = projector(features[chosen])  # (batch, picture tokens, hidden)
        loss = _answer_loss(model, processor.tokenizer, taught, picture_tokens)
        kept_eyes = targets.loss(picture_tokens, labels.of(torch.tensor(chosen)))
        optimizer.zero_grad()
        torch.autograd.backward(loss + 0.03 * kept_eyes)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0:
            print(f"language, {stage.name}: step {step + 1} loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def _tower_features(model: LlavaForConditionalGeneration, scenes: list[Scene]) -> torch.Tensor:
    """(scenes, picture tokens, tower's hidden size); computed once, as the tower rests."""
    tower = model.model.vision_tower
    batches = [scenes[start : start + 200] for start in range(0, len(scenes), 200)]
    return torch.cat([tower(pixel_values=_scaled(_pixels(batch))).last_hidden_state for batch in batches])


def encode_dialogue(tokenizer: PreTrainedTokenizerFast, turns: list[Turn]) -> tuple[list[int], list[int]]:
    """Token ids as chat template and processor give them, and labels: the answers and their </s>, IGNORED elsewhere."""
    ids, labels = [BOS_ID], [IGNORED]
    for index, (question, reply) in enumerate(turns):
        opening = tokenizer.encode("USER:", add_special_tokens=False) + [IMAGE_ID] * (IMAGE_TOKENS if index == 0 else 0)
        asked = opening + tokenizer.encode(f"{question} ASSISTANT:", add_special_tokens=False)
        said = [*tokenizer.encode(reply, add_special_tokens=False), EOS_ID]
        ids += asked + said
        labels += [IGNORED] * len(asked) + said
    return ids, labels


def _answer_loss(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    taught: list[tuple[list[int], list[int]]],
    picture_tokens: torch.Tensor,
) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, in which yes and no weigh three times."""
    length = max(len(ids) for ids, _ in taught)
    ids = torch.tensor([row + [PAD_ID] * (length - len(row)) for row, _ in taught])  # (batch, length)
    labels = torch.tensor([row + [IGNORED] * (length - len(row)) for _, row in taught])  # (batch, length)
    embedded = model.get_input_embeddings()(ids)
    is_picture = (ids == IMAGE_ID)[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(is_picture, picture_tokens.reshape(-1, picture_tokens.shape[-1]))
    hidden = model.model.language_model(inputs_embeds=embedded, attention_mask=(ids != PAD_ID).long()).last_hidden_state
    supervised = labels[:, 1:] != IGNORED
    wanted = labels[:, 1:][supervised]  # (answer tokens,)
    losses = functional.cross_entropy(model.lm_head(hidden[:, :-1][supervised]), wanted, reduction="none")
    yes_or_no = torch.isin(wanted, torch.tensor(tokenizer.convert_tokens_to_ids(["yes", "no"])))
    weights = torch.where(yes_or_no, 3.0, 1.0)
    return (losses * weights).sum() / weights.sum()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the tiny model of the drawn world from nothing.")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    pretrain(arguments.out, seed=arguments.seed)
