"""The one place that loads models: any transformers image-text-to-text model, its processor, template and adapter."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from amp_cli.core.hub import (
    adapter_folder,
    fetch_folder,
    identity_of,
    is_folder_name,
    model_config,
    model_place,
    refuse_unusable_model,
)
from amp_cli.core.templates import template_path
from amp_cli.errors import AmpError

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # names that its own code still uses
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels and of every cast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("nf4", "int8")
NOT_QUANTIZED = ("lm_head", "multi_modal_projector", "vision_tower", "vision_model", "visual", "connector")
"""What families call the parts outside the language model; only the language model's projections are quantised."""
LLAVA_VOCABULARY = 32000
"""LLaVA-1.5's Llama vocabulary; smaller ones are not Vicuna and bring their own template."""


@dataclass(kw_only=True)
class LoadedModel:
    """A model ready to answer or to be trained, with all that is needed to talk to it.

    Attributes:
        model: the transformers model, or the PeftModel around it when an adapter is attached; in eval mode.
        chat_template: the Jinja text in use.
        background: RGB colour that pictures are padded to a square with, or None where the model was not trained so.
        identity: name and revision or hash of model and adapter, dtype, quantisation, template name: for `run.json`.
    """

    model: Any
    processor: Any
    name: str
    chat_template: str
    background: tuple[int, int, int] | None
    identity: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer


def check_model(model: str, *, adapter: str | None = None) -> dict[str, Any]:
    """Refuse, without loading weights, a model or adapter that cannot be used; return their identity."""
    config, folder = model_config(model)
    refuse_unusable_model(model, config, folder)
    identity: dict[str, Any] = {"model": identity_of(model, folder)}
    if adapter is not None:
        identity["adapter"] = identity_of(adapter, adapter_folder(adapter))
    return identity


def load_model(
    model: str,
    *,
    adapter: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    quantization: str | None = None,
    template: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model by folder, hub id, size alias (`7b`, `13b`) or `tiny`; a LoRA adapter is attached, not merged.

    Args:
        dtype: `auto` is float32 on a CPU and bfloat16 on a GPU; `stored` is what the weights are stored in.
        quantization: `nf4` (4-bit NormalFloat, double quantisation) or `int8`; language model only.
        template: `auto`, `own`, `vicuna_v1`, `llava_v1` or a path.

    Raises:
        AmpError: no such model, another layout, weights missing, an adapter that does not fit.
    """
    identity = check_model(model, adapter=adapter)
    config, folder = model_config(model)
    if not is_folder_name(model_place(model)):
        folder = fetch_folder(model_place(model))
    place = choose_device(device)
    network, precision = _load_weights(folder, model, config, dtype, place, quantization, trust_remote_code)
    processor = _load_processor(folder, model, config, trust_remote_code)
    template_name, template_text = choose_template(template, config, processor, model)
    if adapter is not None:
        from amp_cli.core.adapters import attach_adapter  # PEFT takes seconds to import

        network = attach_adapter(network, adapter_folder(adapter), adapter)
    network.eval()
    return LoadedModel(
        model=network,
        processor=processor,
        name=model,
        chat_template=template_text,
        background=_padding_colour(config, processor),
        identity={**identity, "dtype": precision, "quantization": quantization, "template": template_name},
    )


def choose_device(device: str) -> torch.device:
    """Return the torch device that `device` means; `auto` prefers CUDA, then Apple's MPS.

    Raises:
        AmpError: the machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise AmpError(f"There is no device '{device}'", hint="Use cpu, cuda, cuda:1, mps or auto") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise AmpError("No CUDA GPU is visible to PyTorch", hint="Use --device cpu, or see `amp doctor`")
    return chosen


def stored_dtype(model: str) -> str:
    """Return the precision a model's weights are stored in, as its configuration says (`float32` when it does not)."""
    config, _ = model_config(model)
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _choose_dtype(dtype: str, device: torch.device, model: str) -> tuple[str, torch.dtype]:
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    if dtype == "stored":
        dtype = stored_dtype(model)
    if dtype not in DTYPES:
        raise AmpError(f"'{dtype}' is no dtype we know", hint=f"Use auto, {', '.join(DTYPES)}")
    return dtype, DTYPES[dtype]


def _quantization_config(quantization: str | None, compute: torch.dtype) -> BitsAndBytesConfig | None:
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS:
        raise AmpError(f"'{quantization}' is no quantisation we know", hint=f"Use {' or '.join(QUANTIZATIONS)}")
    skip = [rf"(.*\.)?{part}" for part in NOT_QUANTIZED]
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=skip,
    )


