"""SQL Server's types: the Arrow type of each, and the T-SQL that asks for it exactly."""

from __future__ import annotations

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import exp

from ixflow.dialects import dialect_named
from ixflow.dialects.sqlserver.types import ENCRYPTED, arrow_type, is_long, row_bytes
from ixflow.values import Column, TableName

DIALECT = dialect_named("sqlserver")

EXACT = {
    "bit": pa.bool_(),
    "tinyint": pa.uint8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "decimal(38,10)": pa.decimal128(38, 10),
    "numeric(5,0)": pa.decimal128(5, 0),
    "money": pa.decimal128(19, 4),
    "smallmoney": pa.decimal128(10, 4),
    "real": pa.float32(),
    "float": pa.float64(),
    "date": pa.date32(),
    "time(6)": pa.time64("us"),
    "time(7)": pa.time64("ns"),
    "smalldatetime": pa.timestamp("us"),
    "datetime": pa.timestamp("us"),
    "datetime2(0)": pa.timestamp("us"),
    "datetime2(6)": pa.timestamp("us"),
    "char(10)": pa.string(),
    "varchar(8000)": pa.string(),
    "varchar(max)": pa.string(),
    "nchar(10)": pa.string(),
    "nvarchar(4000)": pa.string(),
    "nvarchar(max)": pa.string(),
    "text": pa.string(),
    "ntext": pa.string(),
    "binary(8)": pa.binary(),
    "varbinary(max)": pa.binary(),
    "image": pa.binary(),
    "timestamp": pa.binary(),
    "clr": pa.binary(),
    f"nvarchar(20){ENCRYPTED}": pa.binary(),
}
TEXT = (
    *("datetime2(7)", "datetimeoffset(0)", "datetimeoffset(7)", "uniqueidentifier", "xml", "json"),
    *("sql_variant", "hierarchyid", "geometry", "geography", "vector"),
)


@pytest.mark.parametrize(("sql_type", "type_"), EXACT.items())
def test_a_type_that_arrow_has_is_read_as_it(sql_type, type_):
    assert arrow_type(sql_type) == (type_, False)


@pytest.mark.parametrize("sql_type", TEXT)
def test_a_type_that_arrow_has_not_is_text(sql_type):
    assert arrow_type(sql_type) == (pa.string(), True)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("sql_type", [*EXACT, *TEXT])
def test_the_query_of_every_type_is_t_sql(sql_type, as_text):
    type_, text = arrow_type(sql_type)
    column = Column(
        "odd ] name", sql_type, pa.string() if as_text else type_, True, text or as_text
    )
    query = DIALECT.select(TableName("t]", "a b"), [column])
    (tree,) = sqlglot.parse(query, read="tsql")
    assert isinstance(tree, exp.Select)
    assert tree.named_selects == ["odd ] name"]
    assert [(table.db, table.name) for table in tree.find_all(exp.Table)] == [("a b", "t]")]


@pytest.mark.parametrize(
    ("sql_type", "form"),
    [
        ("datetime2(7)", "CONVERT(nvarchar(34), [c], 121)"),
        ("datetimeoffset(3)", "CONVERT(nvarchar(34), [c], 121)"),
        ("uniqueidentifier", "CONVERT(nvarchar(36), [c])"),
        ("xml", "CONVERT(nvarchar(max), [c])"),
        ("hierarchyid", "CONVERT(nvarchar(4000), [c])"),
    ],
)
def test_text_is_made_by_the_server_in_a_form_that_loses_nothing(sql_type, form):
    column = Column("c", sql_type, *arrow_type(sql_type)[:1], True, True)
    assert DIALECT.select_item(column) == f"{form} AS [c]"


@pytest.mark.parametrize(
    ("text", "sql_type", "said"),
    [
        ("7", "int", "CONVERT(int, N'7')"),
        ("it's", "nvarchar(20)", "N'it''s'"),
        ("Привет", "varchar(20)", "N'Привет'"),
        ("00FF", "varbinary(20)", "CONVERT(varbinary(20), N'00FF', 2)"),
        ("00FF", "timestamp", "CONVERT(binary(8), N'00FF', 2)"),
    ],
)
def test_a_literal_is_of_its_columns_type(text, sql_type, said):
    assert DIALECT.literal(text, sql_type) == said
    assert isinstance(sqlglot.parse_one(said, read="tsql"), (exp.Convert, exp.Cast, exp.National))


@pytest.mark.parametrize(
    ("sql_type", "as_text", "long", "size"),
    [
        ("int", False, False, 40),
        ("int", True, False, 164),
        ("datetime2(7)", True, False, 136),
        ("nvarchar(4000)", False, False, 16_000),
        ("hierarchyid", True, False, 16_000),
        ("nvarchar(max)", False, True, None),
        ("text", False, True, None),
        ("image", False, True, None),
        ("xml", True, True, None),
        ("vector", True, True, None),
        ("clr", False, True, None),
        ("binary(8)", True, True, None),
    ],
)
def test_the_size_of_a_row_is_known_or_said_to_be_unknown(sql_type, as_text, long, size):
    type_ = pa.string() if as_text else arrow_type(sql_type)[0]
    column = Column("c", sql_type, type_, True, as_text)
    assert is_long(column) is long
    assert long or row_bytes(column) == size


def test_names_of_any_kind_are_quoted():
    assert DIALECT.qualified(TableName("a]b.c", "my schema")) == "[my schema].[a]]b.c]"
