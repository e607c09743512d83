"""Holds the shape of the project: who imports whom, who prints, who loads, and how fast `--help` is."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "amp_cli"
STAGES = ("preferences", "training", "benchmarks", "world")
FILES = sorted(PACKAGE.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


# who stands on whom, from the ground up; a room may import those before it, and itself
ROOMS = (
    "addresses",
    "errors",
    "stopping",
    "ranges",
    "records",
    "dialogues",
    "ui",
    "disk",
    "launching",
    "downloads",
    "models",
    "asking",
)


def allowed(part: str) -> set[str]:
    """Return the rooms that one may import; `ui` only where people are talked to."""
    if part in ROOMS:
        return set(ROOMS[: ROOMS.index(part) + 1])
    if part in STAGES:
        return {*ROOMS, part}
    if part == "report":
        return {*ROOMS, "benchmarks", "training", "report"}
    if part == "compare":
        return {*ROOMS, "benchmarks", "preferences", "compare"}
    if part == "push":
        return {*ROOMS, "benchmarks", "report", "push"}
    return {*ROOMS, *STAGES, "report", "compare", "push", "commands", "main", "__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    part = part_of(path)
    for name in imports_of(path):
        if name.startswith("amp_cli.") and (target := name.split(".")[1]) != part and not target.startswith("__"):
            assert target in allowed(part), f"{part} imports {name}"


@pytest.mark.parametrize(
    ("library", "places"),
    [("typer", {"main", "commands"}), ("rich", {"ui"}), ("click", set())],
)
def test_a_library_stays_in_its_place(library: str, places: set[str]) -> None:
    users = {part_of(path) for path in FILES if any(name.split(".")[0] == library for name in imports_of(path))}
    assert users <= places


def test_only_the_core_loads_models() -> None:
    loaders = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(isinstance(node, ast.Attribute) and node.attr == "from_pretrained" for node in ast.walk(tree_of(path)))
    }
    assert loaders <= {"models/load.py", "models/adapters.py", "models/processors.py"}


def test_one_file_opens_images() -> None:
    openers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value).endswith("Image")
    }
    assert openers == {"models/images.py"}


@pytest.mark.parametrize("name", ["start", "make_whole"])
def test_whoever_may_overwrite_names_what_it_reads(name: str) -> None:
    calls = [
        (path, {one.arg for one in node.keywords})
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and name in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))
    ]
    overwriting = [(path, given) for path, given in calls if "overwrite" in given]
    assert len(overwriting) >= 3
    for path, given in overwriting:
        assert "inputs" in given or path.stem == "quickstart", f"{path} reads nothing?"


def test_nothing_but_the_ui_prints() -> None:
    printers = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        if any(
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            for node in ast.walk(tree_of(path))
        )
    }
    assert printers <= {"ui.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_file_says_its_purpose_and_stays_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= 450


def imported_at_start(path: Path) -> set[str]:
    """Return the modules of ours that a file imports as it is imported itself, not inside a function or for types."""
    names: set[str] = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amp_cli"):
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                names.add(inside if module_file(inside).is_file() else str(node.module))
    return names


def module_file(name: str) -> Path:
    return ROOT.joinpath(*name.split(".")).with_suffix(".py")


def test_no_two_modules_need_each_other() -> None:
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): imported_at_start(path) for path in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def _loaded_by(module: str) -> set[str]:
    """Return the packages that a new process has loaded once it has imported a module."""
    code = f"import json, sys\nimport {module}\nprint(json.dumps([name.split('.')[0] for name in sys.modules]))"
    return set(json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_by("amp_cli.main")
    heavy = {"torch", "transformers", "peft", "trl", "accelerate", "datasets", "spacy", "numpy", "scipy", "matplotlib"}
    assert not loaded & (heavy | {"jinja2", "PIL", "huggingface_hub", "yaml", "bitsandbytes"})


def test_who_starts_a_training_does_not_load_what_its_processes_train_with() -> None:
    assert not _loaded_by("amp_cli.training.launch") & {"peft", "trl", "bitsandbytes", "datasets"}


def test_reading_a_pipeline_loads_nothing_that_computes() -> None:
    """`amp run --dry-run` and `amp init` make the settings of every stage."""
    loaded = _loaded_by("amp_cli.commands.pipeline_file, amp_cli.commands.generate_prefs, amp_cli.preferences.generate")
    assert not loaded & {"torch", "transformers", "peft", "trl", "spacy", "scipy"}
