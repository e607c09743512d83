"""Asks a model in two layouts the same and compares what it reads and says."""

from typing import Any

import torch
from PIL import Image

from amp_cli.core.models import LoadedModel, load_model
from amp_cli.core.precision import refuse_not_finite
from amp_cli.core.prompts import encode_prompts
from amp_cli.core.templates import CHAT_TEMPLATES, chat_template_text
from amp_cli.errors import AmpError

_DIALOGUES: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], tuple[int, int] | None]] = {
    "text only": ((("What can you do?",), ()), None),
    "wide picture": ((("Describe this image in detail.",), ()), (96, 40)),
    "tall picture, two rounds": ((("Is there a cat?", "And a dog?"), ("No, there is not.",)), (40, 96)),
}
"""Questions and earlier answers, and the size of the picture."""


def largest_differences(first: dict[str, Any], second: dict[str, Any]) -> dict[str, float]:
    """Load two models one after the other (arguments of `load_model`) and compare them on a few prompts.

    Returns:
        Template and prompt -> largest difference of a logit, over all positions.

    Raises:
        AmpError: token ids or pixels differ.
    """
    before, after = _outputs(first), _outputs(second)
    differences = {}
    for name, (inputs, logits) in before.items():
        others, other_logits = after[name]
        for key, value in inputs.items():
            if key not in others or not torch.equal(value, others[key]):
                raise AmpError(f"The two layouts differ in {key} on the prompt '{name}'")
        differences[name] = float((logits - other_logits).abs().max())
    return differences


@torch.no_grad()
def _outputs(arguments: dict[str, Any]) -> dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]]:
    loaded = load_model(**arguments, device="cpu")
    found = {}
    for template in CHAT_TEMPLATES:
        loaded.chat_template = chat_template_text(template)
        for name, (dialogue, size) in _DIALOGUES.items():
            pictures = [] if size is None else [_picture(size)]
            inputs = dict(encode_prompts(loaded, [dialogue], [pictures]))
            found[f"{template}, {name}"] = inputs, _logits(loaded, inputs)
    return found


def _logits(loaded: LoadedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return (length, ids that text can have) float32."""
    logits: torch.Tensor = loaded.model(**inputs).logits[0, :, : loaded.vocabulary].float()
    refuse_not_finite(logits, loaded.name, loaded.identity["dtype"])
    return logits


def _picture(size: tuple[int, int]) -> Image.Image:
    """A gradient in three colours."""
    ramp = Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (ramp, ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM), ramp))
