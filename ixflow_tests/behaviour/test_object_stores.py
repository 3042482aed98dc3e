"""Extractions into buckets: published by a manifest, whole or not at all, and nothing left over."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import obstore
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from ixflow.errors import ExecutionError, OutputNotWritable, ValidationError
from ixflow.extraction import bucket, limits, objects, writer
from ixflow.extraction.api import execute, plan, published
from ixflow.extraction.csv_text import read_csv
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
from ixflow.extraction.objects import ObjectPlace
from ixflow.extraction.output import place_of
from ixflow_tests.object_stores import BUCKET, SECRET
from ixflow_tests.sources import make

MB = 1 << 20


@pytest.fixture
def prefix(request):
    """Give a place of the test's own, with a name that URLs quote."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:10]
    return f'it\'s 100% "raw" é/{name}'


@pytest.fixture
def source(fresh_sqlite, monkeypatch, tmp_path):
    """Give a database with one small table; its state is kept beside it."""
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    make(
        fresh_sqlite,
        "CREATE TABLE orders (id integer PRIMARY KEY, note text)",
        "INSERT INTO orders VALUES (1, 'a'), (2, NULL), (3, '')",
    )
    return fresh_sqlite


def wanted(source, server, prefix, name="orders", **options) -> ExtractionIntent:
    config = {"database": source.url.database}
    kind = source.dialect.name
    return ExtractionIntent(kind, config, name, **server.place(prefix), **options)


def elsewhere(source, output_dir, options) -> ExtractionIntent:
    """Make an intent for a place that does not work."""
    config = {"database": source.url.database}
    return ExtractionIntent("sqlite", config, "orders", output_dir, storage_options=options)


def extract(intent):
    return execute(plan(intent))


def seen(intent) -> Manifest:
    """Read the manifest that must be there."""
    manifest = published(intent)
    assert manifest is not None
    return manifest


def rows(intent, server) -> pa.Table:
    """Read what is published, through its manifest."""
    place = place_of(intent)
    manifest = seen(intent)
    keys = [file.removeprefix(f"{BUCKET}/") for file in place.files(manifest)]
    return pa.concat_tables([pq.read_table(io.BytesIO(server.read(key))) for key in keys])


def test_files_are_published_by_the_manifest(source, object_server, prefix):
    intent = wanted(source, object_server, prefix)
    assert published(intent) is None
    result = extract(intent)
    manifest = seen(intent)
    assert manifest == result.manifest
    (file,) = manifest.files
    home = f"{prefix}/orders"
    keys = object_server.keys(prefix)
    assert keys == [f"{home}/_manifest.json", f"{home}/{result.run_id}/{file.name}"]
    content = object_server.read(keys[1])
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    scheme = object_server.scheme
    assert result.output_files == [f"{scheme}://{BUCKET}/{keys[1]}"]
    assert result.manifest_path == f"{scheme}://{BUCKET}/{keys[0]}"
    assert pq.read_table(io.BytesIO(content))["note"].to_pylist() == ["a", None, ""]
    assert rows(intent, object_server)["id"].to_pylist() == [1, 2, 3]


def test_csv_goes_to_a_bucket_too(source, object_server, prefix):
    intent = wanted(source, object_server, prefix, output_format="csv")
    result = extract(intent)
    (file,) = result.manifest.files
    content = object_server.read(f"{prefix}/orders/{result.run_id}/{file.name}")
    assert content == b'"id","note"\r\n1,"a"\r\n2,\r\n3,""\r\n'
    manifest = seen(intent)
    assert (manifest.output_format, manifest.compression) == ("csv", "none")
    (batch,) = read_csv(io.BytesIO(content), manifest.schema())
    assert batch["note"].to_pylist() == ["a", None, ""]


def test_an_empty_table_is_one_file_with_its_columns(source, object_server, prefix):
    make(source, "DELETE FROM orders")
    intent = wanted(source, object_server, prefix)
    extract(intent)
    table = rows(intent, object_server)
    assert (table.num_rows, table.schema.names) == (0, ["id", "note"])


