"""Settings as records: flat in `run.json`, and back."""

from dataclasses import dataclass
from pathlib import Path

from amp_cli.disk.settings import default_settings, flatten, free, free_settings, nested, restore, unrecorded


@dataclass(frozen=True, kw_only=True)
class Lens:
    glass: str
    width: int = 3
    wipe: bool = free(default=False)


@dataclass(frozen=True, kw_only=True)
class Exposure:
    seconds: float = 1.0
    steps: int = free(4, when=lambda shot: shot.exposure.seconds == 1.0)


@dataclass(frozen=True, kw_only=True)
class Shot:
    out: Path = unrecorded()
    film: Path | None = free(None)
    lens: Lens | None = None
    exposure: Exposure = Exposure(seconds=2.0)
    filter: Lens = nested(Lens(glass="red"))


def test_records_inside_lie_flat_unless_they_are_declared_nested() -> None:
    shot = Shot(out=Path("x"), film=Path("roll"), lens=Lens(glass="clear", width=5))
    assert flatten(shot) == {
        "film": Path("roll"),
        "glass": "clear",
        "width": 5,
        "wipe": False,
        "seconds": 2.0,
        "steps": 4,
        "filter": {"glass": "red", "width": 3, "wipe": False},
    }


def test_a_record_that_is_none_lies_there_as_nothing_and_defaults() -> None:
    flat = flatten(Shot(out=Path("x")))
    assert (flat["glass"], flat["width"]) == (None, 3)


def test_what_lies_flat_is_read_back() -> None:
    shot = Shot(out=Path("x"), film=Path("roll"), lens=Lens(glass="clear"), exposure=Exposure(seconds=9.0, steps=2))
    on_disk = {**flatten(shot), "film": "roll", "out": "x"}
    del on_disk["filter"]
    assert restore(Shot, on_disk) == shot
    assert restore(Shot, {"out": "x", "glass": None, "width": 7}) == Shot(out=Path("x"))


def test_the_defaults_are_those_of_the_record_around() -> None:
    assert default_settings(Shot)["seconds"] == 2.0
    assert default_settings(Exposure)["seconds"] == 1.0


def test_a_field_says_itself_whether_it_is_free() -> None:
    lens = Lens(glass="clear")
    assert free_settings(Shot(out=Path("x"), lens=lens)) == {"film", "wipe"}
    assert free_settings(Shot(out=Path("x"), lens=lens, exposure=Exposure())) == {"film", "wipe", "steps"}


def test_of_a_record_that_is_none_only_what_has_no_default_matters() -> None:
    assert free_settings(Shot(out=Path("x"))) == {"film", "width", "wipe"}
