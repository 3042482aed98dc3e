"""Source tables as observable assets, whose data version is the greatest value of a cursor.

An observation reads one connection with one query, however many tables it is for; before that it
looks up the columns in the catalogue. It goes through the index of the cursor, if there is one.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa
import sqlalchemy as sa

from ixflow.dagster.extraction import resolved, source_asset, source_key
from ixflow.dagster.failures import as_failure, failures
from ixflow.dagster.metadata import lag_metadata, word
from ixflow.dialects import connected
from ixflow.errors import IxflowError, SourceUnavailable, ValidationError
from ixflow.extraction.intent import ExtractionIntent
from ixflow.secrets import redact
from ixflow.tables.cursor import Cursor, CursorPlan
from ixflow.values import Column, TableName, TablePart

__all__ = ["said_clearly", "watermark_source"]

_NO_ROWS, _ONLY_NULLS, _NOTHING_SETTLED = "no rows", "only NULLs", "nothing settled"

Cursors = str | Cursor | Mapping[str, str | Cursor] | None


def watermark_source(
    tables: ExtractionIntent | Sequence[ExtractionIntent],
    *,
    cursor: Cursors = None,
    name: str | None = None,
    group_name: str = "sources",
    automation_condition: dg.AutomationCondition[Any] | None = None,
    tags: Mapping[str, str] | None = None,
    owners: Sequence[str] | None = None,
) -> dg.AssetsDefinition:
    """Make observable assets of source tables of one database: they stand for `source_asset`.

    Args:
        tables: The intents of the tables, or of one.
        cursor: The column that grows, or a `Cursor`; a mapping by ``object_name`` where they
            differ; None: the ``incremental_key`` of the intents.
        name: The name of the op; default: that of the table, or of the database.
        group_name: The group of the assets.
        automation_condition: When to look, such as ``AutomationCondition.on_cron("* * * * *")``.
        tags: Of every asset.
        owners: Of every asset.

    The data version is the greatest value of the cursor among the rows that the intent selects, so
    that assets with `on_change()` follow new rows and nothing else. Where the semantics are
    ``settled``, rows that are not settled yet do not count. Rows without a value do not count
    either: ``only NULLs`` and ``no rows`` are versions of their own. A row that comes late, with a
    smaller value, changes nothing here; the next greater one takes it along.

    Raises:
        ValidationError: the tables are of several databases, or one has no cursor.

    >>> intent = ExtractionIntent("sqlite", {"database": "shop.db"}, "orders")
    >>> watermark_source(intent, cursor="order_id").key.to_user_string()
    'shop/orders'
    """
    intents = [tables] if isinstance(tables, ExtractionIntent) else list(tables)
    watched = {source_key(intent): (intent, _cursor_of(intent, cursor)) for intent in intents}
    if len({str(sorted(intent.source().items(), key=str)) for intent in intents}) != 1:
        msg = "watermark_source needs tables of one database, at least one; make one for each"
        raise ValidationError(msg, argument="tables")
    specs = [
        source_asset(intent, group_name=group_name)._replace(
            automation_condition=automation_condition, tags=tags or {}, owners=owners or []
        )
        for intent in intents
    ]
    one = specs[0].key.path if len(specs) == 1 else specs[0].key.path[:1]
    with warnings.catch_warnings():
        # Its place in Dagster's API is not final; the dependency is pinned below the next minor.
        warnings.simplefilter("ignore", dg.BetaWarning)

        observable: Callable[[Callable[..., Any]], dg.AssetsDefinition]
        observable = dg.multi_observable_source_asset(
            name=name or word("_".join(["watermark", *one])), specs=specs, can_subset=True
        )

    @observable
    def _observe(context: dg.AssetExecutionContext) -> Iterator[dg.ObserveResult]:
        wanted = {k: v for k, v in watched.items() if k in context.selected_asset_keys}
        yield from _observed(wanted)

    return _observe


def _cursor_of(intent: ExtractionIntent, given: Cursors) -> Cursor:
    found = given.get(intent.object_name) if isinstance(given, Mapping) else given
    if isinstance(found, str):
        return Cursor(found)
    cursor = found or intent.cursor
    if cursor is None:
        msg = f"{intent.object_name} has no cursor to be watched; give watermark_source one"
        raise ValidationError(msg, table=intent.object_name)
    return cursor


@dataclass(frozen=True)
class _Look:
    """One table to look at: what is read of it, and how its answer is understood."""

    key: dg.AssetKey
    intent: ExtractionIntent
    cursor: CursorPlan
    settled: str | None

    def queries(self) -> list[str]:
        """Write the queries for its greatest value, the greatest of all, and any row."""
        dialect, intent = self.intent.dialect, self.intent
        part = TablePart(TableName.parse(intent.object_name))
        column = Column(self.cursor.column, self.cursor.sql_type, pa.string(), as_text=True)
        kept = [] if intent.where is None else [f"({intent.where}\n)"]
        name = dialect.quote(column.name)
        below = [*kept]
        if self.settled is not None:
            below.append(f"{name} < {dialect.literal(self.settled, self.cursor.sql_type)}")
        relation = f"({intent.query}\n) AS {dialect.quote('q')}"
        relation = relation if intent.query else dialect.qualified(part.table)
        where = f" WHERE {kept[0]}" if kept else ""
        return [
            dialect.greatest(part, column, query=intent.query, where=below),
            dialect.greatest(part, column, query=intent.query, where=kept),
            dialect.first_row("'1'", f"FROM {relation}{where} ORDER BY 1"),
        ]

    def result(self, greatest: str | None, of_all: str | None, row: str | None) -> dg.ObserveResult:
        """Tell what was seen."""
        nothing = _NO_ROWS if row is None else _ONLY_NULLS if of_all is None else _NOTHING_SETTLED
        return dg.ObserveResult(
            asset_key=self.key,
            data_version=dg.DataVersion(greatest if greatest is not None else nothing),
            metadata={
                "ixflow/high_watermark": greatest if greatest is not None else f"none: {nothing}",
                "ixflow/cursor": str(self.cursor),
                **lag_metadata(greatest),
            },
        )


def _observed(
    watched: Mapping[dg.AssetKey, tuple[ExtractionIntent, Cursor]],
) -> Iterator[dg.ObserveResult]:
    """Look at the tables; those that are not as they should be fail by name, after the others."""
    wrong: dict[str, IxflowError] = {}
    looks: list[_Look] = []
    with failures():
        ready = {key: (resolved(intent), cursor) for key, (intent, cursor) in watched.items()}
        first = next(intent for intent, _ in ready.values())
        engine = first.dialect.read_engine(first.url())
        try:
            with connected(engine) as conn:
                for key, (intent, cursor) in ready.items():
                    try:
                        looks.append(_look(conn, key, intent, cursor))
                    except ValidationError as error:
                        wrong[intent.object_name] = error
            found = _asked(first, engine.url, looks) if looks else []
        finally:
            engine.dispose()
    for look, answers in zip(looks, found, strict=True):
        yield look.result(*answers)
    for alone in wrong.values() if len(wrong) == 1 else ():
        raise as_failure(alone) from alone
    if wrong:
        msg = f"{len(wrong)} tables could not be watched: " + "; ".join(map(str, wrong.values()))
        raise dg.Failure(msg, allow_retries=False)


def _look(conn: sa.Connection, key: dg.AssetKey, intent: ExtractionIntent, cursor: Cursor) -> _Look:
    """Understand the cursor, and find what is settled before any row is read.

    Raises:
        ValidationError: there is no such table or column, or it is no cursor with these semantics.

    """
    dialect, table = intent.dialect, TableName.parse(intent.object_name)
    with said_clearly(intent):
        described = dialect.describe(conn, intent.query) if intent.query else None
        columns = {c.name: c for c in described or dialect.columns(conn, table)}
        if cursor.column not in columns:
            known = ", ".join(columns)
            msg = f"{table} has no column {cursor.column!r} to be watched; it has {known}"
            raise ValidationError(msg, table=str(table), column=cursor.column)
        plan = CursorPlan.of(cursor, columns[cursor.column], None, settles=dialect.settles)
        settled = None
        if plan.semantics == "settled":
            settled = dialect.settled_before(conn, None if intent.query else table)
        return _Look(key, intent, plan, settled)


def _asked(
    intent: ExtractionIntent, url: sa.URL, looks: Sequence[_Look]
) -> list[tuple[str | None, ...]]:
    """Ask for all tables in one query; give three answers a table."""
    parts = [query for look in looks for query in look.queries()]
    names = [f"c{number}" for number in range(len(parts))]
    quote = intent.dialect.quote
    shown = [f"({part}\n) AS {quote(name)}" for part, name in zip(parts, names, strict=True)]
    columns = [Column(name, "text", pa.string(), as_text=True) for name in names]
    sql = f"SELECT {', '.join(shown)}"
    with (
        said_clearly(intent),
        intent.dialect.reader(url) as reader,
        reader.read(sql, columns) as batches,
    ):
        row = pa.Table.from_batches(list(batches)).to_pylist()[0]
    answers = [None if row[name] is None else str(row[name]) for name in names]
    return [tuple(answers[at : at + 3]) for at in range(0, len(answers), 3)]


@contextlib.contextmanager
def said_clearly(intent: ExtractionIntent) -> Iterator[None]:
    """Let an error of the driver be one of ours, without a credential in it."""
    try:
        yield
    except IxflowError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the driver raises
        known = intent.dialect.explained(getattr(error, "orig", None) or error, intent.object_name)
        said = redact(" ".join(str(error).split()), *intent.secrets)
        msg = f"the source of {intent.object_name} could not be looked at: {said}"
        raise (known or SourceUnavailable(msg, table=intent.object_name)) from None
