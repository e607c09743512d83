"""Reads the plan of an ablation: one base, one pool of preferences, variants, seeds, and what they are evaluated on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.benchmarks.settings import EvalSettings, settings_of
from amp_cli.commands.file_options import find_command, options_offered, values_of, words_of
from amp_cli.disk.parsing import read_yaml
from amp_cli.errors import AmpError
from amp_cli.ranges import RANGES
from amp_cli.world.files import EVALUATED

if TYPE_CHECKING:
    from amp_cli.training.config import TrainConfig

BASE, SEED = "base", "{seed}"
"""What the untrained model is called among the variants; what stands for the seed in a path of the plan."""
MATCHES = ("tokens", "steps", "seconds")
NOT_OF_A_VARIANT = {
    "base": "all variants have one base",
    "adapter": "all variants have one base",
    "vision_tower": "all variants have one base",
    "seed": "the plan's `seeds` say it",
    "max_steps": "the plan's `steps` and `match` say it",
    "epochs": "the plan's `steps` and `match` say it",
}
"""Settings of `amp train` that are the plan's own, and why."""
NOT_OF_AN_EVALUATION = ("out", "model", "adapter", "answers", "only", "overwrite", "json", "verdicts")


@dataclass(frozen=True, kw_only=True)
class WorldPool:
    """The drawn world as the source of images, preferences and held-out scenes, drawn anew for each seed."""

    scenes: int = 240  # to learn from
    test_scenes: int = 300
    levels: int = 5  # K of the pool; a variant's `levels` picks among them


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train: settings of `amp train`, and which of the pool's answers it is given.

    `levels` are places in an item's levels, -1 the last one; None keeps all. Without `auto_check` the candidates stand
    in the order of their experts.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    levels: tuple[int, ...] | None = None
    auto_check: bool = True


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """All of a plan.

    Attributes:
        preferences: file, with `{seed}` where the pool depends on the seed; None where the world is drawn.
        settings: of `amp train`, for all variants.
        steps: of the control; the others train as many, or as long, as `match` says.
        evaluate: (benchmark, options of its command); in a path, `{seed}` stands for the seed.
    """

    base: str
    size: str
    recipe: str
    world: WorldPool | None
    preferences: str | None
    image_root: str | None
    settings: dict[str, str]
    steps: int
    match: str
    control: str
    seeds: tuple[int, ...]
    held_out: tuple[int, ...]
    variants: tuple[Variant, ...]
    evaluate: tuple[tuple[str, dict[str, Any]], ...]

    def variant(self, name: str) -> Variant:
        return next(one for one in self.variants if one.name == name)

    @property
    def items_are_shared(self) -> bool:
        """Whether all seeds are evaluated on the same items."""
        return self.world is None and SEED not in str(self.evaluate)

    def config(self, variant: Variant, seed: int, steps: int) -> "TrainConfig":
        """Return how a variant is trained from a seed.

        Raises:
            AmpError: an unknown setting, or a value that does not fit; the variant is named.
        """
        from amp_cli.training.config import load_config

        given = {**self.settings, **variant.settings, "max_steps": str(steps), "seed": str(seed)}
        method = given.pop("method", None)
        try:
            return load_config(
                self.size,
                recipe=self.recipe,
                base=self.base,
                method=method,
                overrides=[f"{name}={value}" for name, value in given.items()],
            )
        except AmpError as error:
            raise AmpError(f"Variant '{variant.name}': {error.message}", hint=error.hint) from error

    def evaluation(
        self, place: int, seed: int, out: Path, model: Mapping[str, Any], world: Path | None
    ) -> EvalSettings:
        """Return the settings of one evaluation of a model.

        Args:
            place: in `evaluate`. model: `model` and `adapter`. world: the seed's held-out scenes, where they are drawn.
        """
        name, options = self.evaluate[place]
        given = {
            key: value.replace(SEED, str(seed)) if key in ("data", "image_root") else value
            for key, value in options.items()
        }
        if world is not None:
            given["data"] = str(world)
        return _as_typed(name, given, {"out": str(out), **model})

    def to_json(self) -> dict[str, Any]:
        """Return what the folder of an ablation must keep; seeds and variants may be added to it."""
        kept = asdict(self)
        for name in ("seeds", "held_out", "variants"):
            del kept[name]
        return {**kept, "control": asdict(self.variant(self.control)) if self.control != BASE else BASE}


PLAN = (
    "base", "size", "recipe", "world", "preferences", "image_root", "settings", "steps", "match", "control", "seeds",
    "held_out", "variants", "evaluate",
)  # fmt: skip


