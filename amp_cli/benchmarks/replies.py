"""What a judge's reply says aloud: without its reasoning, whole, and as plain lines, however it is wrapped.

<think>Perhaps Rating: 2?</think>          reasoning: counts for nothing
```json
{"findings": "It is right.",               -> Rating: 5
 "rating": 5}
```
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from amp_cli.records import Verdict

LONGEST = 100_000
"""Characters. A longer reply, its reasoning aside, is not a verdict."""
ENDED = ("", "stop", "stop_sequence", "eos", "eos_token", "end_turn", "end", "complete", "completed", "done")
"""How servers call it that the model itself ended its reply; one that says nothing is believed."""

_NAMES = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflections?|analysis|scratch_?pad|(?:inner_)?monologue|deliberation"
_TAG = re.compile(
    rf"""(?:<|&lt;|◁)(?P<bar>\|?)(?P<end>/?)\s*
         (?P<edge>(?:begin|start|end)_(?:of_)?)?(?:\w{{1,20}}[:_])?(?P<name>{_NAMES})
         (?:[\s=][^<>\n]{{0,80}})?\|?(?:>|&gt;|▷)
         | \[(?P<square>/?)THINK\]
         | <\|channel\|>\s*(?P<channel>\w+)[^<\n]{{0,80}}<\|message\|>""",
    re.I | re.X,
)
"""<think>, </think>, <|begin_of_thought|>, <|END_THINKING|>, ◁think▷, <seed:think>, [THINK], and channels of a reply
of which only `final` is meant for the reader."""
_STRIPPED_CHANNELS = re.compile(
    r"\Aanalysis(?=[A-Z\"'])(?:.*\bassistant\s*final|.*(?<=[\s\w.!?\"'])assistantfinal)?", re.S
)


def why_unheard(verdict: Verdict) -> str:
    """Return why a reply does not count whatever it says: cut off, or nothing but reasoning; "" where it does."""
    if (verdict.finish_reason or "").lower() not in ENDED:
        return f"cut off (finish_reason: {verdict.finish_reason:.40})"
    said = aloud(verdict.text)
    if said is None:
        return "cut off inside its reasoning, which is not closed"
    if not said.strip():
        return "no text but its reasoning" if verdict.text.strip() else "no text"
    return f"a reply of {len(said):,} characters" if len(said) > LONGEST else ""


def aloud(text: str) -> str | None:
    """Return a reply without its reasoning; None where that is never closed.

    A closing tag alone ends what the chat template opened. Only the tag of its own name closes reasoning.
    """
    if stripped := _STRIPPED_CHANNELS.match(text):
        return text[stripped.end() :] if stripped[0].endswith("final") else None
    said: list[str] = []
    place, inside = 0, ""
    for tag in _TAG.finditer(text):
        name, opens = _meaning(tag)
        if inside and (opens or name != inside) and tag["channel"] is None:
            continue
        if not inside:
            said.append(text[place : tag.start()])
        if not opens and not inside:
            said.clear()
        inside = name if opens else ""
        place = tag.end()
    return None if inside else "".join([*said, text[place:]])


def _meaning(tag: re.Match[str]) -> tuple[str, bool]:
    """Return a tag's name and whether reasoning begins there."""
    if tag["channel"] is not None:
        return "channel", tag["channel"].lower() != "final"
    if tag["square"] is not None:
        return "square", not tag["square"]
    closes = tag["end"] or (tag["edge"] or "").lower().startswith("end")
    return tag["name"].lower().rstrip("s"), not closes


_FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*\w*[ \t]*$", re.M)
_TEX = re.compile(r"\\(?:boxed|text|textbf|mathbf|mathrm)\s*\{([^{}]*)\}")
_RATING_TAG = re.compile(r"<(ratings?|scores?|verdict)>", re.I)
_BLOCK_TAG = re.compile(
    r"</?(?:br|p|li|ul|ol|div|tr|h\d|answer|ratings?|scores?|verdict)(?:\s[^<>\n]{0,200})?/?>", re.I
)
_MARKUP = re.compile(r"<\|[\w ]{1,40}\|>|</?[a-z][a-z0-9]{0,15}(?:\s[^<>\n]{0,200})?/?>|[*_`#$]+", re.I)
_BLANKS = re.compile(r"[^\S\n]+")
_ARROW = re.compile(r"=>|->|→|⇒")
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    0x3000: " ",
    0x3002: ".",
    0x3010: "[",
    0x3011: "]",
    **dict.fromkeys((0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)),
}
"""Full-width letters, digits and marks as plain ones; invisible characters as nothing."""


