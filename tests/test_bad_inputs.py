"""A small, seeded part of `tests/bench/bad_inputs.py`: whatever a file holds, a command ends with a sentence."""

from pathlib import Path

import pytest

from tests.support.bad_inputs import (
    DAMAGES,
    READERS,
    Reader,
    bad_inputs,
    copy_named,
    copy_old_folders,
    fault_of,
    try_out,
    type_in,
)

QUICK = [one for one in READERS if one.is_quick and "formats/" not in one.line]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_old_folders(tmp_path_factory.mktemp("whole") / "work")


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGES)
def test_no_damage_ends_in_a_traceback(kind: str, whole: Path, tmp_path: Path) -> None:
    cases = [bad for bad in bad_inputs(len(DAMAGES) * 3, seed=5, quick=True) if bad.kind == kind]
    for number, bad in enumerate(cases):
        fault, ended = try_out(bad, copy_named(whole, str(bad), tmp_path / str(number)))
        assert not fault, f"{bad}: {fault}\n{ended.traceback}{ended.err}"


@pytest.mark.parametrize("reader", QUICK, ids=lambda reader: reader.line)
def test_an_undamaged_file_is_read(reader: Reader, whole: Path, tmp_path: Path) -> None:
    """Else the damaged ones would be refused for another reason."""
    ended = type_in(reader.line, copy_named(whole, str(reader), tmp_path / "work"))
    assert ended.status == reader.status, ended.err
    assert not fault_of(ended, reader.line)
