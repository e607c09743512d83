"""One record of each layout: TRL's, ms-swift's, LLaMA-Factory's and the AMP authors'."""

from collections.abc import Sequence
from typing import Any

from amp_cli.errors import AmpError
from amp_cli.preferences.exporters.pairs import Pair
from amp_cli.preferences.sources import IMAGE_TOKEN
from amp_cli.records import PreferenceItem


def refuse_image_tokens(item: PreferenceItem) -> None:
    """Refuse texts that hold the marker of a picture's place: every reader would look for one picture more."""
    answers = [answer for level in item.levels for answer in level.answers]
    held = next((text for text in (*item.questions, *answers) if IMAGE_TOKEN in text), None)
    if held is not None:
        raise AmpError(f"a text holds '{IMAGE_TOKEN}', which marks a picture's place: {held!r:.80}")


def trl_record(pair: Pair, images: Sequence[Any]) -> dict[str, Any]:
    """Return a row of TRL's conversational preference data with pictures.

    The prompt ends with the first question that is answered differently; what follows stands in both completions.
    """
    open_at = pair.shared_rounds
    return {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "images": list(images),
        "prompt": _blocks(_turns(pair.item.questions[: open_at + 1], pair.chosen[:open_at]), len(images)),
        "chosen": _blocks(_completion(pair.item.questions, pair.chosen, open_at), 0),
        "rejected": _blocks(_completion(pair.item.questions, pair.rejected, open_at), 0),
    }


def swift_record(pair: Pair, images: Sequence[str]) -> dict[str, Any]:
    """Return a line of ms-swift's standard preference data.

    Where answers before the last differ, `rejected_messages` holds the worse dialogue (ms-swift 3.8 or newer).
    """
    questions = _marked(pair.item.questions, len(images), separator="")
    record: dict[str, Any] = {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "messages": _turns(questions, pair.chosen),
    }
    if pair.shared_rounds == len(questions) - 1:
        record["rejected_response"] = pair.rejected[-1]
    else:
        record["rejected_messages"] = _turns(questions, pair.rejected)
        if images:
            record["rejected_images"] = list(images)
    if images:
        record["images"] = list(images)
    return record


def factory_record(pair: Pair, images: Sequence[str]) -> dict[str, Any]:
    """Return an entry of LLaMA-Factory's sharegpt preference data.

    Raises:
        AmpError: answers before the last differ; the layout has one history for both sides.
    """
    if pair.shared_rounds != len(pair.item.questions) - 1:
        raise AmpError(
            f"levels {pair.better} and {pair.worse} differ before the last round; LLaMA-Factory has one history"
        )
    questions = _marked(pair.item.questions, len(images), separator="")
    return {
        "id": pair.id,
        "pair": [pair.better, pair.worse],
        "conversations": _said(_turns(questions, pair.chosen[:-1])),
        "chosen": {"from": "gpt", "value": pair.chosen[-1]},
        "rejected": {"from": "gpt", "value": pair.rejected[-1]},
        "images": list(images),
    }


def authors_record(item: PreferenceItem, images: Sequence[str]) -> dict[str, Any]:
    """Return an entry of the AMP authors' training JSON: `output_1` (best) to `output_K`, each a whole dialogue.

    Raises:
        AmpError: more than one picture; the layout has one.
    """
    if len(images) > 1:
        raise AmpError(f"the item has {len(images)} pictures; the AMP authors' layout has one")
    questions = _marked(item.questions, len(images), separator="\n")
    record: dict[str, Any] = {"id": item.id, **({"image": images[0]} if images else {})}
    for number, level in enumerate(item.levels, start=1):
        record[f"output_{number}"] = _said(_turns(questions, level.answers))
    return record


def _turns(questions: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """Return the dialogue as messages; with fewer answers than questions the last turn is left open."""
    turns = []
    for number, question in enumerate(questions[: len(answers) + 1]):
        turns.append({"role": "user", "content": question})
        if number < len(answers):
            turns.append({"role": "assistant", "content": answers[number]})
    return turns


def _completion(questions: Sequence[str], answers: Sequence[str], start: int) -> list[dict[str, str]]:
    """Return what follows the question of round `start`: its answer, and the later rounds."""
    return _turns(questions, answers)[2 * start + 1 :]


def _blocks(turns: Sequence[dict[str, str]], images: int) -> list[dict[str, Any]]:
    """Return the messages with content as blocks; the pictures come first of all."""
    places: list[dict[str, str]] = [{"type": "image"}] * images
    return [
        {
            "role": turn["role"],
            "content": [*(places if number == 0 else []), {"type": "text", "text": turn["content"]}],
        }
        for number, turn in enumerate(turns)
    ]


def _said(turns: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return messages in LLaVA's words."""
    names = {"user": "human", "assistant": "gpt"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def _marked(questions: Sequence[str], images: int, *, separator: str) -> tuple[str, ...]:
    """Return the questions with one image token for each picture before the first."""
    return (f"{IMAGE_TOKEN}{separator}" * images + questions[0], *questions[1:])
