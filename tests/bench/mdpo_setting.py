"""What the step is measured on: a random LLaVA of shape B or the embedded tiny model, and one item."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from amp_cli.models.adapters import language_lora_targets
from amp_cli.models.load import LoadedModel, load_model
from amp_cli.models.prompts import EncodedItem, encode_item, render
from amp_cli.models.spec import ModelSpec
from amp_cli.training.rows.logprobs import teach_log_probabilities
from amp_cli.world.drawing import draw
from amp_cli.world.language import DESCRIBE, full_caption
from amp_cli.world.scenes import random_stream, sample_neutral
from tools.world_weights.architecture import CHAT_TEMPLATE

SHAPES = ("b", "tiny")
VOCABULARY = 1024
PROMPT_WORDS = 47  # with the roles' three tokens about 50 beside the image
ANSWER_TOKENS = (110, 84, 120, 96, 102, 90, 114, 87)
RANK, ALPHA = 16, 32
ADAPTER_SPREAD = 0.02  # of LoRA's B, which starts as zero: the adapter must do something for gradients to tell


@dataclass(frozen=True, kw_only=True)
class Example:
    """One preference item: an image, a question, and an answer per level; `encoded` is what the model reads."""

    image: Image.Image
    question: str
    answers: tuple[str, ...]
    encoded: EncodedItem


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A model to measure on.

    Attributes:
        loaded: the policy (a PeftModel whose base `teach_log_probabilities` was given) and its processor.
        base: another copy of the base's weights, frozen. lora: how the policy's adapter was made.
    """

    shape: str
    loaded: LoadedModel
    base: Any
    lora: LoraConfig

    @property
    def policy(self) -> Any:
        return self.loaded.model

    @property
    def network(self) -> Any:
        return self.loaded.model.get_base_model()

    @property
    def pad_id(self) -> int:
        return int(self.loaded.tokenizer.pad_token_id)


def make_setting(shape: str) -> Setting:
    """Build shape B at random, or load the tiny model, and put a LoRA adapter on its language model."""
    loaded = load_model(ModelSpec(model="tiny", dtype="float32", device="cpu")) if shape == "tiny" else random_llava()
    loaded.model.requires_grad_(False)
    base = copy.deepcopy(loaded.model)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=language_lora_targets(loaded.model),
    )
    teach_log_probabilities(loaded.model)
    loaded.model = add_adapter(loaded.model, lora)
    loaded.model.train()
    return Setting(shape=shape, loaded=loaded, base=base, lora=lora)


@torch.no_grad()
def add_adapter(network: Any, lora: LoraConfig) -> Any:
    """Return the network with a LoRA adapter whose A and B are random numbers, the same ones each time."""
    torch.manual_seed(1)
    model = get_peft_model(network, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=ADAPTER_SPREAD)
    return model


def adapter_parameters(model: Any) -> list[torch.nn.Parameter]:
    """Return the parameters that are trained, in the model's order."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def make_example(setting: Setting, levels: int) -> Example:
    """Return one item with as many levels, the same one each time."""
    image, question, answers = _drawn_texts(levels) if setting.shape == "tiny" else _random_texts(levels)
    encoded = encode_item(setting.loaded, [question], [[answer] for answer in answers], [image])
    return Example(image=image, question=question, answers=tuple(answers), encoded=encoded)


def in_double(item: EncodedItem) -> EncodedItem:
    """Return the item with its images in float64."""
    images = {name: one.double() if one.is_floating_point() else one for name, one in item.image_inputs.items()}
    return replace(item, image_inputs=images)


def pair_texts(setting: Setting, example: Example) -> list[dict[str, Any]]:
    """Return the K(K-1)/2 pairs as TRL takes them, plain texts that give the very tokens of the encoded item."""
    prompt = render(setting.loaded, [example.question], [], 1)
    bos = setting.loaded.tokenizer.bos_token or ""  # TRL adds no special tokens
    ends = [render(setting.loaded, [example.question], [answer], 1).removeprefix(prompt) for answer in example.answers]
    return [
        {"prompt": bos + prompt, "chosen": better, "rejected": worse, "images": [example.image]}
        for number, better in enumerate(ends)
        for worse in ends[number + 1 :]
    ]


def _drawn_texts(levels: int) -> tuple[Image.Image, str, Sequence[str]]:
    """A scene's image, and its caption before those of other scenes."""
    stream = random_stream("mdpo step benchmark", 0)
    scenes = [sample_neutral(stream) for _ in range(levels)]
    return draw(scenes[0]), DESCRIBE, [full_caption(scene) for scene in scenes]


def _random_texts(levels: int) -> tuple[Image.Image, str, Sequence[str]]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (480, 640, 3), generator=generator, dtype=torch.uint8)

    def words(count: int) -> str:
        return " ".join(f"t{number}" for number in torch.randint(0, VOCABULARY - 6, (count,), generator=generator))

    question = words(PROMPT_WORDS)
    lengths = [ANSWER_TOKENS[level % len(ANSWER_TOKENS)] for level in range(levels)]
    return Image.fromarray(pixels.numpy()), question, [words(length - 1) for length in lengths]  # and the end token


def random_llava() -> LoadedModel:
    """Shape B of perf.md: its shares of operations are close to a 7B's, with 576 image tokens."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        initializer_range=0.04,
        pad_token_id=VOCABULARY - 2,
        bos_token_id=None,
        eos_token_id=VOCABULARY - 3,
        tie_word_embeddings=False,
    )
    tower = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=336,
        patch_size=14,
        projection_dim=128,
    )
    network = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text,
            vision_config=tower,
            image_token_index=VOCABULARY - 1,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=576,
            tie_word_embeddings=False,
        )
    )
    network.generation_config = GenerationConfig(eos_token_id=VOCABULARY - 3, pad_token_id=VOCABULARY - 2)
    return LoadedModel(
        model=network,
        processor=_word_processor(),
        name="shape b",
        chat_template=CHAT_TEMPLATE,
        background=None,
        vocabulary=VOCABULARY,
        identity={},
        folder=Path(),
    )


def _word_processor() -> LlavaProcessor:
    """A token for each of t0, t1, ..., and LLaVA-1.5's preparation of images."""
    special = ["<unk>", "USER:", "ASSISTANT:", "</s>", "<pad>", "<image>"]
    words = [*(f"t{number}" for number in range(VOCABULARY - len(special))), *special]
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<image>"],
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
