"""`ConfigContext`: the innermost open one, immutable, its objects made when they are needed."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from typing import Any, ClassVar

import pytest

from ixflow import ConfigContext, PipedagConfig, SQLTableStore, create_basic_pipedag_config
from ixflow.errors import ConfigError, FlowError
from ixflow.pipeline.pipedag_config import configured

DUCKDB: dict[str, Any] = {"class": "SQLTableStore", "args": {"url": "duckdb:///{name}.duckdb"}}


def config_of(**more: Any) -> ConfigContext:
    return PipedagConfig({"instances": {"__any__": {"table_store": DUCKDB, **more}}}).get()


class Blobs:
    """A store of the user's own, which reads the configuration that it is of."""

    made: ClassVar[list[Blobs]] = []

    def __init__(self, instance_id: str, password: str) -> None:
        if password == "wrong":
            msg = f"wrong password: {password}"
            raise RuntimeError(msg)
        self.instance_id = instance_id
        self.disposed = 0
        self.made.append(self)

    @classmethod
    def _init_conf_(cls, args: dict[str, Any]) -> Blobs:
        return cls(ConfigContext.get().instance_id, **args)

    def dispose(self) -> None:
        self.disposed += 1


BLOBS = {"class": f"{__name__}.Blobs", "args": {"password": "s3cret"}}


@pytest.fixture(autouse=True)
def _none_made(monkeypatch):
    monkeypatch.setattr(Blobs, "made", [])


def test_without_an_open_one_it_is_a_lookup_error():
    with pytest.raises(LookupError, match="create_basic_pipedag_config") as raised:
        ConfigContext.get()
    assert isinstance(raised.value, FlowError)


def test_the_innermost_is_found_and_each_may_be_entered_again():
    one, two = config_of(), config_of()
    with one, two, one:
        assert ConfigContext.get() is one
    with two:
        assert ConfigContext.get() is two


def test_it_cannot_be_changed():
    config = config_of(attrs={"a": {"b": 1}})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.fail_fast = True  # type: ignore[misc] # that is the point
    with pytest.raises(Exception, match="frozen"):
        config.attrs.a.b = 2


def test_objects_are_made_when_they_are_needed_and_only_once():
    config = config_of(blob_store=BLOBS, instance_id="one")
    assert Blobs.made == []
    with config:
        assert config.blob_store is config.store.blob_store is Blobs.made[0]
        assert config.blob_store.instance_id == "one"
    assert len(Blobs.made) == 1
    assert (config.lock_manager, config.local_table_cache) == (None, None)
    assert isinstance(config.table_store, SQLTableStore)


def test_the_outermost_block_closes_what_is_open():
    config = config_of(blob_store=BLOBS)
    with config:
        with config.evolve(fail_fast=True) as inner:
            assert inner.blob_store is config.blob_store
        assert Blobs.made[0].disposed == 0
    assert Blobs.made[0].disposed == 1
    assert config.blob_store is not Blobs.made[0]


def test_another_threads_block_keeps_it_open():
    config = config_of(blob_store=BLOBS)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with config:
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(30)
    with config:
        blobs = config.blob_store
    assert blobs.disposed == 0
    leave.set()
    thread.join()
    assert blobs.disposed == 1


def test_a_store_that_was_given_is_closed_by_its_giver(monkeypatch):
    store = SQLTableStore("duckdb:///w.duckdb")
    closed: list[bool] = []
    monkeypatch.setattr(store, "dispose", lambda: closed.append(True))
    with ConfigContext.of_store(store) as config:
        assert config.table_store is store
    assert closed == []


def test_instances_share_no_blobs(tmp_path):
    section = {
        "class": "pydiverse.pipedag.backend.blob.FileBlobStore",
        "args": {"base_path": str(tmp_path)},
    }
    one, two = (config_of(blob_store=section, instance_id=name) for name in ("one", "two"))
    one.blob_store.write("stage", "model", "k", {"depth": 3})
    assert one.blob_store.read("stage", "model", "k") == {"depth": 3}
    assert not two.blob_store.holds("stage", "model", "k")


