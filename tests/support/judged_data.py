"""Small judged benchmarks in the owners' file formats, and scripts in place of a model and a judge."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from amp_cli.asking.answerer import Request
from amp_cli.asking.judge import JudgeRequest
from amp_cli.benchmarks.mmhal import TYPES
from amp_cli.records import Answer, Verdict

GOLDEN = Path(__file__).parents[1] / "golden"


class Script:
    """Answers round r of an item with "ID round r"; may stop after some items, as a kill would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after = stop_after
        self.asked: list[Request] = []

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for request in requests:
            if request.id in done:
                continue
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            rounds = range(1, len(request.questions) + 1)
            on_answer(Answer(id=request.id, answers=tuple(f"{request.id} round {number}" for number in rounds)))


class FakeJudge:
    """Rates every item alike, or as `ratings` says; may stop after some, or reject one."""

    def __init__(
        self,
        rating: int = 5,
        *,
        ratings: dict[tuple[str, int], int] | None = None,
        stop_after: int | None = None,
        rejects: str = "",
        name: str = "fake",
    ) -> None:
        self.rating, self.ratings, self.stop_after, self.rejects = rating, ratings or {}, stop_after, rejects
        self.identity: dict[str, Any] = {"kind": "fake", "model": name, "sampling": {}}
        self.notes = ()
        self.asked: list[tuple[str, int]] = []

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        for request in requests:
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append((request.id, request.repeat))
            if request.id == self.rejects:
                on_reject(request, "the judge was silent")
                continue
            rating = self.ratings.get((request.id, request.repeat), self.rating)
            on_verdict(
                Verdict(
                    id=request.id, repeat=request.repeat, text=f"Rating: {rating}", model="fake-2", prompt_tokens=10,
                    completion_tokens=2,
                )
            )  # fmt: skip


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def mmhal_records(count: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "question_type": TYPES[number % 8],
            "question_topic": "outdoor",
            "image_id": f"id{number}",
            "image_src": f"https://example.invalid/8/{number}_o.png?size=o",
            "image_content": ["Dog", "Cat"],
            "question": f"What is there ({number})?",
            "gt_answer": f"A dog ({number}).",
            "model_answer": "",
        }
        for number in range(count)
    ]


def mmhal_folder(folder: Path, count: int = 8) -> Path:
    """`response_template.json` and `images/`, as the hub has them."""
    write_json(folder / "response_template.json", mmhal_records(count))
    images(folder / "images", [f"{number}_o.png" for number in range(count)])
    return folder


def images(folder: Path, names: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * number % 256, 0, 0)).save(folder / name)


def mrhal_folder(folder: Path, rounds: Sequence[int] = (2, 3)) -> Path:
    """One JSON list with `revised`, deep in the folder, and the images beside it."""
    records = []
    for number, count in enumerate(rounds):
        turns = []
        for turn in range(1, count + 1):
            said = f"Question {turn} of {number}?"
            turns += [
                {"from": "human", "value": f"<image>\n{said}" if turn == 1 else said},
                {"from": "gpt", "value": f" Truth {turn} of {number}. "},
            ]
        records.append(
            {"id": number, "image": f"{number}.png", "image_content": ["Dog"], "label": "long", "revised": turns}
        )
    write_json(folder / "some" / "where" / "dialogues.json", records)
    write_json(folder / "other.json", [{"something": "else"}])
    images(folder / "some" / "where", [f"{number}.png" for number in range(len(rounds))])
    return folder


def llava_folder(folder: Path, *, rule: bool = True) -> Path:
    """COCO's files under their own names: three questions about one image; the image has the prefix."""
    image = "000000000001.jpg"
    questions = [
        {"question_id": number, "image": image, "text": f"What ({kind})?", "category": kind}
        for number, kind in enumerate(("conv", "detail", "complex"))
    ]
    write_lines(folder / "qa90_questions.jsonl", questions)
    write_lines(
        folder / "qa90_gpt4_answer.jsonl",
        [{"question_id": number, "text": f"Reference {number}."} for number in (2, 1, 0)],
    )
    boxes = [{"category": "dog", "bbox": [0.1, 0.2, 0.3, 1.0]}]
    context = {"id": 0, "image": f"COCO_val2014_{image}", "captions": ["A dog.", "One dog."], "instances": boxes}
    write_lines(folder / "caps_boxes_coco2014_val_80.jsonl", [context])
    if rule:
        rules = {
            f"llava_bench_{kind}": {"role": "Assistant", "prompt": f"Judge {kind}."} for kind in ("conv", "detail")
        }
        rules |= {kind: {"role": "Assistant", "prompt": f"Judge plain {kind}."} for kind in ("conv", "complex")}
        write_json(folder / "rule.json", rules)
    images(folder / "val2014", [f"COCO_val2014_{image}"])
    return folder
