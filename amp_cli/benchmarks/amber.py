"""AMBER: what is invented in descriptions, and yes/no questions on existence, attributes and relations; no judge."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import margins
from amp_cli.benchmarks.amber_files import (
    ANSWER_COUNTS,
    ATTRIBUTES,
    DESCRIPTION_COUNTS,
    GENERATIVE,
    PARTS,
    AmberAnswer,
    AmberDescription,
    AmberScore,
    find_file,
    query_files,
    read_annotations,
    read_queries,
    read_score,
    read_words,
    refuse_unknown_words,
)
from amp_cli.benchmarks.amber_words import AmberWords
from amp_cli.benchmarks.answer_files import by_number_or_image, read_answers
from amp_cli.benchmarks.benchmark import OFFICIAL, ONE_WORD, Benchmark, LoadedBenchmark, Option
from amp_cli.benchmarks.comparing import (
    METHOD,
    Difference,
    chosen_differences,
    paired_differences,
    ratio,
    score_intervals,
    score_values,
)
from amp_cli.benchmarks.sampling import Sampling
from amp_cli.benchmarks.showing import (
    Given,
    Reply,
    Row,
    Table,
    block_rows,
    column,
    description_reply,
    kind_of,
    shown,
    yes_no_reply,
)
from amp_cli.benchmarks.yes_no import ask as ask_for_one_word
from amp_cli.benchmarks.yes_no_reading import read_strict
from amp_cli.errors import AmpError
from amp_cli.records import Answer, BenchmarkItem

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array
    from amp_cli.benchmarks.settings import EvalSettings


LEAVES = ("existence", *ATTRIBUTES, "relation")
GROUPS = {
    "discriminative": LEAVES,
    "existence": ("existence",),
    "attribute": ATTRIBUTES,
    **{name: (name,) for name in ATTRIBUTES},
    "relation": ("relation",),
}
DESCRIPTION_RATES = ("chair", "cover", "hal", "cog")
ANSWER_RATES = ("accuracy", "precision", "recall", "f1")
WIDTH = len(DESCRIPTION_COUNTS) + len(LEAVES) * len(ANSWER_COUNTS)

_START = 0.001
"""AMBER's metrics.txt starts every denominator with it, so nothing is ever divided by zero there."""
_F1_TERM = 0.0001
_F1_TERM_EXISTENCE = 0.001


def image_counts(scores: Sequence[AmberScore]) -> "Array":
    """Return (images, WIDTH): what each image adds to the description's counts, then to each leaf's."""
    import numpy as np

    rows = {images: row for row, images in enumerate(dict.fromkeys(one.images for one in scores))}
    counts = np.zeros((len(rows), WIDTH))
    for one in scores:
        start = 0 if isinstance(one, AmberDescription) else _first_column(one.kind)
        added = one.counts()
        counts[rows[one.images], start : start + len(added)] += added
    return counts


def rates(sums: "Array", rule: str) -> dict[str, "Array"]:
    """Name every score of (draws, WIDTH) sums: `generative/chair`, `relation/f1`, ...; undefined ones are NaN.

    Under the rule `official`, denominators start at 0.001, so that nothing is undefined, and F1 is of precision and
    recall rounded to a tenth of a percent, its own denominator being enlarged a little.
    """
    import numpy as np

    extra = _START if rule == "official" else 0.0
    descriptions, with_invented, nouns, invented, truth, covered, foreseen, came_true = sums.T[
        : len(DESCRIPTION_COUNTS)
    ]
    named = {
        "generative/chair": ratio(invented, nouns + extra),
        "generative/cover": ratio(covered, truth + extra),
        "generative/hal": _share_with_invented(descriptions, with_invented, extra),
        "generative/cog": ratio(came_true, foreseen + extra),
    }
    for group, leaves in GROUPS.items():
        columns = np.sum([sums[:, _first_column(leaf) :][:, : len(ANSWER_COUNTS)] for leaf in leaves], axis=0)
        n, correct, truth_no, said_no, right_no = columns.T
        # each leaf's denominators start at 0.001 there, but the sum over all has a counter of its own
        more = extra * (len(leaves) if group == "attribute" else 1)
        precision, recall = ratio(right_no, said_no + more), ratio(right_no, truth_no + more)
        named |= {
            f"{group}/accuracy": ratio(correct, n + more),
            f"{group}/precision": precision,
            f"{group}/recall": recall,
            f"{group}/f1": _f1(precision, recall, group, rule),
        }
    named["amber_score"] = (1 - named["generative/chair"] + named["discriminative/f1"]) / 2
    return named


def _share_with_invented(descriptions: "Array", with_invented: "Array", extra: float) -> "Array":
    """Return Hal; AMBER's script takes it as what is left when the clean descriptions are taken away."""
    share: Array = 1 - ratio(descriptions - with_invented, descriptions + extra)
    return share


