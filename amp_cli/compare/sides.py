"""The models that are set side by side, as they are written on the command line, and what is asked of them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amp_cli.asking.answerer import Running
from amp_cli.asking.endpoint import is_endpoint, split_endpoint
from amp_cli.disk.settings import free, unrecorded
from amp_cli.errors import AmpError
from amp_cli.models.resolve import adapter_folder, model_place, recorded_base
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.experts import Expert, parse_expert
from amp_cli.preferences.nounchunks import DEFAULT_MODEL

DESCRIBE = "Describe this image in detail."
SPELLING = "Give MODEL, MODEL+ADAPTER, a run of `amp train`, or URL#NAME; NAME=... calls it by another name"
GREEDY = Decoding()
_NAMED = re.compile(r"(?P<name>[^=/+#:]+)=(?P<model>.*)", re.DOTALL)
_PLACES_OF_ADAPTERS = {"adapter": "", "adapter-best": "-best"}
"""What the folders of a training run's adapters are called -> what stands after the run's name."""


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is asked of which models, and by what their answers are marked.

    Attributes:
        data: a file as `amp generate-prefs` takes it, a preference file, or a benchmark's folder, `benchmark` then.
        image, ask: files, each of which is asked each question, in place of `data`.
        limit: how many items of `data`, drawn with the seed.
        encoder, tau, spacy_model: of the comparison with reference answers, as `amp generate-prefs` has them.
    """

    sides: tuple[Expert, ...]
    out: Path | None = unrecorded(None)
    data: Path | None = free(None)
    benchmark: str | None = None
    image: tuple[Path, ...] = free(())
    ask: tuple[str, ...] = ()
    image_root: Path | None = free(None)
    limit: int = 50
    loading: Loading = Loading()
    decoding: Decoding = GREEDY
    running: Running = Running()
    auto_check: bool = free(default=True)
    encoder: str = free("minilm")
    tau: float | None = free(None)
    spacy_model: str = free(DEFAULT_MODEL)
    overwrite: bool = unrecorded(default=False)


def read_sides(words: Sequence[str]) -> tuple[Expert, ...]:
    """Return the models that these words mean, each with a name of its own.

    One word alone must be a trained adapter, or a run that holds one: its base stands beside it.

    Raises:
        AmpError: too few of them, no such adapter, or one is given twice.
    """
    sides = [_side(word) for word in words]
    if len(sides) == 1 and sides[0].adapter is not None:
        sides = [Expert(name=_short_name(sides[0].model, None), model=sides[0].model), *sides]
    if len(sides) < 2:
        raise AmpError("There is only one model, and a comparison needs two", hint=f"{SPELLING}: amp compare 7b my-7b")
    names = [side.name for side in sides]
    sides = [
        side if names.count(side.name) == 1 else replace(side, name="+".join(filter(None, (side.model, side.adapter))))
        for side in sides
    ]
    for side in sides:
        if [one.name for one in sides].count(side.name) > 1:
            raise AmpError(f"'{side.name}' is given twice", hint="Give each a name: before=MODEL after=MODEL")
    return tuple(sides)


def _side(word: str) -> Expert:
    named = None if is_endpoint(word) or Path(word).exists() else _NAMED.fullmatch(word)
    model = named["model"] if named else word
    if not model.strip():
        raise AmpError(f"'{word}' names no model", hint=SPELLING)
    side = parse_expert(f"side={model}")
    if side.adapter is None and _is_adapter(model):
        base = recorded_base(adapter_folder(model))
        if not base:
            raise AmpError(f"The adapter '{model}' does not name its base model", hint=f"Give BASE+{model}")
        side = Expert(name="side", model=base, adapter=model)
    return replace(side, name=named["name"].strip() if named else _short_name(side.model, side.adapter))


def _is_adapter(model: str) -> bool:
    """Whether a folder on this disk is an adapter, or a training run that holds one, and not a model."""
    folder = Path(model).expanduser()
    return not (folder / "config.json").is_file() and any(
        (place / "adapter_config.json").is_file() for place in (folder, folder / "adapter")
    )


def _short_name(model: str, adapter: str | None) -> str:
    """Return what a model is called where nobody names it: the last part of its name or folder."""
    if is_endpoint(model):
        return split_endpoint(model)[1]
    named = adapter or model
    folder = Path(named).expanduser()
    if not folder.exists():
        return model_place(named).rpartition("/")[2] if "/" in named else named
    place = folder.resolve()
    if place.name in _PLACES_OF_ADAPTERS and adapter is not None:
        return place.parent.name + _PLACES_OF_ADAPTERS[place.name]
    return place.name
