"""Reads Parquet and Arrow files and hub data sets one record at a time; images stay bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amp_cli.disk.entries import Entry
from amp_cli.errors import AmpError

ROWS = 64
"""Rows in memory at once; with an image in each, some 30 MB."""


def parquet_entries(path: Path) -> Iterator[Entry]:
    """Yield the rows of a Parquet file.

    Raises:
        AmpError: it is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        yield from _numbered(_rows_of(batch) for batch in file.iter_batches(batch_size=ROWS))
    except (pa.ArrowException, OSError) as error:
        raise AmpError(
            f"'{path}' cannot be read as Parquet: {str(error).splitlines()[0]}",
            hint="Fetch it again: it is damaged, or is something else",
        ) from error


def arrow_entries(path: Path) -> Iterator[Entry]:
    """Yield the rows of an Arrow file, as `datasets` saves them.

    Raises:
        AmpError: it is damaged.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_stream(mapped) as stream:
            yield from _numbered(
                _rows_of(batch.slice(start, ROWS)) for batch in stream for start in range(0, batch.num_rows, ROWS)
            )
    except (pa.ArrowException, OSError) as error:
        raise AmpError(
            f"'{path}' cannot be read as Arrow: {str(error).splitlines()[0]}",
            hint="Fetch it again: it is damaged, or is something else",
        ) from error


def _numbered(batches: Iterator[list[dict[str, Any] | None]]) -> Iterator[Entry]:
    number = 0
    for batch in batches:
        for record in batch:
            number += 1
            yield number, record, "" if record is not None else f"row {number} holds text that is not valid UTF-8"


def _rows_of(batch: Any) -> list[dict[str, Any] | None]:
    """Return the rows of a batch; None where a text cannot be decoded."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for number in range(batch.num_rows) for row in _rows_of(batch.slice(number, 1))]
    return rows


def hub_entries(name: str, split: str | None) -> Iterator[Entry]:
    """Yield the rows of one split of a hub data set, streamed.

    Raises:
        AmpError: it cannot be had, or has several splits and none is named.
    """
    data = _open_hub(name, split)
    return ((number, dict(record), "") for number, record in enumerate(data, start=1))


def _open_hub(name: str, split: str | None) -> Any:
    import datasets

    from amp_cli.downloads.hub_errors import explained

    try:
        found = explained(lambda: datasets.load_dataset(name, streaming=True), name)
    except AmpError as error:
        raise AmpError(
            error.message, hint="Check the name; where there is no network, copy its files here and give the folder"
        ) from error
    except (datasets.exceptions.DatasetsError, RuntimeError, ValueError) as error:
        raise AmpError(
            f"The data set '{name}' cannot be read from the hub: {str(error).splitlines()[0]}",
            hint="Download its files and give the folder instead",
        ) from error
    if split is None and len(found) == 1:
        (split,) = found
    if split not in found:
        raise AmpError(
            f"'{name}' has the splits {', '.join(found)}" + (f", no '{split}'" if split else ""),
            hint=f"Name one with --split {next(iter(found))}",
        )
    return found[split].decode(False)
