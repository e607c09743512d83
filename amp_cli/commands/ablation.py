"""Does what a plan says, cell by cell: a variant and a seed, trained by `amp train` and evaluated by `amp eval`.

    pool/SEED/       world, described, prefs: where the world is drawn; NAME.jsonl: the answers that a variant keeps
    cells/base/      SEED/BENCHMARK: evaluated once for each seed, or once in all where the items are the same
    cells/VARIANT/   SEED/train, SEED/BENCHMARK, and SEED/cell.json when it is done; SEED/failed.json where it failed
    probe/VARIANT/   a short training to time, with `match: seconds`

Any number of processes can be at work: whoever comes first holds a cell or a pool by a lock, the others take the next.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from amp_cli import ui
from amp_cli.benchmarks.runner import EvalResult, inputs_of, run_benchmark
from amp_cli.benchmarks.settings import EvalSettings
from amp_cli.commands.ablation_plan import BASE, SEED, AblationPlan, Variant
from amp_cli.disk.jsonl import RecordLog, content_hash, write_json, write_records
from amp_cli.disk.lock import alone_at
from amp_cli.disk.parsing import read_plain_object
from amp_cli.disk.run import Run
from amp_cli.errors import AmpError, OccupiedError
from amp_cli.records import Candidate, PreferenceItem

if TYPE_CHECKING:
    from amp_cli.training.config import TrainConfig
    from amp_cli.training.matching import FedTokens

COMMAND = "ablate"
CELL, FAILED, PROBED = "cell.json", "failed.json", "probe.json"
PROBE_STEPS = 12
"""Steps of the training that is timed; the first ones are slower, so it is no long training's exact pace."""


@dataclass(frozen=True, kw_only=True)
class AblationCell:
    """A variant (None is the untrained base) and a seed (None where the base's evaluation does not depend on it)."""

    variant: Variant | None
    seed: int | None

    @property
    def place(self) -> str:
        return f"{self.variant.name if self.variant else BASE}/{_of_seed(self.seed)}"


def _of_seed(seed: int | None) -> str:
    return "all" if seed is None else f"seed-{seed}"


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A seed's preferences, the folder their images start from, and its held-out scenes where the world is drawn."""

    prefs: Path
    image_root: Path
    test: Path | None


