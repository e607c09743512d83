"""What a model is asked, and with what at once: plain records that need no torch."""

from dataclasses import dataclass
from pathlib import Path

from amp_cli.disk.settings import free


@dataclass(frozen=True, kw_only=True)
class Request:
    """One item to answer: its images' files and one question per round."""

    id: str
    images: tuple[Path, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Running:
    """How many at once, and the seed. Batches change no greedy text; a sampled one depends on what it is sampled with.

    Attributes:
        batch_size: items per forward of a model that is loaded here.
        concurrency: items under way at once at an endpoint.
        num_processes: processes that share the items; None is one per GPU, one on a CPU.
    """

    batch_size: int = free(8, when=lambda settings: settings.decoding.temperature == 0)
    concurrency: int = free(8)
    num_processes: int | None = free(None)
    seed: int = 0
