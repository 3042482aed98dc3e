"""Options of `SQLTableStore`: telling in the log, and how many versions to keep."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ixflow.errors import ValidationError
from ixflow.secrets import redact
from ixflow.store.metadata import PUBLISHED, Metadata, StoredResult, StoredTable

__all__ = ["ToldMetadata", "checked_count", "tell_statements"]

_log = logging.getLogger("ixflow.store")


def checked_count(who: str, keep_versions: Any) -> int:
    """Refuse a number of versions to keep that is none.

    Raises:
        ValidationError: it is negative or no whole number.

    """
    if type(keep_versions) is int and keep_versions >= 0:
        return keep_versions
    msg = f"{who}(keep_versions=) takes a whole number from 0, not {keep_versions!r}"
    raise ValidationError(msg, keep_versions=keep_versions)


def tell_statements(engine: sa.Engine) -> None:
    """Log every statement of the engine before it runs, without passwords."""

    def tell(_conn: Any, _cursor: Any, statement: str, *_others: Any) -> None:
        _log.info("%s", redact(statement))

    sa.event.listen(engine, "before_cursor_execute", tell)


class ToldMetadata(Metadata):
    """Logs every table that is written."""

    def add(
        self,
        conn: sa.Connection,
        stage: str,
        scope: str,
        tables: Sequence[StoredTable],
        results: Sequence[StoredResult],
    ) -> None:
        """Add rows to a scope; those of a transaction describe what was just written."""
        super().add(conn, stage, scope, tables, results)
        if scope != PUBLISHED:
            for table in tables:
                _log.info(
                    "task %s has written table %s.%s: %s rows",
                    table.task,
                    scope,
                    table.name,
                    table.rows,
                )
