"""Prints the table of families: how each is read, and how far that is from plain one-by-one passes, as measured here.

    .venv/bin/python tests/bench/families.py [--json]

The models are tiny, random and on the CPU; their RMS norms are given float64 in the float64 columns.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from amp_cli.training.rows.forward import ROWS, SHARED, SHARED_DENSE
from amp_cli.training.rows.selftest import choose_forward
from tests.support.family_measures import by, compare, plainly
from tests.support.tiny_families import FAMILIES, build, make_items

LONGEST = 200
LAYOUT_WORDS = {
    SHARED: "shared prefix", SHARED_DENSE: "shared prefix, one mask", ROWS: "a row per level",
}  # fmt: skip


def measure(name: str) -> dict[str, Any]:
    """Return how a family is read, why not faster, and the differences in float64 and float32."""
    row: dict[str, Any] = {"family": name}
    for precision in (torch.float64, torch.float32):
        model = build(name, precision)
        items = make_items(name, model.get_base_model(), precision)
        way, test = choose_forward(model, items, pad_id=0, max_length=LONGEST)
        plain = plainly(name, model, items)
        found = compare(by(way, model, items), plain)
        bits = str(precision).removeprefix("torch.")
        row |= {"layout": way.layout, "pictures_once": way.image_once, "refused": dict(test.refused)}
        row |= {f"logp_{bits}": found.sums, f"gradient_{bits}": found.gradient}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    logging.disable(logging.WARNING)  # of slow reference kernels of hybrid models
    torch.set_num_threads(1)
    as_json = parser.parse_args().json
    rows = [measure(name) for name in FAMILIES]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    columns = ("logp_float64", "gradient_float64", "logp_float32", "gradient_float32")
    print("| family | levels | images | " + " | ".join(name.replace("_", ", ") for name in columns) + " |")
    print("| --- " * 7 + "|")
    for row in rows:
        images = "once an item" if row["pictures_once"] else "every pass"
        layout = LAYOUT_WORDS[row["layout"]]
        print(f"| {row['family']} | {layout} | {images} | " + " | ".join(f"{row[name]:.0e}" for name in columns) + " |")
    for row in rows:
        for layout, why in row["refused"].items():
            print(f"{row['family']}, {layout}: {why}")


if __name__ == "__main__":
    main()
