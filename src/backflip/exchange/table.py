"""The preferences that stand as a Parquet table, which `datasets`, pandas and polars read, with an .npz beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backflip.envs import MissingExtra
from backflip.exchange.bundle import Bundle, ExchangeError, Outgoing, about_as_json, written_whole
from backflip.exchange.segment_file import companion, must_have_companion, read_about, read_segments, write_segments
from backflip.preferences import Choice
from backflip.records import Record
from backflip.schema import ANSWERED

MOST_ROWS = 1_000_000
MOST_BYTES = 2**30
ROWS_AT_ONCE = 10_000
OF_QUERY = ("left", "right", "p_left", "policy_steps", "asked_at")
OF_EVENT = ("uuid", "teacher", "seconds", "flipped", "received_at", "supersedes")


def write_preferences(path: Path, outgoing: Outgoing) -> list[Path]:
    """Write a row for every preference that stands, and beside the table the segments; return both paths.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    standing = set(outgoing.standing)
    rows = [_row(record) for record in outgoing.events if record["uuid"] in standing]
    about = {"backflip": json.dumps(about_as_json(outgoing.about))}
    write_segments(companion(path), outgoing)
    with written_whole(path) as file:
        parquet.write_table(arrow.Table.from_pylist(rows, _schema(arrow).with_metadata(about)), file)
    return [path, companion(path)]


def _schema(arrow: Any) -> Any:
    types = {
        "query": arrow.int64(),
        "left": arrow.string(),
        "right": arrow.string(),
        "choice": arrow.string(),
        "mu": arrow.float64(),
        "teacher": arrow.string(),
        "seconds": arrow.float64(),
        "flipped": arrow.bool_(),
        "p_left": arrow.list_(arrow.float64()),
        "policy_steps": arrow.int64(),
        "asked_at": arrow.float64(),
        "received_at": arrow.float64(),
        "uuid": arrow.string(),
        "supersedes": arrow.string(),
    }
    return arrow.schema(list(types.items()))


def _row(record: Record) -> Record:
    asked = record["query"]
    return {
        "query": asked["id"],
        "choice": record["kind"],
        "mu": Choice(record["kind"]).mu,
        **{name: asked[name] for name in OF_QUERY},
        **{name: record[name] for name in OF_EVENT},
    }


def read_preferences(path: Path) -> Bundle:
    """The preferences of a table as events, and the segments of its companion.

    Raises:
        ExchangeError: one of the two is missing, damaged or not ours.
        MissingExtra: pyarrow is not installed.
    """
    beside = must_have_companion(path)
    return Bundle(str(path), read_segments(beside), list(_records(path)), read_about(beside))


def _records(path: Path) -> Iterator[tuple[str, Record]]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as table:
            _must_be_a_table_of_ours(path, table, _schema(arrow).names)
            number = 0
            for batch in table.iter_batches(ROWS_AT_ONCE, columns=_schema(arrow).names):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", _record(row)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ExchangeError(f"{path} is damaged, or no Parquet table ({' '.join(str(error).split())})") from error


def _must_be_a_table_of_ours(path: Path, table: Any, columns: list[str]) -> None:
    missing = [name for name in columns if name not in table.schema_arrow.names]
    if missing:
        raise ExchangeError(f"{path} has no column {missing[0]!r}; it has {', '.join(table.schema_arrow.names)[:200]}")
    size = sum(table.metadata.row_group(i).total_byte_size for i in range(table.num_row_groups))
    if table.metadata.num_rows > MOST_ROWS or size > MOST_BYTES:
        raise ExchangeError(
            f"{path} has {table.metadata.num_rows:,} rows, {size:,} bytes; the most are {MOST_ROWS:,}, {MOST_BYTES:,}"
        )


def _record(row: Record) -> Record:
    asked = {name: row[name] for name in OF_QUERY if row[name] is not None}
    return {
        **{name: row[name] for name in OF_EVENT},
        "kind": row["choice"],
        "query": {"id": row["query"], "status": ANSWERED, **asked},
    }


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("Parquet needs pyarrow, which is not installed: pip install 'backflip[data]'") from error
    return pyarrow, pyarrow.parquet
