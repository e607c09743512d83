"""Which benchmarks' files are at hand: given as NAME=DIR, or where `amp download` puts them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from amp_cli.core.downloads.places import benchmark_folder
from amp_cli.errors import AmpError

EVERY = ""
"""The key of a folder that was given without a name: it is looked through for every benchmark."""


FILES = {
    "pope": ("coco_pope_*.json",),
    "chair": ("instances*.json",),
    "amber": ("query_*.json",),
    "mmhal": ("response_template.json", "test_data.zip"),
    "llava-bench": ("qa90_questions.jsonl",),
    "llava-bench-wild": ("context.jsonl",),
}
"""The files by which a benchmark's folder is known; MRHal's have no name of their own."""
ANY = ("*.json", "*.jsonl", "*.zip")


def named_folders(values: Sequence[str], known: Collection[str]) -> dict[str, Path]:
    """Read `NAME=DIR` and plain `DIR` values.

    Raises:
        AmpError: an unknown name, a folder that is not there, or two for one name.
    """
    folders: dict[str, Path] = {}
    for value in values:
        name, _, place = (EVERY, "", value) if Path(value).is_dir() else value.partition("=")
        if name != EVERY and name not in known:
            if not place:
                raise AmpError(f"There is no folder '{value}'", hint="Give --data DIR or --data NAME=DIR")
            raise AmpError(f"There is no benchmark '{name}' here", hint=f"Known: {', '.join(known)}")
        if not Path(place).is_dir():
            raise AmpError(f"There is no folder '{place}'", hint=f"Give --data {name}=DIR, a folder that exists")
        if name in folders:
            raise AmpError(f"--data gives {name or 'a folder'} twice: '{folders[name]}' and '{place}'")
        folders[name] = Path(place)
    return folders


def folder_of(name: str, given: Mapping[str, Path]) -> Path | None:
    """Return the folder of a benchmark's files: given by name, given for all, downloaded; None where there is none."""
    if name in given:
        return given[name]
    for folder, patterns in ((given.get(EVERY), FILES.get(name, ())), (benchmark_folder(name), FILES.get(name, ANY))):
        if folder is not None and folder.is_dir() and any(next(folder.rglob(pattern), None) for pattern in patterns):
            return folder
    return None


def pictures_of(name: str, folder: Path) -> Path | None:
    """Return where the pictures are if not below `folder`: CHAIR's, of which only annotations are downloaded."""
    pictures = benchmark_folder("pope") / "val2014"
    kinds = ("jpg", "jpeg", "png")
    has_own = any(next(folder.glob(f"{depth}*.{kind}"), None) for depth in ("", "*/") for kind in kinds)
    return pictures if name == "chair" and not has_own and pictures.is_dir() else None