def _f1(precision: "Array", recall: "Array", group: str, rule: str) -> "Array":
    if rule != "official":
        plain: Array = ratio(2 * precision * recall, precision + recall)
        return plain
    term = _F1_TERM_EXISTENCE if group == "existence" else _F1_TERM
    p, r = _to_tenths_of_percent(precision), _to_tenths_of_percent(recall)
    return 2 * p * r / (p + r + term)


def _to_tenths_of_percent(shares: "Array") -> "Array":
    """Round as Python does: numpy's rounding goes the other way on some numbers that end in 5."""
    import numpy as np

    return np.array([round(float(share) * 100, 1) / 100 for share in shares])


def _first_column(leaf: str) -> int:
    return len(DESCRIPTION_COUNTS) + LEAVES.index(leaf) * len(ANSWER_COUNTS)


NOUNS = "Nouns and singulars are found by spaCy's small English model; AMBER's script takes NLTK's tagger and WordNet."
GAP = "On one real file of answers Hal was about 1 to 2 points off its numbers, and Cover about 1 point too high."
DENIED = 'Objects that a description says are not there ("there is no dog") are left out; AMBER\'s script counts them.'


def load(data: Path, settings: "EvalSettings") -> LoadedBenchmark:
    """Read AMBER's queries and annotations, wherever they lie below `data`."""
    files = query_files(data)
    annotation_file = find_file(data, "annotations.json")
    annotations = read_annotations(annotation_file)
    words, word_files = read_words(data)
    wanted = PARTS[settings.part]
    items = []
    for item_id, (image, question) in read_queries(files).items():
        if item_id not in annotations:
            raise AmpError(
                f"'{annotation_file}' has no annotation for id {item_id}",
                hint="Queries and annotations.json must be of the same version of AMBER",
            )
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


def ask(item: BenchmarkItem, settings: "EvalSettings") -> tuple[str, ...]:
    """Return AMBER's own query; a yes/no question with the prompt suffix."""
    return item.questions if item.reference["kind"] == GENERATIVE else ask_for_one_word(item, settings)


def adopt(path: Path, items: Sequence[BenchmarkItem], data: Path, settings: "EvalSettings") -> dict[str, Answer]:
    """Read our own answers, AMBER's `{"id", "response"}`, or LLaVA's lines; those to other parts are left aside."""
    answers = read_answers(path, lambda given: by_number_or_image(given, items, path))
    asked = {item.id for item in items}
    if settings.part != "all":
        answers = {item_id: answer for item_id, answer in answers.items() if item_id in asked}
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
        reading={"Yes": True, "No": False}.get(text) if rule == "official" else read_strict(text, item.questions[0]),
        rule=rule,
        probabilities=margins.of_answer(answer),
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


def is_readable(one: AmberScore) -> bool:
    """Return whether an answer says yes or no, and a description names one of AMBER's objects."""
    if isinstance(one, AmberDescription):
        return bool(one.objects)
    return read_strict(one.answer, one.question) is not None


def summarise(scores: Sequence[AmberScore], rule: str) -> dict[str, Any]:
    """Return the rates of descriptions and of each kind of question, with intervals."""
    units = image_counts(scores)
    intervals = score_intervals(units, lambda sums: rates(sums, rule))
    measured = score_values(units, lambda sums: rates(sums, rule))
    descriptions = [one for one in scores if isinstance(one, AmberDescription)]
    answers = [one for one in scores if isinstance(one, AmberAnswer)]
    summary: dict[str, Any] = {"n": len(scores)}
    summary["generative"] = _descriptions_block(descriptions, measured, intervals, rule) if descriptions else None
    groups = {group: [one for one in answers if one.kind in leaves] for group, leaves in GROUPS.items()}
    more = margins.measured(answers, groups)
    blocks = {
        group: margins.with_measures(_answers_block(of_group, measured, intervals, group, rule), more.get(group))
        for group, of_group in groups.items()
        if of_group
    }
    summary["discriminative"] = blocks.pop("discriminative", None)
    summary["types"] = blocks
    both = bool(descriptions and answers)
    summary["amber_score"] = measured["amber_score"] if both else None
    summary["ci95"] = {"amber_score": intervals["amber_score"] if both else None}
    return summary | {"interval": METHOD} | margins.distribution_of(answers)


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


COLUMNS = (
    column("CHAIR", "generative/chair", lower_is_better=True),
    column("Cover", "generative/cover"),
    column("Hal", "generative/hal", lower_is_better=True),
    column("Cog", "generative/cog", lower_is_better=True),
    column("accuracy", "discriminative/accuracy"),
    column("F1", "discriminative/f1"),
    column("AMBER score", "amber_score"),
    *margins.columns_of("discriminative"),
)


def compare(pairs: Sequence[tuple[AmberScore, AmberScore]], rule: str) -> list[Difference]:
    """Compare the scores of the report's table over the items that both runs have."""
    paired = paired_differences(pairs, image_counts, lambda sums: rates(sums, rule))
    return chosen_differences(paired, [one.difference for one in COLUMNS if one.difference])


