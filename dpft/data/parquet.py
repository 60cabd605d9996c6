"""The columns of a Parquet file, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dpft.data.columns import missing_column
from dpft.errors import DataError

__all__ = ["parquet_batches"]

_ROWS = 4096


def parquet_batches(path: Path, columns: Sequence[str]) -> Iterator[list[list[Any]]]:
    """Lists of values, one per column, a few thousand rows at a time.

    Args:
        path: the file.
        columns: text columns and, last, the label column.

    Raises:
        DataError: it is no Parquet file, or is damaged; a column is missing, there twice, or of a type that
            is neither text nor, for the label, an integer or a boolean.
    """
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            for column in columns:
                _check_column(path, schema, column, columns, pa.types)
            for batch in file.iter_batches(batch_size=_ROWS, columns=list(columns)):
                yield [batch.column(column).to_pylist() for column in columns]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        # Not chained: what a library says of a damaged file may quote it.
        raise DataError(
            f"{path} cannot be read as Parquet ({type(error).__name__})", hint="check that the file is whole"
        ) from None


def _check_column(path: Path, schema: Any, column: str, columns: Sequence[str], types: Any) -> None:
    if schema.names.count(column) > 1:
        raise DataError(
            f"{path}: column {column!r} is there {schema.names.count(column)} times",
            hint="rename all but one of them",
        )
    if column not in schema.names:
        raise missing_column(path, None, schema.names, columns, column)
    kind = schema.field(column).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if column == columns[-1]:
        if not (text or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)):
            raise DataError(
                f"{path}: label column {column!r} is of type {kind}",
                hint="store labels as strings or integers (a missing label makes pandas store decimals)",
            )
    elif not (text or types.is_null(kind)):
        raise DataError(f"{path}: text column {column!r} is of type {kind}", hint="store texts as strings")
