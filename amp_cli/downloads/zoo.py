"""The models that this program knows by name: what they are, how large, and whether they are on this disk."""

from dataclasses import dataclass

TRANSFORMERS, ORIGINAL, OWN_CODE = "transformers", "original LLaVA", "own code"
WHY_NOT = {OWN_CODE: "not supported: it needs its own model code, which transformers does not have"}
VISION_TOWER = "clip-vit-large-patch14-336"
"""The image encoder that every original-layout LLaVA loads from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A model, or a LoRA adapter (`base` is the alias of what it belongs to).

    Attributes:
        name: the alias that `--model` or `--adapter` takes. hub_id: None for what comes with the program.
        parameters: billions; of an adapter, those of its base.
        licence: as its owners' card states it; None where it states none, or where we have not seen it.
        download_gb: of the weights, as the hub's file list shows them, rounded; None where not known.
        is_encoder: a vision tower or text encoder, no model to talk to.
        has_recipe: whether `amp train --size` has a recipe of this name.
    """

    name: str
    hub_id: str | None
    layout: str
    parameters: float
    what: str
    licence: str | None = None
    download_gb: float | None = None
    base: str | None = None
    is_encoder: bool = False
    has_recipe: bool = False

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
        """Memory of one GPU to train with the size's recipe (nf4 base, LoRA r 64, 4,096 tokens a pass), GB.

        An estimate: 4-bit weights; 2.3 % of the weights in LoRA with gradients and Adam's moments in 32 bit; 4 GB for
        CUDA itself, activations under gradient checkpointing, and the head. `amp train --dry-run` counts for your data.
        """
        return _rounded(self.parameters * (0.6 + 0.023 * 16) + _overhead(self.parameters, 4))

    @property
    def run_cpu_gb(self) -> float:
        """Memory to answer on a CPU in 32 bit, GB (an estimate)."""
        return _rounded(self.parameters * 4 + _overhead(self.parameters, 2))


def _overhead(parameters: float, gigabytes: float) -> float:
    return gigabytes if parameters > 0.1 else 1.0  # what Python and PyTorch themselves take


def _rounded(gigabytes: float) -> float:
    return float(round(gigabytes)) if gigabytes >= 2 else round(gigabytes, 1)


def _adapter(method: str, size: str, parameters: float) -> KnownModel:
    return KnownModel(
        name=f"amp-{method.lower()}-{size}",
        hub_id=f"mengxizhang/amp_{method.lower()}_{size}",
        layout=ORIGINAL,
        parameters=parameters,
        what=f"the authors' LoRA adapter, {method} preferences",
        base=f"amp-{size}-base",
    )


def _base(size: str, parameters: float) -> KnownModel:
    name = f"amp-{size}-base"
    return KnownModel(
        name=name,
        hub_id=f"mengxizhang/{name}",
        layout=ORIGINAL,
        parameters=parameters,
        what="the authors' base for their adapters",
    )


def _family(
    name: str,
    hub_id: str,
    parameters: float,
    what: str,
    layout: str = TRANSFORMERS,
    licence: str | None = None,
    download_gb: float | None = None,
    has_recipe: bool = False,
) -> KnownModel:
    return KnownModel(
        name=name,
        hub_id=hub_id,
        layout=layout,
        parameters=parameters,
        what=what,
        licence=licence,
        download_gb=download_gb,
        has_recipe=has_recipe,
    )


def _trained(
    name: str,
    hub_id: str,
    parameters: float,
    what: str,
    licence: str | None = None,
    download_gb: float | None = None,
) -> KnownModel:
    return _family(name, hub_id, parameters, what, licence=licence, download_gb=download_gb, has_recipe=True)


_15, _16 = "LLaVA-1.5; base and MEG expert", "LLaVA-1.6 on Vicuna"
_OWN = "LLaVA-1.5 as its authors store it"
_GEMMA = "Gemma 3; its terms are accepted on the hub first (HF_TOKEN)"

