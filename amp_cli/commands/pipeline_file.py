"""Reads the file of a pipeline: stages from data to report, each an `amp` command with its own options.

download -> imported, prefs -> eval/before/NAME -> train -> merged -> eval/after/NAME -> report.html
                 with rounds: round-1/prefs ... eval/round-1/NAME, round-2/prefs ... eval/round-2/NAME
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.benchmarks import BENCHMARKS
from amp_cli.commands.file_options import WrongOptionError, find_command, options_offered, values_of, words_of
from amp_cli.disk.parsing import read_text, read_yaml, yaml_lines
from amp_cli.errors import AmpError
from amp_cli.models.resolve import model_and_adapter
from amp_cli.ranges import RANGES
from amp_cli.training.config import known_sizes

if TYPE_CHECKING:
    from amp_cli.benchmarks.settings import EvalSettings
    from amp_cli.preferences.generate import GenerateSettings
    from amp_cli.training.config import TrainConfig

MODEL = "{model}"
"""Stands for the model of a round: the base, and then what the round before has trained."""
COMMANDS = {
    "download": ("download",),
    "prefs_import": ("prefs", "import"),
    "generate_prefs": ("generate-prefs",),
    "train": ("train",),
    "merge_lora": ("merge-lora",),
    "eval": ("eval",),
    "report": ("report",),
}
"""The keys of a pipeline that are stages, and their commands."""
FOR_ALL = ("seed", "vision_tower", "trust_remote_code")
"""Keys of a pipeline that go to each command with this option, unless its stage gives another."""
KEYS = ("base", "out", "rounds", *FOR_ALL, *COMMANDS)
ALL = "all"
_ALWAYS = {
    "out": "`out` of the pipeline says where all results go",
    "json": "amp run --json prints all results",
    "overwrite": "the command line says it: amp run --overwrite, or --again STAGE",
}
_MODELS = dict.fromkeys(("model", "base", "adapter"), "`base` of the pipeline is the model")
_NO_SHARDS = "a pipeline runs on one machine"
_ONE_MODEL = "it would be the same before and after"
NOT_OF_A_STAGE: dict[str, dict[str, str]] = {
    "download": {"list_files": "it fetches nothing"},
    "generate_prefs": {"shard": _NO_SHARDS, "merge": _NO_SHARDS},
    "train": {**_MODELS, **dict.fromkeys(("dry_run", "gpu", "gpus", "rate"), "amp run --dry-run tells what it takes")},
    "merge_lora": _MODELS,
    "eval": {**_MODELS, **dict.fromkeys(("answers", "verdicts", "only"), _ONE_MODEL)},
    "report": {"html": "the page is `report.html` in `out`"},
}
"""Options of a stage's command that are not the stage's to give, and why."""
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class PipelineSource:
    """The file that a pipeline stands in, for messages; without one (`amp loop`) they name no line."""

    path: Path | None = None
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def wrong(self, place: Sequence[str], error: AmpError) -> AmpError:
        """Return what is said of a setting, with the line of it, or of the nearest key that holds it."""
        if self.path is None:
            return error
        known = (tuple(place[:size]) for size in range(len(place), 0, -1))
        line = next((self.lines[one] for one in known if one in self.lines), None)
        where = f"'{self.path}'" if line is None else f"'{self.path}', line {line}"
        return AmpError(f"{where}: {error.message}", hint=error.hint)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of a pipeline.

    Attributes:
        name: where its results lie below `out`; `download` has no such place. key: in the file.
        words: of the command line, without `amp`. options: by name, of which the words are made.
        values: what the command reads out of the words. needs: names of the stages whose results it reads.
        settings: the record that the command makes of its options, where it makes one.
    """

    name: str
    key: tuple[str, ...]
    place: Path | None
    words: tuple[str, ...]
    options: Mapping[str, Any]
    values: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    settings: "EvalSettings | GenerateSettings | TrainConfig | None" = None


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """All stages in their order. `rounds` is None for one training without a round's folders."""

    base: str
    out: Path
    rounds: int | None
    stages: tuple[Stage, ...]
    evaluated: tuple[Path, ...]
    source: PipelineSource
    text: str

    def stage(self, name: str) -> Stage:
        return next(one for one in self.stages if one.name == name)

    def with_followers(self, names: Sequence[str]) -> list[Stage]:
        """Return stages by name, or by a folder above them, and all that is made of their results.

        Raises:
            AmpError: there is no such stage.
        """
        chosen: set[str] = set()
        for name in (given.rstrip("/") for given in names):
            found = {one.name for one in self.stages if one.name == name or one.name.startswith(f"{name}/")}
            if not found:
                known = [one.name for one in self.stages]
                near = get_close_matches(name, known, n=1)
                meant = f"Did you mean '{near[0]}'? " if near else ""
                raise AmpError(
                    f"There is no stage '{name}' in this pipeline", hint=f"{meant}Stages: {', '.join(known)}"
                )
            chosen |= found
        for one in self.stages:  # in their order, so that what follows from a follower is found too
            chosen |= {one.name} if chosen & {*one.needs} else set()
        return [one for one in self.stages if one.name in chosen]


