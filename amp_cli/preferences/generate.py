"""`amp generate-prefs`: from sources over candidates to ranked levels, every step on disk and resumable."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from amp_cli import ui
from amp_cli.asking.answerer import Running, check_answerer
from amp_cli.asking.endpoint import is_endpoint
from amp_cli.disk.jsonl import RecordLog, content_hash, write_json, write_records
from amp_cli.disk.left_out import LeftOut, LeftOutLog
from amp_cli.disk.run import Run
from amp_cli.disk.settings import free, nested, unrecorded
from amp_cli.disk.stored import Chosen
from amp_cli.errors import AmpError
from amp_cli.models.resolve import places_of
from amp_cli.models.spec import Decoding, Loading
from amp_cli.preferences.autocheck import Checker
from amp_cli.preferences.encoders import Encoder, make_encoder
from amp_cli.preferences.experts import (
    Answering,
    Candidates,
    Expert,
    ModelAnswering,
    NodeShare,
    collect_candidates,
    refuse_repeated_names,
    request_of,
)
from amp_cli.preferences.figures import Figures, Tally, summarise
from amp_cli.preferences.incremental import BASE, Finetune, FineTuning, finetune_series, nested_subsets, series_names
from amp_cli.preferences.levels import build_preferences
from amp_cli.preferences.nounchunks import DEFAULT_MODEL, ChunkParser
from amp_cli.preferences.page import SHOWN_ITEMS, ShownItem, overview_of_run, write_page
from amp_cli.preferences.sources import Sources, read_sources
from amp_cli.ranges import refuse_out_of_range
from amp_cli.records import MOST_LEVELS

PAPER_DECODING = Decoding(num_beams=4, temperature=0.7, repetition_penalty=1.1)
"""What the paper's experts answered with."""


@dataclass(frozen=True, kw_only=True)
class GenerateSettings:
    """Everything that decides the preferences. `levels` belongs to `ig`; with `meg` the experts decide it.

    Data are known by their content. `compare_attributes` None means on for MiniLM only. `shard` is this node's part of
    the items, as in 2/3.
    """

    data: Path = free()
    out: Path = unrecorded()
    method: str
    experts: tuple[Expert, ...] = ()
    base: str | None = None
    finetune_data: Path | None = free(None)
    levels: int | None = None
    image_root: Path | None = None
    finetune_image_root: Path | None = None
    tuning: FineTuning = nested(FineTuning())
    loading: Loading = Loading()
    decoding: Decoding = nested(PAPER_DECODING)
    running: Running = Running()
    shard: str | None = None
    auto_check: bool = True
    encoder: str = "minilm"
    tau: float | None = None
    coverage: str = "standard"
    compare_attributes: bool | None = None
    spacy_model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        if self.method == "meg":
            self._check_meg()
        elif self.method == "ig":
            self._check_ig()
        else:
            raise AmpError(f"There is no method '{self.method}'", hint="Use --method meg or --method ig")
        if self.shard is not None:
            self._check_shard(self.shard)
        refuse_out_of_range(self)

    def _check_shard(self, shard: str) -> None:
        if self.method == "ig":
            raise AmpError(
                "--shard belongs to --method meg: each node would fine-tune models of its own",
                hint="Fine-tune them in one run first, then --method meg --expert ig-1=BASE+RUN/incremental/ig-1 ...",
            )
        NodeShare.parse(shard, 1)

    @property
    def share(self) -> NodeShare | None:
        """This node's part. Only where texts are sampled does it matter what an item shares its batch with."""
        size = self.running.batch_size if self.decoding.temperature > 0 else Running().batch_size
        return None if self.shard is None else NodeShare.parse(self.shard, size)

    def _check_meg(self) -> None:
        if not self.experts:
            raise AmpError(
                "No expert is given, so there would be one level", hint="--expert NAME=MODEL, strong to weak"
            )
        if len(self.experts) >= MOST_LEVELS:
            raise AmpError(
                f"{len(self.experts)} experts and the standard answer give more than {MOST_LEVELS} levels",
                hint="Give fewer --expert, or fewer --samples of each",
            )
        if self.base or self.finetune_data or self.levels:
            raise AmpError("--base, --finetune-data and --levels belong to --method ig", hint="Give only --expert")
        refuse_repeated_names(self.experts)

    def _check_ig(self) -> None:
        if self.experts:
            raise AmpError("--expert belongs to --method meg", hint="Give --base, --finetune-data and --levels")
        if not self.base or not self.finetune_data or not self.levels:
            raise AmpError(
                "Incremental generation needs --base, --finetune-data and --levels",
                hint="--method ig --base 7b --finetune-data more.json --levels 4",
            )
        if is_endpoint(self.base):
            raise AmpError("A model behind an endpoint cannot be fine-tuned here", hint="Give --base a model's weights")
        if self.levels > MOST_LEVELS:
            raise AmpError(
                f"There may be at most {MOST_LEVELS} levels, not {self.levels}", hint="Give a smaller --levels"
            )
        series_names(self.levels)

    def models(self) -> tuple[Expert, ...]:
        """The models that must exist before the start."""
        return self.experts if self.method == "meg" else (Expert(name=BASE, model=str(self.base)),)


