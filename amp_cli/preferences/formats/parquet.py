"""Writes TRL's rows as Parquet with the images inside, so that one file loads and trains as it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amp_cli.disk.jsonl import disk_errors_explained, full_disk_told

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
