"""Keeps on disk what would not fit in memory: the ids that were given, and the pairs that belong together."""

import json
import sqlite3
from collections.abc import Iterator
from hashlib import blake2b

from amp_cli.records import PreferenceItem

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
        key = blake2b(json.dumps([item.images, item.questions]).encode(), digest_size=16).digest()
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
