"""AMBER: what is invented in descriptions, and yes/no questions on existence, attributes and relations; no judge."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.amber_files import (
    GENERATIVE,
    PARTS,
    find_file,
    query_files,
    read_annotations,
    read_answers,
    read_queries,
    read_words,
    refuse_unknown_words,
)
from amp_cli.benchmarks.amber_scores import (
    ANSWER_RATES,
    DESCRIPTION_COUNTS,
    DESCRIPTION_RATES,
    GROUPS,
    AmberAnswer,
    AmberDescription,
    AmberScore,
    image_counts,
    rates,
)
from amp_cli.benchmarks.amber_words import AmberWords
from amp_cli.benchmarks.answers import check_complete
from amp_cli.benchmarks.intervals import METHOD, score_intervals
from amp_cli.benchmarks.settings import EvalSettings, LoadedBenchmark
from amp_cli.benchmarks.yes_no import read_strict
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

NOUNS = "Nouns and singulars are found by spaCy's small English model; AMBER's script takes NLTK's tagger and WordNet."
DENIED = 'Objects that a description says are not there ("there is no dog") are left out; AMBER\'s script counts them.'


def load(data: Path, settings: EvalSettings) -> LoadedBenchmark:
    """Read AMBER's queries and annotations, wherever they lie below `data`."""
    files = query_files(data)
    annotation_file = find_file(data, "annotations.json")
    annotations = read_annotations(annotation_file)
    words, word_files = read_words(data)
    wanted = PARTS[settings.part]
    items = []
    for item_id, (image, question) in read_queries(files).items():
        if item_id not in annotations:
            raise AmpError(f"'{annotation_file}' has no annotation for id {item_id}")
        reference = annotations[item_id]
        if reference["kind"] in wanted:
            shared = {"words": words} if reference["kind"] == GENERATIVE else {}
            items.append(
                BenchmarkItem(id=item_id, images=(image,), questions=(question,), reference=reference | shared)
            )
    described = [item for item in items if item.reference["kind"] == GENERATIVE]
    refuse_unknown_words(described, words, annotation_file)
    kinds = Counter(str(item.reference["kind"]) for item in items)
    missing = [kind for kind in wanted if not kinds[kind]]
    if not items:
        raise AmpError(f"No query of the part '{settings.part}' below '{data}'", hint="Give the folder of all queries")
    return LoadedBenchmark(
        items=tuple(items),
        files=(*files, annotation_file, *word_files),
        facts={"questions": dict(kinds), "images": len({item.images for item in items})},
        warnings=(f"No query of the kind(s) {', '.join(missing)} below '{data}'",) if missing else (),
    )


def ask(item: BenchmarkItem, settings: EvalSettings) -> tuple[str, ...]:
    """Return AMBER's own query; a yes/no question with the prompt suffix."""
    (question,) = item.questions
    if item.reference["kind"] == GENERATIVE or settings.prompt_suffix.strip() in question:
        return (question,)
    return (question + settings.prompt_suffix,)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: EvalSettings) -> dict[str, Answer]:
    """Read our own answers, or AMBER's `{"id", "response"}` list; those to other parts are left aside."""
    answers = read_answers(path)
    asked = {item.id for item in items}
    if settings.part != "all":
        answers = {item_id: answer for item_id, answer in answers.items() if item_id in asked}
    check_complete(items, answers, path)
    return answers


def score(item: BenchmarkItem, answer: Answer, rule: str) -> AmberScore:
    """Hold a description's nouns, or a yes or no, against the truth."""
    text = answer.answers[0]
    shared: dict[str, Any] = {"id": item.id, "images": item.images, "question": item.questions[0], "answer": text}
    if item.reference["kind"] == GENERATIVE:
        return _described(item.reference, rule, shared)
    return AmberAnswer(
        kind=item.reference["kind"],
        label=item.reference["truth"] == "yes",
        reading={"Yes": True, "No": False}.get(text) if rule == "official" else read_strict(text),
        rule=rule,
        **shared,
    )