COMMAND = "generate-prefs"
CANDIDATES, REJECTED = "candidates.jsonl", "rejected.jsonl"


@dataclass(frozen=True, kw_only=True)
class GenerateResult:
    """What was made, and where."""

    stats: dict[str, Any]
    candidates: Path
    preferences: Path
    page: Path
    rejected_file: Path

    @property
    def rejected(self) -> int:
        count: int = self.stats["rejected"]
        return count

    def to_json(self) -> dict[str, Any]:
        """Return the object of `--json`; `dropped` counts items left with fewer than two different levels."""
        check = self.stats["auto_check"]
        return {
            "items": self.stats["items"],
            "rejected": self.stats["rejected"],
            "dropped": self.stats["dropped"]["items"],
            "levels": self.stats["levels"],
            "reordered": check["reordered"] if check else 0,
            "candidates": str(self.candidates),
            "preferences": str(self.preferences),
        }


def generate_preferences(
    settings: GenerateSettings,
    *,
    finetune: Finetune | None = None,
    encoder: Encoder | None = None,
    answering: Answering | None = None,
    overwrite: bool = False,
) -> GenerateResult:
    """Make K-level preferences; the same call again goes on where an earlier one stopped.

    Args:
        finetune: fine-tunes one model of the `ig` series; preferences cannot import training.
        encoder: compares texts in auto-check instead of the one `settings.encoder` names.
        answering: lets an expert answer; loads its model when None.

    Raises:
        AmpError: settings, data or models that cannot work, found before any model is loaded.
    """
    if settings.shard is not None:
        raise ValueError("a shard has no preferences: see `generate_shard`")
    prepared = prepare(settings, finetune, encoder, answering)
    with started(settings, prepared, overwrite) as run:
        result = rank_all(settings, prepared)
        run.finish(results=result.to_json())
    return result


