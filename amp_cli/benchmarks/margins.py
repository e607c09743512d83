"""What probabilities of yes and no say beyond the texts: sight (AUC), calibration, and what the threshold costs.

Six questions by rising yes margin, ln p(yes) - ln p(no), and their truth. The model says yes above 0, so too often:

    margin     -1.0 | 0.5    1.0    1.0    2.0    3.0
    truth       no  | no     no     yes    yes    yes       4 of 6 answers are right
    AUC        of 3 * 3 pairs of a true yes and a true no, 8 are in order and one is tied: 8.5 / 9
    balance    3 are truly yes, so the 3 highest are called so: 3.0, 2.0 and half of the two at 1.0;
               5 of 6 are right there, at the threshold 1.0: the model's own costs 1/6
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from amp_cli.benchmarks.comparing import Difference, difference_of, interval, multiplicities, ratio
from amp_cli.benchmarks.showing import Column, column
from amp_cli.records import Answer, YesOrNo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from amp_cli.benchmarks.comparing import Array


class YesNoResult(Protocol):
    """One answered yes/no question."""

    @property
    def images(self) -> tuple[str, ...]: ...

    @property
    def label(self) -> bool: ...

    @property
    def correct(self) -> bool | None: ...

    @property
    def probabilities(self) -> YesOrNo | None: ...


BINS = 10
"""Of the calibration, equally wide."""
LEAST = math.ulp(0.0)
"""Stands for a probability of 0 in a logarithm."""
MARGINS = tuple(range(-12, 13))
"""Borders of the histogram, nats; the outer bins hold what lies beyond."""


def of_answer(answer: Answer) -> YesOrNo | None:
    """Return the probabilities of an answer to one question."""
    return answer.probabilities[0] if answer.probabilities else None


def as_record(begins: YesOrNo | None) -> dict[str, Any]:
    """Return what a line of `items.jsonl` says of it: nothing where nothing is known."""
    return {} if begins is None else {"probabilities": begins.to_json()}


def of_record(record: Mapping[str, Any]) -> YesOrNo | None:
    """Return what a line of `items.jsonl` says, of any version."""
    return YesOrNo.from_json(record["probabilities"]) if "probabilities" in record else None


def margin_of(begins: YesOrNo | None) -> float | None:
    """Return ln p(yes) - ln p(no), nats; None where neither has any probability, or nothing is known."""
    if begins is None or not begins.yes + begins.no:
        return None
    return math.log(max(begins.yes, LEAST)) - math.log(max(begins.no, LEAST))


def share_of_yes(begins: YesOrNo) -> float:
    """Return p(yes) / (p(yes) + p(no))."""
    return begins.yes / (begins.yes + begins.no)


NAMES = ("auc", "ece", "margin", "threshold_at_balance", "accuracy_at_balance", "threshold_cost")


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """One run's questions that have probabilities, the highest margin first; a run may have none.

    Attributes:
        yes, no: (questions of that truth,) the number of each one's image.
        margins: the distinct ones. yes_until, no_until: (0 and each margin,) how many questions of that truth have none
            above it, this margin, or a higher one. yes_margin: (yes,) the place of each one's margin.
        images: the numbers of all images in question. sums: (images, sums) what each one adds to n, the margins, the
            texts that are right, those that are known, and the ten bins' distances of probability from truth.
    """

    yes: "NDArray[Any]"
    no: "NDArray[Any]"
    margins: "Array"
    yes_until: "NDArray[Any]"
    no_until: "NDArray[Any]"
    yes_margin: "NDArray[Any]"
    images: "NDArray[Any]"
    sums: "Array"


def in_order(scores: Sequence[YesNoResult], units: Sequence[int]) -> Questions:
    """Return the questions by falling margin, without those that have none.

    Args:
        units: the number of each one's image.
    """
    import numpy as np

    known = [
        (margin, share_of_yes(one.probabilities), unit, one.label, bool(one.correct), one.correct is not None)
        for one, unit in zip(scores, units, strict=True)
        if one.probabilities is not None and (margin := margin_of(one.probabilities)) is not None
    ]
    rows = np.array(known, dtype=float).reshape(-1, 6)
    margin, share, unit, label, right, is_read = rows[np.argsort(-rows[:, 0], kind="stable")].T
    unit, is_yes = unit.astype(int), label == 1
    falling, place = np.unique(-margin, return_inverse=True)
    images, row = np.unique(unit, return_inverse=True)
    sums = np.zeros((len(images), 4 + BINS))
    for place_of_sum, added in enumerate((np.ones(len(row)), margin, right, is_read)):
        np.add.at(sums[:, place_of_sum], row, added)
    np.add.at(sums, (row, 4 + np.minimum((share * BINS).astype(int), BINS - 1)), share - label)
    until = [np.searchsorted(place[of_truth], np.arange(len(falling) + 1)) for of_truth in (is_yes, ~is_yes)]
    return Questions(
        yes=unit[is_yes],
        no=unit[~is_yes],
        margins=-falling,
        yes_until=until[0],
        no_until=until[1],
        yes_margin=place[is_yes],
        images=images,
        sums=sums,
    )


def measures(questions: Questions, times: "NDArray[Any]", names: Sequence[str] = NAMES) -> dict[str, "Array"]:
    """Return each measure of (draws, images) weights, as often as each image was drawn; NaN where it is undefined.

    auc: the probability that a question whose truth is yes has a higher margin than one whose truth is no, ties one
        half (Mann and Whitney 1947); no threshold enters it.
    ece: expected calibration error of p(yes) / (p(yes) + p(no)): over ten equal bins, the distance of the mean
        probability from the share of true yes, weighted by size (Naeini, Cooper and Hauskrecht 2015).
    margin: the mean margin, nats.
    threshold_at_balance: the margin above which as many answers are yes as the truth has (the break-even point of
        precision and recall), nats; accuracy_at_balance: the accuracy there. Of equal margins at that border, each has
        the same part in both sides.
    threshold_cost: accuracy_at_balance less the accuracy of the texts of these questions; a rise of accuracy is a rise
        of accuracy_at_balance and a fall of threshold_cost.
    """
    import numpy as np

    hits, misses = (_from_the_top(times, truth) for truth in (questions.yes, questions.no))  # (draws, 1 + questions)
    found = {"auc": _auc(questions, hits, misses)}
    if tuple(names) == ("auc",):
        return found
    sums = times[:, questions.images] @ questions.sums  # (draws, sums)
    total, margin, right, read = sums[:, :4].T
    threshold, accuracy = _at_balance(questions, hits, misses)
    return found | {
        "ece": ratio(np.abs(sums[:, 4:]).sum(axis=1), total),
        "margin": ratio(margin, total),
        "threshold_at_balance": threshold,
        "accuracy_at_balance": accuracy,
        "threshold_cost": accuracy - ratio(right, read),
    }


def _from_the_top(times: "NDArray[Any]", units: "NDArray[Any]") -> "NDArray[Any]":
    """Return (draws, 1 + questions): how many of the first 0, 1, 2, ... questions were drawn."""
    import numpy as np

    counts = np.zeros((len(times), 1 + len(units)), dtype=np.int32)
    np.cumsum(times.astype(np.int32)[:, units], axis=1, out=counts[:, 1:])
    return counts


def _auc(questions: Questions, hits: "NDArray[Any]", misses: "NDArray[Any]") -> "Array":
    """Return (draws,) the share of pairs of a true yes and a true no that are in order."""
    import numpy as np

    above, until = questions.no_until[questions.yes_margin], questions.no_until[questions.yes_margin + 1]
    yes, no = hits[:, -1].astype(float), misses[:, -1].astype(float)
    wrong = np.diff(hits, axis=1) * (misses[:, above] + misses[:, until])  # (draws, yes), a tie counts 1 of 2
    return np.asarray(ratio(yes * no - wrong.sum(axis=1) / 2, yes * no))


def _at_balance(questions: Questions, hits: "NDArray[Any]", misses: "NDArray[Any]") -> tuple["Array", "Array"]:
    """Return threshold and accuracy where as many are said yes as are, each (draws,)."""
    import numpy as np

    said = hits[:, questions.yes_until] + misses[:, questions.no_until]  # (draws, 0 and each margin)
    wanted, total = hits[:, -1], said[:, -1]
    draw = np.arange(len(said))
    reached = (said[:, 1:] < wanted[:, None]).sum(axis=1)  # the margin with which the wanted number is reached
    exceeded = np.minimum((said[:, 1:] <= wanted[:, None]).sum(axis=1), len(questions.margins) - 1)
    size = said[draw, reached + 1] - said[draw, reached]
    before, after = (hits[draw, questions.yes_until[place]] for place in (reached, reached + 1))
    right = before + (wanted - said[draw, reached]) * ratio(after - before, size)
    has_both = (wanted > 0) & (wanted < total)
    threshold = (questions.margins[reached] + questions.margins[exceeded]) / 2
    accuracy = ratio(total - 2 * (wanted - right), total)
    return np.where(has_both, threshold, np.nan), np.where(has_both, accuracy, np.nan)


def _image_numbers(scores: Sequence[YesNoResult]) -> dict[tuple[str, ...], int]:
    """Return each image's number, in the order in which the other intervals draw them."""
    return {images: number for number, images in enumerate(dict.fromkeys(one.images for one in scores))}