def _described(reference: Mapping[str, Any], rule: str, shared: dict[str, Any]) -> AmberDescription:
    words: AmberWords = reference["words"]
    objects = words.find(shared["answer"])
    counted = [one for one in objects if rule == "official" or not one.denied]
    match = words.match([one.word for one in counted], reference["truth"], reference["foreseen"])
    invented = {one.start: is_invented for one, is_invented in zip(counted, match.invented, strict=True)}
    return AmberDescription(
        objects=tuple(replace(one, invented=invented.get(one.start, False)) for one in objects),
        truth=tuple(reference["truth"]),
        covered=tuple(place for place, is_covered in enumerate(match.covered) if is_covered),
        foreseen=tuple(reference["foreseen"]),
        came_true=tuple(place for place, came_true in enumerate(match.foreseen) if came_true),
        likeness=words.likeness.description,
        rule=rule,
        **shared,
    )


def summarise(scores: Sequence[AmberScore], rule: str) -> dict[str, Any]:
    """Return the rates of descriptions and of each kind of question, with intervals."""
    units = image_counts(scores)
    intervals = score_intervals(units, lambda sums: rates(sums, rule))
    measured = {
        name: None if value[0] != value[0] else float(value[0])
        for name, value in rates(units.sum(axis=0, keepdims=True), rule).items()
    }
    descriptions = [one for one in scores if isinstance(one, AmberDescription)]
    answers = [one for one in scores if isinstance(one, AmberAnswer)]
    summary: dict[str, Any] = {"benchmark": "amber", "rule": rule, "n": len(scores)}
    summary["generative"] = _descriptions_block(descriptions, measured, intervals, rule) if descriptions else None
    blocks = {
        group: _answers_block(of_group, measured, intervals, group, rule)
        for group, leaves in GROUPS.items()
        if (of_group := [one for one in answers if one.kind in leaves])
    }
    summary["discriminative"] = blocks.pop("discriminative", None)
    summary["types"] = blocks
    both = bool(descriptions and answers)
    summary["amber_score"] = measured["amber_score"] if both else None
    summary["ci95"] = {"amber_score": intervals["amber_score"] if both else None}
    return summary | {"interval": METHOD}


def _descriptions_block(
    scores: Sequence[AmberDescription],
    measured: Mapping[str, float | None],
    intervals: Mapping[str, list[float] | None],
    rule: str,
) -> dict[str, Any]:
    """Return CHAIR, Cover, Hal and Cog. Never called official: nouns and synonyms are found otherwise here."""
    totals = [sum(column) for column in zip(*(one.counts() for one in scores), strict=True)]
    differences = [NOUNS, f"Synonyms beyond AMBER's table: {scores[0].likeness}; {_official_likeness(scores[0])}"]
    return {
        "n": len(scores),
        **{name: measured[f"{GENERATIVE}/{name}"] for name in DESCRIPTION_RATES},
        "counts": dict(zip(DESCRIPTION_COUNTS[1:], totals[1:], strict=True)),
        "denied": sum(one.denied for score in scores for one in score.objects),
        "rule": "approximate" if rule == "official" else rule,
        "differences": differences if rule == "official" else [*differences, DENIED],
        "ci95": {name: intervals[f"{GENERATIVE}/{name}"] for name in DESCRIPTION_RATES},
    }


def _official_likeness(score: AmberDescription) -> str:
    if "en_core_web_lg" in score.likeness:
        return "as in AMBER's script."
    return "AMBER's script takes the word vectors of spaCy's en_core_web_lg, cosine above 0.8."


def _answers_block(
    scores: Sequence[AmberAnswer],
    measured: Mapping[str, float | None],
    intervals: Mapping[str, list[float] | None],
    group: str,
    rule: str,
) -> dict[str, Any]:
    """Return one group's rates, "no" being the positive class, and under `official` what AMBER's script prints too."""
    read = Counter((one.label, one.reading) for one in scores)
    block: dict[str, Any] = {
        "n": len(scores),
        **{name: measured[f"{group}/{name}"] for name in ANSWER_RATES},
        "tp": read[False, False],
        "fp": read[True, False],
        "tn": read[True, True],
        "fn": read[False, True],
        "unparsed": read[True, None] + read[False, None],
        "ci95": {name: intervals[f"{group}/{name}"] for name in ANSWER_RATES},
    }
    if rule == "official":
        block["printed"] = {name: round((block[name] or 0.0) * 100, 1) for name in ANSWER_RATES}
    return block
