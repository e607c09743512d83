"""How much a model of this world hallucinates on given scenes: POPE's accuracies and the captions' CHAIR numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from amp_cli.world.drawing import draw
from amp_cli.world.files import SPLITS, SaidObject, choose_questions, mentioned_objects
from amp_cli.world.language import DESCRIBE, existence_question
from amp_cli.world.scenes import Scene, random_stream


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Shares between 0 and 1; `words` is the mean length of a caption."""

    accuracy: dict[str, float]  # of yes/no answers, by POPE split
    yes: dict[str, float]
    chair_s: float
    chair_i: float
    recall: float
    right_details: float  # of the objects named rightly: colour and number right
    words: float

    def lines(self) -> str:
        """Two lines for people."""
        pope = "  ".join(f"{split} {self.accuracy[split]:.3f} (yes {self.yes[split]:.3f})" for split in SPLITS)
        return (
            f"POPE accuracy: {pope}\nCHAIR-s {self.chair_s:.3f}  CHAIR-i {self.chair_i:.3f}  recall {self.recall:.3f}  "
            f"colour and number right {self.right_details:.3f}  words {self.words:.1f}"
        )


def measure(model: LlavaForConditionalGeneration, processor: LlavaProcessor, scenes: Sequence[Scene]) -> Measures:
    """Ask POPE's questions and for a description of each scene, greedily, and hold the answers against the truth."""
    pictures = [draw(scene) for scene in scenes]
    accuracy, yes = {}, {}
    for split, questions in choose_questions(scenes, random_stream("measure", 0)).items():
        said_yes = []
        for start in range(0, len(questions), 256):
            part = questions[start : start + 256]
            texts = [existence_question(question.category) for question in part]
            answers = answer(model, processor, texts, [pictures[question.scene] for question in part], new_tokens=1)
            said_yes += [text == "yes" for text in answers]
        right = [said == question.present for said, question in zip(said_yes, questions, strict=True)]
        accuracy[split], yes[split] = sum(right) / len(right), sum(said_yes) / len(said_yes)
    captions = []
    for start in range(0, len(scenes), 64):
        part_pictures = pictures[start : start + 64]
        captions += answer(model, processor, [DESCRIBE] * len(part_pictures), part_pictures, new_tokens=96)
    told = [mentioned_objects(caption) for caption in captions]
    return _measures(scenes, told, accuracy=accuracy, yes=yes, words=[len(caption.split()) for caption in captions])


def _measures(
    scenes: Sequence[Scene],
    told: Sequence[tuple[SaidObject, ...]],
    *,
    accuracy: dict[str, float],
    yes: dict[str, float],
    words: Sequence[int],
) -> Measures:
    pairs = list(zip(scenes, told, strict=True))
    invented = [sum(m.category not in scene.categories for m in mentions) for scene, mentions in pairs]
    named = [{m.category for m in mentions} & scene.categories for scene, mentions in pairs]
    details = [
        m.colour == thing.colour and (m.number or 1) == len(thing.instances)
        for scene, mentions in pairs
        for m in mentions
        if (thing := scene.find(m.category)) is not None
    ]
    return Measures(
        accuracy=accuracy,
        yes=yes,
        chair_s=sum(count > 0 for count in invented) / len(scenes),
        chair_i=sum(invented) / max(1, sum(len(mentions) for mentions in told)),
        recall=sum(len(n) / len(scene.categories) for n, scene in zip(named, scenes, strict=True)) / len(scenes),
        right_details=sum(details) / max(1, len(details)),
        words=sum(words) / len(words),
    )


@torch.no_grad()
def answer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    questions: Sequence[str],
    pictures: Sequence[Image.Image],
    *,
    new_tokens: int,
) -> list[str]:
    """The model's greedy answers, one question about one picture each."""
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
            add_generation_prompt=True,
        )
        for question in questions
    ]
    inputs = processor(text=prompts, images=list(pictures), return_tensors="pt", padding=True)
    model.eval()
    output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return list(processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
