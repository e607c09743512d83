"""Chooses a model's chat template."""

from pathlib import Path
from typing import Any

from amp_cli.disk.parsing import read_text
from amp_cli.disk.templates import template_path
from amp_cli.errors import AmpError

CHAT_TEMPLATES = ("vicuna_v1", "llava_v1")
"""vicuna_v1 ("a curious user") is the prompt of training, llava_v1 ("a curious human") of the authors' evaluation."""
FOR_LLAVA = {"auto": "vicuna_v1", "authors": "llava_v1"}
"""What LLaVA-1.5 gets; all other models get their own."""
LLAVA_VOCABULARY = 32000
"""LLaVA-1.5's Llama vocabulary; smaller ones are not Vicuna and bring their own template."""


def chat_template_text(name: str) -> str:
    """Return the Jinja text of one of `CHAT_TEMPLATES`."""
    return template_path("chat", f"{name}.jinja").read_text(encoding="utf-8").strip()


def choose_template(template: str, config: dict[str, Any], processor: Any, model: str) -> tuple[str, str]:
    """Return a chat template's name and Jinja text.

    Args:
        template: `auto` (vicuna_v1 for LLaVA-1.5, else the model's own), `authors` (llava_v1 for LLaVA-1.5, else the
            model's own), `own`, one of `CHAT_TEMPLATES`, or a path.
        config: the model's, in transformers' layout.

    Raises:
        AmpError: no such template, or the model brings none.
    """
    if template in FOR_LLAVA:
        template = FOR_LLAVA[template] if _is_llava_15(config) else "own"
    if template == "own":
        text = processor.chat_template or processor.tokenizer.chat_template
        if not isinstance(text, str):
            raise AmpError(
                f"'{model}' has no chat template", hint="Give --template vicuna_v1, llava_v1 or a .jinja file"
            )
        return "own", text
    if template in CHAT_TEMPLATES:
        return template, chat_template_text(template)
    path = Path(template)
    if not path.is_file():
        raise AmpError(
            f"There is no chat template '{template}'",
            hint="Use auto, authors, own, vicuna_v1, llava_v1 or a .jinja file",
        )
    return template, read_text(path).strip()


def _is_llava_15(config: dict[str, Any]) -> bool:
    vision = config.get("vision_config", {}).get("model_type")
    vocabulary = int(config.get("text_config", {}).get("vocab_size", LLAVA_VOCABULARY))
    return config.get("model_type") == "llava" and vision == "clip_vision_model" and vocabulary >= LLAVA_VOCABULARY