def measured(scores: Sequence[YesNoResult], groups: Mapping[str, Sequence[YesNoResult]]) -> dict[str, dict[str, Any]]:
    """Return what is measured of each group that has probabilities, with its `ci95` and how many `probabilities`.

    Args:
        scores: all there are, whose images are drawn. groups: parts of them by name.
    """
    import numpy as np

    images = _image_numbers(scores)
    blocks = {}
    for name, members in groups.items():
        questions = in_order(members, [images[one.images] for one in members])
        if not len(questions.margins):
            continue
        whole = measures(questions, np.ones((1, len(images))))
        drawn = [measures(questions, times) for times in multiplicities(len(images))]
        block: dict[str, Any] = {one: None if np.isnan(whole[one][0]) else float(whole[one][0]) for one in NAMES}
        block["probabilities"] = len(questions.yes) + len(questions.no)
        block["ci95"] = {one: interval(np.concatenate([part[one] for part in drawn])) for one in NAMES}
        blocks[name] = block
    return blocks


def with_measures(block: dict[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a group's scores with what was measured of its probabilities, where it has any."""
    return block if more is None else {**block, **more, "ci95": {**block["ci95"], **more["ci95"]}}


def measured_differences(
    pairs: Sequence[tuple[YesNoResult, YesNoResult]],
    groups: Mapping[str, tuple[Sequence[tuple[YesNoResult, YesNoResult]], Sequence[str]]],
) -> list[Difference]:
    """Return the differences `GROUP/MEASURE`, over the pairs with probabilities on both sides; images are drawn.

    Args:
        groups: parts of the pairs, and what is measured of each.
    """
    import numpy as np

    images = _image_numbers([old for old, _ in pairs])
    differences = []
    for group, (members, names) in groups.items():
        both = [pair for pair in members if all(margin_of(one.probabilities) is not None for one in pair)]
        if not both:
            continue
        units = [images[old.images] for old, _ in both]
        sides = [in_order([pair[side] for pair in both], units) for side in (0, 1)]
        base, other = (measures(side, np.ones((1, len(images))), names) for side in sides)
        drawn = [[measures(side, times, names) for side in sides] for times in multiplicities(len(images))]
        for name in names:
            draws = np.concatenate([new[name] - old[name] for old, new in drawn])
            differences.append(difference_of(f"{group}/{name}", base[name], other[name], draws, n=len(both)))
    return [one for one in differences if one.base is not None or one.other is not None]


def columns_of(group: str) -> tuple[Column, ...]:
    """Return the columns of a report for one group's measures."""
    return (
        column("AUC", f"{group}/auc"),
        column("accuracy at balance", f"{group}/accuracy_at_balance"),
        replace(
            column("threshold at balance", f"{group}/threshold_at_balance", lower_is_better=None), is_charted=False
        ),
        column("ECE", f"{group}/ece", lower_is_better=True),
    )


ROWS = {
    "auc": "AUC",
    "accuracy_at_balance": "accuracy at balance",
    "threshold_at_balance": "threshold at balance",
    "margin": "mean yes margin",
    "ece": "ECE",
}
"""What stands in the table of one evaluation, and as what."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Questions whose p(yes) / (p(yes) + p(no)) is alike: how many, its mean, and the share that is truly yes."""

    n: int
    yes: float | None
    true: float | None


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a chart is drawn from: `probabilities` in `scores.json`.

    Attributes:
        n, of: how many questions have probabilities, of how many.
        calibration: ten bins.
        yes, no: how many questions that are truly so lie between two of the `borders` of margins, nats.
    """

    n: int
    of: int
    calibration: tuple[Bin, ...]
    borders: tuple[int, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        margins = {name: list(record.pop(name)) for name in ("borders", "yes", "no")}
        return record | {"calibration": list(record["calibration"]), "margins": margins}

    @classmethod
    def of_scores(cls, scores: Mapping[str, Any]) -> "Distribution | None":
        """Return what `scores.json` holds; None where it holds none.

        Raises:
            LookupError, TypeError, ValueError: it is damaged.
        """
        record = scores.get("probabilities")
        if record is None:
            return None
        margins = {name: tuple(map(int, record["margins"][name])) for name in ("borders", "yes", "no")}
        bins = tuple(Bin(**one) for one in record["calibration"])
        if not bins or {len(margins["yes"]), len(margins["no"])} != {len(margins["borders"]) - 1}:
            raise ValueError("probabilities")
        for one in bins:
            Bin(n=int(one.n), yes=float(one.yes or 0), true=float(one.true or 0))
        return cls(n=int(record["n"]), of=int(record["of"]), calibration=bins, **margins)


def distribution_of(scores: Sequence[YesNoResult]) -> dict[str, Any]:
    """Return the distribution of answered questions as `probabilities`; nothing where no answer has any."""
    known = [(margin, one) for one in scores if (margin := margin_of(one.probabilities)) is not None]
    if not known:
        return {}
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    counts = {True: [0] * (len(MARGINS) - 1), False: [0] * (len(MARGINS) - 1)}
    for margin, one in known:
        assert one.probabilities is not None  # it has a margin
        share = share_of_yes(one.probabilities)
        bins[min(int(share * BINS), BINS - 1)].append((share, one.label))
        counts[one.label][min(max(math.floor(margin) - MARGINS[0], 0), len(MARGINS) - 2)] += 1
    distribution = Distribution(
        n=len(known),
        of=len(scores),
        calibration=tuple(
            Bin(n=len(held), yes=_mean([share for share, _ in held]), true=_mean([label for _, label in held]))
            for held in bins
        ),
        borders=MARGINS,
        yes=tuple(counts[True]),
        no=tuple(counts[False]),
    )
    return {"probabilities": distribution.to_json()}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def about(scores: Mapping[str, Any]) -> str:
    """Say of how many questions the probabilities are known, where that is not all of them."""
    distribution = Distribution.of_scores(scores)
    what = "AUC, calibration and accuracy at balance"
    if distribution is None:
        return (
            f"answers without probabilities of yes and no, so {what} are not known; a model that is loaded here tells "
            "them, an endpoint and files of texts do not"
        )
    if distribution.n < distribution.of:
        counted = f"{distribution.n:,} of {distribution.of:,} questions"
        return f"{what} are of {counted}: the other answers have no probabilities"
    return ""


def explanation(differences: Sequence[Difference], group: str) -> str:
    """Say whether a change of accuracy comes from sight or from the threshold; "" without probabilities.

    Sight is the AUC, which no threshold enters. A change counts as the one's alone only if the other's part is shown to
    be small: the interval of what it adds to the accuracy lies within half of the whole change.
    """
    named = {one.name: one for one in differences}
    auc, accuracy = named.get(f"{group}/auc"), named.get(f"{group}/accuracy")
    balance, cost = named.get(f"{group}/accuracy_at_balance"), named.get(f"{group}/threshold_cost")
    if auc is None or accuracy is None or balance is None or cost is None or auc.difference is None:
        return ""
    numbers = ", ".join(
        f"{what} {_told(one)}" for what, one in (("accuracy", accuracy), ("AUC", auc), ("accuracy at balance", balance))
    )
    return f"{_verdict(accuracy, auc, balance, cost)}: {numbers}"


def _verdict(accuracy: Difference, auc: Difference, balance: Difference, cost: Difference) -> str:
    sign = accuracy.direction
    sight, threshold = auc.direction * sign, -cost.direction * sign  # 1 with the change, -1 against it, 0 not clear
    change = "The gain" if sign > 0 else "The loss"
    if not sign:
        better = {1: "got better", -1: "got worse"}.get(auc.direction)
        return f"Accuracy shows no clear change, but sight {better}" if better else "No clear change, of sight neither"
    worse = "got worse" if sign > 0 else "got better"
    if sight > 0:
        if threshold > 0:
            return f"{change} comes from sight and from the threshold"
        if threshold < 0:
            return f"{change} comes from sight; the threshold {worse}"
        alone = _is_small(cost, accuracy)
        return f"{change} comes from sight" if alone else f"{change} comes from sight, at least in part"
    if threshold > 0:
        if sight < 0:
            return f"{change} comes from the threshold; sight {worse}"
        if _is_small(balance, accuracy):
            return f"{change} comes from the threshold"
        return f"{change} comes from the threshold, at least in part; whether from sight too is not clear"
    return f"Whether {change.lower()} comes from sight or from the threshold is not clear"


def _is_small(part: Difference, whole: Difference) -> bool:
    """Tell whether a part's interval lies within half of the whole change."""
    assert whole.difference is not None  # it is clear
    return part.ci95 is not None and max(map(abs, part.ci95)) < abs(whole.difference) / 2


def _told(one: Difference) -> str:
    if one.base is None or one.other is None or one.ci95 is None:
        return "not known"
    low, high = one.ci95
    return f"{one.base:.3f} -> {one.other:.3f} [{low:+.3f}, {high:+.3f}]"