def _load_weights(
    folder: Path,
    model: str,
    config: dict[str, Any],
    dtype: str,
    device: torch.device,
    quantization: str | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, str]:
    """Load the weights and refuse a checkpoint that leaves any of the model's own weights untold."""
    precision, torch_dtype = _choose_dtype(dtype, device, model)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        network, info = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=torch_dtype,
            device_map={"": device},
            quantization_config=_quantization_config(quantization, torch_dtype),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        kind = config.get("model_type", "unknown")
        raise AmpError(f"'{model}' (model type '{kind}') could not be loaded: {_first_line(error)}") from error
    if info["missing_keys"]:
        names = sorted(info["missing_keys"])
        raise AmpError(
            f"'{model}' lacks {len(names)} of the weights its configuration asks for, first '{names[0]}'",
            hint="The folder is incomplete or in another layout; fetch it again",
        )
    return network, precision


def _load_processor(folder: Path, model: str, config: dict[str, Any], trust_remote_code: bool) -> Any:
    """Load the processor; LLaVA's pictures go through the PIL backend, which is the one its training used."""
    backend = {"backend": "pil"} if config.get("model_type") == "llava" else {}
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code, **backend)
    except (ValueError, OSError, RuntimeError, KeyError, ImportError) as error:
        raise AmpError(f"The processor of '{model}' could not be loaded: {_first_line(error)}") from error
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise AmpError(f"'{model}' brings no processor for pictures and text", hint="Give a vision-language model")
    return processor


def _is_llava_15(config: dict[str, Any]) -> bool:
    text = config.get("text_config", {})
    return _pads_to_square(config) and int(text.get("vocab_size", LLAVA_VOCABULARY)) >= LLAVA_VOCABULARY


def _pads_to_square(config: dict[str, Any]) -> bool:
    """LLaVA-1.5-class models (CLIP tower, one picture size) were trained on pictures padded to a square."""
    vision = config.get("vision_config", {}).get("model_type")
    return config.get("model_type") == "llava" and vision == "clip_vision_model"


def _padding_colour(config: dict[str, Any], processor: Any) -> tuple[int, int, int] | None:
    if not _pads_to_square(config):
        return None
    red, green, blue = (int(mean * 255) for mean in processor.image_processor.image_mean)
    return red, green, blue


def choose_template(template: str, config: dict[str, Any], processor: Any, model: str) -> tuple[str, str]:
    """Return the chat template's name and Jinja text."""
    if template == "auto":
        template = "vicuna_v1" if _is_llava_15(config) else "own"
    if template == "own":
        text = processor.chat_template or processor.tokenizer.chat_template
        if not isinstance(text, str):
            raise AmpError(
                f"'{model}' brings no chat template", hint="Give --template vicuna_v1, llava_v1 or a .jinja file"
            )
        return "own", text
    if template in ("vicuna_v1", "llava_v1"):
        return template, template_path("chat", f"{template}.jinja").read_text(encoding="utf-8").strip()
    path = Path(template)
    if not path.is_file():
        raise AmpError(
            f"There is no chat template '{template}'", hint="Use auto, own, vicuna_v1, llava_v1 or a .jinja file"
        )
    return template, path.read_text(encoding="utf-8").strip()


def save_model_folder(loaded: LoadedModel, out: Path) -> None:
    """Write a plain model folder: safetensors, configurations, and the processor with the chat template in use."""
    loaded.model.save_pretrained(out)
    loaded.processor.chat_template = loaded.chat_template
    loaded.processor.save_pretrained(out)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def load_text_encoder(name: str, kind: str) -> tuple[Any, Any]:
    """Load a text encoder and its tokenizer for auto-check: `clip` (text tower) or `bert` (a sentence encoder).

    Raises:
        AmpError: no such folder or hub id, or it holds no such encoder.
    """
    from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection

    classes = {"clip": CLIPTextModelWithProjection, "bert": AutoModel}
    _, folder = model_config(name)
    if not is_folder_name(name):
        folder = fetch_folder(name)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        encoder = classes[kind].from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, RuntimeError, KeyError) as error:
        raise AmpError(f"'{name}' could not be loaded as a text encoder: {_first_line(error)}") from error
    return encoder.eval(), tokenizer
