"""The command with which vLLM or SGLang serves a model or an adapter, and how amp asks it. The engines are not ours."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.disk.parsing import read_object
from amp_cli.errors import AmpError
from amp_cli.models.llava.files import ADAPTER_STEMS, stored_tensors, weight_files
from amp_cli.models.llava.layout import says_original
from amp_cli.models.resolve import (
    adapter_base,
    adapter_folder,
    is_folder_name,
    model_and_adapter,
    model_config,
    model_place,
)
from amp_cli.models.templates import file_for_servers

ENGINES = {"vllm": "vLLM", "sglang": "SGLang"}
PORTS = {"vllm": 8000, "sglang": 30_000}
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`; https://docs.vllm.ai, vllm.config.lora."""
_BESIDE_LANGUAGE = re.compile(r"vision|visual|image|projector|connector|merger|mlp1\.", re.I)


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A server's command, and what amp calls the model that it serves.

    Attributes:
        words: the command, word by word. asked: `URL#NAME`. notes: what to know before it is started.
    """

    words: tuple[str, ...]
    name: str
    asked: str
    notes: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(self.words)

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        return {
            "command": list(self.words),
            "model": self.asked,
            "expert": f"{self.name}={self.asked}",
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is to be served, and how.

    Attributes:
        images: most images in one prompt. template: as in `ModelSpec`. port: None is the engine's own.
    """

    model: str
    adapter: str | None = None
    engine: str = "vllm"
    name: str | None = None
    port: int | None = None
    images: int = 1
    template: str = "auto"
    trust_remote_code: bool = False


def serving_of(served: Served) -> Serving:
    """Return how to serve it; no weights are read, and nothing is started.

    Raises:
        AmpError: there is no such model, it has to be converted, or its adapter has to be merged first.
    """
    base, adapter = _base_and_adapter(served)
    config, _ = model_config(base)
    place = _place(base)
    name = served.name or _name_of(served.adapter or served.model)
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise AmpError(f"'{name}' cannot be the name of a served model", hint="Give --name letters, digits, - and _")
    if says_original(config):
        raise _not_as_it_is(base, adapter, served.engine)
    template = file_for_servers(served.template, config)
    port = served.port or PORTS[served.engine]
    base_name, asked, rank = name, name, None
    if adapter is not None:
        folder = adapter_folder(adapter)
        rank = _rank_of(folder, hint=_merged_first(base, adapter, served.engine))
        base_name = f"{name}-base"
        asked = name if served.engine == "vllm" else f"{base_name}:{name}"
    common = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", base_name]
    limit = json.dumps({"image": served.images})
    if served.engine == "vllm":
        words = ["vllm", "serve", place, *common, "--generation-config", "vllm", "--enable-prefix-caching"]
        words += ["--limit-mm-per-prompt", limit]
        if rank is not None:
            words += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{name}={folder.resolve()}"]
    else:
        words = ["python", "-m", "sglang.launch_server", "--model-path", place, *common]
        words += ["--sampling-defaults", "openai", "--limit-mm-data-per-request", limit]
        if rank is not None:
            words += ["--enable-lora", "--max-lora-rank", str(rank), "--lora-paths", f"{name}={folder.resolve()}"]
    if template is not None:
        words += ["--chat-template", str(template.resolve())]
        words += ["--chat-template-content-format", "openai"] if served.engine == "vllm" else []
    words += ["--trust-remote-code"] if served.trust_remote_code else []
    notes = () if adapter is None else (_ADAPTERS,)
    return Serving(words=tuple(words), name=name, asked=f"http://127.0.0.1:{port}/v1#{asked}", notes=notes)


_ADAPTERS = (
    "Not every version of an engine takes adapters of every vision-language model; where it refuses this one, "
    "`amp merge-lora` makes a plain model of it, which is also a little faster"
)


def _base_and_adapter(served: Served) -> tuple[str, str | None]:
    """Return both also where an adapter, or a run of `amp train`, is given in the model's place."""
    folder = Path(served.model).expanduser()
    is_adapter = any((at / "adapter_config.json").is_file() for at in (folder, folder / "adapter"))
    if served.adapter is not None or not is_adapter or (folder / "config.json").is_file():
        return model_and_adapter(served.model, served.adapter)
    base = adapter_base(adapter_folder(served.model))
    if not base:
        raise AmpError(
            f"'{served.model}' is an adapter that does not name its base",
            hint=f"amp serve BASE --adapter {shlex.quote(served.model)}",
        )
    return base, served.model


def _place(model: str) -> str:
    place = model_place(model)
    return str(Path(place).expanduser().resolve()) if is_folder_name(place) else place


def _name_of(given: str) -> str:
    """Return a short name for requests: the folder's, or the run's that it stands in."""
    path = Path(given.rstrip("/")).resolve() if is_folder_name(given) else Path(given)
    name = path.parent.name if path.name in ("adapter", "merged") and path.parent.name else path.name
    return re.sub(r"[^\w.-]+", "-", name)


def _not_as_it_is(base: str, adapter: str | None, engine: str) -> AmpError:
    what = f"'{base}' is in the original LLaVA layout, which {ENGINES[engine]} does not read"
    if adapter is not None:
        return AmpError(what, hint=_merged_first(base, adapter, engine))
    out = f"{_name_of(base)}-hf"
    convert = ui.command_line("amp", "convert", base, to="hf", out=out)
    return AmpError(what, hint=f"{convert}, then {ui.command_line('amp', 'serve', out, engine=engine)}")


def _merged_first(base: str, adapter: str, engine: str) -> str:
    merge = ui.command_line("amp", "merge-lora", adapter, base=base, out="merged")
    return f"{merge}, then amp serve merged --engine {engine}"


def _rank_of(folder: Path, *, hint: str) -> int:
    """Return the rank to make room for.

    Args:
        hint: what to do where the engines cannot apply the adapter.

    Raises:
        AmpError: the engines cannot apply the adapter beside its base.
    """
    config = read_object(folder / "adapter_config.json")
    names = list(stored_tensors(weight_files(folder, ADAPTER_STEMS)))
    reason = None
    if (folder / "non_lora_trainables.bin").is_file():
        reason = "brings a projector, as the original LLaVA stores it"
    elif config.get("modules_to_save"):
        reason = "holds whole modules beside its LoRA weights"
    elif config.get("use_dora"):
        reason = "uses DoRA"
    elif any(_BESIDE_LANGUAGE.search(name) for name in names):
        reason = "changes more than the language model"
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if reason is None and not all(type(rank) is int and 1 <= rank <= RANKS[-1] for rank in ranks):
        reason = f"has ranks that are not from 1 to {RANKS[-1]}"
    if reason is not None:
        raise AmpError(f"'{folder}' {reason}: the engines cannot serve it beside its base", hint=hint)
    return next(rank for rank in RANKS if rank >= max(ranks))