class Workshop:
    """Does cells of a plan in a folder.

    Args:
        type_in: runs the words of an `amp` command line, to draw the world. train, evaluate: what does the work.
    """

    def __init__(
        self,
        plan: AblationPlan,
        out: Path,
        *,
        type_in: Callable[[list[str]], object],
        train: Callable[..., Any] | None = None,
        evaluate: Callable[[EvalSettings], EvalResult] = run_benchmark,
    ) -> None:
        from amp_cli.training.launch import train_model

        self.plan = plan
        self.out = out
        self._type_in = type_in
        self._train = train or train_model
        self._evaluate = evaluate
        self._kept: Path | None = None  # where a dry run puts the answers that a variant keeps
        self._outline: Any = None
        self._fed: dict[object, FedTokens] = {}
        self._fed_seed: int | None = None

    def cells(self, seeds: Sequence[int]) -> list[AblationCell]:
        """Return the cells of these seeds, each seed's base first."""
        shared = self.plan.items_are_shared
        bases = [None] if shared else list(seeds)
        cells = [AblationCell(variant=None, seed=None)] if shared else []
        for seed in seeds:
            cells += [AblationCell(variant=None, seed=seed)] if seed in bases else []
            cells += [AblationCell(variant=variant, seed=seed) for variant in self.plan.variants]
        return cells

    def folder(self, cell: AblationCell) -> Path:
        return self.out / "cells" / cell.place

    def is_done(self, cell: AblationCell) -> bool:
        """Whether a cell is finished.

        Raises:
            AmpError: it was made with other settings or other preferences.
        """
        file = self.folder(cell) / CELL
        if not file.is_file():
            return False
        made = read_plain_object(file, variant=dict, prefs_hash=str)
        if cell.variant is None or cell.seed is None:
            return True
        if made["variant"] != _plain(cell.variant):
            raise AmpError(
                f"'{file.parent}' was made with {made['variant']}, not with {_plain(cell.variant)}",
                hint="Give the changed variant a new name, or start afresh with --overwrite",
            )
        prefs = self._prefs_of(cell.seed)
        if prefs.is_file() and content_hash(prefs) != made["prefs_hash"]:
            raise AmpError(
                f"'{file.parent}' was made with other preferences than '{prefs}' holds",
                hint="Choose a new --out, or start afresh with --overwrite",
            )
        return True

    def work(self, cells: Sequence[AblationCell]) -> None:
        """Do all cells; those that another process holds are waited for."""
        waiting = list(cells)
        is_told = False
        while waiting:
            left = []
            for cell in waiting:
                try:
                    with alone_at(self.folder(cell), COMMAND):
                        self._do(cell, f"{cell.place.replace('/', ', ')} ({cells.index(cell) + 1} of {len(cells)})")
                except OccupiedError as error:
                    left.append(cell)
                    if not is_told:
                        ui.note(f"Waiting: {error.message}")
                        is_told = True
            if len(left) == len(waiting):
                time.sleep(1)
            waiting = left

    def _do(self, cell: AblationCell, title: str) -> None:
        folder = self.folder(cell)
        if (folder / FAILED).is_file() or self.is_done(cell):
            return
        ui.note(f"Cell {title}")
        begin, cpu = time.monotonic(), _cpu_seconds()
        try:
            facts = self._do_all(cell, folder)
        except OccupiedError:
            raise
        except AmpError as error:
            if cell.variant is None:
                raise
            ui.warn(f"Cell {title} failed: {error.message}")
            failed = {"variant": cell.variant.name, "seed": cell.seed, "reason": error.message, "hint": error.hint}
            write_json(folder / FAILED, failed)
            return
        took = {"seconds": round(time.monotonic() - begin, 1), "cpu_seconds": _since(cpu)}
        write_json(folder / CELL, {**facts, **took})

    def _do_all(self, cell: AblationCell, folder: Path) -> dict[str, Any]:
        """Train, evaluate, and return what `cell.json` says."""
        plan, variant, seed = self.plan, cell.variant, cell.seed
        pool = self.pool(plan.seeds[0] if seed is None else seed)
        facts: dict[str, Any] = {"variant": {}, "seed": seed, "prefs_hash": content_hash(pool.prefs)}
        model: dict[str, Any] = {"model": plan.base}
        if variant is not None and seed is not None:
            steps, units = self.length(variant, seed)
            prefs = self.answers(variant, seed)
            config = plan.config(variant, seed, steps)
            result = self._train(config, prefs=prefs, out=folder / "train", image_root=pool.image_root)
            model["adapter"] = str(folder / "train")
            facts |= {"variant": _plain(variant), "steps": steps, "units": units, "train_seconds": result.seconds}
            facts |= {"items": result.items, "rejected": result.rejected}
        undone = 0
        for place, (name, _) in enumerate(plan.evaluate):
            settings = plan.evaluation(place, seed or 0, folder / name, model, pool.test)
            undone += self._evaluate(settings).undone
        return facts | {"undone": undone}

    def _prefs_of(self, seed: int) -> Path:
        if self.plan.preferences is None:
            return self._pool_folder(seed) / "prefs" / "preferences.jsonl"
        return Path(self.plan.preferences.replace(SEED, str(seed)))

    def _pool_folder(self, seed: int) -> Path:
        depends = self.plan.preferences is None or SEED in self.plan.preferences
        return self.out / "pool" / _of_seed(seed if depends else None)

    def pool(self, seed: int) -> Pool:
        """Return a seed's preferences, drawn and generated where the plan has the world.

        Raises:
            OccupiedError: another process makes them.
        """
        folder, prefs = self._pool_folder(seed), self._prefs_of(seed)
        world = self.plan.world
        if world is None:
            if not prefs.is_file():
                raise AmpError(f"There is no preference file '{prefs}'", hint="Make one with `amp generate-prefs`")
            root = self.plan.image_root
            return Pool(prefs=prefs, image_root=prefs.parent if root is None else Path(root), test=None)
        if not (folder / "pool.json").is_file():
            from amp_cli.commands.quickstart import Loop, Size, generate_levels, prepare_data

            with alone_at(folder, COMMAND):
                loop = Loop(folder, self._type_in)
                prepare_data(loop, Size(scenes=world.scenes, test_scenes=world.test_scenes), seed)
                generate_levels(loop, world.levels, seed)
                write_json(folder / "pool.json", {"commands": loop.commands})
        return Pool(prefs=prefs, image_root=prefs.parent, test=folder / "world" / "test")

    def answers(self, variant: Variant, seed: int) -> Path:
        """Return the pool's preferences as a variant is given them: all answers, or those that it keeps."""
        prefs = self.pool(seed).prefs
        if variant.levels is None and variant.auto_check:
            return prefs
        kept = "all" if variant.levels is None else "_".join(map(str, variant.levels))
        name = f"levels-{kept}{'' if variant.auto_check else '-unchecked'}.jsonl"
        file = (self._kept or self._pool_folder(seed)) / name
        if not file.is_file():
            with alone_at(file, COMMAND):
                items = _read_items(prefs) if variant.auto_check else unchecked_items(prefs)
                chosen = [item for one in items if (item := keep_levels(one, variant.levels)) is not None]
                if not chosen:
                    raise AmpError(f"No item of '{prefs}' keeps two levels", hint=f"Keep others than {variant.levels}")
                write_records(file, (one.to_json() for one in chosen))
        return file

    def length(self, variant: Variant, seed: int) -> tuple[int, int]:
        """Return how many steps a variant trains, and the units (see `training/matching.py`) of its tokens."""
        control = self.plan.variant(self.plan.control)
        steps = self.plan.steps
        if self.plan.match == "tokens" and variant.name != control.name:
            steps = self._tokens(variant, seed).steps_for(self._tokens(control, seed).of(steps))
        elif self.plan.match == "seconds":
            seconds = self.probe()
            steps = max(1, round(steps * seconds[control.name] / seconds[variant.name]))
        return steps, self._tokens(variant, seed).of(steps)

    def planned_length(self, variant: Variant, seed: int) -> tuple[int, int | None] | None:
        """Return what `length` will, where that can be told before anything is made or timed; nothing stays on disk."""
        is_timed = self.plan.match == "seconds" and not (self.out / PROBED).is_file()
        world = self._pool_folder(seed) / "pool.json"
        if is_timed or (self.plan.world is not None and not world.is_file()):
            return (self.plan.steps, None) if self.plan.match == "steps" else None
        with TemporaryDirectory(prefix="amp-ablate-") as place:
            self._kept = Path(place)
            return self.length(variant, seed)

    def _tokens(self, variant: Variant, seed: int) -> "FedTokens":
        """Return the count of a variant's tokens; variants that are fed alike share it."""
        from amp_cli.training.matching import FedTokens

        if seed != self._fed_seed:
            self._fed, self._fed_seed = {}, seed
        config, prefs = self.plan.config(variant, seed, 1), self.answers(variant, seed)
        fed = (config.global_batch_size, config.max_length, config.reference, config.template, config.held_out)
        alike = (prefs, config.method, config.image_pairs, *fed)
        if alike not in self._fed:
            self._fed[alike] = FedTokens(config, self._outline_of(config), prefs, self.pool(seed).image_root)
        return self._fed[alike]

    def _outline_of(self, config: "TrainConfig") -> Any:
        from amp_cli.models.load import load_outline

        if self._outline is None:
            self._outline = load_outline(replace(config.spec, device="cpu"))
            self._outline.prepare_images(pad_to_square=config.pad_to_square, max_pixels=config.max_pixels)
        return self._outline

    def probe(self) -> dict[str, float]:
        """Return the seconds of a step by variant, measured once in a short training from the first seed."""
        file = self.out / PROBED
        known = read_plain_object(file) if file.is_file() else {}
        for variant in self.plan.variants:
            if variant.name not in known:
                seed = self.plan.seeds[0]
                config = self.plan.config(variant, seed, PROBE_STEPS)
                ui.note(f"Timing {variant.name}: {PROBE_STEPS} steps")
                prefs, root = self.answers(variant, seed), self.pool(seed).image_root
                result = self._train(config, prefs=prefs, out=self.out / "probe" / variant.name, image_root=root)
                known[variant.name] = config.global_batch_size / result.items_per_second
                write_json(file, known)
        return known

    def failures(self, cells: Sequence[AblationCell]) -> list[dict[str, Any]]:
        """Return the cells that failed, and why."""
        files = [self.folder(cell) / FAILED for cell in cells]
        return [read_plain_object(file, variant=str, seed=int, reason=str) for file in files if file.is_file()]


