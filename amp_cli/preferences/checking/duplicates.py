"""Finds ids and contents that occurred before, with a few bytes for each item seen."""

import json
from hashlib import blake2b

from amp_cli.records import PreferenceItem


class Seen:
    """Remembers a digest of every text it was shown."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def before(self, text: str) -> bool:
        """Say whether this very text was shown before, and remember it."""
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
        if digest in self._digests:
            return True
        self._digests.add(digest)
        return False


def content_key(item: PreferenceItem) -> str:
    """Return what two items share that ask the same of the same pictures."""
    questions = [" ".join(question.split()).casefold() for question in item.questions]
    return json.dumps([list(item.images), questions], ensure_ascii=False)
