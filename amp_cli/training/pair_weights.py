"""What a pair weighs in the loss: by auto-check's gap, and so that the better sides are not shorter or longer.

    by the gap        1 - w + w * gap / mean gap         gap = how much better auto-check finds the better side
    by the length     1 - w + w * less / more            of the pairs that lean as the data lean; the others keep 1

Both are measured once on the items that are trained on, over the pairs that are trained on. Lengths are tokens:

    better - worse, tokens    -6  -4  -2  +3     more = 12 (shorter), less = 3 (longer)
    weights with w = 1       1/4 1/4 1/4   1     -1.5 -1 -.5 +3 = 0: no length is preferred any more
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from amp_cli.errors import AmpError
from amp_cli.records import Level, PreferenceItem, pairs_of

AT_ONCE = 1024
"""Items whose answers are counted together: a tokenizer is quicker with many texts."""


def gaps_of(item: PreferenceItem, pairs: str) -> list[float] | None:
    """Return how much better auto-check finds the better side of each pair, 0 or more; None where it has not looked.

    A level's quality is the mean of the `accuracy` and `score` that it has. The best response is what auto-check
    compares with, so that without numbers of its own it has 1. A worse side with a higher quality makes a gap of 0.
    """
    qualities = [_quality(level) for level in item.levels]
    if qualities[0] is None:
        qualities[0] = 1.0
    known = [one for one in qualities if one is not None]
    if len(known) < len(qualities):
        return None
    return [max(0.0, known[better] - known[worse]) for better, worse in pairs_of(len(known), pairs)]


def _quality(level: Level) -> float | None:
    found = [one for one in (level.accuracy, level.score) if one is not None]
    return sum(found) / len(found) if found else None


@dataclass(frozen=True, kw_only=True)
class PairWeights:
    """How pairs are weighed.

    Attributes:
        pairs: which are compared. tokenizer: that counts the tokens of answers.
        gap: share of a weight that follows the gap. mean_gap: over the pairs that have one.
        balance: share of the lean in length that is taken out.
        shorter, longer: weights of pairs whose better side is shorter, and longer.
        without_scores: items that auto-check gave no numbers, so that their gaps count as the mean.
    """

    pairs: str
    tokenizer: Any
    gap: float = 0.0
    mean_gap: float = 1.0
    balance: float = 0.0
    shorter: float = 1.0
    longer: float = 1.0
    without_scores: int = 0

    @classmethod
    def measured(
        cls, items: Sequence[PreferenceItem], *, pairs: str, gap: float, balance: float, tokenizer: Any
    ) -> Self | None:
        """Measure what the weights depend on; None where all pairs weigh the same.

        Raises:
            AmpError: weights are to follow the gap, and no item has numbers of auto-check or none has a gap; or they
                are to balance lengths, and all pairs lean one way.
        """
        if not gap and not balance:
            return None
        mean_gap, without = _mean_gap(items, pairs) if gap else (1.0, 0)
        shorter, longer = _balanced(_leans(items, pairs, tokenizer), balance) if balance else (1.0, 1.0)
        return cls(
            pairs=pairs,
            tokenizer=tokenizer,
            gap=gap,
            mean_gap=mean_gap,
            balance=balance,
            shorter=shorter,
            longer=longer,
            without_scores=without,
        )

    def of(self, item: PreferenceItem) -> tuple[float, ...]:
        """Return what each of an item's pairs weighs, in the order of `pairs_of`."""
        weights = [1.0] * len(pairs_of(len(item.levels), self.pairs))
        gaps = gaps_of(item, self.pairs) if self.gap else None
        if gaps is not None:
            weights = [1 - self.gap + self.gap * gap / self.mean_gap for gap in gaps]
        if self.balance:
            leans = next(iter(_leans([item], self.pairs, self.tokenizer)))
            by_length = [self.shorter if lean < 0 else self.longer if lean > 0 else 1.0 for lean in leans]
            weights = [one * other for one, other in zip(weights, by_length, strict=True)]
        return tuple(weights)

    def told(self) -> list[str]:
        """Return what was measured, in a line each."""
        lines = []
        if self.gap:
            without = f"; {self.without_scores:,} items without scores weigh as the mean" if self.without_scores else ""
            lines.append(f"Pairs weigh by auto-check's gap, {self.mean_gap:.3f} on average{without}")
        if self.balance:
            lines.append(
                f"Pairs whose better side is shorter weigh {self.shorter:.3f}, whose better side is longer "
                f"{self.longer:.3f}"
            )
        return lines


def _mean_gap(items: Sequence[PreferenceItem], pairs: str) -> tuple[float, int]:
    """Return the mean gap of all pairs, and how many items have none."""
    found = [gaps_of(item, pairs) for item in items]
    gaps = [gap for one in found if one is not None for gap in one]
    hint = "Rank the answers with `amp generate-prefs` (auto-check gives the numbers), or leave out gap_weight"
    if not gaps:
        raise AmpError("gap_weight needs levels with a 'score' or an 'accuracy', and no item has them", hint=hint)
    if not any(gaps):
        raise AmpError("gap_weight needs levels of different quality, and auto-check finds all alike", hint=hint)
    return sum(gaps) / len(gaps), sum(one is None for one in found)


def _leans(items: Sequence[PreferenceItem], pairs: str, tokenizer: Any) -> Iterable[list[int]]:
    """Return for each item the tokens of the better side minus those of the worse, of all rounds, pair by pair."""
    for start in range(0, len(items), AT_ONCE):
        some = items[start : start + AT_ONCE]
        answers = [answer for item in some for level in item.levels for answer in level.answers]
        counts = iter([len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"]])
        for item in some:
            tokens = [sum(next(counts) for _ in level.answers) for level in item.levels]
            yield [tokens[better] - tokens[worse] for better, worse in pairs_of(len(tokens), pairs)]


def _balanced(leans: Iterable[Sequence[int]], balance: float) -> tuple[float, float]:
    """Return what pairs with a shorter and with a longer better side weigh.

    Raises:
        AmpError: all pairs lean one way.
    """
    less = more = 0
    for lean in leans:
        less -= sum(one for one in lean if one < 0)
        more += sum(one for one in lean if one > 0)
    if less == more:
        return 1.0, 1.0
    if not less or not more:
        raise AmpError(
            f"length_balance has nothing to balance: in no pair is the better side {'shorter' if more else 'longer'}",
            hint=f"Give --set length_alpha={'0.01' if more else '-0.01'}, which makes up for some length in every pair",
        )
    return (1 - balance + balance * more / less, 1.0) if less > more else (1.0, 1 - balance + balance * less / more)
