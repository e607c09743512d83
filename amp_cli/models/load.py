"""The one place that loads models: any transformers vision-language model, or an original LLaVA checkpoint."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from amp_cli import ui
from amp_cli.disk.modes import share_weights
from amp_cli.errors import AmpError
from amp_cli.models.foreign import folder_read, is_out_of_memory, reads_folder
from amp_cli.models.llava.layout import says_original
from amp_cli.models.llava.names import HUB
from amp_cli.models.llava.original import (
    OriginalCheckpoint,
    generation_config_of,
    llava_config,
    processor_of,
    tensors_by_file,
)
from amp_cli.models.llava.source import CheckpointFolder, find_outline, find_source
from amp_cli.models.llava.to_hf import keep_small_files, save_processor
from amp_cli.models.packages import needs_package
from amp_cli.models.precision import (
    choose_device,
    choose_dtype,
    most_used_precision,
    quantization_config,
    refuse_overflow,
    refuse_too_large,
    why_float16,
)
from amp_cli.models.processors import keep_video_settings, load_processor
from amp_cli.models.resolve import check_model, local_folder, model_and_adapter, model_config
from amp_cli.models.spec import ModelSpec
from amp_cli.models.templates import FOR_LLAVA, choose_template

if TYPE_CHECKING:
    import torch


warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # names that its own code still uses


@dataclass(kw_only=True)
class LoadedModel:
    """A model ready to answer or to be trained, with all that is needed to talk to it.

    Attributes:
        model: the transformers model, or the PeftModel around it when an adapter is attached; in eval mode.
        chat_template: the Jinja text in use.
        background: RGB colour that images are padded to a square with, or None where the model was not trained so.
        vocabulary: how many ids text can have; a LLaVA's image and padding tokens come after them and are never said.
        identity: name and revision or hash of model and adapter, dtype, quantisation, template name: for `run.json`.
        max_pixels: of an image, which is made smaller before it is prepared; None for no limit.
        folder: where its files lie. original_config: its `config.json` where that is in the original LLaVA layout.
        notes: what the user should know about how it was loaded.
    """

    model: Any
    processor: Any
    name: str
    chat_template: str
    background: tuple[int, int, int] | None
    vocabulary: int
    identity: dict[str, Any]
    folder: Path
    original_config: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    max_pixels: int | None = None

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def prepare_images(self, *, pad_to_square: bool | None, max_pixels: int | None) -> None:
        """Prepare images as a training asks for: False crops them at the centre instead of padding them to a square."""
        self.max_pixels = max_pixels
        if pad_to_square is False:
            self.background = None
            if getattr(self.processor.image_processor, "do_pad", False):  # CLIP's processor has no such setting
                self.processor.image_processor.do_pad = False


def load_model(
    spec: ModelSpec,
    *,
    trainable: bool = False,
    as_stored: bool = False,
    to_share: bool = False,
    reads_weights: bool = True,
) -> LoadedModel:
    """Load a model; a LoRA adapter is attached, not merged.

    An original LLaVA checkpoint is converted in memory, or once to disk where `AMP_CACHE_CONVERTED` asks for it.

    Args:
        trainable: leave the adapter's weights trainable.
        as_stored: leave model and adapter on the disk (memory-mapped), each in its own precision, whatever the `dtype`
            that `identity` tells; to be merged and written, not to answer.
        to_share: for processes that will each keep a share. What is quantised is packed on the device, in a format that
            can be cut; all else stays in main memory.
        reads_weights: else a model that is not quantised is built on the meta device, for weights from another process.

    Raises:
        AmpError: no such model, weights missing or damaged, parts or an adapter that do not fit, or too little memory.
    """
    with ui.busy(loading_text(spec)):
        return _load_model(spec, trainable, as_stored, to_share, reads_weights)


def loading_text(spec: ModelSpec) -> str:
    """Return what is said while a model is loaded."""
    packed = f" and packing it to {spec.quantization}" if spec.quantization else ""
    return f"Loading '{spec.model}'{packed}"


@reads_folder
def _load_model(spec: ModelSpec, trainable: bool, as_stored: bool, to_share: bool, reads_weights: bool) -> LoadedModel:
    source = find_source(spec)
    config, place = source.config(), choose_device(spec.device)
    processor = _load_processor(source, config, spec.trust_remote_code)  # first: it may need a package that is missing
    precision, torch_dtype = choose_dtype(spec.dtype, place, config)
    if as_stored:
        torch_dtype = most_used_precision(source.tensors())
    elif not trainable:  # training has an estimate of its own, and may share the weights among devices
        refuse_too_large(spec, source.tensors(), place, torch_dtype)
    if reads_weights or spec.quantization is not None:
        options = {
            "dtype": torch_dtype,
            "device_map": {"": torch.device("cpu") if to_share and spec.quantization is None else place},
            "quantization_config": quantization_config(spec.quantization, torch_dtype, to_share=to_share),
            "trust_remote_code": spec.trust_remote_code,
        }
        network = _load_network(source, config, options)
        if spec.dtype != "stored" and not as_stored:
            refuse_overflow(network, spec.model, torch_dtype)
    else:
        network = _build_network(source, config, torch_dtype, spec.trust_remote_code)
        network.name_or_path = str(source.folder)
    identity = {**source.identity, "dtype": precision, "quantization": spec.quantization}
    loaded = _with_processor(network, processor, source, config, identity, spec)
    if source.adapter is not None:
        from amp_cli.models.adapters import attach_adapter

        name, folder = source.adapter
        loaded.model = attach_adapter(network, folder, name, trainable=trainable, as_stored=as_stored)
    if (reason := why_float16(spec.dtype, place)) is not None:
        loaded.notes += (reason,)
    loaded.model.eval()
    return loaded


@reads_folder
def load_outline(spec: ModelSpec) -> LoadedModel:
    """Build a model without weights from its configuration, on the meta device, with its processor.

    Weights need not be on this disk.

    Raises:
        AmpError: no such model, or it cannot be built.
    """
    source = find_outline(spec)
    config = source.config()
    precision, torch_dtype = choose_dtype(spec.dtype, choose_device(spec.device), config)
    processor = _load_processor(source, config, spec.trust_remote_code)
    network = _build_network(source, config, torch_dtype, spec.trust_remote_code)
    return _with_processor(network, processor, source, config, {"dtype": precision}, spec)


def _with_processor(
    network: Any,
    processor: Any,
    source: CheckpointFolder,
    config: dict[str, Any],
    identity: dict[str, Any],
    spec: ModelSpec,
) -> LoadedModel:
    template = spec.template
    if source.original_config is not None:
        template = FOR_LLAVA.get(template, template)
    template_name, template_text = choose_template(template, config, processor, source.model, source.folder)
    return LoadedModel(
        model=network,
        processor=processor,
        name=source.model,
        chat_template=template_text,
        background=_padding_colour(config, processor),
        vocabulary=silence_appended_rows(network, processor.tokenizer),
        identity={**identity, "template": template_name},
        folder=source.folder,
        original_config=source.original_config,
        notes=source.notes,
    )


@reads_folder
def load_text_model(spec: ModelSpec) -> LoadedModel:
    """Load a model to be asked without images: a plain language model, or any that `load_model` takes.

    Raises:
        AmpError: no such model, it cannot be loaded, or it has no chat template.
    """
    model = spec.model
    config, _ = model_config(model_and_adapter(model, None)[0])
    if not is_language_model(config):
        return load_model(spec)
    identity, folder, place = check_model(spec), local_folder(model), choose_device(spec.device)
    precision, torch_dtype = choose_dtype(spec.dtype, place, config)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with ui.busy(f"Loading '{model}'"), _explained(f"'{model}'"):
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype, device_map={"": place})
        tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = TextProcessor(tokenizer)
    template_name, template_text = choose_template("own", config, processor, model, folder)
    return LoadedModel(
        model=network.eval(),
        processor=processor,
        name=model,
        chat_template=template_text,
        background=None,
        vocabulary=int(network.config.vocab_size),
        identity={**identity, "dtype": precision, "quantization": None, "template": template_name},
        folder=folder,
    )


def _load_network(source: CheckpointFolder, config: dict[str, Any], options: dict[str, Any]) -> PreTrainedModel:
    """Load the weights and refuse a checkpoint that leaves any of the model's own weights untold."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with _explained(_with_kind(source.model, config)):
        if source.original is None:
            network, info = AutoModelForImageTextToText.from_pretrained(
                source.folder, output_loading_info=True, **options
            )
        else:
            network, info = _from_original(source.original, options)
    for what, keys in (("lacks", info["missing_keys"]), ("has other shapes for", info["mismatched_keys"])):
        if keys:
            names = sorted(str(key) for key in keys)
            raise AmpError(
                f"'{source.model}' {what} {len(names)} of the weights its configuration asks for, first '{names[0]}'",
                hint="The folder is incomplete or its files do not belong together. Download it again",
            )
    return network