def started(
    settings: GenerateSettings, prepared: "Prepared", overwrite: bool, inputs: Sequence[Path | None] = ()
) -> Run:
    """Open the run; `inputs` are read beside what the settings name."""
    return Run.start(
        settings.out,
        command=COMMAND,
        settings=settings,
        identity=prepared.identity,
        seed=settings.running.seed,
        overwrite=overwrite,
        inputs=chain(inputs, _inputs(settings, prepared)),
    )


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that was read and checked before anything is written or loaded."""

    sources: Sources
    finetune_sources: Sources | None
    finetune: Finetune | None
    checker: Checker | None
    answering: Answering
    identity: dict[str, Any]


def prepare(
    settings: GenerateSettings,
    finetune: Finetune | None,
    encoder: Encoder | None,
    answering: Answering | None,
) -> Prepared:
    """Read and check all that can be before anything is written or loaded; see `generate_preferences`."""
    if settings.method == "ig" and finetune is None:
        raise ValueError("incremental generation needs a `finetune` callable")
    identity: dict[str, Any] = {"data_hash": _hash_of(settings.data)}
    if settings.finetune_data is not None:
        identity["finetune_data_hash"] = _hash_of(settings.finetune_data)
    checker = _make_checker(settings, encoder) if settings.auto_check and settings.shard is None else None
    sources = read_sources(settings.data, image_root=settings.image_root)
    finetune_sources = None
    if settings.finetune_data is not None and settings.levels is not None:
        root = settings.finetune_image_root
        finetune_sources = read_sources(settings.finetune_data, image_root=root)
        nested_subsets(finetune_sources.items, settings.levels - 2, seed=settings.running.seed)
    if answering is None:
        answering = ModelAnswering(loading=settings.loading, decoding=settings.decoding, running=settings.running)
        identity["models"] = _check_models(settings.models(), settings)
    return Prepared(
        sources=sources,
        finetune_sources=finetune_sources,
        finetune=finetune,
        checker=checker,
        answering=answering,
        identity=identity,
    )


def _hash_of(path: Path) -> str:
    if not path.is_file():
        raise AmpError(f"There is no data file '{path}'", hint="Give a JSON or JSONL file")
    return content_hash(path)


def _make_checker(settings: GenerateSettings, encoder: Encoder | None) -> Checker:
    return Checker(
        encoder=encoder or make_encoder(settings.encoder, tau=settings.tau, device=settings.loading.device),
        parser=ChunkParser(settings.spacy_model),
        tau=settings.tau,
        coverage=settings.coverage,
        compare_attributes=settings.compare_attributes,
    )


def _check_models(experts: Sequence[Expert], settings: GenerateSettings) -> dict[str, Any]:
    loading, running = settings.loading, settings.running
    if all(is_endpoint(expert.model) for expert in experts):
        at_endpoint, waiting = replace(loading, device="auto", dtype="auto"), running  # auto-check may use the device
    else:  # what is said of models goes for those that are loaded here
        at_endpoint, waiting = Loading(), replace(running, num_processes=None)
    return {
        expert.name: check_answerer(at_endpoint.of(expert.model, expert.adapter), waiting)
        if is_endpoint(expert.model)
        else check_answerer(loading.of(expert.model, expert.adapter), running)
        for expert in experts
    }


def _inputs(settings: GenerateSettings, prepared: Prepared) -> Iterator[Path | None]:
    """Yield all files and folders that are read."""
    sources = [prepared.sources, *([] if prepared.finetune_sources is None else [prepared.finetune_sources])]
    images = (Path(image) for source in sources for item in source.items for image in item.images)
    names = [name for one in settings.models() for name in (one.model, one.adapter) if not is_endpoint(one.model)]
    given = (settings.data, settings.finetune_data, settings.image_root, settings.finetune_image_root)
    encoder = settings.encoder.partition(":")[2]
    yield from given
    yield from places_of(*names, settings.loading.vision_tower, encoder, settings.spacy_model)
    yield from images


def ask_experts(settings: GenerateSettings, prepared: Prepared) -> tuple[Candidates, int]:
    """Return the candidates of all experts, and how many items were rejected."""
    rejected = _rejected(settings.out / REJECTED, prepared)
    candidates = collect_candidates(
        _experts(settings, prepared),
        Chosen(prepared.sources.items, request_of),
        log=RecordLog(settings.out / CANDIDATES),
        answering=prepared.answering,
        rejected=rejected,
        share=settings.share,
    )
    return candidates, rejected.count


def rank_all(settings: GenerateSettings, prepared: Prepared) -> GenerateResult:
    """Collect the candidates and give them their levels, item by item; write what comes of it."""
    out = settings.out
    candidates, rejected = ask_experts(settings, prepared)
    answered = Chosen(prepared.sources.items, lambda item: item, candidates.places)
    tally, figures = Tally(), Figures()
    shown: list[ShownItem] = []
    stats: dict[str, Any] = {}

    def made() -> Iterator[dict[str, Any]]:
        with ui.progress("Auto-check" if prepared.checker else "Levels", len(answered)) as advance:
            for one in build_preferences(answered, candidates, prepared.checker, tally, out):
                advance()
                if one is not None:
                    figures.add(one.item)
                    shown.extend([one] if len(shown) < SHOWN_ITEMS else [])
                    yield one.item.to_json()
        parser = None if prepared.checker is None else prepared.checker.parser
        stats.update(summarise(figures, tally, rejected=rejected, check=_facts_of(prepared.checker), parser=parser))
        write_json(out / "stats.json", stats)
        if not figures.items:
            raise AmpError(
                "No item has two different levels: the experts' answers equal the standard ones, or failed",
                hint=f"See '{out / 'stats.json'}' and '{out / 'rejected.jsonl'}'",
            )

    write_records(out / "preferences.jsonl", made())
    write_page(out / "preferences.html", shown, overview_of_run(stats, len(shown)))
    return GenerateResult(
        stats=stats,
        candidates=out / CANDIDATES,
        preferences=out / "preferences.jsonl",
        page=out / "preferences.html",
        rejected_file=out / REJECTED,
    )


def _rejected(path: Path, prepared: Prepared) -> LeftOutLog:
    """Begin the list of what is left out.

    Faults of the data are found anew by every start, so they are written anew; what experts refused is kept, so that
    a rerun need not load the model to hear it again.
    """
    found = list(prepared.sources.refused)
    if prepared.finetune_sources is not None:
        found += [replace(one, reason=f"fine-tuning data: {one.reason}") for one in prepared.finetune_sources.refused]
    before = [one for one in RecordLog(path).read_as(LeftOut.from_json) if one.source is not None]
    usable = {item.id for item in prepared.sources.items} if before else set()
    return LeftOutLog.replace(path, [*found, *(one for one in before if one.id in usable)])


def _experts(settings: GenerateSettings, prepared: Prepared) -> Sequence[Expert]:
    if prepared.finetune_sources is None or prepared.finetune is None:
        return settings.experts
    return finetune_series(
        str(settings.base),
        prepared.finetune_sources.items,
        levels=settings.levels or 0,
        tuning=settings.tuning,
        finetune=prepared.finetune,
        folder=settings.out / "incremental",
        seed=settings.running.seed,
    )


def _facts_of(checker: Checker | None) -> dict[str, Any] | None:
    if checker is None:
        return None
    return {
        "encoder": checker.encoder.name,
        "tau": checker.threshold,
        "coverage": checker.coverage,
        "compare_attributes": checker.attributes_are_compared,
        "spacy_model": checker.parser.model,
        "language": checker.parser.language,
        "encoder_language": checker.encoder.language,
    }
