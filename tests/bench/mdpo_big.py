"""LLaVA-1.5-7B's shape with random weights, in bfloat16 or 4 bit, made a layer at a time; and an item for it."""

from typing import Any

import bitsandbytes
import torch
from accelerate import init_empty_weights
from mdpo_setting import add_adapter
from peft import LoraConfig
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from amp_cli.models.adapters import language_lora_targets
from amp_cli.models.prompts import EncodedItem, EncodedResponse
from amp_cli.training.rows.logprobs import teach_log_probabilities

PROMPT_TOKENS, ANSWER_TOKENS = 50, 100
RANK, ALPHA = 64, 16  # as templates/recipes/7b.yaml has it
SPREAD = 0.02


def llava_7b() -> LlavaConfig:
    """LLaVA-1.5-7B: Llama 2's 7B, CLIP ViT-L/14 at 336 pixels."""
    text = LlamaConfig(
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=32064,
        max_position_embeddings=4096,
        pad_token_id=32001,
        tie_word_embeddings=False,
    )
    tower = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    return LlavaConfig(
        text_config=text,
        vision_config=tower,
        image_token_index=32000,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=576,
        tie_word_embeddings=False,
    )


@torch.no_grad()
def random_llava(config: LlavaConfig, *, device: torch.device, is_nf4: bool, seed: int = 0) -> Any:
    """Return a frozen model with the random weights of a seed: the same seed, the same weights.

    The weights are drawn on the device in bfloat16; of the language model's projections only one is ever unpacked
    where they are to be 4 bit (NormalFloat, double quantisation), as `load_model` has them.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with init_empty_weights():
        network = LlavaForConditionalGeneration(config)
    in_decoder = {id(module) for module in network.get_decoder().modules()}
    for name, module in list(network.named_modules()):
        if is_nf4 and isinstance(module, torch.nn.Linear) and id(module) in in_decoder:
            network.set_submodule(name, _packed(module, device, generator))
            continue
        for own, parameter in list(module.named_parameters(recurse=False)):
            weight = torch.nn.Parameter(_drawn(own, parameter.shape, device, generator), requires_grad=False)
            module.register_parameter(own, weight)
        for own, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(own, buffer.to(device), persistent=False)
    network.is_loaded_in_4bit = is_nf4  # PEFT goes by it
    return network.eval()


def random_policy(config: LlavaConfig, *, device: torch.device, is_nf4: bool) -> Any:
    """Return the same model with a LoRA adapter of the recipe's size on its language model, taught what we need."""
    network = random_llava(config, device=device, is_nf4=is_nf4)
    teach_log_probabilities(network)
    lora = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=language_lora_targets(network),
    )
    return add_adapter(network, lora).train()


def random_item(config: LlavaConfig, levels: int) -> EncodedItem:
    """Return an item of one image, a prompt, and as many answers of 100 tokens, all of it random."""
    generator = torch.Generator().manual_seed(levels)

    def text(length: int) -> torch.Tensor:
        most = min(config.image_token_index, config.text_config.vocab_size) - 1
        return torch.randint(3, most, (length,), generator=generator)

    half = PROMPT_TOKENS // 2
    image = torch.full((config.image_seq_length,), config.image_token_index)
    prompt = torch.cat((text(half), image, text(PROMPT_TOKENS - half)))
    supervised = torch.arange(len(prompt) + ANSWER_TOKENS) >= len(prompt)
    responses = tuple(
        EncodedResponse(
            input_ids=torch.cat((prompt, text(ANSWER_TOKENS))), supervised=supervised, round=supervised.long() - 1
        )
        for _ in range(levels)
    )
    size = config.vision_config.image_size
    return EncodedItem(
        responses=responses, image_inputs={"pixel_values": torch.randn(1, 3, size, size, generator=generator)}
    )


def _drawn(name: str, shape: torch.Size, device: torch.device, generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1 and name in ("weight", "bias"):  # of a norm, or beside a weight
        return torch.full(shape, float(name == "weight"), dtype=torch.bfloat16, device=device)
    return torch.empty(shape, dtype=torch.bfloat16, device=device).normal_(std=SPREAD, generator=generator)


def _packed(linear: torch.nn.Linear, device: torch.device, generator: torch.Generator) -> Any:
    """Return a 4-bit layer of the same shape with random weights."""
    packed = bitsandbytes.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=torch.bfloat16, device="meta"
    )
    packed.weight = bitsandbytes.nn.Params4bit(
        _drawn("weight", linear.weight.shape, device, generator),
        requires_grad=False,
        quant_type="nf4",
        compress_statistics=True,
        module=packed,
    )
    return packed.to(device)
