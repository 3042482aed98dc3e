"""How MySQL and MariaDB cut a table by a key: their indexes, their estimates, their literals.

An estimate is what EXPLAIN says of a range: InnoDB dives twice into the index for it and reads
nothing else. A probe names its index and reads one entry of it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ixflow.dialects.facts import run
from ixflow.dialects.ranges import SplitKey
from ixflow.dialects.types import split_sql_type
from ixflow.errors import ValidationError

if TYPE_CHECKING:
    from ixflow.dialects.keyspace import Kind

__all__ = ["estimated_rows", "key_item", "literal", "probing", "split_keys"]

_PROBE_SECONDS = 5

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint"), "integer"),
    "decimal": "decimal",
    "date": "date",
    "datetime": "datetime",
    "timestamp": "datetime",
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"), "text"),
    **dict.fromkeys(("binary", "varbinary"), "binary"),
    **dict.fromkeys(("tinyblob", "blob", "mediumblob", "longblob"), "binary"),
    # Of MariaDB, which compares the last group first.
    "uuid": "node uuid",
}
_COLUMNS = sa.text("""
    SELECT column_name, column_type, character_set_name, collation_name, is_nullable = 'YES'
    FROM information_schema.columns
    WHERE table_schema = coalesce(:schema, database()) AND table_name = :name
      AND CAST(table_name AS BINARY) = CAST(:name AS BINARY)
""")
_COLLATED = re.compile(r"CHARACTER SET (\w+) COLLATE (\w+)$")
_SHAPES: dict[Kind, re.Pattern[str]] = {
    "integer": re.compile(r"-?\d+"),
    "decimal": re.compile(r"-?\d+(\.\d+)?"),
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "datetime": re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?"),
    "binary": re.compile(r"([0-9A-Fa-f]{2})*"),
    "node uuid": re.compile(r"[0-9A-Fa-f-]{36}"),
}
_SHORT_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(?P<zone>Z|[+-]\d\d(:?\d\d)?)?)?"
)


@dataclass(frozen=True, slots=True)
class _KeyColumn:
    type: str
    kind: Kind | None
    nullable: bool


def split_keys(
    conn: sa.Connection, qualified: str, place: dict[str, str | None]
) -> tuple[SplitKey, ...]:
    """List the indexes that can cut a table: the primary key, unique ones, any other's columns."""
    columns = {}
    for name, given, charset, collation, null in conn.execute(_COLUMNS, place):
        type_ = given.decode() if isinstance(given, bytes) else str(given)
        columns[name] = _KeyColumn(_full_type(type_, charset, collation), _kind(type_), bool(null))
    rows = [dict(row) for row in run(conn, f"SHOW INDEX FROM {qualified}").mappings()]
    named = any(row["Key_name"] == "PRIMARY" for row in rows)
    found = []
    for name, parts in itertools.groupby(rows, key=lambda row: str(row["Key_name"])):
        key = _split_key(name, list(parts), columns, first=name == "PRIMARY" or not named)
        if key is not None:
            found.append(key)
    found.sort(key=lambda pair: pair[0])
    return tuple(key for _, key in found)


def _split_key(
    name: str, parts: list[dict[str, Any]], columns: dict[str, _KeyColumn], *, first: bool
) -> tuple[tuple[bool, bool, bool], SplitKey] | None:
    """Take the leading columns of an index that can be compared exactly, with its rank.

    ``first`` says that no primary key stands before it: InnoDB keeps the rows in the order of the
    primary key, or of a unique index without NULLs; by any other each row is looked up.
    """
    unique = not parts[0]["Non_unique"]
    hidden = parts[0].get("Visible") == "NO" or parts[0].get("Ignored") == "YES"
    if parts[0]["Index_type"] != "BTREE" or hidden:
        return None
    taken: list[tuple[str, _KeyColumn]] = []
    for part in parts:
        column = columns.get(str(part["Column_name"]))
        # An index of a value's first characters does not order the values.
        if column is None or column.kind is None or part["Sub_part"] is not None:
            break
        if taken and column.nullable:
            break
        taken.append((str(part["Column_name"]), column))
    if not taken:
        return None
    nulls = taken[0][1].nullable
    clusters = first and unique and not any(part["Null"] == "YES" for part in parts)
    key = SplitKey(
        columns=tuple(column for column, _ in taken),
        types=tuple(column.type for _, column in taken),
        kinds=tuple(column.kind for _, column in taken if column.kind is not None),
        index=name,
        nulls=nulls,
        clustered=clusters,
    )
    return (name != "PRIMARY", not unique, nulls), key


