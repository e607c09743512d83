"""Fills judge templates: what a judge is told of one item. A model's answers stand behind a mark they cannot know."""

import hashlib
from collections.abc import Iterable, Sequence

from amp_cli.core.judging.templates import JudgeTemplate

Messages = tuple[tuple[str, str], ...]


def mmhal_prompt(
    template: JudgeTemplate, *, contents: Sequence[str], question: str, reference: str, answer: str
) -> Messages:
    """Return what the judge is told of one question."""
    values = {"contents": ", ".join(contents), "question": question, "reference": reference, "answer": answer}
    return (("user", template.fill(values | {"fence": mark(values.values())})),)


def mrhal_prompt(
    template: JudgeTemplate,
    *,
    contents: Sequence[str],
    questions: Sequence[str],
    references: Sequence[str],
    answers: Sequence[str],
) -> Messages:
    """Return what the judge is told of one dialogue. A template with two empty braces gets the rounds at its end.

    As in the released code, questions lose their picture tag, and questions and references the blanks around them.
    """
    rounds = [
        (question.replace("<image>", "").strip(), reference.strip(), answer)
        for question, reference, answer in zip(questions, references, answers, strict=True)
    ]
    fence = mark([*contents, *questions, *references, *answers])
    if template.places:
        dialogue = "\n".join(map(_official_round, *zip(*rounds, strict=True)))
    else:
        dialogue = "\n\n".join(_own_round(number, *texts, fence) for number, texts in enumerate(rounds, start=1))
    values = {"contents": ", ".join(contents), "rounds": str(len(rounds)), "dialogue": dialogue}
    text = template.fill(values | {"fence": fence})
    if 0 < template.places < len(values):
        text = f"{text.rstrip()}\n\n{dialogue}"
    return (("user", text),)


def _official_round(question: str, reference: str, answer: str) -> str:
    return (
        f"### Question\n{question}\n\n### Standard Human-Generated Answer\n{reference}\n\n"
        f"### LMM Response to Evaluate\n{answer}\n"
    )


def _own_round(number: int, question: str, reference: str, answer: str, fence: str) -> str:
    return (
        f"Round {number}\nQuestion:\n{question}\nThe person's answer:\n{reference}\nThe model's answer:\n"
        f"----- begin {fence} -----\n{answer}\n----- end {fence} -----"
    )


def llava_bench_prompt(
    template: JudgeTemplate, *, context: str, question: str, reference: str, answer: str
) -> Messages:
    """Return what the judge is told of one question and its two answers, by a template."""
    values = {"context": context, "question": question, "reference": reference, "answer": answer}
    return (("user", template.fill(values | {"fence": mark(values.values())})),)


def llava_bench_rule_prompt(rule: str, *, context: str, question: str, reference: str, answer: str) -> Messages:
    """Return what the judge is told by one of `rule.json`'s rules, laid out as the official script does."""
    return (
        (
            "user",
            f"[Context]\n{context}\n\n[Question]\n{question}\n\n[Assistant 1]\n{reference}\n\n[End of Assistant 1]\n\n"
            f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n[System]\n{rule}\n\n",
        ),
    )


def mark(texts: Iterable[str]) -> str:
    """Return a mark that stands around answers: always the same for the same texts, and in none of them."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]
