"""The classes that a configuration may name: by short name, by ixflow's path or pipedag's path."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ixflow.pipeline.config_schema import Place, nearest
from ixflow.secrets import redact

__all__ = ["KNOWN", "ClassName", "class_named", "imported", "types_named"]

_log = logging.getLogger("ixflow.pipeline")
_OURS = ("ixflow.", "pydiverse.pipedag.")


@dataclass(frozen=True, slots=True)
class ClassName:
    """A class that was named: its short name, and where it is imported from.

    ``known`` says that it is one of ixflow's own, so that its arguments are known as well.
    """

    short: str
    path: str
    known: bool = False


def _own(*names: str) -> dict[str, ClassName]:
    return {name: ClassName(name, f"ixflow.{name}", known=True) for name in names}


# By the section of the configuration that they belong to. What a release does not have yet is
# an error that says so when it is used, and not before.
KNOWN: dict[str, dict[str, ClassName]] = {
    "table_store": {
        **_own("SQLTableStore", "PostgresTableStore", "DuckDBTableStore"),
        **_own("MSSqlTableStore", "IBMDB2TableStore"),
    },
    "local_table_cache": _own("ParquetTableCache"),
    "blob_store": _own("FileBlobStore", "NoBlobStore"),
    "lock_manager": _own(
        "DatabaseLockManager", "FileLockManager", "NoLockManager", "ZooKeeperLockManager"
    ),
    "orchestration": _own(
        "DaskEngine",
        "PrefectEngine",
        "PrefectOneEngine",
        "PrefectTwoEngine",
        "SequentialEngine",
        "ThreadedEngine",
    ),
}


def class_named(kind: str, name: str, place: Place) -> ClassName:
    """Find the class that a name means in a section, without importing it.

    A path that is neither ixflow's nor pipedag's is the user's own class.

    Raises:
        ConfigError: there is no such class for this section.

    >>> class_named("blob_store", "pydiverse.pipedag.backend.blob.FileBlobStore", Place("f")).path
    'ixflow.FileBlobStore'
    """
    known = KNOWN[kind]
    module, _, short = name.rpartition(".")
    if module and not name.startswith(_OURS):
        return ClassName(short, name)
    if short not in known:
        others = ", ".join(sorted(known))
        text = (
            f"names the class {name!r}, which ixflow does not know{nearest(short, known)}; "
            f"allowed are {others}, or the import path of a class of your own"
        )
        raise place.error(text, known)
    return known[short]


def imported(name: ClassName, place: Place) -> Any:
    """Import a class.

    Raises:
        ConfigError: it cannot be imported, or this release does not have it yet.

    """
    module, _, attribute = name.path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        said = redact(str(error))
        text = f"names the class {name.path}, which cannot be imported: {said}"
        raise place.error(text) from error
    except AttributeError:
        if name.known:
            text = f"names {name.short}, which this release of ixflow does not have yet"
        else:
            text = f"names {name.path}, but the module {module} has no {attribute}"
        raise place.error(text) from None


def types_named(names: Sequence[str], place: Place) -> tuple[type, ...]:
    """Import types such as ``pandas.DataFrame``; those of a missing package are left out.

    No object of such a type can come, so nothing is lost; the log says it.

    Raises:
        ConfigError: a name is no import path, its module has no such type, or it is no type.

    >>> types_named(["pandas.DataFrame", "not_installed.Frame"], Place("pipedag.yaml"))
    (<class 'pandas.DataFrame'>,)
    """
    found = []
    for number, name in enumerate(names):
        here = place / number
        module, _, attribute = name.rpartition(".")
        if not module:
            raise here.error(f"is {name!r}; it must be an import path such as pandas.DataFrame")
        if name.startswith(_OURS[1]):
            module = "ixflow"
        if not _is_installed(module):
            _log.warning("%s names %s, which is not installed; it is left out", here, name)
            continue
        made = imported(ClassName(attribute, f"{module}.{attribute}"), here)
        if not isinstance(made, type):
            raise here.error(f"names {name}, which is no type")
        found.append(made)
    return tuple(found)


def _is_installed(module: str) -> bool:
    """Say whether the package of a module is there; what it lacks itself is an error later."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except ValueError:
        return True
