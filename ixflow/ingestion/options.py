"""The string constants of `ingest`, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ixflow.dialects.checksums import Checksum
from ixflow.errors import ValidationError

__all__ = [
    "Arrival",
    "Delete",
    "HighWatermark",
    "IngestResult",
    "OnDuplicate",
    "TableCounts",
    "Upsert",
    "Visibility",
    "checked",
]


class HighWatermark:
    """Which watermark the batches function gets; any other JSON value is given as it is."""

    LATEST: ClassVar[str] = "__LATEST__"
    """The one stored with the last batch that was committed; None if there is none."""
    EARLIEST: ClassVar[str] = "__EARLIEST__"
    """None, so that everything is ingested again."""


class Visibility:
    """When rows become visible to other database clients."""

    AFTER_EACH_BATCH: ClassVar[str] = "__AFTER_EACH_BATCH__"


class Upsert:
    """Whether rows replace rows with the same primary key."""

    OFF: ClassVar[str] = "__OFF__"
    IF_PRIMARY_KEY: ClassVar[str] = "__IF_PRIMARY_KEY__"


class Delete:
    """Whether existing rows are deleted, and which."""

    OFF: ClassVar[str] = "__OFF__"
    BEFORE_FIRST_BATCH: ClassVar[str] = "__BEFORE_FIRST_BATCH__"
    MISSING: ClassVar[str] = "__MISSING__"
    """After the last batch, those whose key was not given: see `ixflow.ingestion.missing`."""


class OnDuplicate:
    """What happens to a version with exactly the rows of the version before."""

    SKIP: ClassVar[str] = "__SKIP__"
    """It is dropped, and the view stays on the version before."""
    ERROR: ClassVar[str] = "__ERROR__"
    """It is dropped, and `DuplicatePartitionError` is raised."""
    KEEP: ClassVar[str] = "__KEEP__"
    """It is kept like any other."""


def checked(option: str, value: Any, kind: type, *, empty: str | None = None) -> str:
    """Return the value if it is a constant of the kind; ``empty`` stands in for None and "".

    Raises:
        ValidationError: naming the values that are allowed.

    """
    allowed = [v for k, v in vars(kind).items() if not k.startswith("_") and isinstance(v, str)]
    if empty is not None and value in (None, ""):
        return empty
    if value not in allowed:
        msg = f"{option}={value!r} is not one of {', '.join(allowed)}"
        raise ValidationError(msg, option=option, value=value)
    # The constant itself: str() of a member of a text enumeration is the member's name.
    return next(constant for constant in allowed if constant == value)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What one ingest proved of one table: rows that were sent, and how they are there.

    Of the ``rows_sent``, ``rows_there`` were found with exactly the values that were sent,
    ``repeated`` gave way to a later row with their key, and ``put_aside`` are in quarantine.
    ``checksum`` is that of the rows there, summed over the batches; ``not_compared`` names columns
    whose type has no canonical text.
    """

    rows_sent: int = 0
    rows_there: int = 0
    repeated: int = 0
    put_aside: int = 0
    checksum: Checksum = field(default_factory=Checksum)
    not_compared: tuple[str, ...] = ()

    def __add__(self, more: Arrival) -> Arrival:
        """Add what another batch proved."""
        names = dict.fromkeys((*self.not_compared, *more.not_compared))
        return Arrival(
            self.rows_sent + more.rows_sent,
            self.rows_there + more.rows_there,
            self.repeated + more.repeated,
            self.put_aside + more.put_aside,
            self.checksum + more.checksum,
            tuple(names),
        )


@dataclass(slots=True)
class TableCounts:
    """What one ingest did to one table.

    ``unchanged`` rows were there already with the same values, or came twice in one batch.
    ``broken_rules`` counts the rows that were put aside, by the rule that they broke.
    ``replaced_because`` says why the table was made anew; empty when it was not. ``arrival`` is
    what was proved, if that was asked for. ``slice_rows`` counts the rows of the slice that was
    replaced, as it is now.
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    replaced_because: tuple[str, ...] = ()
    broken_rules: dict[str, int] = field(default_factory=dict)
    arrival: Arrival | None = None
    slice_rows: int | None = None

    @property
    def quarantined(self) -> int:
        """Rows that were put aside."""
        return sum(self.broken_rules.values())

    def count_broken(self, more: Mapping[str, int]) -> None:
        """Add rows that were put aside, by rule."""
        for rule, rows in more.items():
            self.broken_rules[rule] = self.broken_rules.get(rule, 0) + rows


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What one call of `ingest` did: rows by table (``schema.table``), watermarks, seconds.

    ``changed_by`` names, for each table, the last run that changed a row of it, this one or an
    earlier one: equal values mean equal data.
    """

    run_id: str
    tables: dict[str, TableCounts]
    batches: int
    high_watermark_before: Any
    high_watermark_after: Any
    seconds: float
    skipped_rows: int = 0
    phases: dict[str, float] = field(default_factory=dict)
    changed_by: dict[str, str] = field(default_factory=dict)

    @property
    def rows_inserted(self) -> int:
        """Rows inserted into all tables."""
        return sum(counts.inserted for counts in self.tables.values())

    @property
    def rows_updated(self) -> int:
        """Rows changed in all tables."""
        return sum(counts.updated for counts in self.tables.values())
