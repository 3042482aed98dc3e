"""MySQL and MariaDB: several connections read one moment, or one does, and it is said which."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pymysql
import pytest
import sqlalchemy as sa

from ixflow.dialects import dialect_named, run
from ixflow.dialects.mysql import hold
from ixflow.dialects.mysql.advice import advised
from ixflow.dialects.mysql.reader import MySQLReader
from ixflow.errors import ExecutionError, SnapshotUnavailable, SourceUnavailable
from ixflow.events import ChunkExtracted, listen
from ixflow.extraction.api import execute, explain, plan, published
from ixflow.extraction.context import RuntimeContext
from ixflow.values import Column, TableName
from ixflow_tests.sources import intent_for, make, rows_of

TWO = RuntimeContext(min_workers=2)
ACCOUNTS = 20_000
MYSQL = dialect_named("mysql")


def make_accounts(engine: sa.Engine, *names: str) -> None:
    """Make tables of 20,000 accounts of 100 each."""
    for name in names or ("accounts",):
        make(
            engine,
            f"CREATE TABLE {name} (id int PRIMARY KEY, balance int, filler varchar(250))",
            f"INSERT INTO {name} SELECT seq, 100, repeat('x', 120) FROM seq_1_to_{ACCOUNTS}",
            f"ANALYZE TABLE {name}",
        )


class Storm:
    """Two writers that move money between accounts and replace accounts, for the block."""

    def __init__(self, engine: sa.Engine, source: str = "accounts", target: str = "accounts"):
        self.engine, self.tables = engine, (source, target)
        self.stop, self.moves = threading.Event(), 0
        self.writers = [threading.Thread(target=self.write, args=(seed,)) for seed in (1, 2)]

    def __enter__(self):
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for writer in self.writers:
            writer.join()

    def write(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.stop.is_set():
            try:
                with self.engine.connect() as conn:
                    while not self.stop.is_set():
                        self.moves += self.move(conn, chance)
            except sa.exc.DBAPIError:
                continue  # two writers met in a deadlock

    def move(self, conn: sa.Connection, chance: random.Random) -> int:
        """Take from one account and give to another; and let an account come back elsewhere."""
        source, target = self.tables
        one, other, moved = (chance.randint(1, ACCOUNTS) for _ in range(3))
        taken = run(conn, f"UPDATE {source} SET balance = balance - 1 WHERE id = {one}").rowcount
        given = run(conn, f"UPDATE {target} SET balance = balance + 1 WHERE id = {other}").rowcount
        leaves, comes = chance.sample((moved, moved + ACCOUNTS), 2)
        run(conn, f"UPDATE {source} SET id = {comes} WHERE id = {leaves}")
        if (taken, given) != (1, 1):
            conn.rollback()
            return 0
        conn.commit()
        return 1


def test_two_workers_under_a_writer_storm_read_one_moment(fresh_mariadb, tmp_path):
    make_accounts(fresh_mariadb)
    with Storm(fresh_mariadb) as storm:
        for _ in range(4):
            made = plan(intent_for(fresh_mariadb, "accounts", tmp_path), TWO)
            assert (made.plan.strategy, made.plan.worker_count) == ("key_ranges", 2)
            assert len(made.plan.tasks) >= 6
            rows = rows_of(execute(made))
            assert rows.num_rows == ACCOUNTS
            assert len(set(rows["id"].to_pylist())) == ACCOUNTS
            assert sum(rows["balance"].to_pylist()) == ACCOUNTS * 100
    assert storm.moves > 20


def test_tables_that_are_held_together_are_read_in_one_moment(fresh_mariadb):
    make_accounts(fresh_mariadb, "debit", "credit")
    tables = [TableName("debit"), TableName("credit")]
    with fresh_mariadb.connect() as conn:
        columns = {table: MYSQL.columns(conn, table)[:2] for table in tables}
    with Storm(fresh_mariadb, "debit", "credit") as storm:
        for workers in (1, 2, 2, 2):
            balances = []
            with MYSQL.hold(fresh_mariadb.url, tables, workers=workers) as held:
                assert held.shared
                for table in tables:
                    with held.open_reader() as reader:
                        batches = reader.read(MYSQL.select(table, columns[table]), columns[table])
                        balances += batches.read_all()["balance"].to_pylist()
            assert len(balances) == 2 * ACCOUNTS
            assert sum(balances) == 2 * ACCOUNTS * 100
    assert storm.moves > 20


def role(engine: sa.Engine, *rights: str) -> sa.Engine:
    """Make a user with these rights on the database, and an engine that connects as it."""
    name = f"reader_{engine.url.database}"
    granted = [f"GRANT {right} TO {name}" for right in rights]
    make(engine, f"CREATE USER {name} IDENTIFIED BY 'pw'", *granted)
    return sa.create_engine(engine.url.set(username=name, password="pw"), poolclass=sa.NullPool)


@pytest.fixture
def accounts(fresh_mariadb) -> Iterator[sa.Engine]:
    """Give a database with 20,000 accounts."""
    make_accounts(fresh_mariadb)
    yield fresh_mariadb
    with fresh_mariadb.begin() as conn:
        run(conn, f"DROP USER IF EXISTS reader_{fresh_mariadb.url.database}")


def test_a_role_that_may_not_lock_reads_on_one_connection_and_this_is_said(accounts, tmp_path):
    place = accounts.url.database
    engine = role(accounts, f"SELECT ON {place}.*")
    intent = intent_for(engine, "accounts", tmp_path, require_snapshot=True)
    made = plan(intent)
    assert not made.profile.shares_snapshot
    assert (made.plan.worker_count, made.plan.consistency) == (1, "one snapshot")
    assert "LOCK TABLES" in str(explain(intent))
    with Storm(accounts):
        rows = rows_of(execute(made))
    assert len(set(rows["id"].to_pylist())) == rows.num_rows == ACCOUNTS
    assert sum(rows["balance"].to_pylist()) == ACCOUNTS * 100


@pytest.mark.parametrize(
    ("rights", "shares"),
    [
        (("SELECT ON {}.*", "LOCK TABLES ON {}.*"), True),
        (("SELECT ON {}.accounts", "LOCK TABLES ON {}.*"), True),
        (("SELECT ON {}.accounts",), False),
        (("SELECT (id) ON {}.accounts",), False),
        (("SELECT ON *.*", "LOCK TABLES ON *.*"), True),
    ],
)
def test_planning_knows_whether_the_role_may_lock_without_locking(
    accounts, tmp_path, rights, shares
):
    place = accounts.url.database
    engine = role(accounts, *(right.format(place) for right in rights))
    intent = intent_for(engine, "accounts", tmp_path, columns=["id"])
    with accounts.connect() as writer:
        run(writer, "UPDATE accounts SET balance = 0 WHERE id = 1")
        assert plan(intent).profile.shares_snapshot is shares
        writer.rollback()
    assert execute(plan(intent, TWO), force=True).rows_extracted == ACCOUNTS


def test_a_lock_that_is_not_had_in_time_leaves_one_connection_and_one_moment(
    accounts, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(hold, "LOCK_SECONDS", 1)
    monkeypatch.setattr(hold, "_TRIES", 2)
    intent = intent_for(accounts, "accounts", tmp_path, require_snapshot=True)
    made = plan(intent, TWO)
    with accounts.connect() as writer:
        run(writer, "UPDATE accounts SET balance = 0 WHERE id = 1")
        rows = rows_of(execute(made))
        writer.rollback()
    assert sum(rows["balance"].to_pylist()) == ACCOUNTS * 100
    assert "one connection reads" in caplog.text
    assert "no lock" in caplog.text


def test_a_right_that_was_lost_since_the_plan_leaves_one_connection(accounts, tmp_path, caplog):
    place, name = accounts.url.database, f"reader_{accounts.url.database}"
    engine = role(accounts, f"SELECT ON {place}.*", f"LOCK TABLES ON {place}.*")
    made = plan(intent_for(engine, "accounts", tmp_path), TWO)
    make(accounts, f"REVOKE LOCK TABLES ON {place}.* FROM {name}")
    assert execute(made).rows_extracted == ACCOUNTS
    assert "the role cannot lock it" in caplog.text


@pytest.mark.parametrize(("most", "opened"), [(2, "1 of 3"), (3, "2 of 3")])
def test_a_limit_on_connections_leaves_fewer_of_them_and_one_moment(
    accounts, tmp_path, caplog, most, opened
):
    place, name = accounts.url.database, f"reader_{accounts.url.database}"
    engine = role(accounts, f"SELECT ON {place}.*", f"LOCK TABLES ON {place}.*")
    made = plan(intent_for(engine, "accounts", tmp_path), TWO)
    make(accounts, f"GRANT USAGE ON *.* TO {name} WITH MAX_USER_CONNECTIONS {most}")
    with Storm(accounts):
        rows = rows_of(execute(made))
    assert sum(rows["balance"].to_pylist()) == ACCOUNTS * 100
    assert f"{opened} connections could be opened" in caplog.text


class AtFirstChunk:
    """A listener that does something once, in the middle of a run; other workers wait for it."""

    def __init__(self, act) -> None:
        self.act, self.lock, self.done = act, threading.Lock(), False

    def __call__(self, event: object) -> None:
        if not isinstance(event, ChunkExtracted):
            return
        with self.lock:
            if not self.done:
                self.done = True
                self.act()


def readers_of(conn: sa.Connection) -> list[int]:
    """List the sessions that hold a read-only transaction of ours, oldest first."""
    query = "SELECT trx_mysql_thread_id FROM information_schema.innodb_trx WHERE trx_is_read_only"
    # The server looks again only when it was not asked for a tenth of a second.
    time.sleep(0.2)
    return sorted(run(conn, query).scalars())


def test_a_lost_connection_is_replaced_by_a_spare_of_the_same_moment(accounts, tmp_path, caplog):
    killed: list[int] = []

    def kill_one_and_change_all() -> None:
        with accounts.begin() as conn:
            readers = readers_of(conn)
            assert len(readers) == 3
            killed.append(readers[0])
            run(conn, f"KILL CONNECTION {readers[0]}")
            run(conn, "DELETE FROM accounts WHERE id % 2 = 0")

    made = plan(intent_for(accounts, "accounts", tmp_path), TWO)
    with listen(AtFirstChunk(kill_one_and_change_all)):
        rows = rows_of(execute(made))
    assert killed
    assert sorted(rows["id"].to_pylist()) == list(range(1, ACCOUNTS + 1))


def test_when_all_connections_are_lost_nothing_is_published(accounts, tmp_path):
    intent = intent_for(accounts, "accounts", tmp_path)
    made = plan(intent, TWO)

    def kill_all() -> None:
        with accounts.begin() as conn:
            for reader in readers_of(conn):
                run(conn, f"KILL CONNECTION {reader}")

    with listen(AtFirstChunk(kill_all)), pytest.raises(ExecutionError, match="is lost"):
        execute(made)
    assert published(intent) is None


def test_a_table_keeps_its_definition_until_it_is_read(accounts, tmp_path):
    refused: list[str] = []

    def try_to_alter() -> None:
        statement = "ALTER TABLE accounts ADD COLUMN extra int"
        with pytest.raises(sa.exc.OperationalError, match="Lock wait timeout") as caught:
            make(accounts, "SET SESSION lock_wait_timeout = 1", statement)
        refused.append(str(caught.value))

    made = plan(intent_for(accounts, "accounts", tmp_path), TWO)
    with listen(AtFirstChunk(try_to_alter)):
        assert execute(made).rows_extracted == ACCOUNTS
    assert refused
    make(accounts, "ALTER TABLE accounts ADD COLUMN extra int")


def test_a_table_that_was_altered_behind_the_snapshot_is_not_read_again_and_again(accounts):
    """One reader of one table begins without a lock: nothing keeps the table's definition yet."""
    table = TableName("accounts")
    with accounts.connect() as conn:
        columns = MYSQL.columns(conn, table)
    with MYSQL.reader(accounts.url) as reader:
        make(accounts, "ALTER TABLE accounts DROP COLUMN filler, FORCE")
        with pytest.raises(pymysql.MySQLError) as caught:
            reader.read(MYSQL.select(table, columns[:2]), columns[:2]).read_all()
    assert not MYSQL.is_transient(caught.value)
    refusal = advised(caught.value, "accounts")
    assert isinstance(refusal, SnapshotUnavailable)
    assert "altered after the snapshot" in str(refusal)


