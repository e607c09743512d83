"""What a model is asked, and how its answers are decoded: plain records that need no torch."""

from dataclasses import asdict, dataclass
from pathlib import Path

from amp_cli.errors import AmpError


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are decoded. `temperature` 0 is deterministic (greedy or beams), above 0 tokens are sampled."""

    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new_tokens < 1:
            raise AmpError(
                f"num_beams ({self.num_beams}) and max_new_tokens ({self.max_new_tokens}) must be at least 1"
            )
        if (
            self.temperature < 0
            or not 0 < self.top_p <= 1
            or self.repetition_penalty <= 0
            or self.no_repeat_ngram_size < 0
        ):
            raise AmpError(f"The decoding settings are out of range: {asdict(self)}")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One item to answer: its images' files and one question per round."""

    id: str
    images: tuple[Path, ...]
    questions: tuple[str, ...]
