"""Object HalBench with a judge, as its own script has it: the judge lists the objects that an answer shows.

["dog", "red chairs"]    -> what of it is one of COCO's objects counts once: dog, chair
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amp_cli.asking.templates import JudgeTemplate, Messages, choose_judge_template, filled
from amp_cli.benchmarks import judged, object_halbench
from amp_cli.benchmarks.benchmark import Benchmark, Judged, rule_option
from amp_cli.benchmarks.comparing import METHOD, Difference, chosen_differences, paired_differences
from amp_cli.benchmarks.files import own_verdicts
from amp_cli.benchmarks.judged import JudgedScore
from amp_cli.benchmarks.mentions import count_words, find_mentions, name_of
from amp_cli.benchmarks.ratings import Reading
from amp_cli.benchmarks.replies import aloud
from amp_cli.records import Answer, BenchmarkItem, Verdict

if TYPE_CHECKING:
    from amp_cli.benchmarks.comparing import Array


def prompt(item: BenchmarkItem, answer: Answer, template: JudgeTemplate) -> Messages:
    """Return what the judge is told."""
    return filled(template, question=item.questions[0], answer=answer.answers[0])


def listed(text: str) -> list[str] | None:
    """Return the last list of texts in a reply; None where there is none, or a list of something else."""
    said = aloud(text) or ""
    decoder = json.JSONDecoder()
    found: list[str] | None = None
    place = said.find("[")
    while place >= 0:
        try:
            value, end = decoder.raw_decode(said, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            is_list = isinstance(value, list) and all(isinstance(one, str) for one in value)
            found = value if is_list else found
        place = said.find("[", end)
    return found


def read_objects(text: str, item: BenchmarkItem) -> Reading:
    """Return how many of COCO's objects a reply lists, how many of them are not there, and how many that are there.

    An object counts once for each word that names it: "man" and "person" are two, as in the official script.
    """
    objects = listed(text)
    if objects is None:
        return Reading(ratings=None, reason="no list of objects")
    vocabulary, present = item.reference["vocabulary"], set(item.reference["present"])
    named = {
        name_of(one[mention.start : mention.end]): mention.name
        for one in objects
        for mention in find_mentions(one, vocabulary)
    }
    invented = sum(name not in present for name in named.values())
    return Reading(ratings=tuple(map(float, (len(named), invented, len(present & set(named.values())), len(present)))))


def read(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict], rule: str) -> dict[str, Reading]:
    """Read one repeat's verdicts."""
    return {item.id: read_objects(verdicts[item.id].text, item) for item in items if item.id in verdicts}


def counts(scores: Sequence[JudgedScore]) -> "Array":
    """Return (answers, counts) as `object_halbench.counts`, the mean over the repeats."""
    import numpy as np

    def row(one: JudgedScore) -> list[float]:
        of_repeats = [
            (1, invented > 0, mentions, invented, present, recalled, _words(one), mentions > 0)
            for mentions, invented, recalled, present in one.readable
        ]
        return [float(value) for value in np.mean(of_repeats, axis=0)] if of_repeats else [0.0] * 8

    return np.array([row(one) for one in scores], dtype=np.float64).reshape(len(scores), 8)


def _words(one: JudgedScore) -> int:
    return sum(map(count_words, one.answers))


def summarise(scores: Sequence[JudgedScore], rule: str) -> dict[str, Any]:
    """Return the shares of invention, recall and length, with intervals."""
    measured = judged.measure(scores, counts, object_halbench.rates)
    return {
        **measured.block("", object_halbench.SCORES),
        "n": len(scores),
        "naming": int(sum(bool(one.ratings and one.ratings[0]) for one in scores)),
        "unscored": judged.unscored(scores),
        "spread": measured.spread,
        "interval": METHOD,
    }


def compare(pairs: Sequence[tuple[JudgedScore, JudgedScore]], rule: str) -> list[Difference]:
    """Compare every score over the answers that both runs have judged."""
    paired = paired_differences(pairs, counts, object_halbench.rates)
    return chosen_differences(paired, object_halbench.SCORES)


def said_of(ratings: Sequence[float]) -> judged.Rated:
    """Say how many objects the judge listed and how many are not there."""
    listed, invented = ratings
    return judged.Rated(
        words=f"{listed:g} of COCO's objects listed, {invented:g} not in the image",
        fault=invented / listed if listed else 0.0,
        made_up=invented > 0,
    )


BENCHMARK = Benchmark(
    name="object-halbench-judged",
    title="Object HalBench: a judge lists the objects of 300 descriptions",
    help="""Ask Object HalBench's 300 questions and have a judge list the objects that each answer shows.

    Listed objects are matched with COCO's by name; the official script uses spaCy for that, so the last digits differ.

    Example: amp eval object-halbench-judged --model 7b --judge gpt-4o-2024-08-06 --out runs/base-objhal-judged
    """,
    options=(
        *object_halbench.DATA,
        rule_option("strict", help="The only one: what lists nothing readable is left out and counted."),
    ),
    decoding=object_halbench.BEAMS,
    files=(object_halbench.FILE,),
    files_of="object-halbench",
    settle=object_halbench.with_images,
    load=object_halbench.load,
    sampling=object_halbench.SAMPLING,
    adopt=object_halbench.adopt,
    judge=Judged(
        temperature=0.0,
        substitute="asks again",
        wording=lambda data, file: choose_judge_template("object-halbench", file=file),
        prompt=prompt,
        verdict_line=lambda item, template: None,
        adopt_verdicts=own_verdicts,
        read=read,
        group_of=lambda item, rule: "",
    ),
    summarise=summarise,
    read_score=JudgedScore.from_json,
    is_scored=lambda one: bool(one.readable),
    is_readable=lambda one: bool(one.readable),
    compare=compare,
    row=lambda first, given: judged.row(first, given, said_of),
    tables=object_halbench.tables,
    columns=object_halbench.COLUMNS,
    items="descriptions",
    about=judged.judge_sentence,
    reading=object_halbench.READING,
)
