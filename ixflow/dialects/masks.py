"""Masks: what the source sends in the place of a value, so that the value never leaves it.

    hash             SHA-256 of salt and text in UTF-8, as 64 lower case hexadecimal digits
    null             NULL
    redact           ***
    first3, last4    *** and the first or last characters; only *** where there are no more
    year             the first moment of the year of a date or timestamp (UTC, where it has a zone)

NULL stays NULL under every mask. The text of a value is what ``as_text`` reads.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import ClassVar

import pyarrow as pa

from ixflow.dialects.names import Names
from ixflow.errors import ValidationError
from ixflow.values import Column

__all__ = ["MASKS", "Masks", "masked_column"]

MASKS = "hash, null, redact, first<N>, last<N>, year"
"""What a mask can be, for people; N is from 1 to 99."""

_MASK = re.compile(r"(?P<kind>hash|null|redact|year)|(?P<end>first|last)(?P<keep>[1-9][0-9]?)")
HIDDEN = "***"


def masked_column(column: Column, mask: str) -> Column:
    """Describe a column as it arrives under a mask; ``sql_type`` stays what the source declares.

    Raises:
        ValidationError: there is no such mask, or it does not go with the column's type.

    """
    if not _MASK.fullmatch(str(mask)):
        msg = f"mask of {column.name} is {mask!r}; it can be {MASKS}"
        raise ValidationError(msg, column=column.name, mask=mask)
    if mask == "null":
        return replace(column, nullable=True, key_position=None, mask=mask)
    if mask != "year":
        text = pa.string()
        return replace(column, type=text, as_text=False, key_position=None, mask=mask)
    if column.as_text or not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)):
        msg = f"the mask 'year' is for dates and timestamps; {column.name} is {column.sql_type}"
        raise ValidationError(msg, column=column.name, mask=mask)
    return replace(column, key_position=None, mask=mask)


class Masks(Names):
    """The expressions of masks, of one kind of database."""

    name: ClassVar[str]

    def read_form(self, column: Column, expression: str) -> str:
        """Write the expression that reads a value exactly; text where Arrow has no exact type."""
        return f"CAST({expression} AS {self.text_type()})" if column.as_text else expression

    def text_type(self) -> str:
        """Name the unbounded text type."""
        return "text"

    def masked_form(self, column: Column, expression: str, salt: str | None) -> str:
        """Write the expression that reads a value under the column's mask."""
        found = _MASK.fullmatch(column.mask or "")
        if found is None:
            msg = f"mask of {column.name} is {column.mask!r}; it can be {MASKS}"
            raise ValidationError(msg, column=column.name, mask=column.mask)
        if found["kind"] == "null":
            return self.read_form(column, self.null_form(column))
        if found["kind"] == "year":
            return self.year_form(column, expression)
        text = self.read_form(replace(column, type=pa.string(), as_text=True), expression)
        if found["kind"] == "redact":
            masked = f"'{HIDDEN}'"
        elif found["kind"] == "hash":
            masked = self.hash_form(
                text if salt is None else self.joined(self.text_literal(salt), text)
            )
        else:
            kept = self.kept_form(text, found["end"], int(found["keep"]))
            longer = f"{self.length_form(text)} > {found['keep']}"
            part = self.joined(f"'{HIDDEN}'", kept)
            masked = f"CASE WHEN {longer} THEN {part} ELSE '{HIDDEN}' END"
        return f"CASE WHEN {expression} IS NOT NULL THEN {masked} END"

    def text_literal(self, value: str) -> str:
        """Write a text as a literal that means the same under every setting."""
        escaped = value.replace("'", "''")
        return f"'{escaped}'"

    def joined(self, first: str, second: str) -> str:
        """Write one text after another."""
        return f"{first} || {second}"

    def null_form(self, column: Column) -> str:
        """Write a NULL of the column's type."""
        return f"CAST(NULL AS {column.sql_type})"

    def hash_form(self, text: str) -> str:
        """Write the SHA-256 of a text in UTF-8, in hexadecimal digits."""
        del text
        msg = f"{self.name} has no SHA-256, so no column can be hashed; use another mask"
        raise ValidationError(msg, database=self.name)

    def length_form(self, text: str) -> str:
        """Write the number of characters of a text."""
        return f"length({text})"

    def kept_form(self, text: str, end: str, count: int) -> str:
        """Write the first or last characters of a text."""
        return f"{'left' if end == 'first' else 'right'}({text}, {count})"

    def year_form(self, column: Column, expression: str) -> str:
        """Write the first moment of the year of a date or timestamp."""
        return f"CAST(date_trunc('year', {expression}) AS {column.sql_type})"