def test_a_copy_differs_where_it_shall_and_shares_the_stores():
    config = config_of(attrs={"a": 1, "b": {"c": 2}}, blob_store=BLOBS)
    copy = config.evolve(fail_fast=True, attrs={"a": None, "b": {"d": 3}})
    assert copy.fail_fast
    assert not config.fail_fast
    assert copy.attrs == {"b": {"c": 2, "d": 3}}
    assert config.attrs == {"a": 1, "b": {"c": 2}}
    assert copy.blob_store is config.blob_store
    for name in ("fail_fats", "instance_id", "config_dict"):
        with pytest.raises(ConfigError, match=f"cannot change '{name}'"):
            config.evolve(**{name: "x"})


def test_another_process_gets_all_but_what_is_open():
    config = config_of(attrs={"a": {"b": (1, 2)}}, instance_id="one", blob_store=BLOBS)
    assert config.blob_store is Blobs.made[0]
    arrived = pickle.loads(pickle.dumps(config))  # noqa: S301 - our own bytes
    assert (arrived.attrs, arrived.instance_id) == (config.attrs, "one")
    assert arrived.blob_store is Blobs.made[1]
    assert arrived.table_store.url == config.table_store.url


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"class": "FileBlobStore", "args": {"base_path": "x"}}, "FileBlobStore"),
        ({"class": "not_there.Blobs"}, "names the class not_there.Blobs"),
        ({"class": f"{__name__}.Blob"}, "has no Blob"),
        ({"class": BLOBS["class"]}, "missing 1 required positional argument: 'password'"),
        ({"class": BLOBS["class"], "args": {"password": "wrong"}}, r"\*\*\*: \*\*\*|password"),
    ],
)
def test_a_class_that_cannot_be_had_is_an_error_on_first_use(section, said, monkeypatch):
    import ixflow

    monkeypatch.delattr(ixflow, "FileBlobStore", raising=False)
    config = config_of(blob_store=section)
    with pytest.raises(ConfigError, match=f"instances.__any__.blob_store.*{said}") as raised:
        _ = config.blob_store
    assert "password: wrong" not in str(raised.value)


def test_a_store_for_one_database_refuses_another():
    store = {"class": "PostgresTableStore", "args": {"url": "duckdb:///w.duckdb"}}
    with pytest.raises(ConfigError, match="its url is that of a duckdb database"):
        _ = config_of(table_store=store).table_store


def test_every_option_of_the_original_is_taken():
    options = {
        "avoid_drop_create_schema": True,
        "strict_materialization_details": True,
        "materialization_details": {"__any__": None, "label": {}},
        "default_materialization_details": "label",
        "no_db_locking": False,
    }
    store = {"class": "SQLTableStore", "args": {**DUCKDB["args"], **options}}
    assert config_of(table_store=store).table_store.schema("s") == "s"


def test_a_run_finds_the_given_one_then_the_open_one_then_the_file(tmp_path, monkeypatch):
    path = tmp_path / "pipedag.yaml"
    path.write_text(
        "name: file\ninstances: {__any__: {table_store: {class: SQLTableStore, "
        "args: {url: 'duckdb:///w.duckdb'}}}}\nflows: {night: {attrs: {x: 1}}}\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PIPEDAG_CONFIG", str(path))
    basic = create_basic_pipedag_config("duckdb:///w.duckdb", name="basic")
    given = config_of()
    with configured(None, "night") as found:
        assert (found.pipedag_name, found.flow_name, found.attrs.x) == ("file", "night", 1)
        assert ConfigContext.get() is found
    with basic as opened, configured(None, "night") as found:
        assert found is opened
    with basic, configured(given, "night") as found:
        assert found is given
    with configured(basic, "night") as found:
        assert (found.pipedag_name, found.flow_name) == ("basic", "night")
    assert PipedagConfig.default is PipedagConfig.default


@pytest.mark.parametrize("wrong", ["pipedag.yaml", {"name": "shop"}])
def test_what_is_no_configuration_is_refused_by_its_type(wrong):
    said = f"takes PipedagConfig.*, not {type(wrong).__name__}"
    with pytest.raises(ConfigError, match=said), configured(wrong, "night"):
        pass
