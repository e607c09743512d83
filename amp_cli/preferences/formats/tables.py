"""Parquet and Arrow: reads tables row by row, and writes Parquet with images inside."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.entries import Entry
from amp_cli.disk.jsonl import disk_errors_explained, full_disk_told
from amp_cli.errors import AmpError

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import ParquetWriter


ROWS_AT_ONCE = 100
"""Rows held in memory, with their images."""


class ImageRows:
    """Collects rows and writes them group by group."""

    def __init__(self, writer: "ParquetWriter", schema: "Schema", path: Path) -> None:
        self._writer = writer
        self._schema = schema
        self._path = path
        self._rows: list[Mapping[str, Any]] = []
        self.count = 0

    def write(self, record: Mapping[str, Any]) -> None:
        self._rows.append(record)
        self.count += 1
        if len(self._rows) == ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Write what is collected as one row group."""
        import pyarrow

        if self._rows:
            table = pyarrow.Table.from_pylist(self._rows, schema=self._schema)
            disk_errors_explained(lambda: self._writer.write_table(table), self._path)
            self._rows = []


COLUMNS = ["id", "pair", "images", "prompt", "chosen", "rejected"]


def is_written_parquet(file: Path) -> bool:
    """Tell a file that `written_parquet` wrote, by its columns."""
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_schema(file).names) == COLUMNS
    except (ArrowException, OSError):
        return False


@contextmanager
def written_parquet(path: Path) -> Iterator[ImageRows]:
    """Yield a writer for `path`, which stands there only when the block has ended without an error."""
    from datasets import Features, Image, List, Value
    from pyarrow import parquet

    turns = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})
    schema = Features(
        {
            "id": Value("string"),
            "pair": List(Value("int64")),
            "images": List(Image()),
            "prompt": turns,
            "chosen": turns,
            "rejected": turns,
        }
    ).arrow_schema
    beside = path.with_name(path.name + ".part")
    disk_errors_explained(lambda: path.parent.mkdir(parents=True, exist_ok=True), path)
    try:
        with full_disk_told(path), parquet.ParquetWriter(beside, schema) as writer:
            rows = ImageRows(writer, schema, path)
            yield rows
            rows.flush()
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    disk_errors_explained(lambda: beside.replace(path), path)


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

    from amp_cli.downloads.hub_files import explained

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