def _plain(variant: Variant) -> dict[str, Any]:
    return {**asdict(variant), "levels": None if variant.levels is None else list(variant.levels)}


def _cpu_seconds() -> float | None:
    """Return the CPU time of this process and of the workers that it has started and that have ended.

    None where the system forgets what has ended.
    """
    return None if os.name == "nt" else sum(os.times()[:4])


def _since(cpu: float | None) -> float | None:
    now = _cpu_seconds()
    return None if now is None or cpu is None else round(now - cpu, 1)


def _read_items(prefs: Path) -> list[PreferenceItem]:
    from amp_cli.disk.entries import read_entries

    items = []
    for number, record, reason in read_entries(prefs):
        if record is None:
            raise AmpError(f"'{prefs}', entry {number}: {reason}", hint="See `amp prefs check`")
        items.append(PreferenceItem.from_json(record))
    return items


def keep_levels(item: PreferenceItem, levels: Sequence[int] | None) -> PreferenceItem | None:
    """Return an item with some of its levels, in their order; None where fewer than two of them are there."""
    if levels is None:
        return item
    count = len(item.levels)
    kept = sorted({place % count for place in levels if -count <= place < count})
    return replace(item, levels=tuple(item.levels[place] for place in kept)) if len(kept) > 1 else None


def unchecked_items(prefs: Path) -> list[PreferenceItem]:
    """Return the items of `amp generate-prefs` with their candidates in the experts' order, as without auto-check.

    Raises:
        AmpError: the preferences do not lie in a folder of that command, or its data are gone.
    """
    from amp_cli.preferences.figures import Tally
    from amp_cli.preferences.levels import build_preferences
    from amp_cli.preferences.sources import read_sources

    log = RecordLog(prefs.parent / "candidates.jsonl")
    if not log.path.is_file() or not (prefs.parent / "run.json").is_file():
        raise AmpError(
            f"auto_check: off needs the candidates beside '{prefs}', in a folder of `amp generate-prefs`",
            hint="Give `preferences` in such a folder, or leave the variant out",
        )
    made = Run.read(prefs.parent).settings
    candidates = log.read_as(Candidate.from_json)
    experts = list(
        dict.fromkeys(one.source for one in candidates)
    )  # written one expert after the other, the best first
    given = {(one.id, one.source): one for one in candidates}
    root = made.get("image_root")
    sources = read_sources(Path(made["data"]), image_root=None if root is None else Path(root)).items
    items = [one for one in sources if all((one.id, expert) in given for expert in experts)]
    ordered = {one.id: tuple(given[one.id, expert] for expert in experts) for one in items}
    built = build_preferences(items, ordered, None, Tally(), prefs.parent)
    return [one.item for one in built if one is not None]


