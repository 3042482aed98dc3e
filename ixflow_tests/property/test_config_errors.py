"""Whatever a configuration says is understood, or refused by an error without a password."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ixflow import PipedagConfig
from ixflow.errors import ConfigError
from ixflow.pipeline.config_keys import ARGS, FILE
from ixflow.pipeline.config_schema import FLAG, MAPPING, Choice, Each, Keys, ListOf, Node, Number

SECRET = "s3cret"
TEXTS = st.sampled_from(
    [
        *("", "SQLTableStore", "FileBlobStore", "x.y", "full", "pandas.DataFrame", "{nobody}"),
        *(f"postgresql://app:{SECRET}@db/{{instance_id}}", f"pg://u:{SECRET}{{z}}@h/{{bad}}"),
        *("duckdb:///{name}.duckdb", "{$IXFLOW_NOT_SET}", "{{}}{", "{instance_id}"),
    ]
)
LEAVES = TEXTS | st.sampled_from([None, True, False, 0, 1, 2.5])
ANY_VALUE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "class", "args", "url", 1]), inner, max_size=2)
    ),
    max_leaves=4,
)
NAMES = st.sampled_from(["__any__", "full", "default"])
STORE = {"class": "SQLTableStore", "args": {"url": f"postgresql://app:{SECRET}@db/{{name}}"}}
RARELY = st.integers(0, 29).map(lambda number: number == 0)


def said_as(node: Node, depth: int = 0) -> st.SearchStrategy[Any]:
    """Give what is mostly, but not always, of the kind of a node."""
    right = right_for(node, depth)
    return RARELY.flatmap(lambda wrong: ANY_VALUE if wrong else right)


def right_for(node: Node, depth: int) -> st.SearchStrategy[Any]:
    """Give what is of the kind of a node, as far as that can be seen without its neighbours."""
    if isinstance(node, Each):
        return st.dictionaries(NAMES, said_as(node.item, depth + 1), max_size=3)
    if isinstance(node, Keys):
        known = {key: said_as(item, depth + 1) for key, item in node.known.items()}
        if {"class", "args"} <= known.keys():
            known["class"] = st.sampled_from(
                ["SQLTableStore", "FileBlobStore", "DaskEngine", "z.Z"]
            )
            known["args"] = right_for(ARGS["SQLTableStore"], depth + 1)
        picked = st.lists(st.sampled_from(sorted(known)), max_size=4, unique=True)
        return picked.flatmap(lambda keys: st.fixed_dictionaries({k: known[k] for k in keys}))
    return simple_for(node)


def simple_for(node: Node) -> st.SearchStrategy[Any]:
    """Give a value that is no mapping with known keys."""
    if isinstance(node, Choice):
        return st.sampled_from(node.words)
    if isinstance(node, ListOf):
        return st.lists(TEXTS, max_size=2)
    if isinstance(node, Number):
        return st.integers(0, 9)
    if node is MAPPING:
        return st.dictionaries(NAMES, ANY_VALUE, max_size=2)
    return st.booleans() if node is FLAG else TEXTS


def with_a_store(said: Any) -> Any:
    """Let there be a table store, so that most of what is said is looked at."""
    if isinstance(said, dict) and isinstance(said.get("instances", {}), dict):
        instances = dict(said.get("instances", {}))
        section = instances.get("__any__")
        if isinstance(section, dict) or section is None:
            instances["__any__"] = {**(section or {}), "table_store": STORE}
            said = {**said, "instances": instances}
    return said


@given(said_as(FILE).map(with_a_store) | said_as(FILE), NAMES, NAMES, st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_configuration_is_understood_or_refused_by_name(said, instance, flow, per_user):
    if not isinstance(said, dict):
        said = {"instances": {"__any__": said}}
    refused: ConfigError | None = None
    try:
        config = PipedagConfig(said)
        found = config.get(instance, flow, per_user)
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert str(refused).startswith("the configuration")
        assert refused.file == "the configuration"
        assert SECRET not in str(refused)
    else:
        assert found.config_dict["table_store"]["class"]
        assert f":{SECRET}@" not in repr((config.raw_config, found, found.config_dict))
