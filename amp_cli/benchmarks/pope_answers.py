"""Joins the answers of a file to POPE's questions: by image and question, by number, or in the order of the labels."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks.answer_files import GivenAnswer, image_key, is_asked, question_key, read_answers
from amp_cli.benchmarks.benchmark import LoadedBenchmark
from amp_cli.benchmarks.files import add_answer, records_of
from amp_cli.disk.entries import read_entries
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings

SPLITS = ("random", "popular", "adversarial")
HINT = "Give --questions the file that was asked: question_id, image, text, and category where it has several splits"


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, or those of others to one split or to several."""
    return read_answers(path, lambda given: Join(items, path).answers(given, data, settings.questions))


def answered(loaded: LoadedBenchmark, answers: Mapping[str, Answer]) -> LoadedBenchmark:
    """Leave out the splits that a file answers nothing of: files are published split by split."""
    splits = {item.reference["split"] for item in loaded.items if item.id in answers}
    left_out = sorted({str(item.reference["split"]) for item in loaded.items} - splits)
    if not splits or not left_out:
        return loaded
    return replace(
        loaded,
        items=tuple(item for item in loaded.items if item.reference["split"] in splits),
        facts=loaded.facts | {"splits_without_answers": left_out},
        warnings=(f"No answers to the split(s) {', '.join(left_out)}: `overall` is over the others",),
    )


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question of a questions file, by its number: about which image, and in which split if it says so."""

    image: str
    question: str
    split: str | None


Key = tuple[str | None, str, str]
"""Split (None where it is not said), image and question."""


class Join:
    """The items by content, and what finds the answers to them."""

    def __init__(self, items: Sequence[BenchmarkItem], path: Path) -> None:
        self.items, self.path = items, path
        self.by_split: dict[str, list[BenchmarkItem]] = defaultdict(list)
        for item in items:
            self.by_split[item.reference["split"]].append(item)

    def answers(self, given: Sequence[GivenAnswer], data: Path, questions: Path | None) -> dict[str, Answer]:
        """Return item id -> answer. Answers to what is not asked here have ids of their own.

        Raises:
            AmpError: what the answers belong to cannot be told.
        """
        if all(one.image is not None and one.question is not None for one in given):
            return self._by_content(given)
        numbers = Counter(one.number for one in given)
        if None in numbers or (questions is None and self._are_splits_in_a_row(numbers)):
            return self._by_order(given)
        given = self._without_repetitions(given)
        file = questions or _questions_file(data)
        if file is None:
            return self._by_label_number(given)
        asked = questions_by_number(file)
        strangers, mismatched = _misaligned(given, asked)
        if not strangers and not mismatched:
            place = {number: place for place, number in enumerate(asked)}
            in_order = sorted(given, key=lambda one: place[one.number or ""])
            return self._by_content([_completed(one, asked[one.number or ""]) for one in in_order])
        if questions is None and (split := self._only_split(given)) is not None:
            return self._of_split(given, split)
        what, some = ("have a question_id that no question has", strangers) if strangers else (
            "carry the prompt of another question", mismatched)  # fmt: skip
        raise AmpError(
            f"{len(some):,} of {len(given):,} answers in '{self.path}' {what}, first question_id {some[0].number}",
            hint=HINT,
        )

    def _are_splits_in_a_row(self, numbers: Mapping[str | None, int]) -> bool:
        """Tell the answers to several splits, one after the other, by numbers that begin anew."""
        return len(self.by_split) > 1 and set(numbers.values()) == {len(self.by_split)}

    def _without_repetitions(self, given: Sequence[GivenAnswer]) -> list[GivenAnswer]:
        """Return one answer for each number; two that differ are refused."""
        kept: dict[str | None, GivenAnswer] = {}
        for one in given:
            if kept.setdefault(one.number, one).text != one.text:
                texts = f"{kept[one.number].text!r:.60} and {one.text!r:.60}"
                raise AmpError(f"'{self.path}' answers question_id {one.number} twice: {texts}", hint=HINT)
        return list(kept.values())

    def _by_content(self, given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        """Join by image and question. Where no split is named, those count whose every question has an answer."""
        texts: dict[Key, list[str]] = defaultdict(list)
        for one in given:
            texts[self._key(one)].append(one.text)
        named = {split for split, _, _ in texts if split is not None}
        found: set[Key] = set()
        matched = {split: self._matched(split, texts, found) for split in self.by_split}
        whole = [split for split, answers in matched.items() if len(answers) == len(self.by_split[split])]
        fullest = max(matched, key=lambda split: len(matched[split]) / len(self.by_split[split]))
        answers: dict[str, Answer] = {}
        for taken in matched.keys() & named if named else whole or [fullest]:
            answers |= matched[taken]
        for split, image, question in texts.keys() - found:
            if split is None or split in self.by_split:
                for number, text in enumerate(texts[split, image, question], start=1):
                    stranger = f"{split or 'question'} {number} about {image}: {question}"
                    answers[stranger] = Answer(id=stranger, answers=(text,))
        return answers

    def _matched(self, split: str, texts: Mapping[Key, Sequence[str]], found: set[Key]) -> dict[str, Answer]:
        contents = [(image_key(item.images[0]), question_key(item.questions[0])) for item in self.by_split[split]]
        total, seen = Counter(contents), Counter[tuple[str, str]]()
        matched = {}
        for item, content in zip(self.by_split[split], contents, strict=True):
            key = next((one for one in ((split, *content), (None, *content)) if one in texts), None)
            if key is not None:
                found.add(key)
                text = self._text(texts[key], seen[content], total[content], content)
                matched[item.id] = Answer(id=item.id, answers=(text,))
            seen[content] += 1
        return matched

    def _key(self, one: GivenAnswer) -> Key:
        """Return the split, where it is known, the image and the question, however the prompt goes on after it."""
        prompt = one.question or ""
        image = image_key(one.image or "")
        known = self._questions_of.get(image, {})
        question = question_key(prompt)
        if question not in known:
            question = next((one for one in known if is_asked(one, prompt)), question)
        return one.category if one.category in SPLITS else None, image, question

    @cached_property
    def _questions_of(self) -> dict[str, dict[str, None]]:
        """The questions about each image."""
        questions: dict[str, dict[str, None]] = defaultdict(dict)
        for item in self.items:
            questions[image_key(item.images[0])][question_key(item.questions[0])] = None
        return questions

    def _text(self, texts: Sequence[str], occurrence: int, total: int, content: tuple[str, str]) -> str:
        """Return the answer to a question's so-and-so-manieth occurrence in its split."""
        if len(set(texts)) == 1:
            return texts[0]
        if len(texts) == total:
            return texts[occurrence]
        raise AmpError(
            f"'{self.path}' answers {content[1]!r} about the image '{content[0]}' {len(texts)} times, and differently: "
            f"{texts[0]!r:.60} and {next(one for one in texts if one != texts[0])!r:.60}",
            hint="Give the answers to one split, or the split of each as `category`",
        )

    def _by_label_number(self, given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        """Join by the numbers of the label files, which begin anew in every split."""
        split = self._only_split(given)
        if split is None:
            raise AmpError(
                f"The answers in '{self.path}' are known by question_id only, and it does not say which of the label "
                "files they answer",
                hint=HINT,
            )
        return self._of_split(given, split)

    def _only_split(self, given: Sequence[GivenAnswer]) -> str | None:
        """Return the one split whose numbers are those of the answers, and whose questions are those of the prompts."""
        fitting = [split for split in self.by_split if self._fits(given, split)]
        numbers = {one.number for one in given}
        whole = [split for split in fitting if numbers == {one.reference["number"] for one in self.by_split[split]}]
        chosen = whole or fitting
        return chosen[0] if len(chosen) == 1 else None

    def _fits(self, given: Sequence[GivenAnswer], split: str) -> bool:
        numbered = {item.reference["number"]: item for item in self.by_split[split]}
        if not numbered.keys() >= {one.number for one in given}:
            return False
        asked = ((numbered[one.number], one.question) for one in given)
        return all(prompt is None or is_asked(item.questions[0], prompt) for item, prompt in asked)

    def _of_split(self, given: Sequence[GivenAnswer], split: str) -> dict[str, Answer]:
        numbered = {item.reference["number"]: item.id for item in self.by_split[split]}
        answers: dict[str, Answer] = {}
        for one in given:
            add_answer(answers, Answer(id=numbered[one.number], answers=(one.text,)), self.path)
        return answers

    def _by_order(self, given: Sequence[GivenAnswer]) -> dict[str, Answer]:
        """Join line by line, as POPE's script does, but only where every question is the one of that line."""
        answers: dict[str, Answer] = {}
        left = list(given)
        while left:
            fitting = [split for split, items in self.by_split.items() if self._stands_at_the_head(items, left)]
            if len(fitting) != 1:
                raise AmpError(
                    f"The answers in '{self.path}' carry neither numbers nor images, and from line "
                    f"{len(given) - len(left) + 1:,} on their questions are not those of a label file, line by line",
                    hint=HINT,
                )
            for item, one in zip(self.by_split[fitting[0]], left, strict=False):
                answers[item.id] = Answer(id=item.id, answers=(one.text,))
            left = left[len(self.by_split[fitting[0]]) :]
        return answers

    def _stands_at_the_head(self, items: Sequence[BenchmarkItem], given: Sequence[GivenAnswer]) -> bool:
        pairs = zip(items, given, strict=False)
        return len(items) <= len(given) and all(
            one.question is not None and is_asked(item.questions[0], one.question) for item, one in pairs
        )


def _completed(one: GivenAnswer, asked: Asked) -> GivenAnswer:
    return replace(one, image=asked.image, question=asked.question, category=asked.split)


def _misaligned(
    given: Sequence[GivenAnswer], asked: Mapping[str, Asked]
) -> tuple[list[GivenAnswer], list[GivenAnswer]]:
    """Return the answers whose number no question has, and those whose prompt is another question's."""
    strangers = [one for one in given if one.number not in asked]
    known = [one for one in given if one.number in asked]
    mismatched = [one for one in known if one.question and not is_asked(asked[one.number or ""].question, one.question)]
    return strangers, mismatched


def questions_by_number(file: Path) -> dict[str, Asked]:
    """Read a questions file, or a label file, by question_id; the same id for two questions is refused."""
    asked: dict[str, Asked] = {}
    for number, record in enumerate(records_of(file), start=1):
        if not _is_question(record):
            raise AmpError(f"'{file}', record {number}: no question_id, image and text in it", hint=HINT)
        split = record.get("category")
        one = Asked(
            image=str(record["image"]), question=str(record["text"]), split=None if split is None else str(split)
        )
        if asked.setdefault(str(record["question_id"]), one) != one:
            raise AmpError(f"'{file}' has the question_id {record['question_id']} twice", hint=HINT)
    return asked


def _questions_file(data: Path) -> Path | None:
    """Return the one questions file below `data`, None where there is none."""
    found = []
    for file in sorted(data.rglob("*.jsonl")):
        first = next((record for _, record, _ in read_entries(file)), None) if file.stat().st_size else None
        if first is not None and _is_question(first) and "category" in first:
            found.append(file)
    if len(found) > 1:
        listed = ", ".join(f"'{file}'" for file in found)
        raise AmpError(
            f"The answers are known by question_id only; below '{data}' there are several questions files: {listed}",
            hint="Give one of them with --questions",
        )
    return found[0] if found else None


def _is_question(record: Mapping[str, Any]) -> bool:
    return all(name in record for name in ("question_id", "image", "text"))
