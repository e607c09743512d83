"""Small data in every format that `amp prefs import` reads, with every field that the owners' files have."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

Record = dict[str, Any]


def image(colour: str = "red") -> bytes:
    """Return a small PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, format="PNG")
    return file.getvalue()


def in_base64(colour: str = "red") -> str:
    return base64.b64encode(image(colour)).decode()


def turns(*texts: str) -> list[dict[str, str]]:
    """Return a dialogue in LLaVA's fields, beginning with the human."""
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, str]]:
    """Return a dialogue in OpenAI's fields, beginning with the user."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def rated(helpful: object, faithful: object, ethical: object, answer: str, model: str) -> Record:
    """Return one of VLFeedback's completions."""
    given = {"Helpfulness": helpful, "Visual Faithfulness": faithful, "Ethical Considerations": ethical}
    annotations = {aspect: {"Rating": rating, "Rationale": "Because."} for aspect, rating in given.items()}
    return {"annotations": annotations, "model": model, "response": answer}


def columns_of(rows: Any) -> Any:
    """Return a list of objects as an object of lists, all the way down, as `datasets` has a sequence of structs."""
    if isinstance(rows[0], dict):
        return {name: columns_of([row[name] for row in rows]) for name in rows[0]}
    return list(rows)


Q, GOOD, BAD = "What is it?", "A dog.", "A cat."
TOKEN = "<image>\n"
LOGPS = "[-1.0, -0.5, [0.1], -2.0, -0.7, [0.2]]"
RLHF_V = {
    "ds_name": "RLHF-V",
    "text": json.dumps({"question": Q, "chosen": GOOD, "rejected": BAD}),
    "origin_dataset": "VQA v2",
    "origin_split": {"model": "muffin", "type": "question_answering"},
    "idx": 0,
    "image_path": "data/0.jpg",
}
FOUR = [
    rated("4", "4", "4", "Third.", "a"),
    rated("5", "5", "5", "Best.", "b"),
    rated("1", "2", "3", "Worst.", "c"),
    rated("5", "4", "5", "Second.", "d"),
]