def read_plan(path: Path) -> AblationPlan:
    """Read and check a plan; every variant's settings and every evaluation's options are tried.

    Raises:
        AmpError: naming what does not fit.
    """
    if not path.is_file():
        raise AmpError(f"There is no plan '{path}'", hint="templates/ablations/paper.yaml is one to copy")
    found = _mapping(read_yaml(path), f"'{path}'")
    _refuse_unknown(found, PLAN, "a plan")
    world = None if found.get("world") is None else _world(found["world"])
    base = _text(found, "base", "tiny" if world is not None else None)
    variants = tuple(_variant(str(name), one) for name, one in _mapping(found.get("variants"), "`variants`").items())
    seeds, held_out = _seeds(found, "seeds"), _seeds(found, "held_out")
    plan = AblationPlan(
        base=base,
        size=_text(found, "size", base if base in ("7b", "13b", "tiny") else "7b"),
        recipe=_text(found, "recipe", "paper"),
        world=world,
        preferences=_text(found, "preferences", None) if world is None else None,
        image_root=None if found.get("image_root") is None else _text(found, "image_root", None),
        settings=_train_settings(found.get("settings") or {}, "`settings`"),
        steps=_whole(found.get("steps"), "steps", *RANGES["max_steps"]),
        match=_text(found, "match", "tokens"),
        control=_text(found, "control", variants[0].name if variants else None),
        seeds=seeds,
        held_out=held_out,
        variants=variants,
        evaluate=tuple(_evaluations(found.get("evaluate"))),
    )
    _check(plan, has_files=found.get("preferences") is not None)
    return plan


def _check(plan: AblationPlan, *, has_files: bool) -> None:
    if plan.world is not None and (has_files or plan.image_root is not None or plan.base != "tiny"):
        raise AmpError(
            "`world` draws images and preferences for `base: tiny`; a plan has either it or `preferences`",
            hint="Leave out `world`, or leave out `preferences` and `image_root`",
        )
    for name, options in plan.evaluate if plan.world is not None else ():
        if name not in EVALUATED:
            raise AmpError(f"`world` draws nothing for {name}", hint=f"It has {' and '.join(EVALUATED)}")
        if "data" in options:
            raise AmpError(f"`data` of {name} does not go with `world`, which draws it", hint="Leave out one of them")
    if plan.match not in MATCHES:
        raise AmpError(f"`match` is '{plan.match}'", hint=f"It is one of {', '.join(MATCHES)}")
    if not plan.seeds:
        raise AmpError("`seeds` names no seed", hint="E.g. seeds: [0, 1], and held_out: [2, 3, 4, 5] for --final")
    if both := sorted({*plan.seeds} & {*plan.held_out}):
        raise AmpError(f"Seed {both[0]} is in `seeds` and in `held_out`", hint="A seed is for choosing or held out")
    names = [variant.name for variant in plan.variants]
    alike = [name for number, name in enumerate(names) if name.lower() in map(str.lower, names[:number])]
    if alike:
        raise AmpError(
            f"Another variant is called as '{alike[0]}' is, but for capital letters",
            hint="Many systems would give both one folder; choose another name",
        )
    if plan.control not in names:
        raise AmpError(f"The control '{plan.control}' is not one of the variants", hint=f"Variants: {', '.join(names)}")
    for variant in plan.variants:
        if plan.config(variant, plan.seeds[0], plan.steps).adapter is not None:
            raise AmpError(
                f"`base: {plan.base}` is a model with an adapter; variants train adapters of their own",
                hint="Merge it first: amp merge-lora, and give the merged folder",
            )
    for place in range(len(plan.evaluate)):
        plan.evaluation(place, plan.seeds[0], Path("out"), {"model": plan.base}, None)


NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,58}[A-Za-z0-9_-])?")
"""What can be a folder everywhere: Windows drops a dot at the end."""
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that mean a device under Windows."""


def _variant(name: str, value: Any) -> Variant:
    if NAME.fullmatch(name) is None or DEVICE.fullmatch(name) or name.lower() == BASE:
        raise AmpError(
            f"'{name}' cannot name a variant",
            hint="Letters, digits, '.', '_' and '-', at most 60; 'base' is the untrained model, 'con' Windows' console",
        )
    where = f"variant '{name}'"
    given = dict(_mapping({} if value is None else value, where))
    levels, auto_check = given.pop("levels", None), given.pop("auto_check", True)
    if auto_check not in (True, False):
        raise AmpError(f"auto_check of {where} is {auto_check!r:.40}", hint="Write auto_check: on, or auto_check: off")
    if levels is not None:
        least, most = 1 - RANGES["levels"][1], RANGES["levels"][1] - 1
        levels = tuple(_whole(one, f"a level of {where}", least, most) for one in _list(levels, f"levels of {where}"))
        if len(levels) < 2:
            raise AmpError(f"{where} keeps {len(levels)} level", hint="At least two, e.g. levels: [0, -1]")
    return Variant(name=name, settings=_train_settings(given, where), levels=levels, auto_check=auto_check)


def _train_settings(value: Any, where: str) -> dict[str, str]:
    """Return settings of `amp train` as its --set takes them; what they may be is for TrainConfig to say."""
    given = _mapping(value, where)
    for name in given:
        if name in NOT_OF_A_VARIANT:
            raise AmpError(f"`{name}` does not belong to {where}: {NOT_OF_A_VARIANT[name]}", hint="Leave it out there")
        if isinstance(given[name], list | dict):
            raise AmpError(f"`{name}` of {where} must be one value", hint=f"E.g. {name}: 0.1")
    return {name: str(one) for name, one in given.items()}


def _world(value: Any) -> WorldPool:
    given = _mapping({} if value is True else value, "`world`")
    _refuse_unknown(given, tuple(asdict(WorldPool())), "`world`")
    bounds = {"scenes": (4, 100_000), "test_scenes": (2, 100_000), "levels": (3, RANGES["levels"][1])}
    return WorldPool(**{name: _whole(one, name, *bounds[name]) for name, one in given.items()})


def _evaluations(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return (benchmark, options) of entries like `pope` and `pope: {data: DIR}`."""
    entries = [
        entry
        for one in _list(value, "`evaluate`")
        for entry in ({one: None} if isinstance(one, str) else _mapping(one, "an entry of `evaluate`")).items()
    ]
    names = [name for name, _ in entries]
    for name in names:
        if name not in BENCHMARKS:
            raise AmpError(f"There is no benchmark '{name}'", hint=f"Known: {', '.join(BENCHMARKS)}")
        if names.count(name) > 1:
            raise AmpError(f"`evaluate` names {name} twice", hint="Name each benchmark once")
    if not entries:
        raise AmpError("`evaluate` names no benchmark", hint="E.g. evaluate: [pope: {data: DIR}, chair: {data: DIR}]")
    return [(name, dict(_mapping({} if one is None else one, name))) for name, one in entries]


def _as_typed(benchmark: str, options: Mapping[str, Any], own: Mapping[str, Any]) -> EvalSettings:
    """Return an evaluation's settings, its options read by the very command `amp eval BENCHMARK`.

    Args:
        options: as the plan gives them. own: those that are not the plan's to give.

    Raises:
        AmpError: an option that it lacks, or a value that it refuses.
    """
    from typer.main import get_command

    from amp_cli.commands.eval import app, as_meant

    where = f"`evaluate` for {benchmark}"
    command = find_command(get_command(app), [benchmark])
    offered = options_offered(command, without=NOT_OF_AN_EVALUATION)
    words = words_of(offered, options, where) + words_of(options_offered(command), own, where)
    values = values_of(command, f"eval {benchmark}", offered, words, where)
    return settings_of(benchmark, as_meant(values))


def _seeds(found: Mapping[str, Any], name: str) -> tuple[int, ...]:
    given = found.get(name)
    given = [] if given is None else _list(given, f"`{name}`")
    seeds = tuple(_whole(one, f"a seed of `{name}`", *RANGES["seed"]) for one in given)
    if len({*seeds}) < len(seeds):
        raise AmpError(f"`{name}` names a seed twice", hint="Name each seed once")
    return seeds


def _text(found: Mapping[str, Any], name: str, default: str | None) -> str:
    value = found.get(name, default)
    if not isinstance(value, str) or not value:
        raise AmpError(f"`{name}` of the plan is {value!r:.60}, not a text", hint=f"Give {name}: VALUE")
    return value


def _whole(value: Any, name: str, least: float, most: float) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise AmpError(f"{name} is {value!r:.40}", hint=f"It must be a whole number from {least:,.0f} to {most:,.0f}")
    return value


def _list(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        raise AmpError(f"{what} is missing", hint="docs/evidence.md shows a plan")
    if not isinstance(value, list):
        raise AmpError(f"{what} is not a list", hint="Write it as [one, two]")
    return value


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        raise AmpError(f"{what} is missing or empty", hint="docs/evidence.md shows a plan")
    if not isinstance(value, dict) or not all(isinstance(key, str | int) for key in value):
        raise AmpError(f"{what} does not consist of `key: value` lines", hint="docs/evidence.md shows a plan")
    return {str(key): one for key, one in value.items()}


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            raise AmpError(
                f"There is no `{name}` in {where}", hint=f"Did you mean '{near[0]}'? All: {', '.join(sorted(known))}"
            )
