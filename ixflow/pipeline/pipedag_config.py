"""`PipedagConfig`: a configuration file, and what it says of an instance and a flow."""

from __future__ import annotations

import contextlib
import copy
import getpass
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from ixflow.errors import ConfigError, NoConfiguration
from ixflow.pipeline.backends import Backends
from ixflow.pipeline.class_names import class_named
from ixflow.pipeline.config import ConfigContext, StageCommitTechnique, frozen
from ixflow.pipeline.config_file import found_config, read_attrs, read_config
from ixflow.pipeline.config_keys import ARGS, DEFAULTS, FILE
from ixflow.pipeline.config_merge import ANY, Layer, MergedPlace, layers_of, merged, overridden
from ixflow.pipeline.config_schema import Masked, Place, nearest
from ixflow.pipeline.config_values import Names, filled

__all__ = ["PipedagConfig", "configured"]

_log = logging.getLogger("ixflow.pipeline")
_SECTIONS = ("table_store", "blob_store", "lock_manager", "orchestration")


class _Default:
    """Gives the configuration file of this process, read on first use."""

    def __init__(self) -> None:
        self._read: dict[Path, PipedagConfig] = {}

    def __get__(self, config: PipedagConfig | None, kind: type[PipedagConfig]) -> PipedagConfig:
        """Find the file; each file is read once."""
        path = found_config().resolve()
        if path not in self._read:
            self._read[path] = kind(path)
        return self._read[path]


