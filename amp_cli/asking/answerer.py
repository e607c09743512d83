"""What a model is asked: a plain record that needs no torch."""

from dataclasses import dataclass
from pathlib import Path

from amp_cli.records import PLAIN, Frame


@dataclass(frozen=True, kw_only=True)
class Request:
    """One item to answer: its images' files and one question per round."""

    id: str
    images: tuple[Path, ...]
    questions: tuple[str, ...]
    frame: Frame = PLAIN