def test_a_url_tells_what_is_published_in_a_bucket(source, object_server, prefix):
    place = f"{object_server.scheme}://{BUCKET}/{prefix}/orders"
    assert published(place, storage_options=object_server.options) is None
    result = extract(wanted(source, object_server, prefix))
    assert published(place, storage_options=object_server.options) == result.manifest


def test_the_environment_tells_what_is_published_in_a_bucket(
    source, signed_s3_server, prefix, monkeypatch
):
    result = extract(wanted(source, signed_s3_server, prefix))
    monkeypatch.setenv("AWS_ENDPOINT_URL", signed_s3_server.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIXFLOW")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert published(f"s3://{BUCKET}/{prefix}/orders") == result.manifest
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ng/secret+")
    with pytest.raises(OutputNotWritable, match="cannot read") as caught:
        published(f"s3://{BUCKET}/{prefix}/orders")
    assert "wr0ng" not in str(caught.value.fields)


def test_published_files_are_a_dataset_without_a_copy(source, s3_server, prefix):
    intent = wanted(source, s3_server, prefix)
    extract(intent)
    place = place_of(intent)
    files, system = place.files(seen(intent)), place.filesystem()
    table = ds.dataset(files, filesystem=system).to_table(columns=["id"])
    assert table["id"].to_pylist() == [1, 2, 3]


def test_the_formats_s3_and_gcs_are_parquet_in_a_bucket(source, s3_server, gcs_server, prefix):
    for server, name in ((s3_server, "s3"), (gcs_server, "gcs")):
        intent = wanted(source, server, prefix, output_format=name)
        assert extract(intent).manifest.output_format == "parquet"
        assert rows(intent, server).num_rows == 3
    with pytest.raises(ValidationError, match="'s3' needs an output_dir below s3://"):
        ExtractionIntent("sqlite", {"database": "x.db"}, "orders", output_format="s3")


def test_the_run_before_stays_until_the_next_publication(source, object_server, prefix):
    intent = wanted(source, object_server, prefix)
    runs = [extract(intent).run_id for _ in range(3)]
    runs_there = {key.split("/")[-2] for key in object_server.keys(prefix)}
    assert runs_there == {"orders", *runs[1:]}
    assert seen(intent).run_id == runs[2]


def test_a_file_of_many_parts_is_whole(source, s3_server, prefix, monkeypatch):
    monkeypatch.setattr(bucket, "MOST_PART", 5 * MB)
    monkeypatch.setattr(limits, "_GROUP_BYTES", 4 * MB)
    note = "hex(randomblob(500000))"
    make(source, *[f"INSERT INTO orders SELECT {n}, {note}" for n in range(10, 35)])
    intent = wanted(source, s3_server, prefix, compression="none")
    result = extract(intent)
    assert result.bytes_written > 20 * MB
    assert rows(intent, s3_server).num_rows == 28
    assert s3_server.unfinished() == []


def test_names_with_quotes_and_slashes_do_not_meet(source, object_server, prefix):
    names = ["a/b", 'it\'s "q"', "a b", "../up", "é"]
    for name in names:
        quoted = name.replace('"', '""')
        make(source, f'CREATE TABLE "{quoted}" AS SELECT 1 AS n')
        extract(wanted(source, object_server, prefix, name))
    manifests = [k for k in object_server.keys(prefix) if k.endswith("/_manifest.json")]
    assert len(manifests) == len(names)


def test_a_failed_run_leaves_nothing(fresh_duckdb, object_server, prefix, monkeypatch, tmp_path):
    monkeypatch.setenv("IXFLOW_STATE_URL", f"sqlite:///{tmp_path}/state.sqlite")
    monkeypatch.setattr(bucket, "MOST_PART", 5 * MB)
    monkeypatch.setattr(limits, "_GROUP_BYTES", MB)
    monkeypatch.setattr(writer, "FILE_BYTES", 11 * MB)
    note = "list_aggregate(list_transform(range(30000), x -> uuid()), 'string_agg', '')"
    make(fresh_duckdb, f"CREATE TABLE orders AS SELECT n AS id, {note} AS note FROM range(35) t(n)")
    source = fresh_duckdb
    intent = wanted(source, object_server, prefix, compression="none")
    first = extract(intent)
    assert len(first.output_files) > 1
    before = object_server.keys(prefix)
    written = []
    real = writer._Parquet.write

    def fails_in_the_second_file(self, table):
        written.append(table.num_rows)
        if len(written) == 4:
            raise OSError(5, "the file is torn")
        real(self, table)

    monkeypatch.setattr(writer._Parquet, "write", fails_in_the_second_file)
    with pytest.raises(ExecutionError, match="the file is torn"):
        extract(intent)
    assert object_server.keys(prefix) == before
    assert seen(intent).run_id == first.run_id
    if object_server.scheme == "s3":
        assert s3_unfinished(object_server, prefix) == []


def s3_unfinished(server, prefix):
    """List unfinished uploads the way the product does: on a signed URL."""
    place = ObjectPlace(f"s3://{BUCKET}/{prefix}", "orders", server.options)
    return list(place.bucket._uploads(place.home))


WRITES_HALF = """
import sys, json
from ixflow.extraction.objects import ObjectPlace
place = ObjectPlace(sys.argv[1], "orders", json.loads(sys.argv[2]))
with place.new_run("ix-20200101-000000-abcdef") as run:
    whole = run.create("orders_001.parquet")
    whole.write(b"whole")
    whole.finish()
    half = run.create("orders_002.parquet")
    for _ in range(30):
        half.write(b"x" * (1 << 20))
    print("half", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_a_killed_run_is_collected_by_a_later_one(source, store, prefix, monkeypatch, request):
    server = request.getfixturevalue(f"{store}_server")
    output = server.place(prefix)
    command = [sys.executable, "-c", WRITES_HALF, output["output_dir"], json.dumps(server.options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        if store == "s3":
            wait_for(lambda: s3_unfinished(server, prefix))
        process.send_signal(signal.SIGKILL)
        process.wait()
    intent = wanted(source, server, prefix)
    assert published(intent) is None
    dead = f"{prefix}/orders/ix-20200101-000000-abcdef"
    # Nobody can know yet that it is dead.
    extract(intent)
    assert f"{dead}/orders_001.parquet" in server.keys(dead)
    assert f"{dead}/orders_002.parquet" not in server.keys(dead)
    if store == "s3":
        assert s3_unfinished(server, prefix) != []
    monkeypatch.setattr(objects, "STALE_AFTER", timedelta(seconds=1))
    time.sleep(2.1)
    extract(intent)
    assert server.keys(dead) == []
    if store == "s3":
        assert s3_unfinished(server, prefix) == []


@pytest.mark.parametrize("name", ["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_unfinished_uploads_are_found_however_the_store_is_named(
    signed_s3_server, prefix, name, monkeypatch
):
    monkeypatch.setenv(name, signed_s3_server.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIXFLOW")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    place = ObjectPlace(f"s3://{BUCKET}/{prefix}", "orders")
    file = place.bucket.create(f"{place.home}/ix-20200101-000000-abcdef/it's 1%.parquet")
    file.write(b"x" * (20 * MB))
    wait_for(lambda: s3_unfinished(signed_s3_server, prefix))
    assert place.bucket.abort_uploads(place.home, lambda _: False) == 0
    assert place.bucket.abort_uploads(place.home, lambda _: True) == 1
    assert s3_unfinished(signed_s3_server, prefix) == []
    file.discard()


def test_what_cannot_be_tidied_up_does_not_undo_a_publication(
    source, s3_server, prefix, monkeypatch, caplog
):
    def odd(*_: object) -> bytes:
        return b"<html>"

    monkeypatch.setattr(bucket.Bucket, "_request", odd)
    intent = wanted(source, s3_server, prefix)
    assert extract(intent).run_id == seen(intent).run_id
    assert "leftovers stay in s3://lake/" in caplog.text


def wait_for(what, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_living_run_is_never_collected(source, s3_server, prefix, monkeypatch):
    monkeypatch.setattr(objects, "STALE_AFTER", timedelta(seconds=2))
    monkeypatch.setattr(objects, "RENEW_SECONDS", 0.3)
    intent = wanted(source, s3_server, prefix)
    place = place_of(intent)
    with place.new_run("ix-20200101-000000-aaaaaa") as slow:
        file = slow.create("orders_001.parquet")
        file.write(b"x" * (20 * MB))
        time.sleep(3.5)
        extract(intent)
        extract(intent)
        file.finish()
        assert "/orders_001.parquet" in "".join(s3_server.keys(f"{prefix}/orders/{slow.run_id}"))


def test_a_run_that_was_taken_for_dead_does_not_publish(source, s3_server, prefix, monkeypatch):
    intent = wanted(source, s3_server, prefix)
    real = objects.ObjectRun.publish

    def publish_late(run, manifest):
        obstore.delete(s3_server.store(), s3_server.keys(f"{prefix}/orders/{run.run_id}"))
        return real(run, manifest)

    monkeypatch.setattr(objects.ObjectRun, "publish", publish_late)
    with pytest.raises(ExecutionError, match="stands still for 0:10:00 loses its files"):
        extract(intent)
    assert published(intent) is None


def test_runs_at_once_all_end_well_and_the_last_stays_whole(source, s3_server, prefix):
    intent, errors = wanted(source, s3_server, prefix), []

    def work() -> None:
        try:
            for _ in range(4):
                extract(intent)
        except Exception as error:  # noqa: BLE001 - shown by the assertion
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(intent, s3_server).num_rows == 3
    extract(intent)
    runs = {key.split("/")[-2] for key in s3_server.keys(prefix)} - {"orders"}
    assert len(runs) == 2


def test_keys_that_are_not_ours_are_never_touched(source, object_server, prefix):
    intent = wanted(source, object_server, prefix)
    mine = f"{prefix}/orders/2026/mine.parquet"
    obstore.put(object_server.store(), mine, b"precious")
    for _ in range(3):
        extract(intent)
    assert object_server.read(mine) == b"precious"


def test_a_manifest_of_others_is_left_alone(source, object_server, prefix):
    intent = wanted(source, object_server, prefix)
    theirs = f"{prefix}/orders/_manifest.json"
    obstore.put(object_server.store(), theirs, b'{"entries": []}')
    with pytest.raises(OutputNotWritable, match="was not made by an extraction"):
        extract(intent)
    assert object_server.keys(prefix) == [theirs]


def test_a_bucket_that_is_not_there_is_named(source, s3_server, prefix):
    intent = elsewhere(source, f"s3://gone/{prefix}", s3_server.options)
    with pytest.raises(OutputNotWritable, match="make the bucket gone first") as caught:
        extract(intent)
    assert caught.value.bucket == "gone"
    assert SECRET not in str(caught.value.fields)


def test_credentials_that_are_refused_are_named_and_not_shown(source, signed_s3_server, prefix):
    wrong = {**signed_s3_server.options, "secret_access_key": "wr0ng/secret+"}
    intent = elsewhere(source, f"s3://{BUCKET}/{prefix}", wrong)
    with pytest.raises(
        OutputNotWritable, match=r"SignatureDoesNotMatch.*must be allowed"
    ) as caught:
        extract(intent)
    assert BUCKET in str(caught.value)
    shown = f"{caught.value!r} {caught.value.fields} {caught.value.__cause__} {intent!r}"
    assert "wr0ng" not in shown
    assert caught.value.__suppress_context__


def test_a_store_that_does_not_answer_is_named(source, prefix, monkeypatch):
    monkeypatch.setattr(bucket, "_RETRY", {"max_retries": 1})
    options = {"endpoint": "http://127.0.0.1:1", "access_key_id": "AK", "secret_access_key": SECRET}
    intent = elsewhere(source, f"s3://{BUCKET}/{prefix}", options)
    with pytest.raises(OutputNotWritable, match="check endpoint, region and credentials"):
        extract(intent)


def test_no_secret_is_in_anything_that_is_left(source, object_server, prefix, caplog):
    intent = wanted(source, object_server, prefix)
    result = extract(intent)
    left = b"".join(object_server.read(key) for key in object_server.keys(prefix))
    texts = f"{intent!r} {result!r} {caplog.text} {left!r} {plan(intent)!r}"
    for secret in intent.secrets:
        assert secret not in texts
    assert SECRET not in texts
    assert SECRET in " ".join(intent.secrets)


def test_an_option_that_the_store_does_not_know_is_refused(source, s3_server, prefix):
    options = {**s3_server.options, "regoin": "eu"}
    intent = elsewhere(source, f"s3://{BUCKET}/{prefix}", options)
    with pytest.raises(ValidationError, match="regoin"):
        extract(intent)
    with pytest.raises(ValidationError, match="regoin"):
        published(intent)


@pytest.mark.parametrize(
    "given", ["s3://", "s3:///x", "s3://key:secret@lake/x", "gs://lake/a//b", "s3://lake/../x"]
)
def test_a_url_that_names_no_place_is_refused(given):
    with pytest.raises(ValidationError, match="names no place in a bucket"):
        ExtractionIntent("sqlite", {"database": "x.db"}, "orders", given)


@pytest.mark.parametrize("given", ["http://lake/x", "azure://lake/x"])
def test_a_url_of_another_kind_is_refused(given):
    with pytest.raises(ValidationError, match="neither a path nor a text like s3://"):
        ExtractionIntent("sqlite", {"database": "x.db"}, "orders", given)


MEASURED = """
import json, resource, sys
from ixflow.extraction.api import execute, plan
from ixflow.extraction.intent import ExtractionIntent
from ixflow.extraction.manifest import Manifest
import ixflow.extraction.bucket, obstore, pyarrow.parquet
kind, database, output_dir, options = sys.argv[1:]
small, big = (
    ExtractionIntent("sqlite", {"database": database}, name, output_dir,
                     output_format=kind, storage_options=json.loads(options))
    for name in ("orders", "big")
)
execute(plan(small))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
print(execute(plan(big)).rows_extracted, peak() - before)
"""


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_cells_of_5_mb_are_written_in_bounded_memory(source, s3_server, prefix, kind):
    make(source, "CREATE TABLE big (id integer, x text)")
    for number in range(60):
        make(source, f"INSERT INTO big SELECT {number}, hex(randomblob(2500000))")
    place = s3_server.place(prefix)
    arguments = [kind, str(source.url.database), place["output_dir"], json.dumps(s3_server.options)]
    command = [sys.executable, "-c", MEASURED, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    count, grown = map(int, done.stdout.split())
    assert count == 60
    assert grown < 256 * 1024


def test_an_incremental_run_names_the_files_of_the_runs_before(source, object_server, prefix):
    options = {"mode": "incremental", "incremental_key": "id"}
    intent = wanted(source, object_server, prefix, **options)
    runs = []
    for number in (4, 5, 6):
        runs.append(extract(intent).run_id)
        make(source, f"INSERT INTO orders VALUES ({number}, 'x')")
    last = extract(intent)
    assert last.rows_extracted == 1
    assert last.manifest.runs == {*runs, last.run_id}
    assert sorted(rows(intent, object_server)["id"].to_pylist()) == [1, 2, 3, 4, 5, 6]
    assert extract(intent).rows_extracted == 0
    assert seen(intent) == last.manifest
    assert len(object_server.keys(prefix)) == 5
    # Readers of the publication before may go on until the next one.
    full = wanted(source, object_server, prefix)
    extract(full)
    assert len(object_server.keys(prefix)) == 6
    final = extract(full)
    kept = {
        key.removeprefix(f"{prefix}/orders/").split("/")[0] for key in object_server.keys(prefix)
    }
    assert final.run_id in kept
    assert not kept & {*runs, last.run_id}


def test_an_incremental_run_does_not_overwrite_another(source, object_server, prefix, monkeypatch):
    intent = wanted(source, object_server, prefix, mode="incremental", incremental_key="id")
    extract(intent)
    make(source, "INSERT INTO orders VALUES (4, 'x')")
    publish = objects.ObjectRun.publish

    def late(self, manifest):
        monkeypatch.setattr(objects.ObjectRun, "publish", publish)
        extract(intent)
        return publish(self, manifest)

    monkeypatch.setattr(objects.ObjectRun, "publish", late)
    with pytest.raises(ExecutionError, match="Run it again"):
        extract(intent)
    assert sorted(rows(intent, object_server)["id"].to_pylist()) == [1, 2, 3, 4]
