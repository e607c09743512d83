"""The formats that can be read, and which of them some records are in."""

from collections import Counter
from collections.abc import Sequence

from amp_cli.dialogues.named_images import Record
from amp_cli.errors import AmpError
from amp_cli.preferences.formats import (
    amp,
    amp_authors,
    ha_dpo,
    llama_factory,
    llava_instruct,
    llava_rlhf,
    mdpo,
    mm_rlhf,
    ms_swift,
    povid,
    trl,
    vision_feedback,
    vlfeedback,
)
from amp_cli.preferences.formats.draft import Format
from amp_cli.preferences.formats.pairs import PAIRS

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        amp.FORMAT,
        amp_authors.FORMAT,
        vlfeedback.FORMAT,
        llava_rlhf.FORMAT,
        llava_instruct.FORMAT,
        povid.FORMAT,
        ha_dpo.FORMAT,
        mdpo.FORMAT,
        mm_rlhf.FORMAT,
        trl.FORMAT,
        ms_swift.FORMAT,
        llama_factory.FORMAT,
        vision_feedback.FORMAT,
        *(layout.format for layout in PAIRS),
    )
}
OTHER_NAMES = {"silkie": "vlfeedback", "sharegpt4v": "llava-instruct"}
"""Data sets in the layout of another."""
LOOKED_AT = 50
"""Records that detection looks at: a few odd ones do not hide the format, and the first row group is enough."""
SHOWN_FIELDS = 12


def find_format(name: str) -> Format:
    """Return a format by its name.

    Raises:
        AmpError: there is none.
    """
    name = OTHER_NAMES.get(name, name)
    if name not in FORMATS:
        raise AmpError(f"There is no format '{name}'", hint=f"Known: auto, {', '.join([*FORMATS, *OTHER_NAMES])}")
    return FORMATS[name]


def detect_format(records: Sequence[Record], source: str, reason: str = "") -> Format:
    """Return the format that describes the most of the records.

    Args:
        reason: why the first record cannot be read, where that is so.

    Raises:
        AmpError: none does, or two do equally well.
    """
    if not records:
        raise AmpError(
            f"No record of '{source}' can be read" + (f"; the first: {reason}" if reason else ""),
            hint="It must be JSON, JSONL or Parquet with one item each",
        )
    votes = Counter(one.name for record in records for one in FORMATS.values() if one.describes(record))
    ranking = votes.most_common(2)
    if not ranking or (len(ranking) == 2 and ranking[0][1] == ranking[1][1]):
        fields = list(dict.fromkeys(name for record in records for name in record))
        shown = ", ".join(str(name) for name in fields[:SHOWN_FIELDS]) + (", ..." if len(fields) > SHOWN_FIELDS else "")
        finding = "could be " + " or ".join(name for name, _ in ranking) if ranking else "is in no format that is known"
        raise AmpError(
            f"'{source}' {finding}; its records have the fields {shown or '(none)'}",
            hint=f"Name it with --format: {', '.join(FORMATS)}",
        )
    return FORMATS[ranking[0][0]]
