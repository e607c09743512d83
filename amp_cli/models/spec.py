"""Which model, and how it decodes: the records that go from a command's options to the tensors."""

import re
from dataclasses import dataclass, fields

from amp_cli.disk.settings import free
from amp_cli.errors import AmpError
from amp_cli.ranges import refuse_out_of_range


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model is loaded, whichever it is.

    Attributes:
        vision_tower: folder or hub id of an original LLaVA checkpoint's tower, in place of what it names.
        dtype: `auto` is float32 on a CPU, bfloat16 on a GPU, float16 on one before compute capability 8;
            `stored` is what the weights are stored in.
        device: `cpu`, `cuda`, `cuda:1`, `mps` or `auto`.
        quantization: `nf4` (4-bit NormalFloat, double quantisation) or `int8`; language model only.
        template: chat template: `auto`, `authors`, `own`, `vicuna_v1`, `llava_v1` or a path.
        trust_remote_code: whether Python code that comes with the model may run.
    """

    vision_tower: str | None = None
    dtype: str = "auto"
    device: str = free("auto")
    quantization: str | None = None
    template: str = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"auto|cpu(:0)?|mps|cuda(:\d{1,4})?", self.device):
            raise AmpError(f"There is no device '{self.device:.40}'", hint="Use cpu, cuda, cuda:1, mps or auto")

    def of(self, model: str, adapter: str | None = None) -> "ModelSpec":
        """Return the model, to be loaded like this."""
        loading = {one.name: getattr(self, one.name) for one in fields(Loading)}
        return ModelSpec(model=model, adapter=adapter, **loading)


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Loading):
    """A model and how it is loaded.

    Attributes:
        model: a folder, a hub id, an alias (`7b`, `amp-meg-7b`, `tiny`), or an endpoint's URL#NAME.
        adapter: a LoRA adapter: folder, run folder or hub id.
    """

    model: str
    adapter: str | None = None


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
        refuse_out_of_range(self)
