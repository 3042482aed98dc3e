"""SQL that somebody else wrote, checked before it is put inside of ours, or cut into statements.

A filter stands within parentheses, a query within a subquery; neither may end them. So the text is
read as the database would read it: strings, quoted names and comments are skipped, and what is left
must have balanced parentheses and no semicolon. What two settings of a server would read
differently must pass both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ixflow.errors import ValidationError

__all__ = ["Lexicon", "checked_filter", "checked_query", "statements_of"]

# As PostgreSQL reads names, in which also a dollar may stand.
_WORD = re.compile("[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*")
_DOLLAR = re.compile("\\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\\$")
_READS = ("select", "with", "values", "table", "from")
_TRANSACTIONS = ("abort", "begin", "commit", "end", "rollback", "start")
# MySQL and MariaDB run what such comments hold.
_EXECUTED = re.compile(r"/\*M?!")


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What one kind of database takes for a string, a quoted name and a comment.

    ``quotes`` are pairs of opening and closing characters, of which the closing one is doubled to
    stand for itself. ``backslash`` says that a backslash may escape in any string, depending on a
    setting; in ``E'...'`` it always does where ``escapes``.
    """

    quotes: Mapping[str, str] = field(default_factory=lambda: {"'": "'", '"': '"'})
    backslash: bool = False
    escapes: bool = False
    dollars: bool = False
    hashes: bool = False
    dash_needs_blank: bool = False


def checked_filter(text: str, lexicon: Lexicon) -> str:
    """Give back the text of a row filter, which can stand between parentheses.

    Raises:
        ValidationError: it is empty, or could end the parentheses around it.

    >>> checked_filter("country = 'D)E'", Lexicon())
    "country = 'D)E'"
    """
    tokens = _tokens("where", text, lexicon)
    if not tokens:
        raise ValidationError("where is empty; leave it out to extract all rows", argument="where")
    _check_nesting("where", tokens)
    if ";" in tokens:
        raise _refused("where", "it holds a semicolon; give one condition")
    return text.strip()


def checked_query(text: str, lexicon: Lexicon) -> str:
    """Give back the text of a query without a semicolon at its end.

    Raises:
        ValidationError: it is not one statement that begins like a query.

    >>> checked_query("SELECT 1 AS a;", Lexicon())
    'SELECT 1 AS a'
    """
    whole = text.strip()
    while whole.endswith(";"):
        whole = whole[:-1].rstrip()
    tokens = _tokens("query", whole, lexicon)
    _check_nesting("query", tokens)
    if ";" in tokens:
        raise _refused("query", "it holds a semicolon; give one statement, and nothing behind it")
    first = next((token for token in tokens if token != "("), "")  # noqa: S105 - a parenthesis
    if first.lower() not in _READS:
        raise _refused("query", f"it begins with {first!r}; give a SELECT, WITH or VALUES")
    return whole


def statements_of(text: str, separator: str, lexicon: Lexicon) -> list[str]:
    """Cut a script at the separators that are outside of strings, quoted names and comments.

    Pieces that hold nothing but comments are left out.

    Raises:
        ValidationError: the script cannot be read, or begins or ends a transaction.

    >>> statements_of("SELECT ';' AS a; -- one; two", ";", Lexicon())
    ["SELECT ';' AS a"]
    """
    what = "the script"
    _check_text(what, text)
    # A separator that is itself a comment, or has a quote, is looked for everywhere.
    plain = separator.startswith(("--", "/*", "#")) or any(q in separator for q in "'\"")
    spans = [] if plain else list(_scan(what, text, lexicon, backslash=False))
    closed = [span for span in spans if span.token in ("", "'")]
    pieces = [piece.strip() for piece in _cut(text, separator, closed)]
    found = []
    for piece in pieces:
        tokens = _words(what, piece, lexicon, backslash=False)
        if tokens and tokens[0].lower() in _TRANSACTIONS:
            reason = f"it holds {tokens[0]}, but runs in the transaction that publishes its tables"
            raise _refused(what, reason)
        if tokens:
            found.append(piece)
    return found