def _build_network(
    source: CheckpointFolder, config: dict[str, Any], dtype: torch.dtype, trust_remote_code: bool
) -> PreTrainedModel:
    """Build the model on the meta device, without weights."""
    trusts = {"trust_remote_code": trust_remote_code}
    with _explained(_with_kind(source.model, config), done="built"):
        original = source.original
        built = AutoConfig.from_pretrained(source.folder, **trusts) if original is None else llava_config(original)
        with torch.device("meta"):
            network: PreTrainedModel = AutoModelForImageTextToText.from_config(built, dtype=dtype, **trusts)
        if (source.folder / "generation_config.json").is_file():
            network.generation_config = GenerationConfig.from_pretrained(source.folder)
    return network


def _from_original(checkpoint: OriginalCheckpoint, options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    weights: dict[str, torch.Tensor] = {}
    for part in tensors_by_file(checkpoint, HUB):
        weights |= part
    network, info = LlavaForConditionalGeneration.from_pretrained(
        None, config=llava_config(checkpoint), state_dict=weights, output_loading_info=True, **options
    )
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        raise ValueError(f"its configuration has no place for {len(unexpected)} weights, first {unexpected[:3]}")
    network.generation_config = generation_config_of(checkpoint)
    network.name_or_path = str(checkpoint.folder)
    return network, info


def _load_processor(source: CheckpointFolder, config: dict[str, Any], trust_remote_code: bool) -> Any:
    if source.original is not None:
        return processor_of(source.original)
    with _explained(f"The processor of '{source.model}'"):
        processor = load_processor(source.folder, str(config.get("model_type")), trust_remote_code=trust_remote_code)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise AmpError(
            f"{_with_kind(source.model, config)} has no processor for images and text",
            hint="Give a vision-language model",
        )
    return processor


def _padding_colour(config: dict[str, Any], processor: Any) -> tuple[int, int, int] | None:
    """LLaVA-1.5-class models were trained on images padded to a square, unless their processor says otherwise."""
    images = processor.image_processor
    is_llava = config.get("model_type") == "llava" and config["vision_config"].get("model_type") == "clip_vision_model"
    says_no = type(images).__name__.startswith("LlavaImageProcessor") and not images.do_pad
    if not is_llava or says_no:
        return None
    red, green, blue = (int(mean * 255) for mean in images.image_mean)
    return red, green, blue


def save_model_folder(loaded: LoadedModel, out: Path) -> None:
    """Write a plain model folder: safetensors, configurations, and the processor with the chat template in use."""
    loaded.model.save_pretrained(out)
    share_weights(out)
    save_beside_weights(loaded, out)


def save_beside_weights(loaded: LoadedModel, out: Path) -> None:
    """Write the processor with the chat template in use, and what the original layout would need again."""
    loaded.processor.chat_template = loaded.chat_template
    save_processor(loaded.processor, out)
    keep_video_settings(loaded.folder, out)
    keep_small_files(loaded.folder, loaded.original_config, out)


@contextmanager
def _explained(what: str, *, done: str = "loaded") -> Iterator[None]:
    """Say in a sentence why transformers could not load something; of memory that ran out `folder_read` tells."""
    try:
        yield
    except ImportError as error:
        raise needs_package(what, error) from error
    except (ValueError, OSError, RuntimeError, KeyError, SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise AmpError(
            f"{what} could not be {done}: {_first_line(error)}",
            hint="Check the model's folder, or download it again",
        ) from error


def _with_kind(model: str, config: Mapping[str, Any]) -> str:
    return f"'{model}' (model type '{config.get('model_type', 'unknown')}')"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def load_text_encoder(name: str, kind: str) -> tuple[Any, Any]:
    """Load a text encoder and its tokenizer for auto-check: `clip` (text tower) or `bert` (a sentence encoder).

    Raises:
        AmpError: no such folder or hub id, or it holds no such encoder.
    """
    from transformers import AutoModel, CLIPTextModelWithProjection

    classes = {"clip": CLIPTextModelWithProjection, "bert": AutoModel}
    model_config(name)
    folder = local_folder(name)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with folder_read(name), _explained(f"'{name}'", done="loaded as a text encoder"):
        encoder = classes[kind].from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return encoder.eval(), tokenizer


def silence_appended_rows(network: Any, tokenizer: Any) -> int:
    """Make the ids that a conversion of LLaVA appended unsayable, and return how many ids text can have.

    The image token, the padding token and the rows that fill up the vocabulary have no meaning as answers, but take
    part in every softmax: without this all log-probabilities differ from the original's.
    """
    import torch

    config = network.config
    first = getattr(config, "image_token_index", None) if config.model_type in ("llava", "llava_next") else None
    if first is None or first < tokenizer.vocab_size:  # among the ordinary tokens: not appended
        return int(config.get_text_config().vocab_size)

    def silence(_module: Any, _inputs: Any, logits: "torch.Tensor") -> "torch.Tensor":
        logits[..., first:] = torch.finfo(logits.dtype).min
        return logits

    network.get_output_embeddings().register_forward_hook(silence)
    return int(first)


def is_language_model(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a plain language model, which takes no images."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    speaks = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return speaks and not says_original(config)


class TextProcessor:
    """A tokenizer with the interface of a processor; there are no images."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template

    def __call__(self, *, images: None, text: Sequence[str], **options: Any) -> Any:
        """Encode texts as a processor would."""
        from transformers import BatchFeature

        assert images is None, "a language model takes no images"
        return BatchFeature(dict(self.tokenizer(text, return_token_type_ids=False, **options)))

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> Any:
        """Render a dialogue; templates of language models expect each content as one text."""
        plain = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in messages]
        return self.tokenizer.apply_chat_template(plain, **options)