KNOWN: tuple[KnownModel, ...] = (
    KnownModel(
        name="tiny",
        hub_id=None,
        layout=TRANSFORMERS,
        parameters=0.0014,
        what="built in; knows only the drawn world of `amp quickstart`",
        licence="Apache-2.0",
        has_recipe=True,
    ),
    _family("7b", "llava-hf/llava-1.5-7b-hf", 7.06, _15, licence="llama2", download_gb=14.1, has_recipe=True),
    _family("13b", "llava-hf/llava-1.5-13b-hf", 13.35, _15, licence="llama2", download_gb=26.7, has_recipe=True),
    _trained("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", 3.75, "Qwen2.5-VL", "qwen-research", 7.5),
    _trained("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", 8.29, "Qwen2.5-VL", "Apache-2.0"),
    _trained("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", 4.44, "Qwen3-VL", "Apache-2.0"),
    _trained("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", 8.77, "Qwen3-VL", "Apache-2.0"),
    _trained("internvl3-2b", "OpenGVLab/InternVL3-2B-hf", 2.09, "InternVL3 in transformers' layout"),
    _trained("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", 7.94, "InternVL3 in transformers' layout", "qwen", 15.9),
    _trained("gemma-3-4b", "google/gemma-3-4b-it", 4.30, _GEMMA, "gemma"),
    _trained("gemma-3-12b", "google/gemma-3-12b-it", 12.19, _GEMMA, "gemma"),
    _trained("smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.25, "SmolVLM2", "Apache-2.0"),
    _trained(
        "llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.03, "LLaVA-OneVision on Qwen2", "Apache-2.0"
    ),
    _base("7b", 7.06),
    _base("13b", 13.35),
    _adapter("MEG", "7b", 7.06),
    _adapter("IG", "7b", 7.06),
    _adapter("MEG", "13b", 13.35),
    _adapter("IG", "13b", 13.35),
    _family("llava-1.6-34b", "llava-hf/llava-v1.6-34b-hf", 34.75, "MEG's strongest expert", licence="Apache-2.0"),
    _trained("llava-1.6-13b", "llava-hf/llava-v1.6-vicuna-13b-hf", 13.35, _16, "llama2", 26.7),
    _trained("llava-1.6-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", 7.06, _16, "llama2"),
    _trained(
        "llava-1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", 7.57, "LLaVA-1.6 on Mistral", "Apache-2.0", 15.1
    ),
    _family("llava-1.5-13b-original", "liuhaotian/llava-v1.5-13b", 13.35, _OWN, ORIGINAL),
    _family("llava-1.5-7b-original", "liuhaotian/llava-v1.5-7b", 7.06, _OWN, ORIGINAL, licence="llama2"),
    _family(
        "tiny-llava-1.4b",
        "bczhou/tiny-llava-v1-hf",
        1.41,
        "TinyLLaVA; MEG's weakest expert in place of the paper's 2B",
    ),
    _family(
        "tiny-llava-2b",
        "bczhou/TinyLLaVA-2.0B",
        2.0,
        "the paper's weakest MEG expert",
        OWN_CODE,
        licence="Apache-2.0",
        download_gb=4.1,
    ),
    _family(
        "tiny-llava-3.1b",
        "bczhou/TinyLLaVA-3.1B",
        3.1,
        "TinyLLaVA's largest",
        OWN_CODE,
        licence="Apache-2.0",
    ),
    KnownModel(
        name=VISION_TOWER,
        hub_id=f"openai/{VISION_TOWER}",
        layout=TRANSFORMERS,
        parameters=0.43,
        what="LLaVA's vision tower; its text side can be auto-check's encoder",
        is_encoder=True,
    ),
)

SIZES: tuple[KnownModel, ...] = tuple(model for model in KNOWN if model.has_recipe)
"""What `amp train --size` knows."""


def find_model(name: str) -> KnownModel | None:
    """Return the model that an alias or a hub id means; None where this program knows none of that name."""
    return next((model for model in KNOWN if name in (model.name, model.hub_id)), None)


def needed_with(model: KnownModel) -> tuple[KnownModel, ...]:
    """Return what `model` cannot run without: an adapter's base, an original-layout model's vision tower."""
    names = [model.base] if model.base else []
    if model.layout == ORIGINAL:
        names.append(VISION_TOWER)
    return tuple(known for name in names for known in KNOWN if known.name == name)


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