def read_pipeline(path: Path, root: Any, *, out: Path | None = None) -> Pipeline:
    """Read and check the file of a pipeline.

    Args:
        root: the whole command line, whose commands say what options there are. out: in place of the file's.

    Raises:
        AmpError: naming what does not fit, and its line.
    """
    if path.is_dir():
        raise AmpError(f"'{path}' is a folder, not the file of a pipeline", hint="Write one with `amp init`")
    if not path.is_file():
        raise AmpError(f"There is no pipeline '{path}'", hint="Write one with `amp init`")
    values = read_yaml(path)
    source = PipelineSource(path=path, lines=yaml_lines(path))
    return build_pipeline(values, root, out=out, source=source, text=read_text(path))


def build_pipeline(values: Any, root: Any, *, out: Path | None, source: PipelineSource, text: str) -> Pipeline:
    """Return the pipeline that the values of a file mean; see `read_pipeline`."""
    builder = _Builder(_mapping(values, "The pipeline", source, ()), root, source, out)
    return Pipeline(
        base=builder.base,
        out=builder.out,
        rounds=builder.rounds,
        stages=tuple(builder.build()),
        evaluated=tuple(builder.evaluated),
        source=source,
        text=text,
    )


class _Builder:
    """Makes the stages of a pipeline out of its file's values."""

    def __init__(self, values: Mapping[str, Any], root: Any, source: PipelineSource, out: Path | None) -> None:
        self.values, self.root, self.source = values, root, source
        for key in values:
            if key not in KEYS:
                near = get_close_matches(key, KEYS, n=1, cutoff=0.0)
                self._refuse((key,), f"There is no `{key}` in a pipeline", f"Did you mean '{near[0]}'? {_known(KEYS)}")
        self.base = self._text("base")
        self.out = Path(self._text("out")) if out is None else out
        self.rounds = self._rounds()
        self.stages: list[Stage] = []
        self.evaluated: list[Path] = []

    def build(self) -> list[Stage]:
        if "train" not in self.values:
            raise self.source.wrong((), AmpError("There is no `train` in the pipeline", hint="Add a line `train:`"))
        self._refuse_doubtful_data()
        if "download" in self.values:
            self._download()
        if "prefs_import" in self.values:
            self._add("prefs_import", "imported")
        count = self.rounds or 1
        generates = "generate_prefs" in self.values
        if generates:
            self._prefs(1)
        self._evaluate("before", {"model": self.base}, needs=())
        for number in range(1, count + 1):
            if number > 1:
                self._prefs(number)
            trained = self._train(number)
            self._evaluate("after" if self.rounds is None else f"round-{number}", self._model(number), needs=(trained,))
        if self.evaluated or "report" in self.values:
            self._report()
        return self.stages

    def _refuse_doubtful_data(self) -> None:
        made = [key for key in ("generate_prefs", "prefs_import") if key in self.values]
        given = self._of("train").get("prefs")
        if made and given is not None:
            self._refuse(("train", "prefs"), f"`{made[0]}` makes what is trained on", "Leave out one of the two")
        if not made and given is None:
            hint = "Add `generate_prefs` or `prefs_import`, or give `prefs: FILE` to `train`"
            self._refuse(("train",), "Nothing says what is trained on", hint)
        if self.rounds is None or self.rounds == 1:
            return
        if "generate_prefs" not in self.values or MODEL not in str(self.values["generate_prefs"]):
            example = 'expert: ["own={model}"]'
            self._refuse(
                ("rounds",),
                f"`rounds` is {self.rounds}, but `generate_prefs` nowhere asks {MODEL}: all rounds would be the same",
                f"E.g. {example}, with samples: 3",
            )

    def _rounds(self) -> int | None:
        value = self.values.get("rounds")
        least, most = RANGES["rounds"]
        if value is not None and (type(value) is not int or not least <= value <= most):
            self._refuse(
                ("rounds",),
                f"`rounds` is {value!r:.40}",
                f"A whole number from {least:.0f} to {most:.0f}, or no such line",
            )
        return value

    def _place(self, number: int, name: str) -> str:
        return name if self.rounds is None else f"round-{number}/{name}"

    def _model(self, number: int) -> dict[str, Any]:
        """Return the options that mean the model after a round."""
        if "merge_lora" in self.values:
            return {"model": str(self.out / self._place(number, "merged"))}
        return {"model": model_and_adapter(self.base, None)[0], "adapter": str(self.out / self._place(number, "train"))}

    def _download(self) -> None:
        value = self.values["download"]
        if isinstance(value, str | list):
            value = {"names": [value] if isinstance(value, str) else value}
        self._add("download", "download", given=_mapping(value, "`download`", self.source, ("download",)))

    def _prefs(self, number: int) -> None:
        asked = self.base
        needs: list[str] = ["imported"] if number == 1 and "prefs_import" in self.values else []
        if number > 1:
            model = self._model(number - 1)
            asked = "+".join(str(part) for part in model.values())
            needs.append(self._place(number - 1, "merged" if "merge_lora" in self.values else "train"))
            if "adapter" in model and MODEL in str(self._of("generate_prefs").get("base")):
                hint = "Add a line `merge_lora:`"
                self._refuse(("generate_prefs", "base"), f"{MODEL} as `base` must be a whole model", hint)
        given = _filled(self._of("generate_prefs"), asked)
        if "prefs_import" in self.values:
            given = {"data": str(self.out / "imported" / "sources.jsonl"), **given}
        self._add("generate_prefs", self._place(number, "prefs"), given=given, needs=needs)

    def _train(self, number: int) -> str:
        """Add training, and merging where that is asked; return the name of the stage that gives the model."""
        own: dict[str, Any] = {}
        needs: list[str] = []
        made = self._place(number, "prefs") if "generate_prefs" in self.values else "imported"
        if self._of("train").get("prefs") is None:
            own["prefs"] = str(self.out / made / "preferences.jsonl")
            needs.append(made)
        given = dict(self._of("train"))
        if self.base in known_sizes() and "size" not in given:
            own["size"] = self.base
        else:
            own["base"] = self.base
        if (seed := self.values.get("seed")) is not None:
            settings = _mapping(given.get("set") or {}, "`set`", self.source, ("train", "set"))
            given["set"] = {"seed": seed, **settings}
        trained = self._place(number, "train")
        self._add("train", trained, own=own, given=given, needs=needs)
        if "merge_lora" not in self.values:
            return trained
        merged = self._place(number, "merged")
        self._add("merge_lora", merged, own={"adapter": str(self.out / trained)}, needs=[trained])
        return merged

    def _evaluate(self, when: str, model: Mapping[str, Any], needs: Sequence[str]) -> None:
        asked = self._of("eval")
        for name in asked:
            if name not in BENCHMARKS and name != ALL:
                near = get_close_matches(name, [*BENCHMARKS, ALL], n=1, cutoff=0.0)
                hint = f"Did you mean '{near[0]}'? {_known([*BENCHMARKS, ALL])}"
                self._refuse(("eval", name), f"There is no benchmark '{name}'", hint)
            given = self._of("eval", name)
            self._add("eval", f"eval/{when}/{name}", own=model, given=given, needs=needs, key=("eval", name))
        if asked:
            self.evaluated.append(self.out / "eval" / when)

    def _report(self) -> None:
        trained = [one.name for one in self.stages if one.key == ("train",)]
        shown = [*self.evaluated, *(self.out / name for name in trained)]
        needs = [one.name for one in self.stages if one.key[0] in ("eval", "train")]
        self._add("report", REPORT, own={"runs": [str(one) for one in shown]}, needs=needs)

    def _add(
        self,
        kind: str,
        name: str,
        *,
        own: Mapping[str, Any] | None = None,
        given: Mapping[str, Any] | None = None,
        needs: Sequence[str] = (),
        key: tuple[str, ...] | None = None,
    ) -> None:
        """Add a stage.

        Args:
            own: options that the pipeline gives. given: those of the file (None: what stands under the key).
        """
        key = key or (kind,)
        given = self._of(*key) if given is None else given
        names = (*COMMANDS[kind], *key[1:])
        command = find_command(self.root, names)
        everything = options_offered(command)
        kept = _ALWAYS | NOT_OF_A_STAGE.get(kind, {})
        for option in given:
            if option in kept and option in everything:
                reason = kept[option]
                self._refuse((*key, option), f"`{option}` does not belong to {_called(key)}: {reason}", "Leave it out")
        place = None if kind == "download" else self.out / name
        where_to = {} if place is None else {"html" if kind == "report" else "out": str(place)}
        for_all = {one: self.values.get(one) for one in FOR_ALL if one in everything and one not in given}
        options = {**(own or {}), **where_to, **for_all, **given}
        offered = options_offered(command, without=[one for one in kept if one not in options])
        try:
            words = words_of(offered, options, _called(key))
            values = values_of(command, " ".join(names), everything, words, _called(key))
            settings = _settings(kind, key, values)
        except WrongOptionError as error:
            at_fault = error.option or ""
            raise self.source.wrong((at_fault,) if at_fault in for_all else (*key, at_fault), error) from error
        except AmpError as error:
            told = AmpError(f"{_called(key)}: {error.message}", hint=error.hint)
            raise self.source.wrong(_at_fault(key, given, error), told) from error
        self.stages.append(
            Stage(
                name=name,
                key=key,
                place=place,
                words=(*names, *words),
                options={one: value for one, value in options.items() if value is not None},
                values=values,
                needs=tuple(needs),
                settings=settings,
            )
        )

    def _of(self, *key: str) -> dict[str, Any]:
        """Return the options under a key; nothing, or `true`, means that none is given."""
        value: Any = self.values
        for part in key:
            value = value.get(part)
            if value is None or value is True:
                return {}
            value = _mapping(value, f"`{part}`", self.source, key)
        return dict(value)

    def _text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            hint = {"base": "E.g. base: 7b", "out": "Give `out: FOLDER` in the file, or --out FOLDER"}[name]
            what = "is missing" if value is None else f"is {value!r:.60}, not a text"
            self._refuse((name,), f"`{name}` of the pipeline {what}", hint)
        return str(value)

    def _refuse(self, place: Sequence[str], message: str, hint: str) -> None:
        raise self.source.wrong(place, AmpError(message, hint=hint))