def measure(pairs: Sequence[tuple[AmberScore, AmberScore]]) -> list[Difference]:
    """Compare what the probabilities say of the questions."""
    answers = [(old, new) for old, new in pairs if isinstance(old, AmberAnswer) and isinstance(new, AmberAnswer)]
    return margins.measured_differences(answers, {"discriminative": (answers, margins.NAMES)})


def row(first: AmberScore, given: Given[AmberScore]) -> Row:
    """Return a question's answers or an image's descriptions side by side."""
    if isinstance(first, AmberAnswer):
        answers = [(name, one) for name, one in given if isinstance(one, AmberAnswer)]
        return Row(
            images=first.images,
            question=first.question,
            truth="yes" if first.label else "no",
            note=first.kind,
            replies=tuple(yes_no_reply(name, one.answer, one.correct) for name, one in answers),
            differs=len({one.reading for _, one in answers}) > 1,
            is_short=True,
        )
    descriptions = [(name, one) for name, one in given if isinstance(one, AmberDescription)]
    named = {(one.covered, frozenset(found.word for found in one.invented)) for _, one in descriptions}
    return Row(
        images=first.images,
        question=first.question,
        truth=", ".join(dict.fromkeys(first.truth)),
        note="",
        replies=tuple(_reply(name, one) for name, one in descriptions),
        differs=len(named) > 1,
        is_short=False,
    )


def _reply(run: str, one: AmberDescription) -> Reply:
    spans = [
        (found.start, found.end, kind_of(is_counted=found in one.counted, is_invented=found.invented))
        for found in one.objects
    ]
    invented = sorted({found.word for found in one.invented})
    missed = [word for place, word in enumerate(one.truth) if place not in one.covered]
    return description_reply(run, one.answer, spans, invented=invented, missed=missed)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return a table of the descriptions and one of the yes/no questions, each narrow enough for 80 columns."""
    below = "below each score its 95 % interval"
    shown_tables = []
    if described := scores["generative"]:
        cells = [shown(described[name], described["ci95"][name]) for name in DESCRIPTION_RATES]
        title = f"AMBER, descriptions; rule {described['rule']}; {below}"
        shown_tables.append((title, ["n", "CHAIR", "Cover", "Hal", "Cog"], [[str(described["n"]), *cells]]))
    if asked := scores["discriminative"]:
        unparsed = f"{asked['unparsed']:,} answers unparsed"
        title = f"AMBER, yes/no questions (no is the positive class), {unparsed}; rule {scores['rule']}; {below}"
        blocks = {"all": asked, **scores["types"]}
        shown_tables.append((title, *block_rows(blocks, ANSWER_RATES)))
        if "auc" in asked:
            known = {group: block for group, block in blocks.items() if "auc" in block}
            rows = [
                [group, *(shown(block[name], block["ci95"][name], name=name) for name in margins.ROWS)]
                for group, block in known.items()
            ]
            shown_tables.append((f"AMBER, probabilities of yes and no; {below}", ["", *margins.ROWS.values()], rows))
    return shown_tables


def about(scores: Mapping[str, Any]) -> str:
    """Say in what the scores of descriptions differ from AMBER's own, and which answers have no probabilities."""
    said = []
    if scores.get("generative"):
        differences = " ".join(scores["generative"]["differences"]).removesuffix(".")
        said.append(f"descriptions are not scored by AMBER's own script. {GAP} {differences}")
    if scores.get("discriminative") and (sentence := margins.about(scores)):
        said.append(sentence)
    return "; ".join(said)


BENCHMARK = Benchmark(
    name="amber",
    title="AMBER: what descriptions invent, and yes/no questions",
    help="""Ask AMBER's questions: descriptions (CHAIR, Cover, Hal, Cog) and yes/no (accuracy, F1); no judge.

    Example: amp eval amber --model 7b --part discriminative --out runs/base-amber
    """,
    options=(
        Option(name="data", help="Folder with AMBER's queries and annotations.json."),
        Option(name="part", help="Which of its questions.", default="all", choices=tuple(PARTS)),
        OFFICIAL,
        ONE_WORD,
    ),
    files=("query_*.json",),
    load=load,
    sampling=Sampling(strata=lambda item: (item.reference["kind"], str(item.reference["truth"] == "yes"))),
    ask=ask,
    is_yes_no=lambda item: item.reference["kind"] != GENERATIVE,
    adopt=adopt,
    score=score,
    summarise=summarise,
    read_score=read_score,
    compare=compare,
    measure=measure,
    row=row,
    tables=tables,
    columns=COLUMNS,
    is_readable=is_readable,
    unreadable="answers cannot be read as yes or no, or name none of AMBER's objects",
    items="questions and descriptions",
    about=about,
    explain=partial(margins.explanation, group="discriminative"),
)
