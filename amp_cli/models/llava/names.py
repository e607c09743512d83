"""Weight names of one LLaVA model in its three spellings: original, on the hub, and in transformers' memory."""

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """How a layout begins the names of each part of the model."""

    language_model: str
    head: str
    projector: str
    projector_layers: tuple[str, str]  # the two linear layers
    tower: str
    newline: str


ORIGINAL = Spelling(
    language_model="model.",
    head="lm_head.",
    projector="model.mm_projector.",
    projector_layers=("0", "2"),
    tower="model.vision_tower.vision_tower.vision_model.",
    newline="model.image_newline",
)
HUB = Spelling(
    language_model="language_model.model.",
    head="language_model.lm_head.",
    projector="multi_modal_projector.",
    projector_layers=("linear_1", "linear_2"),
    tower="vision_tower.vision_model.",
    newline="image_newline",
)
"""What llava-hf's repositories hold and every transformers version reads."""
NETWORK = Spelling(
    language_model="model.language_model.",
    head="lm_head.",
    projector="model.multi_modal_projector.",
    projector_layers=("linear_1", "linear_2"),
    tower="model.vision_tower.",
    newline="model.image_newline",
)
"""Module names since transformers 4.52 (the tower's since 5.0)."""

_PROJECTOR = re.compile(r"(?:model\.)?(?:mm_projector\.([02])|multi_modal_projector\.linear_([12]))(?=\.)")
_ANY_PROJECTOR = re.compile(r"(?:mm_projector|multi_modal_projector)\..*")
_TOWER = re.compile(r"(?:model\.)?(?:vision_tower\.){1,2}(?:vision_model\.)?")
_HEAD = re.compile(r"(?:language_model\.)?lm_head(?=\.)")
_LANGUAGE_MODEL = re.compile(
    r"(?:language_model\.model\.|model\.language_model\.|model\.)(?=(?:embed_tokens|layers|norm)\.)"
)
_NEWLINE = re.compile(r"(?:model\.)?image_newline$")
_BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Constants that old versions saved and new ones compute."""
_PEFT = "base_model.model."


def respell(name: str, spelling: Spelling) -> str | None:
    """Return a weight's name in another spelling, whichever it is in now; None when it is no part of a LLaVA model."""
    if match := _PROJECTOR.match(name):
        layer = int(match[1]) // 2 if match[1] else int(match[2]) - 1
        return f"{spelling.projector}{spelling.projector_layers[layer]}{name[match.end() :]}"
    if match := _TOWER.match(name):
        return spelling.tower + name[match.end() :]
    if match := _HEAD.match(name):
        return spelling.head + name[match.end() + 1 :]
    if match := _LANGUAGE_MODEL.match(name):
        return spelling.language_model + name[match.end() :]
    return spelling.newline if _NEWLINE.match(name) else None


def is_buffer(name: str) -> bool:
    """Whether a stored tensor is a constant that no version needs."""
    return name.endswith(_BUFFERS)


def respell_adapter(name: str, spelling: Spelling) -> str | None:
    """Return an adapter weight's name (with PEFT's prefix) in another spelling, or None as `respell` does."""
    inner = respell(name.removeprefix(_PEFT), spelling)
    return None if inner is None else _PEFT + inner


def projector_names(name: str, spelling: Spelling) -> str | None:
    """Return the spelling of a projector weight that any prefix may stand before, as LLaVA's own files have it."""
    match = _ANY_PROJECTOR.search(name)
    return respell(match[0], spelling) if match else None