def test_the_server_takes_the_lock_from_a_process_that_stalls(accounts, tmp_path, monkeypatch):
    begin, waits = MySQLReader.begin, threading.Event()

    def stalls(reader, tables=()):
        begin(reader, tables)
        waits.wait(2)

    monkeypatch.setattr(hold, "_LEADER_SECONDS", 1)
    monkeypatch.setattr(MySQLReader, "begin", stalls)
    intent = intent_for(accounts, "accounts", tmp_path)
    made = plan(intent, TWO)
    with pytest.raises(SourceUnavailable):
        execute(made)
    assert published(intent) is None
    make(accounts, "SET SESSION lock_wait_timeout = 1", "UPDATE accounts SET balance = 0")


def test_no_connection_and_no_lock_stays_behind(accounts, tmp_path):
    execute(plan(intent_for(accounts, "accounts", tmp_path), TWO))
    with accounts.connect() as conn:
        ours = f"WHERE db = '{accounts.url.database}' AND id <> connection_id()"
        left = run(conn, f"SELECT count(*) FROM information_schema.processlist {ours}")
        assert left.scalar_one() == 0
    make(accounts, "SET SESSION lock_wait_timeout = 1", "DROP TABLE accounts")


def test_idle_readers_outlive_the_servers_patience(accounts, tmp_path):
    make(accounts, "SET GLOBAL wait_timeout = 2, GLOBAL idle_readonly_transaction_timeout = 2")
    names = ("wait_timeout", "idle_readonly_transaction_timeout", "idle_transaction_timeout")
    columns = [Column(name, "varchar(20)", pa.string()) for name in names]
    wanted = ", ".join(f"CAST(@@SESSION.{name} AS CHAR) AS {name}" for name in names)
    try:
        with MYSQL.hold(accounts.url, [TableName("accounts")], workers=2) as held:
            patience = run(held.conn, "SELECT @@SESSION.wait_timeout").scalar_one()
            with held.open_reader() as reader:
                row = reader.read(f"SELECT {wanted}", columns).read_all().to_pylist()
    finally:
        make(accounts, "SET GLOBAL wait_timeout = DEFAULT")
        make(accounts, "SET GLOBAL idle_readonly_transaction_timeout = DEFAULT")
    assert patience == 86_400
    assert row == [dict(zip(names, ("86400", "0", "0"), strict=True))]
