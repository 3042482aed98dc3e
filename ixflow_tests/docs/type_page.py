"""Writes the page of types from what an extraction really gives.

`python -m ixflow_tests.docs.type_page > docs/types.md` starts the servers that it needs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa

from ixflow.dialects import dialect_of, run
from ixflow.values import TableName
from ixflow_tests.servers import MariaDBServer, PostgresServer, make_engine
from ixflow_tests.sources import extract, rows_of

HEAD = """# Types

What each type of a source becomes, made from the tests that prove it by
`python -m ixflow_tests.docs.type_page > docs/types.md`. NULL is always NULL. *Text* means that
Arrow has no type which holds every value of it exactly; the server then writes the values, each in
one way for every session. Values that an Arrow type cannot hold (`infinity`, zero dates, years
beyond it) are refused by name; `as_text=["column"]` reads such a column as text.
[SQL Server](sqlserver.md) has a table of its own.
"""

TITLES = {
    "postgresql": "PostgreSQL",
    "mysql": "MySQL and MariaDB",
    "duckdb": "DuckDB",
    "sqlite": "SQLite",
}

# The type, a value in the words of the database, and how Python shows what arrives.
SAMPLES: dict[str, list[tuple[str, str, str]]] = {
    "postgresql": [
        ("boolean", "true", "True"),
        ("smallint", "-32768", "-32768"),
        ("integer", "2147483647", "2147483647"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("oid", "4294967295", "4294967295"),
        ("real", "1.5", "1.5"),
        ("double precision", "'-Infinity'", "-inf"),
        ("numeric(12,2)", "1234567890.10", "1234567890.10"),
        ("numeric(60,30)", "0.000000000000000000000000000001", "1E-30"),
        ("numeric", "'NaN'", "NaN"),
        ("money", "'12.50'", "$12.50"),
        ("text", "'naïve 😀'", "naïve 😀"),
        ("character varying(5)", "'abc'", "abc"),
        ("character(5)", "'abc'", "abc  "),
        ("name", "'orders'", "orders"),
        ("bytea", "'\\x00ff'", "b'\\x00\\xff'"),
        ("date", "'9999-12-31'", "9999-12-31"),
        (
            "timestamp without time zone",
            "'0001-01-01 00:00:00.000001'",
            "0001-01-01 00:00:00.000001",
        ),
        ("timestamp with time zone", "'2024-02-29 12:00+05'", "2024-02-29 07:00:00+00:00"),
        ("time without time zone", "'23:59:59.999999'", "23:59:59.999999"),
        ("time with time zone", "'12:00+05:30'", "12:00:00+05:30"),
        ("interval", "'1 mon -2 days 03:00'", "1 mon -2 days +03:00:00"),
        ("uuid", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        ("json", "'{\"a\":  1}'", '{"a":  1}'),
        ("jsonb", "'{\"a\":  1}'", '{"a": 1}'),
        ("xml", "'<a/>'", "<a/>"),
        ("inet", "'10.0.0.1/8'", "10.0.0.1/8"),
        ("macaddr", "'08:00:2b:01:02:03'", "08:00:2b:01:02:03"),
        ("bit(3)", "'101'", "101"),
        ("int4range", "'[1,5]'", "[1,6)"),
        ("int4multirange", "'{[1,5],[7,9)}'", "{[1,6),[7,9)}"),
        ("integer[]", "'{1,NULL,3}'", "{1,NULL,3}"),
        ("text[]", "ARRAY[['a,b','\"']]", '{{"a,b","\\""}}'),
        ("point", "'(1.5,2)'", "(1.5,2)"),
        ("tsvector", "'a:1 b:2'", "'a':1 'b':2"),
        ("mood", "'so so'", "so so"),
        ("price", "9.90", "9.90"),
    ],
    "mysql": [
        ("tinyint", "-128", "-128"),
        ("smallint unsigned", "65535", "65535"),
        ("mediumint", "-8388608", "-8388608"),
        ("int unsigned", "4294967295", "4294967295"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
        ("decimal(12,2)", "1234567890.10", "1234567890.10"),
        ("decimal(65,30)", "0.000000000000000000000000000001", "1E-30"),
        ("float", "0.1", "0.10000000149011612"),
        ("double", "1e300", "1e+300"),
        ("bit(4)", "b'0101'", "0101"),
        ("year", "2155", "2155"),
        ("date", "'9999-12-31'", "9999-12-31"),
        ("datetime(6)", "'1000-01-01 00:00:00.000001'", "1000-01-01 00:00:00.000001"),
        ("timestamp(6)", "'2024-02-29 12:00:00.123456'", "2024-02-29 12:00:00.123456+00:00"),
        ("time(6)", "'-838:59:59.000000'", "-838:59:59.000000"),
        ("char(5)", "'abc'", "abc"),
        ("varchar(20)", "'naïve 😀'", "naïve 😀"),
        ("longtext", "'abc'", "abc"),
        ("binary(3)", "x'00ff'", "b'\\x00\\xff\\x00'"),
        ("varbinary(3)", "x'00ff'", "b'\\x00\\xff'"),
        ("blob", "x'00ff'", "b'\\x00\\xff'"),
        ("enum('so so','fine')", "'so so'", "so so"),
        ("set('a','b')", "'a,b'", "a,b"),
        ("json", "'{\"a\":  1}'", '{"a":  1}'),
        ("uuid", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        ("inet6", "'::1'", "::1"),
        ("point", "ST_GeomFromText('POINT(1 2)')", "POINT(1 2)"),
    ],
    "duckdb": [
        ("BOOLEAN", "true", "True"),
        ("TINYINT", "-128", "-128"),
        ("UINTEGER", "4294967295", "4294967295"),
        ("BIGINT", "-9223372036854775808", "-9223372036854775808"),
        ("UBIGINT", "18446744073709551615", "18446744073709551615"),
        (
            "HUGEINT",
            "170141183460469231731687303715884105727",
            "170141183460469231731687303715884105727",
        ),
        ("DECIMAL(12,2)", "1234567890.10", "1234567890.10"),
        ("DECIMAL(38,10)", "0.0000000001", "1E-10"),
        ("FLOAT", "1.5", "1.5"),
        ("DOUBLE", "1e300", "1e+300"),
        ("VARCHAR", "'naïve 😀'", "naïve 😀"),
        ("BLOB", "'\\x00\\xFF'::BLOB", "b'\\x00\\xff'"),
        ("DATE", "'9999-12-31'", "9999-12-31"),
        ("TIME", "'23:59:59.999999'", "23:59:59.999999"),
        ("TIMESTAMP", "'0001-01-01 00:00:00.000001'", "0001-01-01 00:00:00.000001"),
        ("TIMESTAMP WITH TIME ZONE", "'2024-02-29 12:00:00+05'", "2024-02-29 07:00:00+00:00"),
        ("INTERVAL", "INTERVAL '1 month 2 days'", "1 month 2 days"),
        ("UUID", "'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001"),
        ("JSON", "'{\"a\":  1}'", '{"a":  1}'),
        ("BIT", "'101'", "101"),
        ("INTEGER[]", "[1, NULL, 3]", "[1,null,3]"),
        ("STRUCT(a INTEGER)", "{'a': 1}", '{"a":1}'),
        ("MAP(VARCHAR, INTEGER)", "MAP {'k': 1}", '{"k":1}'),
        ("ENUM('so so', 'fine')", "'so so'", "so so"),
    ],
    "sqlite": [
        ("INTEGER", "-9223372036854775808", "-9223372036854775808"),
        ("REAL", "1e300", "1e+300"),
        ("TEXT", "'naïve 😀'", "naïve 😀"),
        ("BLOB", "x'00ff'", "b'\\x00\\xff'"),
        ("BOOLEAN", "1", "True"),
        ("DECIMAL(12,2)", "12345.10", "12345.10"),
        ("NUMERIC", "1.5", "1.5"),
        ("DATE", "'9999-12-31'", "9999-12-31"),
        ("TIME", "'23:59:59.999999'", "23:59:59.999999"),
        ("DATETIME", "'0001-01-01 00:00:00.000001'", "0001-01-01 00:00:00.000001"),
        ("TIMESTAMP WITH TIME ZONE", "'2024-02-29 12:00:00+05:00'", "2024-02-29 07:00:00+00:00"),
        ("JSON", "'{\"a\":  1}'", '{"a":  1}'),
    ],
}
FIRST = {
    "postgresql": (
        "CREATE TYPE mood AS ENUM ('so so', 'fine')",
        "CREATE DOMAIN price AS numeric(8,2) CHECK (VALUE > 0)",
    )
}
NAMED = {"mood": "an enum", "price": "a domain over `numeric(8,2)`"}


def section(engine: sa.Engine, output: Path) -> list[str]:
    """Extract a value and a NULL of every type, see that they arrived, and describe the types."""
    kind = engine.dialect.name
    samples = SAMPLES[kind]
    columns = ", ".join(f"c{n} {type_} NULL" for n, (type_, _, _) in enumerate(samples))
    if kind in ("sqlite", "duckdb"):
        columns = columns.replace(" NULL", "")
    values = ", ".join(literal for _, literal, _ in samples)
    nulls = ", ".join("NULL" for _ in samples)
    with engine.begin() as conn:
        for statement in FIRST.get(kind, ()):
            run(conn, statement)
        if kind == "mysql":
            run(conn, "SET SESSION time_zone = '+00:00'")
        run(conn, f"CREATE TABLE samples ({columns})")
        run(conn, f"INSERT INTO samples VALUES ({values}), ({nulls})")
        known = {c.name: c for c in dialect_of(conn).columns(conn, TableName("samples"))}
    found = rows_of(extract(engine, "samples", output))
    lines = [
        f"## {TITLES[kind]}",
        "",
        "| type | Arrow | a value | arrives as |",
        "|---|---|---|---|",
    ]
    for number, (type_, literal, expected) in enumerate(samples):
        name = f"c{number}"
        got = sorted(found[name].to_pylist(), key=lambda value: value is None)
        assert got[1] is None, (type_, got)
        assert str(got[0]) == expected, (type_, str(got[0]), expected)
        arrow = "text" if known[name].as_text else f"`{found.schema.field(name).type}`"
        cells = [NAMED.get(type_, f"`{type_}`"), arrow, f"`{literal}`", f"`{expected}`"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return [*lines, ""]


def page(sections: dict[str, list[str]]) -> str:
    """Put the page together."""
    return "\n".join([HEAD, *(line for kind in TITLES for line in sections[kind])])


def main() -> None:
    """Print the page."""
    temporary = tempfile.TemporaryDirectory()
    with PostgresServer() as postgres, MariaDBServer() as mariadb, temporary as place:
        made = {}
        with make_engine(mariadb.url).begin() as conn:
            run(conn, "CREATE DATABASE samples CHARACTER SET utf8mb4")
        urls = (
            postgres.url,
            sa.make_url(mariadb.url).set(database="samples").render_as_string(),
            f"duckdb:///{place}/s.duckdb",
            f"sqlite:///{place}/s.sqlite",
        )
        for url in urls:
            engine = make_engine(url)
            made[engine.dialect.name] = section(engine, Path(place, engine.dialect.name))
            engine.dispose()
    print(page(made), end="")  # noqa: T201 - the page is the output


if __name__ == "__main__":
    main()
