"""Options of `SQLTableStore`: telling in the log, and those of pipedag that are not there yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from ixflow.errors import ValidationError
from ixflow.secrets import redact
from ixflow.store.metadata import PUBLISHED, Metadata, StoredResult, StoredTable

__all__ = ["ToldMetadata", "refuse_options", "tell_statements"]

_log = logging.getLogger("ixflow.store")

# Of pipedag's store; what they are when nobody sets them is fine.
_NOT_YET: Mapping[str, Any] = {
    "avoid_drop_create_schema": False,
    "strict_materialization_details": True,
    "materialization_details": None,
    "default_materialization_details": None,
}


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options that are not known, and those that would have to do something.

    Raises:
        ValidationError: so it is.

    """
    for name, value in options.items():
        if name not in _NOT_YET:
            msg = f"SQLTableStore has no option {name!r}"
            raise ValidationError(msg, option=name)
        if value != _NOT_YET[name]:
            msg = (
                f"the option {name} of SQLTableStore is not available yet; "
                f"leave it out, or at {_NOT_YET[name]}"
            )
            raise ValidationError(msg, option=name)


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
