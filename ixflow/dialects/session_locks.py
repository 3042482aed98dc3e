"""What a database does that can hold named locks for as long as a connection lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["SessionLocks"]


class SessionLocks(Protocol):
    """Named locks of a connection that commits each statement; its end lets them go."""

    def prepare(self, conn: sa.Connection, label: str) -> None:
        """Let the server keep the idle connection, and show the label to who looks at it."""

    def take(self, conn: sa.Connection, name: str, seconds: float) -> bool:
        """Take a lock, waiting at most this long (0: not at all); say whether it is held now.

        Raises:
            LockNotAvailable: two connections wait for each other's locks.

        """

    def drop(self, conn: sa.Connection, name: str) -> None:
        """Let a lock go."""

    def holds(self, conn: sa.Connection, name: str) -> bool:
        """Say whether this connection holds a lock."""

    def holder(self, conn: sa.Connection, name: str) -> str | None:
        """Say which connection holds a lock, for a person; None if none does."""
