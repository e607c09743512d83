"""The models that this program knows by name: what they are, how large, and whether they are on this disk."""

from dataclasses import dataclass

from amp_cli.core.hub import ALIASES

TRANSFORMERS, ORIGINAL, OWN_CODE = "transformers", "original LLaVA", "own code"
WHY_NOT = {
    ORIGINAL: "original LLaVA layout: not yet supported",
    OWN_CODE: "own model code, which transformers does not have: not supported",
}


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model, or a LoRA adapter (`base` names what it belongs to).

    Attributes:
        name: what `--model` or `--adapter` takes. hub_id: None for what comes with the program.
        parameters: billions; of an adapter, those of its base.
        is_encoder: a vision tower or text encoder, no model to talk to.
    """

    name: str
    hub_id: str | None
    layout: str
    parameters: float
    what: str
    base: str | None = None
    is_encoder: bool = False

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be run; None when it can."""
        return WHY_NOT.get(self.layout)

    @property
    def run_gb(self) -> float:
        """Memory to answer in 16 bit, GB: weights, and 2 GB for cache and activations (an estimate)."""
        return _rounded(self.parameters * 2 + _overhead(self.parameters, 2))

    @property
    def run_4bit_gb(self) -> float:
        """Memory to answer in 4 bit (nf4), GB: about 0.6 bytes a weight, not all of them are packed (an estimate)."""
        return _rounded(self.parameters * 0.6 + _overhead(self.parameters, 2))

    @property
    def train_gb(self) -> float:
        """Memory of one GPU to train with the size's recipe (nf4 base, LoRA r 64, K = 4, one item a step), GB.

        An estimate: 4-bit weights; 2.3 % of the weights in LoRA with gradients and Adam's moments in 32 bit; 6 GB for
        activations under gradient checkpointing and for the logits.
        """
        return _rounded(self.parameters * (0.6 + 0.023 * 16) + _overhead(self.parameters, 6))

    @property
    def run_cpu_gb(self) -> float:
        """Memory to answer on a CPU in 32 bit, GB (an estimate)."""
        return _rounded(self.parameters * 4 + _overhead(self.parameters, 2))


def _overhead(parameters: float, gigabytes: float) -> float:
    return gigabytes if parameters > 0.1 else 1.0  # what Python and PyTorch themselves take


def _rounded(gigabytes: float) -> float:
    return float(round(gigabytes)) if gigabytes >= 2 else round(gigabytes, 1)


def _adapter(name: str, size: str, parameters: float, method: str) -> KnownModel:
    return KnownModel(
        name=f"mengxizhang/{name}",
        hub_id=f"mengxizhang/{name}",
        layout=ORIGINAL,
        parameters=parameters,
        what=f"the authors' LoRA adapter, {method} preferences",
        base=f"mengxizhang/amp-{size}-base",
    )


def _base(size: str, parameters: float) -> KnownModel:
    name = f"mengxizhang/amp-{size}-base"
    return KnownModel(
        name=name, hub_id=name, layout=ORIGINAL, parameters=parameters, what="the authors' base for their adapters"
    )


KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        name="tiny",
        hub_id=None,
        layout=TRANSFORMERS,
        parameters=0.0014,
        what="embedded; knows only the drawn world of `amp quickstart`",
    ),
    KnownModel(
        name="7b", hub_id=ALIASES["7b"], layout=TRANSFORMERS, parameters=7.06, what="LLaVA-1.5; base and MEG expert"
    ),
    KnownModel(
        name="13b", hub_id=ALIASES["13b"], layout=TRANSFORMERS, parameters=13.35, what="LLaVA-1.5; base and MEG expert"
    ),
    KnownModel(
        name="llava-hf/llava-v1.6-34b-hf",
        hub_id="llava-hf/llava-v1.6-34b-hf",
        layout=TRANSFORMERS,
        parameters=34.75,
        what="MEG's strongest expert",
    ),
    KnownModel(
        name="bczhou/tiny-llava-v1-hf",
        hub_id="bczhou/tiny-llava-v1-hf",
        layout=TRANSFORMERS,
        parameters=1.41,
        what="TinyLLaVA 1.4B; MEG's weakest expert in place of the paper's 2B",
    ),
    KnownModel(
        name="bczhou/TinyLLaVA-2.0B",
        hub_id="bczhou/TinyLLaVA-2.0B",
        layout=OWN_CODE,
        parameters=2.0,
        what="the paper's weakest MEG expert",
    ),
    _base("7b", 7.06),
    _base("13b", 13.35),
    _adapter("amp_meg_7b", "7b", 7.06, "MEG"),
    _adapter("amp_ig_7b", "7b", 7.06, "IG"),
    _adapter("amp_meg_13b", "13b", 13.35, "MEG"),
    _adapter("amp_ig_13b", "13b", 13.35, "IG"),
    KnownModel(
        name="openai/clip-vit-large-patch14-336",
        hub_id="openai/clip-vit-large-patch14-336",
        layout=TRANSFORMERS,
        parameters=0.43,
        what="LLaVA's vision tower; its text side can be auto-check's encoder",
        is_encoder=True,
    ),
)

SIZES: tuple[KnownModel, ...] = tuple(model for model in KNOWN if model.name in ("tiny", "7b", "13b"))
"""What `amp train --size` knows."""


def cached_bytes() -> dict[str, int]:
    """Return hub id -> bytes of the repositories in the Hugging Face cache that hold weights. Asks no network."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        return {}
    return {
        repo.repo_id: repo.size_on_disk
        for repo in cache.repos
        if any(
            file.file_name.endswith((".safetensors", ".bin")) for revision in repo.revisions for file in revision.files
        )
    }
