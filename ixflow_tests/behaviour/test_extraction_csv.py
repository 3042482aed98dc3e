"""CSV in a directory holds what Parquet holds, on every database."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ixflow.extraction.csv_text import read_csv
from ixflow_tests.sources import extract, make, rows_of


def csv_rows(result) -> pa.Table:
    """Read all files of a run with the types that its manifest tells."""
    schema = result.manifest.schema()
    batches = [batch for path in result.output_files for batch in read_csv(path, schema)]
    return pa.Table.from_batches(batches, schema)


def test_csv_holds_what_parquet_holds(any_engine, tmp_path):
    make(
        any_engine,
        "CREATE TABLE things (id bigint PRIMARY KEY, name varchar(50), price numeric(20, 8), "
        "weight double precision, day date, moment timestamp)",
        "INSERT INTO things VALUES (1, 'say \"hi\",\r\n', 0, 0.1, '2026-11-21', "
        "'2026-11-21 08:15:00')",
        "INSERT INTO things VALUES (-9223372036854775808, '', -0.00000001, 1e300, '1969-12-31', "
        "'1969-12-31 23:59:59.999999')",
        "INSERT INTO things VALUES (3, NULL, NULL, NULL, NULL, NULL)",
    )
    as_csv = extract(any_engine, "things", tmp_path / "csv", output_format="csv")
    as_parquet = extract(any_engine, "things", tmp_path / "parquet")
    assert csv_rows(as_csv).sort_by("id") == rows_of(as_parquet).sort_by("id")
    listed = list((tmp_path / "csv" / "things").glob("*.csv"))
    assert [str(path.resolve()) for path in listed] == as_csv.output_files


def test_an_empty_table_is_a_header(any_engine, tmp_path):
    make(any_engine, "CREATE TABLE no_rows (id bigint, name varchar(50))")
    result = extract(any_engine, "no_rows", tmp_path, output_format="csv")
    assert [Path(path).read_bytes() for path in result.output_files] == [b'"id","name"\r\n']
    assert csv_rows(result).num_rows == 0
