"""Python values as the text that the database reads: what has no Arrow type of its own.

Arrays of any depth, ranges and multiranges of psycopg, psycopg2 and SQLAlchemy, dicts as hstore,
sequences as vectors, JSON. A text is taken as it is: it may be the database's own spelling.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ixflow.dialects.types import split_sql_type
from ixflow.values import Column

__all__ = ["encoder"]

Encode = Callable[[Any], str]

# NaN is not JSON, whatever Python's default says.
_JSON = json.JSONEncoder(allow_nan=False).encode


def encoder(column: Column) -> Encode | None:
    r"""Give the function that writes the column's values; None where Arrow takes them as they are.

    >>> import pyarrow as pa
    >>> encoder(Column("tags", "text[]", pa.string(), as_text=True))([["a,b", None], ["NULL", ""]])
    '{{"a,b",NULL},{"NULL",""}}'
    >>> encoder(Column("h", "hstore", pa.string(), as_text=True))({"k": None, "l": 'a"b'})
    '"k"=>NULL, "l"=>"a\\"b"'
    """
    name = column.sql_type.strip().lower()
    if name.endswith("[]"):
        return _array_of(name[: -len("[]")], column)
    base = split_sql_type(name)[0]
    found = None if base == "bytea" else _ENCODERS.get(base)
    if found is not None:
        return found
    if base.endswith("multirange"):
        return _multirange
    if base.endswith("range"):
        return _range
    return _plain if column.as_text else None


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)) or hasattr(value, "tolist"):
        return _array(value, _plain)
    return value if isinstance(value, str) else str(value)


def _array_of(element: str, column: Column) -> Encode | None:
    if not column.as_text:
        return None
    # The values of JSON and hstore are themselves lists and dicts: such arrays have one dimension.
    base = split_sql_type(element)[0]
    encode = _ENCODERS.get(base, _range if base.endswith("range") else _plain)
    flat = base in ("json", "jsonb", "hstore")
    return lambda value: value if isinstance(value, str) else _array(value, encode, flat=flat)


def _array(value: Any, encode: Encode, *, flat: bool = False) -> str:
    items = value.tolist() if hasattr(value, "tolist") else value
    return "{" + ",".join(_element(item, encode, flat=flat) for item in items) + "}"


def _element(item: Any, encode: Encode, *, flat: bool) -> str:
    if item is None:
        return "NULL"
    # NumPy's scalars have tolist too, but no dimension.
    nested = isinstance(item, (list, tuple)) or bool(getattr(item, "ndim", 0))
    if nested and not flat:
        return _array(item, encode)
    return _quoted(encode(item))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bytes(value: Any) -> str:
    return value if isinstance(value, str) else "\\x" + bytes(value).hex()


def _vector(value: Any) -> str:
    if isinstance(value, str):
        return value
    items = value.tolist() if hasattr(value, "tolist") else value
    return "[" + ",".join(str(item) for item in items) + "]"


def _hstore(value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    pairs = (
        f"{_quoted(str(key))}=>{'NULL' if item is None else _quoted(str(item))}"
        for key, item in value.items()
    )
    return ", ".join(pairs)


def _range(value: Any) -> str:
    """Write a range of any library; all have ``lower``, ``lower_inc`` and so on."""
    if not hasattr(value, "lower_inc"):
        return _plain(value)
    if getattr(value, "isempty", False) or getattr(value, "empty", False):
        return "empty"
    start, end = "[" if value.lower_inc else "(", "]" if value.upper_inc else ")"
    return f"{start}{_bound(value.lower)},{_bound(value.upper)}{end}"


def _bound(value: Any) -> str:
    return "" if value is None else _quoted(_moment(value))


def _moment(value: Any) -> str:
    return value.isoformat() if isinstance(value, (dt.date, dt.datetime)) else str(value)


def _multirange(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return str(value)
    return "{" + ",".join(_range(item) for item in value) + "}"


_ENCODERS: dict[str, Encode] = {
    "json": _JSON,
    "jsonb": _JSON,
    "uuid": str,
    "bytea": _bytes,
    "hstore": _hstore,
    "vector": _vector,
    "halfvec": _vector,
}