EXAMPLES: dict[str, list[Record]] = {
    "amp": [
        {
            "id": "coco-9",
            "images": ["dog.png"],
            "questions": [Q, "What colour?"],
            "levels": [
                {"answers": [GOOD, "Green."], "source": "standard"},
                {"answers": [BAD, "Green."], "source": "llava-13b", "accuracy": 0.5, "score": 0.91},
            ],
            "meta": {"dataset": "coco"},
        }
    ],
    "amp-authors": [
        {
            "image": "dog.png",
            "output_1": turns(TOKEN + Q, GOOD, "Sure?", "Yes."),
            "output_2": turns(TOKEN + Q, GOOD, "Sure?", "No."),
            "output_3": turns(TOKEN + Q, BAD, "Sure?", "No."),
        },
        {"output_1": turns("Two and two?", "Four."), "output_2": turns("Two and two?", "Five."), "output_3": None},
    ],
    "rlhf-v": [
        {**RLHF_V, "image": {"bytes": in_base64(), "path": "0.jpg"}},
        {**RLHF_V, "image": in_base64("blue"), "idx": 1},
        {**RLHF_V, "text": {"question": "Who?", "chosen": "He.", "rejected": "She."}, "image": "dog.png", "idx": 2},
    ],
    "rlaif-v": [
        {
            "ds_name": "RLAIF-V",
            "image": "dog.png",
            "question": Q,
            "chosen": good,
            "rejected": bad,
            "origin_dataset": "LCS-558K",
            "origin_split": '{"model": "llava", "type": "detail"}',
            "idx": str(number),
            "image_path": "dog.png",
            "logps": LOGPS,
        }
        for number, (good, bad) in enumerate([("A", "B"), ("B", "C")])
    ],
    "vlfeedback": [
        {
            "id": "svit-detail-1",
            "prompt": Q,
            "models": ["a", "b", "c", "d"],
            "completions": FOUR,
            "img_path": "dog.png",
        },
        {
            "id": "svit-detail-2",
            "prompt": Q,
            "models": ["a", "b", "c", "d"],
            "completions": columns_of(FOUR),
            "img_path": "dog.png",
        },
    ],
    "llava-rlhf": [
        {
            "id": "000000000009",
            "image": "dog.png",
            "conversations": turns(TOKEN + Q, GOOD, "Sure?", "(replaced)"),
            "output_1": {"from": "gpt", "value": "No."},
            "output_2": {"from": "gpt", "value": "Yes."},
            "preference": 2,
            "is_hallucinated": False,
        }
    ],
    "llava-instruct": [
        {"id": "000000000009", "image": "dog.png", "conversations": turns(TOKEN + Q, GOOD), "model": "gpt4v"},
        {"id": "text", "conversations": turns("Two and two?", "Four.")},
        {"id": "end", "image": "dog.png", "conversations": turns(Q + "\n<image>", GOOD)},
    ],
    "povid": [
        {
            "id": "p",
            "image": "dog.png",
            "conversations": turns(TOKEN + Q, GOOD),
            "rejected_conversations": turns(TOKEN + Q, BAD),
        }
    ],
    "ha-dpo": [
        {
            "image_id": 61,
            "question": "Is there a dog?",
            "answer": "yes",
            "chosen": "Yes.",
            "reject": "No.",
            "correct": False,
        },
        {"image_id": 62, "chosen": [GOOD, "One dog."], "rejected": [BAD, "One cat."]},
    ],
    "mdpo": [
        {
            "img_path": "dog.png",
            "prompt": f"A chat between a curious user and an assistant. USER: <image>\n{Q} ASSISTANT:",
            "chosen": GOOD,
            "rejected": BAD,
        }
    ],
    "plain-dpo": [{"image": "dog.png", "prompt": Q, "chosen": GOOD, "rejected": BAD}],
    "mm-rlhf": [
        {
            "id": "m1",
            "image": "dog.png",
            "prompt": Q,
            "responses": [
                {"response": "Middle.", "model": "a", "score": 3},
                {"response": "Top.", "model": "b", "score": 4.5},
                {"response": "Bottom.", "model": "c", "score": 1},
            ],
        },
        {"id": "m2", "image": "dog.png", "question": Q, "responses": ["Two.", "One."], "ranks": [2, 1]},
    ],
    "trl": [
        {
            "images": ["dog.png"],
            "prompt": [
                {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
                {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": Q}]},
            ],
            "chosen": [{"role": "assistant", "content": [{"type": "text", "text": GOOD}]}],
            "rejected": [{"role": "assistant", "content": [{"type": "text", "text": BAD}]}],
        },
        {
            "images": ["dog.png"],
            "prompt": messages(Q),
            "chosen": messages("", GOOD)[1:],
            "rejected": messages("", BAD)[1:],
        },
        {"images": ["dog.png"], "prompt": "What?", "chosen": GOOD, "rejected": BAD},
        {"chosen": messages("Two and two?", "Four."), "rejected": messages("Two and two?", "Five.")},
    ],
    "ms-swift": [
        {"messages": messages(TOKEN + Q, GOOD), "rejected_response": BAD, "images": ["dog.png"]},
        {
            "messages": messages("<image>" + Q, GOOD, "Sure?", "Yes."),
            "rejected_messages": messages("<image>" + Q, BAD, "Sure?", "No."),
            "images": [{"bytes": None, "path": "dog.png"}],
        },
    ],
    "llama-factory": [
        {
            "conversations": turns(TOKEN + Q, GOOD, "Sure?"),
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
            "images": ["dog.png"],
            "system": "Be brief.",
        }
    ],
    "vision-feedback": [
        {
            "id": "v",
            "image": "dog.png",
            "conversations": json.dumps([*turns(TOKEN + Q, GOOD), *turns("", BAD)[1:]]),
            "preference_values": [0.2, 0.9],
        }
    ],
}


def write_json(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def write_lines(path: Path, records: list[Record]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def write_parquet(path: Path, records: list[Record]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(records), path)
    return path