def _settings(
    kind: str, key: tuple[str, ...], values: Mapping[str, Any]
) -> "EvalSettings | GenerateSettings | TrainConfig | None":
    """Return the record that a stage's command makes of its options, which refuses what does not go together."""
    import typer

    from amp_cli.commands import generate_prefs, train
    from amp_cli.commands.eval import as_meant
    from amp_cli.commands.options import records_of

    try:
        if kind == "train":
            return train.config_of(values)
        if kind == "generate_prefs":
            return generate_prefs.settings_of({**values, **records_of(generate_prefs.GROUPS, values)})
    except typer.BadParameter as error:
        raise AmpError(error.format_message(), hint=f"See amp {COMMANDS[kind][0]} --help") from error
    if kind == "eval" and key[1] != ALL:
        from amp_cli.benchmarks.settings import settings_of

        return settings_of(key[1], as_meant(values))
    return None


def _at_fault(key: tuple[str, ...], given: Mapping[str, Any], error: AmpError) -> tuple[str, ...]:
    """Return the place of the setting under `set` that an error names; the stage's where it names none."""
    settings = given.get("set")
    named = [name for name in (settings if isinstance(settings, dict) else {}) if str(name) in error.message.split("'")]
    named = named or [name for name in (settings or {}) if error.message.startswith(f"{name} ")]
    return (*key, "set", str(named[0])) if named else key


def _filled(value: Any, model: str) -> Any:
    """Return options with the round's model in place of `{model}`."""
    if isinstance(value, dict):
        return {key: _filled(one, model) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, model) for one in value]
    return value.replace(MODEL, model) if isinstance(value, str) else value


def _called(key: Sequence[str]) -> str:
    return f"`{'.'.join(key)}`"


def _known(names: Sequence[str]) -> str:
    return f"All: {', '.join(names)}"


def _mapping(value: Any, what: str, source: PipelineSource, place: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        message = f"{what} does not consist of `key: value` lines"
        raise source.wrong(place, AmpError(message, hint="docs/pipeline.md shows a pipeline"))
    return {str(key): one for key, one in value.items()}
