"""Chooses a text encoder's tau: the cosine threshold with the best balanced accuracy on labelled pairs.

    python tests/bench/calibrate_tau.py [minilm | clip:<hub id or folder>]

The pairs (tests/data/chunk_pairs.jsonl, our own) say of two chunks or two sentences whether they tell of the same
thing. Pairs that differ in number or colour alone are left to the attribute test and are not among them.
"""

import json
import sys
from pathlib import Path

import numpy as np

from amp_cli.preferences.encoders import make_encoder

PAIRS = Path(__file__).resolve().parents[1] / "data" / "chunk_pairs.jsonl"


def balanced_accuracy(cosines: np.ndarray, same: np.ndarray, tau: float) -> float:
    """Mean of the shares of "same" pairs above tau and of "different" pairs at or below it."""
    return float(((cosines[same] > tau).mean() + (cosines[~same] <= tau).mean()) / 2)


def main(encoder_name: str) -> None:
    encoder = make_encoder(encoder_name)
    pairs = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    first = encoder.embed([pair["a"] for pair in pairs])  # (pairs, d)
    second = encoder.embed([pair["b"] for pair in pairs])  # (pairs, d)
    cosines = (first * second).sum(axis=1)  # (pairs,)
    same = np.array([pair["same"] for pair in pairs])
    kinds = np.array([pair["kind"] for pair in pairs])
    print(f"{encoder.name}: {len(pairs)} pairs, {same.sum()} of them same; tau in use {encoder.tau}")
    for name, chosen in (("chunk", kinds == "chunk"), ("sentence", kinds == "sentence"), ("all", kinds != "")):
        table = {tau / 100: balanced_accuracy(cosines[chosen], same[chosen], tau / 100) for tau in range(40, 96)}
        best = max(table.values())
        at_best = [tau for tau, accuracy in table.items() if accuracy > best - 1e-9]
        here = balanced_accuracy(cosines[chosen], same[chosen], encoder.tau)
        print(f"  {name:8s} best {best:.3f} at tau {min(at_best)}..{max(at_best)}; at {encoder.tau}: {here:.3f}")
    for pair, cosine in sorted(zip(pairs, cosines, strict=True), key=lambda both: -both[1]):
        if (cosine > encoder.tau) != pair["same"]:
            print(f"  wrong: {cosine:.2f} {'same' if pair['same'] else 'different'}: {pair['a']} | {pair['b']}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "minilm")