class PipedagConfig:
    """A configuration file, or a dictionary of what such a file says.

    Everything in it is checked at once, also parts that do not apply. ``PipedagConfig.default`` is
    the file that the environment variable PIPEDAG_CONFIG names, or pipedag.yaml in the working
    directory, one above it, or the home directory. In a ``with`` block the instance ``__any__`` is
    the default of every run.

    Raises:
        ConfigError: the file cannot be read, or has a wrong key or value. The error names file,
            path and what is allowed.

    >>> section = {"table_store": {"class": "SQLTableStore", "args": {"url": "duckdb:///w.duckdb"}}}
    >>> config = PipedagConfig({"instances": {"__any__": section, "full": {"fail_fast": True}}})
    >>> config.get("full").fail_fast
    True
    """

    default: ClassVar[_Default] = _Default()

    def __init__(self, path: str | Path | Mapping[str, Any]) -> None:
        if isinstance(path, Mapping):
            self.path: Path | None = None
            self.raw_config = Masked(copy.deepcopy(dict(path)))
        else:
            self.path = Path(path)
            self.raw_config = Masked(read_config(self.path))
        FILE.check(self.raw_config, Place(self._file))

    @property
    def _file(self) -> str:
        return "the configuration" if self.path is None else str(self.path)

    @property
    def name(self) -> str:
        """The name of the file's pipelines, ``{name}`` in placeholders."""
        return str(self.raw_config.get("name") or "pipedag")

    @property
    def strict_instance_lookup(self) -> bool:
        """Whether an instance that the file does not mention is an error."""
        return self.raw_config.get("strict_instance_lookup") is not False

    def __repr__(self) -> str:
        """Show where it comes from."""
        return f"PipedagConfig({self._file!r})"

    def get(
        self,
        instance: str | None = None,
        flow: str | None = None,
        per_user: bool = False,  # noqa: FBT001, FBT002 - its place is part of the contract
    ) -> ConfigContext:
        """Put together what an instance and a flow run with.

        Without an instance or a flow it is what the file says of ``__any__``. ``per_user`` makes
        the instance_id by ``per_user_template``, so that each user has tables of their own.

        Raises:
            ConfigError: the file does not mention the instance, lacks something, or names an
                environment variable or placeholder that is not there.

        """
        wanted = ANY if instance is None else instance
        self._check_instance(wanted)
        layers = layers_of(self.raw_config, self._file, wanted, flow)
        for text in overridden(layers):
            _log.warning("%s: %s", self._file, text)
        config = merged([Layer(Place("the defaults"), (), DEFAULTS), *layers])
        place = MergedPlace(self._file, (), layers)
        _check_classes(config, place)
        if per_user:
            config["instance_id"] = _per_user(config, place)
        self._fill(config, place)
        return _context(config, place, self.name, flow, wanted)

    def _check_instance(self, instance: str) -> None:
        flows = [flow for flow in (self.raw_config.get("flows") or {}).values() if flow]
        sections = [self.raw_config, *flows]
        known = {name for one in sections for name in one.get("instances") or {}} | {ANY}
        if self.strict_instance_lookup and instance not in known:
            allowed = ", ".join(sorted(known))
            text = f"has no instance {instance!r}{nearest(instance, known)}; it has {allowed}"
            raise (Place(self._file) / "instances").error(text, known)

    def _fill(self, config: dict[str, Any], place: Place) -> None:
        """Put values in place of the placeholders of the table store's arguments."""
        args = dict(config["table_store"].get("args") or {})
        here = place / "table_store" / "args"
        names = Names(_fixed(config, self.name), environ=os.environ)
        for_url = names
        if (attrs := args.pop("url_attrs_file", None)) is not None:
            at = here / "url_attrs_file"
            found = self._beside(filled(attrs, names, at))
            for_url = Names(names.fixed, read_attrs(found, at), os.environ)
        for key in ("url", "schema_prefix", "schema_suffix"):
            if isinstance(args.get(key), str):
                args[key] = filled(args[key], for_url if key == "url" else names, here / key)
        config["table_store"] = {**config["table_store"], "args": args}

    def _beside(self, path: str) -> Path:
        """Look beside the configuration file, then in the working directory."""
        given = Path(path).expanduser()
        if self.path is not None and (self.path.parent / given).is_file():
            return self.path.parent / given
        return given

    def __enter__(self) -> ConfigContext:
        """Open the instance ``__any__``."""
        return self.get().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close what the matching `__enter__` opened, which is the innermost."""
        ConfigContext.get().__exit__(kind, error, trace)


def _fixed(config: Mapping[str, Any], name: str) -> dict[str, str]:
    fixed = {"name": name, "instance_id": config.get("instance_id") or DEFAULTS["instance_id"]}
    with contextlib.suppress(OSError, KeyError, ImportError):
        # An account without a name has no {username}.
        fixed["username"] = getpass.getuser()
    return fixed


def _per_user(config: Mapping[str, Any], place: Place) -> str:
    fixed = _fixed(config, "")
    names = {"id": fixed["instance_id"], "username": fixed.get("username")}
    known = Names({key: value for key, value in names.items() if value is not None})
    template = config.get("per_user_template") or DEFAULTS["per_user_template"]
    return filled(template, known, place / "per_user_template")


def _check_classes(config: Mapping[str, Any], place: Place) -> None:
    """Check that classes are there, are known, and take the arguments that are given."""
    for kind in _SECTIONS:
        if kind in config:
            _check_class(kind, config[kind], place / kind)
    if "table_store" not in config:
        raise (place / "table_store").error("is missing; it needs class and args.url")
    store = config["table_store"]
    if "local_table_cache" in store:
        here = place / "table_store" / "local_table_cache"
        _check_class("local_table_cache", store["local_table_cache"], here)


def _check_class(kind: str, section: Mapping[str, Any], place: Place) -> None:
    if "class" not in section:
        raise (place / "class").error("is missing; it says which class this is")
    name = class_named(kind, section["class"], place / "class")
    args = section.get("args") or {}
    if name.known:
        ARGS[name.short].check(args, place / "args")
        if kind == "table_store" and "url" not in args:
            raise (place / "args" / "url").error("is missing; it is the URL of the database")


def _context(
    config: Mapping[str, Any], place: Place, name: str, flow: str | None, instance: str
) -> ConfigContext:
    said = {**DEFAULTS, **config}
    validation = config.get("cache_validation") or {}
    # A null kroki_url is one that was taken away, not one that was left to its default.
    kroki = None if config.get("disable_kroki") else config.get("kroki_url")
    return ConfigContext(
        config,
        pipedag_name=name,
        flow_name=flow,
        instance_name=instance,
        fail_fast=said["fail_fast"],
        strict_result_get_locking=said["strict_result_get_locking"],
        ignore_task_version=any(
            section.get("ignore_task_version") for section in (said, validation)
        ),
        instance_id=said["instance_id"],
        stage_commit_technique=StageCommitTechnique[said["stage_commit_technique"].upper()],
        network_interface=said["network_interface"],
        kroki_url=kroki,
        attrs=frozen(said["attrs"]),
        table_hook_args=frozen(config["table_store"].get("hook_args") or {}),
        ignore_cache_function=bool(validation.get("disable_cache_function")),
        force_task_execution=validation.get("mode", "").upper() == "FORCE_CACHE_INVALID",
        max_workers=said["max_workers"],
        visualization=frozen(said["visualization"]),
        backends=Backends(config, place),
    )


@contextlib.contextmanager
def configured(config: ConfigContext | PipedagConfig | None, flow: str) -> Iterator[ConfigContext]:
    """Give what a run of a flow uses: the given configuration, the innermost open one, the file's.

    In the block it is the default. After it the stores are closed, unless the configuration is open
    outside, or the store is one that the caller has made.

    Raises:
        NoConfiguration: none is given, none is open and there is no file.
        ConfigError: something else is given.

    """
    given: object = config
    if not isinstance(given, (ConfigContext, PipedagConfig, type(None))):
        kind = type(given).__name__
        msg = f"config= takes PipedagConfig(...) or what its get() gives, not {kind}"
        raise ConfigError(msg, type=kind)
    if config is None:
        try:
            config = ConfigContext.get()
        except NoConfiguration:
            config = PipedagConfig.default
    with config.get(flow=flow) if isinstance(config, PipedagConfig) else config as chosen:
        yield chosen
