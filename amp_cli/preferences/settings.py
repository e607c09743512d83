"""The settings of `amp generate-prefs`, refused here when they cannot work."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from amp_cli.core.endpoint import is_endpoint
from amp_cli.errors import AmpError
from amp_cli.preferences.experts import Expert, refuse_repeated_names
from amp_cli.preferences.incremental import BASE, FineTuning, series_names
from amp_cli.preferences.nounchunks import DEFAULT_MODEL

MAX_LEVELS = 8
PAPER_DECODING: Mapping[str, Any] = {
    "num_beams": 4,
    "temperature": 0.7,
    "top_p": 1.0,
    "repetition_penalty": 1.1,
    "no_repeat_ngram_size": 0,
    "max_new_tokens": 512,
}
"""Fields of `core.requests.Decoding`: what the paper's experts answered with."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Everything that decides the preferences. `levels` belongs to `ig`; with `meg` the experts decide it.

    `decoding` holds the fields of `core.requests.Decoding`; `compare_attributes` None means on for MiniLM only.
    """

    data: Path
    out: Path
    method: str
    experts: tuple[Expert, ...] = ()
    base: str | None = None
    finetune_data: Path | None = None
    levels: int | None = None
    image_root: Path | None = None
    finetune_image_root: Path | None = None
    tuning: FineTuning = field(default_factory=FineTuning)
    decoding: Mapping[str, Any] = field(default_factory=lambda: dict(PAPER_DECODING))
    auto_check: bool = True
    encoder: str = "minilm"
    tau: float | None = None
    coverage: str = "standard"
    compare_attributes: bool | None = None
    spacy_model: str = DEFAULT_MODEL
    vision_tower: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    quantization: str | None = None
    template: str = "auto"
    trust_remote_code: bool = False
    batch_size: int = 8
    concurrency: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method == "meg":
            self._check_meg()
        elif self.method == "ig":
            self._check_ig()
        else:
            raise AmpError(f"There is no method '{self.method}'", hint="Use --method meg or --method ig")

    def _check_meg(self) -> None:
        if not self.experts:
            raise AmpError(
                "No expert is given, so there would be one level", hint="--expert NAME=MODEL, strong to weak"
            )
        if len(self.experts) >= MAX_LEVELS:
            raise AmpError(
                f"{len(self.experts)} experts give more than {MAX_LEVELS} levels", hint="Give fewer --expert"
            )
        if self.base or self.finetune_data or self.levels:
            raise AmpError("--base, --finetune-data and --levels belong to --method ig", hint="Give only --expert")
        refuse_repeated_names(self.experts)

    def _check_ig(self) -> None:
        if self.experts:
            raise AmpError("--expert belongs to --method meg", hint="Give --base, --finetune-data and --levels")
        if not self.base or not self.finetune_data or not self.levels:
            raise AmpError(
                "Incremental generation needs --base, --finetune-data and --levels",
                hint="--method ig --base 7b --finetune-data more.json --levels 4",
            )
        if is_endpoint(self.base):
            raise AmpError("A model behind an endpoint cannot be fine-tuned here", hint="Give --base a model's weights")
        if self.levels > MAX_LEVELS:
            raise AmpError(f"At most {MAX_LEVELS} levels, not {self.levels}")
        series_names(self.levels)

    def models(self) -> tuple[Expert, ...]:
        """The models that must exist before the start."""
        return self.experts if self.method == "meg" else (Expert(name=BASE, model=str(self.base)),)

    def to_json(self) -> dict[str, Any]:
        record = asdict(self)
        del record["out"]
        return record
