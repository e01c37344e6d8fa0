"""Write tables as Parquet so that equal tables give equal bytes, and hash their contents."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from trimtab.core.columns.column import masked_column
from trimtab.core.columns.data import Columns, Dtype
from trimtab.core.errors import Corrupt
from trimtab.store.duckdb_opening import quoted, shared_duckdb

_SQL = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "str": "VARCHAR", "time": "TIMESTAMP"}
_DTYPES: dict[str, Dtype] = {
    "float64": "float",
    "int64": "int",
    "bool": "bool",
    "object": "str",
    "datetime64[us]": "time",
}


def write_parquet(table: Columns) -> bytes:
    """Return a table as Parquet bytes. The order of rows is kept, and equal tables give equal bytes.

    The table must have at least one column.
    """

    casts = ", ".join(
        f"{_from_number(column.dtype, quoted(name))}::{_SQL[column.dtype]} AS {quoted(name)}"
        for name, column in table.by_name.items()
    )
    arrays = {name: np.ma.masked_array(c.values, mask=~c.present()) for name, c in table.by_name.items()}
    with tempfile.TemporaryDirectory() as folder, shared_duckdb({"threads": 1}) as connection:
        path = Path(folder) / "table.parquet"
        connection.register("written", arrays)
        connection.execute(f"COPY (SELECT {casts} FROM written) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        return path.read_bytes()


def read_parquet(data: bytes) -> Columns:
    """Read the table that `write_parquet` wrote.

    Raises:
        Corrupt: The bytes are not a Parquet file.
    """
    import duckdb

    with tempfile.TemporaryDirectory() as folder, shared_duckdb({"threads": 1}) as connection:
        path = Path(folder) / "table.parquet"
        path.write_bytes(data)
        try:
            found = connection.execute(f"SELECT * FROM read_parquet('{path}')").fetchnumpy()
        except duckdb.Error as error:
            raise Corrupt(f"parquet: these {len(data)} bytes are not a table: {error}") from error
    return Columns({name: masked_column(_DTYPES[str(values.dtype)], values) for name, values in found.items()})


def columns_hash(table: Columns) -> str:
    """Return the SHA-256 of a table's names, types, values and nulls. The same table has the same hash in any file."""
    return add_to_hash(hashlib.sha256(), table).hexdigest()


def add_to_hash(digest: hashlib._Hash, table: Columns) -> hashlib._Hash:
    """Add a table to a hash and return the hash. More columns of the same rows can be added as further tables."""
    for name, column in table.by_name.items():
        digest.update(f"{name}\0{column.dtype}\0{len(column)}\0".encode())
        valid = column.present()
        digest.update(np.packbits(valid).tobytes())
        if column.dtype == "str":
            texts = (column.values if column.valid is None else column.values[valid]).tolist()
            joined = "".join(texts)
            data = joined.encode()
            sizes = map(len, texts if len(data) == len(joined) else map(str.encode, texts))
            digest.update(np.fromiter(sizes, "<i8", len(texts)).tobytes())
            digest.update(data)
        else:
            values = column.values if column.valid is None else np.where(valid, column.values, 0)
            digest.update(np.ascontiguousarray(values, {"float": "<f8", "bool": "u1"}.get(column.dtype, "<i8")).data)
    return digest


def _from_number(dtype: Dtype, name: str) -> str:
    return f"make_timestamp({name})" if dtype == "time" else name
