"""What an answer says, whatever it is wrapped in: without markup, without finished reasoning, out of its box."""

import html
import re
import unicodedata

EDGES = " \t\r\n\"'`()[]{}.,;:!?-|/<>=_*#~^"
"""What may stand around an answer without belonging to it."""

_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060\ufeff]")
_THOUGHT = r"(?:think|thinking|thoughts?|reasoning|reason|analysis|cot|scratchpad|reflection|rationale|planning)"
_THOUGHT_BEGINS = re.compile(
    rf"[<\[◁]\|?(?:begin_of_|start_of_|seed:)?{_THOUGHT}\|?[>\]▷]|<\|channel\|>(?:analysis|commentary)", re.I
)
_THOUGHT_ENDS = re.compile(
    rf"[<\[◁]\|?(?:/|end_of_)(?:seed:)?{_THOUGHT}\|?[>\]▷]|<\|channel\|>final(?:<\|message\|>)?", re.I
)
_BOX = re.compile(
    r"\\f?boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)"
    r"|<(?:final_?answer|answer|conclusion|final|output)>(.*?)(?:</|$)",
    re.S | re.I,
)
_TAG = re.compile(r"<(?!(?:yes|yeah|yep|yup|no|nope|nah)>)[^<>\n]{1,40}>|\[/?inst\]", re.I)
_LATEX = re.compile(r"\\[a-z]+|[\\{}$]", re.I)


def plain_text(text: str) -> str | None:
    """Return the answer without markup and finished reasoning; None where it ends in its reasoning."""
    plain = unicodedata.normalize("NFKC", html.unescape(_INVISIBLE.sub("", text)))
    plain = plain.replace("\\n", "\n").replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"')
    ends = list(_THOUGHT_ENDS.finditer(plain))
    if ends:
        plain = plain[ends[-1].end() :]
    if _THOUGHT_BEGINS.search(plain):
        return None
    return plain.replace("。", ". ").replace("*", "").replace("`", "").replace("~", "")


def unwrapped(plain: str) -> str | None:
    """Return what stands in boxes or answer tags, where there are any, else all; None where boxes differ."""
    boxes = {"".join(found).strip(EDGES) for found in _BOX.findall(plain)} - {""}
    if len(boxes) > 1:
        return None
    return _LATEX.sub(" ", _TAG.sub("\n", boxes.pop() if boxes else plain)).replace("_", " ")
