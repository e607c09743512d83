"""The judge `replay:FILE`: raw replies at hand, from JSONL {"id", "text"} or a JSON list of texts in item order."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from amp_cli.asking.judge import JudgeRequest
from amp_cli.disk.entries import read_entries
from amp_cli.disk.jsonl import content_hash
from amp_cli.disk.parsing import read_json
from amp_cli.errors import AmpError
from amp_cli.records import Verdict, is_storable

_FORM = 'Give JSONL with {"id", "text"}, or a JSON list of texts in the order of the items'


class ReplayJudge:
    """Hands out replies by (id, repeat); our own `verdicts.jsonl` is such a file too."""

    def __init__(self, file: str, items: Sequence[str] = ()) -> None:
        self._path = Path(file).expanduser()
        if not self._path.is_file():
            raise AmpError(f"There is no file '{file}' to replay", hint="Give --judge replay:FILE")
        self._items = tuple(items)
        self._texts = _list_of_texts(self._path)
        self._unread: list[str] = []
        self._verdicts = {} if self._texts is not None else _verdicts_by_key(self._path, self._unread)

    @property
    def identity(self) -> dict[str, Any]:
        return {
            "kind": "replay",
            "model": None,
            "file": self._path.name,
            "sha256": content_hash(self._path),
            "sampling": {},
        }

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def judge(
        self,
        requests: Sequence[JudgeRequest],
        *,
        on_verdict: Callable[[Verdict], None],
        on_reject: Callable[[JudgeRequest, str], None],
    ) -> None:
        """Hand out the replies; a request without one is rejected by its id."""
        verdicts = self._by_position(requests) if self._texts is not None else self._verdicts
        for request in requests:
            verdict = verdicts.get((request.id, request.repeat))
            if isinstance(verdict, AmpError):
                on_reject(request, f"'{self._path.name}': {verdict.message}")
            elif verdict is None:
                which = f" (repeat {request.repeat})" if request.repeat else ""
                unread = f"; {len(self._unread):,} unreadable records, first: {self._unread[0]}" if self._unread else ""
                on_reject(request, f"'{self._path.name}' holds no reply to '{request.id}'{which}{unread}")
            else:
                on_verdict(verdict)

    def _by_position(self, requests: Sequence[JudgeRequest]) -> "Replies":
        items = self._items or tuple(dict.fromkeys(request.id for request in requests))
        texts = self._texts or []
        if len(items) != len(texts):
            raise AmpError(
                f"'{self._path}' holds {len(texts):,} texts for {len(items):,} items, and a list goes by its order",
                hint='Give JSONL with {"id", "text"} instead',
            )
        return {(item, 0): _verdict({"id": item, "text": text}) for item, text in zip(items, texts, strict=True)}


Replies = dict[tuple[str, int], Verdict | AmpError]
"""What a file holds for (id, repeat): a verdict, or why it is not one."""


def _verdict(record: Mapping[str, Any]) -> Verdict | AmpError:
    """Return a record's verdict; what no file can hold again is a fault of this one alone."""
    try:
        return Verdict.from_json(record)
    except AmpError as error:
        is_sound = all(is_storable(one) for one in record.values() if isinstance(one, str))
        if is_sound or type(record.get("repeat", 0)) is not int:
            raise
        return error


def _list_of_texts(path: Path) -> list[str] | None:
    """Return a JSON list's texts; None where the file is of records."""
    with path.open("rb") as stream:
        if not stream.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
            return None
    values = read_json(path)
    if any(isinstance(value, dict) for value in values):
        return None
    wrong = next((number for number, value in enumerate(values, start=1) if not isinstance(value, str)), None)
    if wrong is not None:
        raise AmpError(f"Entry {wrong} of '{path}' is not a text: {values[wrong - 1]!r:.80}", hint=_FORM)
    return [str(value) for value in values]


def _verdicts_by_key(path: Path, unread: list[str]) -> Replies:
    """Return the replies of a file; what cannot be read of it is put into `unread`, with the reason."""
    verdicts: Replies = {}
    for number, record, reason in read_entries(path):
        if record is None:
            unread.append(reason)
            continue
        try:
            verdict = _verdict({**record, "id": str(record["id"])} if "id" in record else record)
        except AmpError as error:
            raise AmpError(f"'{path}' cannot be replayed: in record {number}, {error.message}", hint=_FORM) from error
        key = (str(record["id"]), record.get("repeat", 0))
        if verdicts.setdefault(key, verdict) is not verdict:
            raise AmpError(
                f"'{path}' holds two replies to '{key[0]}' (repeat {key[1]})", hint="Keep one of the two records"
            )
    return verdicts
