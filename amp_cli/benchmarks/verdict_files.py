"""Verdicts that exist already, ours or the released code's, and what is said of missing ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.benchmarks.answers import records_of
from amp_cli.errors import AmpError
from amp_cli.records import BenchmarkItem, Verdict


def reply_of(response: Mapping[str, Any], item_id: str, where: str) -> Verdict:
    """Return the verdict in a chat completion's response."""
    try:
        text = response["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise AmpError(f"{where} is no response of a judge: choices, message, content are needed") from error
    usage = response.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Verdict(
        id=item_id,
        text=text or "",
        model=response.get("model"),
        request_id=response.get("id"),
        prompt_tokens=counts.get("prompt_tokens"),
        completion_tokens=counts.get("completion_tokens"),
    )


def own_verdicts(path: Path, items: Sequence[BenchmarkItem]) -> list[Verdict]:
    """Read our own `{"id", "text"}` records."""
    verdicts = []
    for number, record in enumerate(records_of(path), start=1):
        if "id" not in record or not isinstance(record.get("text"), str):
            raise AmpError(
                f"'{path}', record {number}, is no verdict: neither the released code's nor with `id` and `text`",
                hint="Raw replies in another form go through --judge replay:FILE",
            )
        verdicts.append(Verdict.from_json({**record, "id": str(record["id"])}))
    check_verdicts(verdicts, items, path)
    return verdicts


def check_verdicts(verdicts: Sequence[Verdict], items: Sequence[BenchmarkItem], path: Path) -> None:
    """Refuse verdicts on items that there are not, two on the same one, and items without any."""
    known = {item.id for item in items}
    keys: set[tuple[str, int]] = set()
    for one in verdicts:
        if (one.id, one.repeat) in keys:
            raise AmpError(f"'{path}' holds two verdicts on '{one.id}' (repeat {one.repeat})")
        keys.add((one.id, one.repeat))
    strangers = [one.id for one in verdicts if one.id not in known]
    judged = {one.id for one in verdicts}
    missing = [item.id for item in items if item.id not in judged]
    for ids, what in ((strangers, "verdicts on items that --data does not hold"), (missing, "items without a verdict")):
        if ids:
            raise AmpError(
                f"'{path}': {len(ids):,} {what}, first '{ids[0]}'",
                hint="Verdicts and --data must be of the same version of the benchmark",
            )


def refuse_missing(items: Sequence[BenchmarkItem], verdicts: Mapping[str, Verdict]) -> None:
    """Refuse to score officially without a verdict on every item: the official scripts read a whole file."""
    missing = [item.id for item in items if item.id not in verdicts]
    if missing:
        raise AmpError(
            f"The official script needs a verdict on every item; {len(missing):,} have none, first '{missing[0]}'",
            hint="Run the same command again to judge the rest, or use --rule strict",
        )