def said_lines(text: str) -> list[str]:
    """Return what a reply says line by line, without empty lines and marks of Markdown, TeX and HTML.

    A structured reply gives its verdict, else all its texts. A list in brackets stays on one line. Nothing comes of a
    reply that ends inside its reasoning or is longer than `LONGEST`.
    """
    said = aloud(text)
    if said is None or len(said) > LONGEST:
        return []
    said = _FENCE.sub("", _with_objects_read(said)).translate(_WIDE)
    said = _BLOCK_TAG.sub("\n", _RATING_TAG.sub(lambda tag: f"\n{tag[1]}: ", _ARROW.sub(":", said)))
    said = _TEX.sub(r"\1", _TEX.sub(r"\1", said))
    said = _BLANKS.sub(" ", _MARKUP.sub("", said))
    said = re.sub(r"\[[^\[\]]*\]", lambda listed: listed[0].replace("\n", " "), said)
    return [line.strip() for line in said.splitlines() if line.strip()]


_VERDICT_KEY = re.compile(r"(?:(?:final|overall|my|the)[\s_-]*)?(?:ratings?|verdicts?|scores?)", re.I)
_NUMERIC = re.compile(r"\s*\d+(?:\.\d+)?(?:\s*/\s*\d+)?\s*")


_MOST_OBJECTS = 100
_NONE_OF_THEM_LAST = "(no more)"
"""Stands behind several verdicts of one object: they have no order, so the last one does not decide."""


def _with_objects_read(text: str) -> str:
    """Return a reply with each JSON object in it, bare or fenced, as the lines that it says."""
    decoder = json.JSONDecoder(strict=False)
    said: list[str] = []
    place = 0
    for _ in range(_MOST_OBJECTS):
        begin = text.find("{", place)
        if begin < 0:
            break
        try:
            value, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            value, end = None, begin + 1
        said.append(text[place:end] if value is None else f"{text[place:begin]}\n{_lines_of(value)}\n")
        place = end
    return "".join([*said, text[place:]])


def _lines_of(value: Any) -> str:
    """Return what an object says: its verdicts, else its texts and, on a line of their own, its numbers."""
    verdicts = list(dict.fromkeys(_verdicts(value)))
    if verdicts:
        return "\n".join(verdicts if len(verdicts) == 1 else [*verdicts, _NONE_OF_THEM_LAST])
    leaves = list(_leaves(value))
    numbers = [one for one in leaves if _NUMERIC.fullmatch(one)]
    return "\n".join([*(one for one in leaves if not _NUMERIC.fullmatch(one)), " ".join(numbers)])


def _verdicts(value: Any) -> Iterator[str]:
    """Yield a line for each field that holds a verdict, wherever in the object it stands."""
    if isinstance(value, list):
        for one in value:
            yield from _verdicts(one)
    if not isinstance(value, dict):
        return
    for name, inner in value.items():
        if not _VERDICT_KEY.fullmatch(name.strip()):
            yield from _verdicts(inner)
        elif isinstance(inner, list):
            rows = [list(_verdicts(one)) or list(_leaves(one)) for one in inner]
            yield f"Ratings: [{', '.join(row[0].rpartition(':')[2].strip() for row in rows if row)}]"
        elif isinstance(inner, dict):
            nested = list(_verdicts(inner))
            yield from nested or [f"Ratings: [{', '.join(_leaves(inner))}]"]
        else:
            said = next(_leaves(inner))
            yield said if isinstance(inner, str) and re.search(r"[^\W\d]", said) else f"Rating: {said}"


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts and numbers of a value, in their order, as texts."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _leaves(one)
    else:
        yield value if isinstance(value, str) else json.dumps(value)
