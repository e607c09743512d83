"""Chooses a model's chat template."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from amp_cli.disk.templates import PACKAGE, template_path
from amp_cli.errors import AmpError
from amp_cli.models.template_trial import LONGEST, fault_of

CHAT_TEMPLATES = ("vicuna_v1", "llava_v1")
"""vicuna_v1 ("a curious user") is the prompt of training, llava_v1 ("a curious human") of the authors' evaluation."""
FOR_LLAVA = {"auto": "vicuna_v1", "authors": "llava_v1"}
"""What LLaVA-1.5 gets; all other models get their own."""
LLAVA_VOCABULARY = 32000
"""LLaVA-1.5's Llama vocabulary; smaller ones are not Vicuna and bring their own template."""


def chat_template_text(name: str) -> str:
    """Return the Jinja text of one of `CHAT_TEMPLATES`."""
    return template_path("chat", f"{name}.jinja").read_text(encoding="utf-8").strip()


def choose_template(template: str, config: dict[str, Any], processor: Any, model: str, folder: Path) -> tuple[str, str]:
    """Return a chat template's name and Jinja text; one that is not ours has been tried within bounds.

    Args:
        template: `auto` (vicuna_v1 for LLaVA-1.5, else the model's own), `authors` (llava_v1 for LLaVA-1.5, else the
            model's own), `own`, one of `CHAT_TEMPLATES`, or a path.
        config: the model's, in transformers' layout. folder: of its processor.

    Raises:
        AmpError: no such template, the model brings none, or it cannot be rendered within a little time and memory.
    """
    if template in FOR_LLAVA:
        template = FOR_LLAVA[template] if _is_llava_15(config) else "own"
    if template in CHAT_TEMPLATES:
        return template, chat_template_text(template)
    text = _own_text(processor, model, folder) if template == "own" else _text_of(template)
    fault = None if text in _ours() else fault_of(text, processor.tokenizer.special_tokens_map)
    if fault is not None:
        raise AmpError(f"The chat template '{template_place(template, folder)}' cannot be used: {fault}", hint=OTHERS)
    return template, text


def file_for_servers(template: str, config: dict[str, Any]) -> Path | None:
    """Return the file of a chat template to give to a server, or None where it is to use the model's own.

    Args:
        template, config: as in `choose_template`.

    Raises:
        AmpError: no such template.
    """
    if template in FOR_LLAVA:
        template = FOR_LLAVA[template] if _is_llava_15(config) else "own"
    if template == "own":
        return None
    if template in CHAT_TEMPLATES:
        return template_path("chat", f"{template}.jinja")
    _text_of(template)
    return Path(template)


OTHERS = "Mend it, or give another one: --template vicuna_v1, llava_v1 or a .jinja file"


def _own_text(processor: Any, model: str, folder: Path) -> str:
    found = processor.chat_template or processor.tokenizer.chat_template
    text = found.get("default") if isinstance(found, dict) else found  # one of several, by name
    if not found:
        raise AmpError(f"'{model}' has no chat template", hint="Give --template vicuna_v1, llava_v1 or a .jinja file")
    if not isinstance(text, str):
        raise AmpError(f"The chat template '{template_place('own', folder)}' is not a text: {found!r:.80}", hint=OTHERS)
    return text


def _text_of(template: str) -> str:
    path = Path(template)
    if not path.is_file():
        raise AmpError(
            f"There is no chat template '{template}'",
            hint="Use auto, authors, own, vicuna_v1, llava_v1 or a .jinja file",
        )
    return _template_file(path)


def _template_file(path: Path) -> str:
    """Return the text of a file that is a chat template; of another file nothing is shown.

    Raises:
        AmpError: it is not one: too long, not UTF-8, or it does not go through `messages`.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(LONGEST + 1)
        text = content.decode("utf-8").strip()
    except OSError as error:
        raise AmpError(f"Cannot read the chat template '{path}': {error.strerror}", hint=OTHERS) from error
    except UnicodeDecodeError as error:
        raise AmpError(f"'{path}' is not a chat template: it is not UTF-8", hint=OTHERS) from error
    if len(content) > LONGEST:
        raise AmpError(f"'{path}' is not a chat template: it is longer than {LONGEST:,} bytes", hint=OTHERS)
    if not re.search(r"\{[{%][^}]*\bmessages\b", text):
        raise AmpError(f"'{path}' is not a chat template: nothing in it uses `messages`", hint=OTHERS)
    return text


@cache
def _ours() -> frozenset[str]:
    """Return the texts that need no trial: those of this package and of its tiny model."""
    tiny = (PACKAGE / "world" / "tiny" / "chat_template.jinja").read_text(encoding="utf-8")
    return frozenset({*map(chat_template_text, CHAT_TEMPLATES), tiny, tiny.strip()})


def template_place(template: str, folder: Path) -> str:
    """Return the file that a chat template stands in, for messages."""
    if template in CHAT_TEMPLATES:
        return str(template_path("chat", f"{template}.jinja"))
    if template != "own":
        return template
    named = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    return str(next((folder / name for name in named if (folder / name).is_file()), folder))


def _is_llava_15(config: dict[str, Any]) -> bool:
    vision = config.get("vision_config", {}).get("model_type")
    vocabulary = int(config.get("text_config", {}).get("vocab_size", LLAVA_VOCABULARY))
    return config.get("model_type") == "llava" and vision == "clip_vision_model" and vocabulary >= LLAVA_VOCABULARY
