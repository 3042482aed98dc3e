"""Who may do what with a table, view or sequence: read as it is, and given again just so.

The owner's own rights count too, since an owner may have revoked some. A right that was passed on
by somebody who only had it "WITH GRANT OPTION" is given again as that role, because PostgreSQL
remembers who gave it and takes it back with theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple

import sqlalchemy as sa

from ixflow.dialects.base import run
from ixflow.errors import ReplacementRefused

__all__ = ["Grant", "check_regranted", "regrant", "sequence_grants"]


class Grant(NamedTuple):
    """One right, in names that are quoted already; ``column`` is None for the whole object."""

    privilege: str
    column: str | None
    grantee: str
    grantable: bool
    grantor: str

    def __str__(self) -> str:
        column = f" ({self.column})" if self.column else ""
        return f"{self.privilege}{column} to {self.grantee} by {self.grantor}"


_OF_SEQUENCE = sa.text("""
    SELECT x.privilege_type, CASE WHEN x.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
           x.is_grantable, quote_ident(g.rolname), quote_ident(o.rolname)
    FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
    CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('s', c.relowner))) x
    LEFT JOIN pg_roles r ON r.oid = x.grantee LEFT JOIN pg_roles g ON g.oid = x.grantor
    WHERE c.oid = :oid
""")


def sequence_grants(conn: sa.Connection, oid: int) -> frozenset[Grant]:
    """Read the rights on a sequence."""
    found = conn.execute(_OF_SEQUENCE, {"oid": oid})
    return frozenset(Grant(what, None, who, option, by) for what, who, option, by, _ in found)


def regrant(
    conn: sa.Connection,
    what: str,
    owner: str,
    present: Collection[Grant],
    wanted: Collection[Grant],
) -> bool:
    """Take all rights on ``what`` (such as ``TABLE shop.orders``) and give the wanted ones.

    Returns whether there was anything to do.

    Raises:
        ReplacementRefused: a right was passed on by a role that this one cannot act as.

    """
    if set(present) == set(wanted):
        return False
    for grantee in sorted({grant.grantee for grant in present}):
        run(conn, f"REVOKE ALL ON {what} FROM {grantee}")
    role = str(conn.execute(sa.text("SELECT current_setting('role')")).scalar_one())
    previous = "NONE" if role == "none" else conn.dialect.identifier_preparer.quote(role)
    for grantor, grants in _in_turns(owner, wanted):
        try:
            if grantor != owner:
                run(conn, f"SET LOCAL ROLE {grantor}")
            for grant in grants:
                column = f" ({grant.column})" if grant.column else ""
                option = " WITH GRANT OPTION" if grant.grantable else ""
                run(conn, f"GRANT {grant.privilege}{column} ON {what} TO {grant.grantee}{option}")
        except sa.exc.ProgrammingError as error:
            raise _refused(what, grants, str(error.orig)) from error
        if grantor != owner:
            run(conn, f"SET LOCAL ROLE {previous}")
    return True


def check_regranted(what: str, present: Collection[Grant], wanted: Collection[Grant]) -> None:
    """Refuse to go on if the rights are not those that were wanted.

    Raises:
        ReplacementRefused: naming them.

    """
    lost = set(wanted) - set(present)
    if lost:
        raise _refused(what, sorted(lost, key=str), "the server gave another right")


def _refused(what: str, grants: Collection[Grant], said: str) -> ReplacementRefused:
    lost = [f"grant of {grant} on {what}" for grant in grants]
    msg = (
        f"these would be lost: {'; '.join(lost)} ({' '.join(said.split())}); revoke them first, or "
        f"replace as a role that may act as the one that gave them"
    )
    return ReplacementRefused(msg, objects=lost)


def _in_turns(owner: str, wanted: Collection[Grant]) -> Iterator[tuple[str, list[Grant]]]:
    """Order rights so that each is given by somebody who has got it: the owner's come first.

    >>> passed_on = Grant("SELECT", None, "b", False, "a")
    >>> given = Grant("SELECT", None, "a", True, "me")
    >>> [grantor for grantor, _ in _in_turns("me", [passed_on, given])]
    ['me', 'a']
    """
    waiting = sorted(wanted, key=str)
    able = {owner}
    while waiting:
        ready = [grant for grant in waiting if grant.grantor in able] or waiting
        later = [grant for grant in waiting if grant not in ready]
        for grantor in sorted({grant.grantor for grant in ready}):
            yield grantor, [grant for grant in ready if grant.grantor == grantor]
        # Whoever has all its rights by now can pass them on.
        able |= {grant.grantor for grant in later} - {grant.grantee for grant in later}
        waiting = later