def _kind(sql_type: str) -> Kind | None:
    return _KINDS.get(split_sql_type(sql_type)[0].partition(" ")[0])


def _full_type(sql_type: str, charset: str | None, collation: str | None) -> str:
    """Pin the collation too: a plan's bounds must not be compared by another one."""
    return f"{sql_type} CHARACTER SET {charset} COLLATE {collation}" if collation else sql_type


def literal(text: str, sql_type: str) -> str:
    """Write a constant of a type; digits stay bare, everything else is safe in every sql_mode.

    >>> literal("18446744073709551615", "bigint unsigned")
    '18446744073709551615'
    >>> literal("it's", "varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    "_utf8mb4 X'69742773' COLLATE utf8mb4_bin"
    """
    kind = _kind(sql_type)
    text = _moment(text, sql_type) if kind == "datetime" else text
    shape = _SHAPES.get(kind) if kind else None
    if shape is not None and not shape.fullmatch(text):
        msg = f"{text!r} is not a value of {sql_type} that a bound can have"
        raise ValidationError(msg, sql_type=sql_type)
    if kind in ("integer", "decimal"):
        return text
    if kind in ("date", "datetime"):
        return f"{'DATE' if kind == 'date' else 'TIMESTAMP'}'{text}'"
    if kind == "binary":
        return f"X'{text}'"
    # As hexadecimal digits it has no quotes and no backslashes for a sql_mode to read.
    plain = f"_utf8mb4 X'{text.encode().hex()}'"
    collated = _COLLATED.search(sql_type)
    if collated is None:
        return plain
    charset, collation = collated.groups()
    value = plain if charset == "utf8mb4" else f"CONVERT({plain} USING {charset})"
    return f"{value} COLLATE {collation}"


def _moment(text: str, sql_type: str) -> str:
    """Write out what a moment leaves unsaid, a TIMESTAMP in UTC as in every session of ours.

    >>> _moment("2024-02-29", "datetime"), _moment("2024-02-29 01:30:00+02:00", "timestamp")
    ('2024-02-29 00:00:00', '2024-02-28 23:30:00')
    """
    found = _SHORT_MOMENT.fullmatch(text)
    if found is None:
        return text
    try:
        given = dt.datetime.fromisoformat(text)
    except ValueError:  # such as of the year 0, which the server knows
        return text
    if found["zone"] and sql_type.lower().startswith("timestamp"):
        given = given.astimezone(dt.UTC).replace(tzinfo=None)
    return given.isoformat(sep=" ")


def key_item(quoted: str, kind: Kind) -> str:
    """Write the expression that gives a key's column as the text of a bound."""
    if kind == "binary":
        return f"HEX({quoted})"
    return f"CAST({quoted} AS CHAR CHARACTER SET utf8mb4)"


def estimated_rows(conn: sa.Connection, relation: str, condition: str) -> float | None:
    """Ask EXPLAIN for the rows of a range of an index; None: it did not plan to use the range."""
    query = f"EXPLAIN FORMAT=TRADITIONAL SELECT 1 FROM {relation} WHERE {condition}"
    row = run(conn, query).mappings().first()
    return None if row is None or row["rows"] is None else float(row["rows"])


@contextlib.contextmanager
def probing(conn: sa.Connection) -> Iterator[None]:
    """Bound the time of a probe; moments are those of UTC, as the readers see them."""
    version = str(run(conn, "SELECT VERSION()").scalar_one())
    maria = "mariadb" in version.lower()
    limit = (
        f"max_statement_time = {_PROBE_SECONDS}"
        if maria
        else f"max_execution_time = {_PROBE_SECONDS * 1000}"
    )
    before = "max_statement_time" if maria else "max_execution_time"
    kept = run(conn, f"SELECT @@SESSION.{before}, @@SESSION.time_zone").one()
    run(conn, f"SET SESSION {limit}, SESSION time_zone = '+00:00'")
    try:
        yield
    finally:
        with contextlib.suppress(sa.exc.DBAPIError):
            run(conn, f"SET SESSION {before} = {kept[0]}, SESSION time_zone = '{kept[1]}'")
