"""The page on SQL Server says what the type map does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ixflow.dialects.sqlserver.config import source_url
from ixflow.dialects.sqlserver.types import arrow_type

PAGE = (Path(__file__).parents[2] / "docs" / "sqlserver.md").read_text(encoding="utf-8")
TYPES = PAGE.partition("## Types")[2].partition("\n## ")[0]
ROWS = re.findall(r"^\| `(.+?)` \| (.+?) \|", TYPES, re.MULTILINE)

# Every type that the catalogue of SQL Server 2025 can name.
KNOWN = re.findall(
    r"\w+",
    """
    bigint binary bit char date datetime datetime2 datetimeoffset decimal float geography geometry
    hierarchyid image int json money nchar ntext nvarchar real smalldatetime smallint smallmoney
    sql_variant text time timestamp tinyint uniqueidentifier varbinary varchar xml clr
    """,
)


@pytest.mark.parametrize(("sql_type", "said"), ROWS)
def test_the_types_of_the_page_are_those_of_the_code(sql_type, said):
    type_, as_text = arrow_type(sql_type)
    assert said == ("text" if as_text else str(type_))


def test_the_page_leaves_no_type_out():
    assert {sql_type.partition("(")[0] for sql_type, _ in ROWS} == set(KNOWN)


def test_every_option_of_the_page_is_one():
    table = PAGE.partition("| `source_config` | |")[2].partition("\n\n")[0]
    names = [
        name
        for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]
    assert {"host", "encrypt", "trust_server_cert", "driver", "connection_string"} <= set(names)
    values = {name: "1433" if name == "port" else "x" for name in names}
    del values["connection_string"]
    assert source_url(values).host == "x"