def hold_to_promises(run: Run, plan: AblationPlan, *, final: bool) -> bool:
    """Record what an ablation asks, and return whether its held-out seeds are run: now, or since an earlier --final.

    Raises:
        AmpError: a seed that was held out is to be chosen on, or the plan has changed since --final.
    """
    asked = {
        "seeds": list(plan.seeds),
        "held_out": list(plan.held_out),
        "variants": [_plain(variant) for variant in plan.variants],
    }
    before = {name: run.facts.get(name, asked[name]) for name in asked}
    if dropped := sorted({*before["held_out"]} - {*plan.held_out}):
        raise AmpError(
            f"Seed {dropped[0]} was held out when '{run.out}' was begun",
            hint="Keep it in `held_out` and run it with --final",
        )
    since = run.facts.get("final")
    if since is not None and before != asked:
        changed = next(name for name in asked if before[name] != asked[name])
        raise AmpError(
            f"The held-out seeds of '{run.out}' were run on {since}, and `{changed}` has changed since",
            hint="What is chosen after that needs new held-out seeds, and a new --out",
        )
    if final and not plan.held_out:
        raise AmpError(
            "--final runs the held-out seeds, and the plan holds out none", hint="Give `held_out` some seeds"
        )
    run.record(**asked, **({"final": date.today().isoformat()} if final and since is None else {}))
    return final or since is not None


def inputs_of_plan(plan: AblationPlan) -> list[Path | None]:
    """Return all files and folders of the user's that a plan reads, each looked at.

    Raises:
        AmpError: a benchmark's data or a preference file is not there.
    """
    if plan.world is not None:
        return []
    read: list[Path | None] = [None if plan.image_root is None else Path(plan.image_root)]
    for seed in (*plan.seeds, *plan.held_out):
        prefs = Path(str(plan.preferences).replace(SEED, str(seed)))
        if not prefs.is_file():
            raise AmpError(f"There is no preference file '{prefs}'", hint="Make one with `amp generate-prefs`")
        read.append(prefs)
        if seed == plan.seeds[0] or not plan.items_are_shared:
            for place in range(len(plan.evaluate)):
                read += inputs_of(plan.evaluation(place, seed, Path("out"), {"model": plan.base}, None))
    if any(not variant.auto_check for variant in plan.variants):
        unchecked_items(Path(str(plan.preferences).replace(SEED, str(plan.seeds[0]))))
    return read
