"""Joins pairs of one prompt to items of more levels where their answers have one consistent order."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b

from amp_cli.records import MOST_LEVELS, PreferenceItem

REPEATED = "a pair that repeats another one was left out"
INCONSISTENT = "a pair stays a pair because the pairs of its prompt go round in a circle"
TOO_MANY = f"a pair stays a pair because the pairs of its prompt would give more than {MOST_LEVELS} levels"
INCOMPLETE = "a pair stays a pair because the pairs of its prompt do not order all its answers"

Answers = tuple[str, ...]


def join_pairs(pairs: Sequence[PreferenceItem], notes: Counter[str]) -> list[PreferenceItem]:
    """Return the items of one prompt: chains such as A > B > C as one, the others as the pairs they are.

    Pairs that share answers, directly or through others, are looked at together. They become one item when they leave
    exactly one order of their answers, each better than the next by a pair that says so. Otherwise (a circle, or two
    answers that no pair compares) no order is made up.
    """
    distinct: dict[tuple[Answers, Answers], PreferenceItem] = {}
    for pair in pairs:
        edge = (pair.levels[0].answers, pair.levels[1].answers)
        notes[REPEATED] += edge in distinct
        distinct.setdefault(edge, pair)
    items: list[PreferenceItem] = []
    for connected in _connected(list(distinct)):
        members = [distinct[edge] for edge in connected]
        if len(members) == 1:
            items += members
            continue
        order, reason = _only_order(connected)
        if order:
            items.append(_joined(members, order))
        else:
            notes[reason] += len(members)
            items += members
    return items


def _connected(edges: Sequence[tuple[Answers, Answers]]) -> list[list[tuple[Answers, Answers]]]:
    """Return the pairs in groups that share answers, groups and pairs in the order in which they came."""
    group_of: dict[Answers, list[tuple[Answers, Answers]]] = {}
    for edge in edges:
        groups = {id(group_of[answer]): group_of[answer] for answer in edge if answer in group_of}
        merged = [one for group in groups.values() for one in group] + [edge]
        for one in merged:
            for answer in one:
                group_of[answer] = merged
    place = {edge: number for number, edge in enumerate(edges)}
    groups = {id(group): sorted(group, key=place.__getitem__) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: place[group[0]])


def _only_order(edges: Sequence[tuple[Answers, Answers]]) -> tuple[list[Answers], str]:
    """Return the answers best first where the pairs leave one order, else none and the reason."""
    sorter: TopologicalSorter[Answers] = TopologicalSorter()
    for good, bad in edges:
        sorter.add(bad, good)
    try:
        sorter.prepare()
    except CycleError:
        return [], INCONSISTENT
    order: list[Answers] = []
    while sorter.is_active():
        free = sorter.get_ready()
        if len(free) > 1:  # no pair says which is better
            return [], INCOMPLETE
        order += free
        sorter.done(*free)
    return (order, "") if len(order) <= MOST_LEVELS else ([], TOO_MANY)


def _joined(members: Sequence[PreferenceItem], order: Sequence[Answers]) -> PreferenceItem:
    """Return one item with the first pair's id and meta; `pairs` in meta names them all."""
    level_of = {level.answers: level for pair in members for level in pair.levels}
    levels = tuple(replace(level_of[answers], source=f"level {number}") for number, answers in enumerate(order))
    first = members[0]
    return replace(first, levels=levels, meta={**first.meta, "pairs": [pair.id for pair in members]})


CACHE_KILOBYTES = 32_000


def _new_database() -> sqlite3.Connection:
    """Return a nameless database, which lives in memory until it is large, then in a file that nobody sees."""
    database = sqlite3.connect("", isolation_level=None)
    database.execute("pragma journal_mode = off")
    database.execute("pragma synchronous = off")
    database.execute(f"pragma cache_size = -{CACHE_KILOBYTES}")
    return database


def _short_hash(text: str) -> int:
    """Return 63 bits of a hash, as SQLite's keys are."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


class GivenIds:
    """Makes ids unique, the same way in every run."""

    def __init__(self) -> None:
        self._database = _new_database()
        self._database.execute("create table given (id integer primary key, content integer)")
        self._database.execute("begin")

    def unique(self, item_id: str, content: str) -> str | None:
        """Return the id, with -2, -3, ... where other content has it; None where the same content has it already."""
        number, name, digest = 1, item_id, _short_hash(content)
        while not self._take(name, digest):
            if self._content_of(name) == digest:
                return None
            number += 1
            name = f"{item_id}-{number}"
        return name

    def _take(self, name: str, digest: int) -> bool:
        row = (_short_hash(name), digest)
        return self._database.execute("insert or ignore into given values (?, ?)", row).rowcount == 1

    def _content_of(self, name: str) -> int:
        query = "select content from given where id = ?"
        return int(self._database.execute(query, (_short_hash(name),)).fetchone()[0])


class PairsByPrompt:
    """Collects pairs and gives them back prompt by prompt, in the order in which the prompts came."""

    def __init__(self) -> None:
        self._database = _new_database()
        self._database.execute("create table prompts (number integer primary key, key blob unique)")
        self._database.execute("create table pairs (prompt integer, number integer primary key, item text)")
        self._database.execute("begin")

    def add(self, item: PreferenceItem) -> None:
        key = blake2b(json.dumps([item.images, item.questions, item.frame.to_json()]).encode(), digest_size=16).digest()
        self._database.execute("insert or ignore into prompts (key) values (?)", (key,))
        self._database.execute(
            "insert into pairs (prompt, item) select number, ? from prompts where key = ?",
            (json.dumps(item.to_json()), key),
        )

    def groups(self) -> Iterator[list[PreferenceItem]]:
        self._database.execute("create index by_prompt on pairs (prompt, number)")
        group: list[PreferenceItem] = []
        current = None
        for prompt, text in self._database.execute("select prompt, item from pairs order by prompt, number"):
            if prompt != current and group:
                yield group
                group = []
            current = prompt
            group.append(PreferenceItem.from_json(json.loads(text)))
        if group:
            yield group
