"""What of a model goes to the hub: a list of files by name, without anything that tells of this machine.

Run records, training data, checkpoints and optimizer states are on no list, so that they never go along.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from amp_cli.disk.parsing import read_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import ADAPTER_STEMS, weight_files
from amp_cli.models.llava.projector import projector_files
from amp_cli.models.resolve import adapter_base, adapter_folder, recorded_base, whole_place

What = Literal["adapter", "merged"]
CONFIG = "adapter_config.json"
BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "*.safetensors.index.json", "processor_config.json",
    "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json", "tokenizer_config.json",
    "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template.*",
    "spiece.model", "sentencepiece*.model", "modeling_*.py", "configuration_*.py", "processing_*.py",
    "image_processing_*.py", "original/*.json", "original/*.model",
)  # fmt: skip
"""What belongs to a whole model beside its weights; the first two files of a folder, and what transformers reads."""
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*")
TEXTS = (".json", ".jinja", ".md", ".txt", ".html", ".py", "")
"""Endings of files that are looked through for paths of this machine before they go anywhere."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt")
"""They hold all sorts of words, and a path among them is one."""
NAMES = ("_name_or_path", "base_model_name_or_path")
"""Settings in which libraries note where a model lay."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One file: its path in the repository, and where its content is, or the content itself."""

    path: str
    content: Path | bytes

    @property
    def bytes(self) -> int:
        """The size."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True, kw_only=True)
class PushedModel:
    """An adapter or a whole model on this disk.

    Attributes:
        base: what it was made from: hub id, `tiny`, or the name of a folder; '' where nothing tells.
        base_on_hub: whether `base` is a hub id.
        private: texts that tell of this machine, and what they become.
    """

    what: What
    folder: Path
    base: str
    base_on_hub: bool
    private: dict[str, str]


def find_model(source: Path, *, what: What | None, best: bool, base: str | None) -> PushedModel:
    """Return what is to be pushed: a training run's adapter, an adapter's folder, or a whole model's.

    Args:
        what: which of the two, where a folder holds both `adapter` and `merged`.
        best: of a training run, the adapter that did best on held-out items.
        base: the base's hub id, in place of what the run names.

    Raises:
        AmpError: there is no such folder, it holds neither, or it holds both.
    """
    if not source.is_dir():
        raise AmpError(
            f"There is no folder '{source}'", hint="Give a run of `amp train`, an adapter, or a merged model"
        )
    found = _found(source, best=best)
    if what is None and len(found) > 1:
        raise AmpError(f"'{source}' holds an adapter and a merged model", hint="Say which: --what adapter or merged")
    chosen = what or next(iter(found), None)
    if chosen is None or chosen not in found:
        raise AmpError(
            f"'{source}' holds no {'merged model' if chosen == 'merged' else 'adapter'}"
            + ("" if chosen else " and no merged model"),
            hint=f"Merge it first: amp merge-lora {source} --out merged, then amp push merged"
            if chosen == "merged"
            else "Give a finished run of `amp train`, an adapter, or the --out of `amp merge-lora`",
        )
    folder = found[chosen]
    weight_files(folder, ADAPTER_STEMS) if chosen == "adapter" else weight_files(folder)
    named = _base_of(folder, chosen)
    place = whole_place(named) if named else ""
    is_here = Path(place).is_absolute()
    shown = base or ("tiny" if named == "tiny" else Path(place).name if is_here else place)
    private = {text: shown for text in (place, named) if text and Path(text).is_absolute()}
    return PushedModel(
        what=chosen,
        folder=folder,
        base=shown,
        base_on_hub=bool(base) or bool(place and not is_here),
        private=private,
    )


def _found(source: Path, *, best: bool) -> dict[What, Path]:
    """Return what a folder is or holds."""
    found: dict[What, Path] = {}
    if best:
        if not (source / "adapter-best" / CONFIG).is_file():
            raise AmpError(
                f"'{source}' has no adapter-best", hint="Leave out --best, or train with --held-out or --eval-prefs"
            )
        found["adapter"] = source / "adapter-best"
    elif any((place / CONFIG).is_file() for place in (source, source / "adapter")):
        found["adapter"] = adapter_folder(str(source))
    for place in (source, source / "merged"):
        if (place / "config.json").is_file() and not (place / CONFIG).is_file():
            found.setdefault("merged", place)
    return found


def _base_of(folder: Path, what: What) -> str:
    if what == "adapter":
        return adapter_base(folder) or recorded_base(folder)  # a run may name its base from another folder
    record = folder / "run.json"
    if not record.is_file():
        return ""
    settings = read_object(record).get("settings")
    return str(settings.get("base") or "") if isinstance(settings, dict) else ""


def uploads_of(model: PushedModel) -> list[Upload]:
    """Return the files of a model by name, without card and report; what else its folder holds stays here.

    Raises:
        AmpError: a file tells of this machine in a place that is not known.
    """
    if model.what == "adapter":
        paths = [model.folder / CONFIG, *weight_files(model.folder, ADAPTER_STEMS), *projector_files(model.folder)]
    else:
        paths = [*weight_files(model.folder), *(path for name in BESIDE_WEIGHTS for path in model.folder.glob(name))]
    paths += [path for name in LICENCES for path in model.folder.glob(name)]
    files = sorted({path for path in paths if path.is_file() and not path.name.endswith(".part")})
    return [_upload(path, model) for path in files]


def _upload(path: Path, model: PushedModel) -> Upload:
    name = path.relative_to(model.folder).as_posix()
    if path.suffix not in TEXTS or path.name in VOCABULARIES:
        return Upload(path=name, content=path)
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and any(f'"{key}"' in text for key in NAMES):
        told = read_object(path)
        cleaned = {key: _without_place(value, model) if key in NAMES else value for key, value in told.items()}
        if cleaned != told:
            content = json.dumps(cleaned, ensure_ascii=False, indent=2).encode() + b"\n"
            refuse_private(name, content.decode(), model)
            return Upload(path=name, content=content)
    refuse_private(name, text, model)
    return Upload(path=name, content=path)


def _without_place(value: Any, model: PushedModel) -> Any:
    """Return a model's name as others can read it: of a folder here its last part, or the hub id that was given."""
    if not isinstance(value, str) or not (Path(value).is_absolute() or Path(value).expanduser().exists()):
        return value
    return model.base if model.what == "adapter" else Path(value).name


def without_places(text: str, model: PushedModel) -> str:
    """Return a text in which the base's folder has the name that others know it by."""
    for place in sorted(model.private, key=len, reverse=True):
        text = text.replace(place, model.private[place])
    return text


def refuse_private(name: str, text: str, model: PushedModel) -> None:
    """Refuse a text that names a folder of this machine.

    Raises:
        AmpError: naming file and folder.
    """
    for place in (model.folder.resolve().parent, Path.home(), Path.cwd()):
        if any(begin in text for begin in _beginnings(place)):
            raise AmpError(
                f"'{name}' names the folder '{place}' of this machine, so nothing was uploaded",
                hint=f"Take it out of '{model.folder / name}', then push again",
            )


def _beginnings(place: Path) -> Iterator[str]:
    """Yield how paths in a folder begin, as texts and JSON have them; of a short one with the separator behind it."""
    if place == Path(place.anchor):
        return
    for text in {str(place), place.as_posix(), str(place).replace("\\", "\\\\")}:
        yield from [text] if len(place.parts) > 2 else [f"{text}/", f"{text}\\"]