def _cut(text: str, separator: str, closed: list[_Span]) -> Iterator[str]:
    start, at = 0, text.find(separator)
    while at >= 0:
        around = next((span for span in closed if span.start <= at < span.end), None)
        if around is None:
            yield text[start:at]
            start = at + len(separator)
        at = text.find(separator, start if around is None else around.end)
    yield text[start:]


class _Span(NamedTuple):
    """A piece of a text, and what it stands for: a quote for all it quotes, nothing if comment."""

    start: int
    end: int
    token: str


def _refused(what: str, reason: str) -> ValidationError:
    return ValidationError(f"{what} cannot be used: {reason}", argument=what)


def _check_nesting(what: str, tokens: list[str]) -> None:
    depth = 0
    for token in tokens:
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth < 0:
            raise _refused(what, "it closes a parenthesis that it has not opened")
    if depth:
        raise _refused(what, "it does not close a parenthesis that it has opened")


def _check_text(what: str, text: object) -> str:
    if not isinstance(text, str):
        raise ValidationError(f"{what} is {text!r}; it must be a text of SQL", argument=what)
    if "\x00" in text:
        raise _refused(what, "it holds a NUL character")
    return text


def _tokens(what: str, text: object, lexicon: Lexicon) -> list[str]:
    checked = _check_text(what, text)
    if _EXECUTED.search(checked):
        raise _refused(what, "it holds a comment that some servers execute")
    found = _words(what, checked, lexicon, backslash=False)
    if lexicon.backslash and found != _words(what, checked, lexicon, backslash=True):
        reason = "it reads differently where a backslash escapes a quote; double the quote"
        raise _refused(what, reason)
    return found


def _words(what: str, text: str, lexicon: Lexicon, *, backslash: bool) -> list[str]:
    spans = _scan(what, text, lexicon, backslash=backslash)
    return [span.token for span in spans if span.token]


def _scan(what: str, text: str, lexicon: Lexicon, *, backslash: bool) -> Iterator[_Span]:
    """Give comments, quoted things, words and single characters, with their places."""
    at = 0
    while at < len(text):
        start, char, two, token = at, text[at], text[at : at + 2], "'"
        if two == "/*":
            at, token = _after_block(what, text, at), ""
        elif (char == "#" and lexicon.hashes) or (two == "--" and _is_comment(text, at, lexicon)):
            at, token = _after_line(what, text, at), ""
        elif lexicon.dollars and (tag := _DOLLAR.match(text, at)):
            at = _after(what, text, tag.end(), tag[0])
        elif char in lexicon.quotes:
            escaped = backslash and char in "'\""
            at = _after_quoted(what, text, at, lexicon.quotes[char], backslash=escaped)
        elif lexicon.escapes and two in ("e'", "E'"):
            at = _after_quoted(what, text, at + 1, "'", backslash=True)
        elif word := _WORD.match(text, at):
            at, token = word.end(), word[0]
        else:
            at, token = at + 1, char.strip()
        if token or two in ("/*", "--") or char == "#":
            yield _Span(start, at, token)


def _is_comment(text: str, at: int, lexicon: Lexicon) -> bool:
    behind = text[at + 2 : at + 3]
    return not lexicon.dash_needs_blank or behind <= " "


def _after_line(what: str, text: str, at: int) -> int:
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    if "\r" in text[at : end - 1]:
        raise _refused(what, "it holds a carriage return in a comment, which only some end there")
    return end


def _after_block(what: str, text: str, at: int) -> int:
    end = _after(what, text, at + 2, "*/")
    if "/*" in text[at + 2 : end]:
        raise _refused(what, "it holds a comment in a comment, which databases read differently")
    return end


def _after(what: str, text: str, at: int, mark: str) -> int:
    end = text.find(mark, at)
    if end < 0:
        raise _refused(what, f"what should end with {mark} has no end")
    return end + len(mark)


def _after_quoted(what: str, text: str, at: int, closing: str, *, backslash: bool) -> int:
    at += 1
    while at < len(text):
        if text[at] == "\\" and backslash:
            at += 2
        elif text[at] != closing:
            at += 1
        elif text[at + 1 : at + 2] == closing:
            at += 2
        else:
            return at + 1
    raise _refused(what, f"a {closing} has no end")
