"""Annotated rows as Parquet columns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from etils import epath
from pyarrow import parquet

from marker_lm.annotate.registry import AnnotateError
from marker_lm.data.example import INFO_FIELD
from marker_lm.markers.category import Category
from marker_lm.markers.taxonomy import Taxonomy

_NUMBERS = {"integer": pa.int64(), "number": pa.float64()}


def infer_schema(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The serialized Arrow schema of rows, fields in the order in which they come.

    Raises AnnotateError for a field whose values have no type in common.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    fields = []
    for name in names:
        try:
            column = pa.array([row.get(name) for row in rows])
        except (pa.ArrowException, OverflowError) as error:
            raise _no_one_type(name, error) from None
        fields.append(pa.field(name, column.type))
    return pa.schema(fields).serialize().to_pybytes()


def merge_schemas(schemas: Iterable[bytes]) -> bytes:
    """One schema for all, fields in the order in which they come; null and integers give way.

    Raises AnnotateError when a field has types that do not go together.
    """
    merged: dict[str, pa.Field] = {}
    for schema in map(read_schema, schemas):
        for field in schema:
            known = merged.get(field.name)
            if known is None or known.type == field.type:
                merged.setdefault(field.name, field)
                continue
            try:
                pair = [pa.schema([one.with_nullable(True)]) for one in (known, field)]
                merged[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0)
            except pa.ArrowException as error:
                raise _no_one_type(field.name, error) from None
    return pa.schema(list(merged.values())).serialize().to_pybytes()


def output_schema(schema: bytes, taxonomy: Taxonomy) -> bytes:
    """The schema of rows with their markers: those of `schema`, then markers and marker_info."""
    fields = [f for f in read_schema(schema) if f.name not in ("markers", INFO_FIELD)]
    info = pa.struct([("origin", pa.string()), ("confidence", pa.float64())])
    markers = [(c.name, _type(c)) for c in taxonomy.categories.values()]
    fields.append(pa.field("markers", pa.struct(markers)))
    fields.append(pa.field(INFO_FIELD, pa.struct([(c, info) for c in taxonomy.categories])))
    return pa.schema(fields).serialize().to_pybytes()


def _type(category: Category) -> pa.DataType:
    one = _NUMBERS.get(category.type, pa.string())
    return pa.list_(one) if category.several else one


def parquet_schema(path: epath.PathLike) -> bytes:
    """The serialized schema of a Parquet file, without its metadata."""
    with epath.Path(path).open("rb") as file:
        schema = parquet.read_schema(file)
    return schema.remove_metadata().serialize().to_pybytes()


def read_schema(schema: bytes) -> pa.Schema:
    """A serialized schema."""
    return pa.ipc.read_schema(pa.py_buffer(schema))


def encode_table(rows: Sequence[Mapping[str, Any]], schema: bytes) -> bytes:
    """Rows as an Arrow IPC stream of one record batch."""
    columns = []
    for field in read_schema(schema):
        try:
            columns.append(pa.array([row.get(field.name) for row in rows], field.type))
        except (pa.ArrowException, OverflowError) as error:
            raise _no_one_type(field.name, error) from None
    batch = pa.record_batch(columns, read_schema(schema))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def read_table(table: bytes) -> pa.RecordBatch:
    """What `encode_table` wrote."""
    return pa.ipc.open_stream(table).read_next_batch()


def _no_one_type(name: str, error: Exception) -> AnnotateError:
    said = " ".join(str(error).split())
    return AnnotateError(
        f"the field '{name}' has no one type for a Parquet column ({said}); "
        "write JSONL, or mend the field"
    )
