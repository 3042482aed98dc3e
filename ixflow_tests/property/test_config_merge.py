"""Laying sections of a configuration over each other."""

from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st

from ixflow.pipeline.config_merge import Layer, layers_of, merged
from ixflow.pipeline.config_schema import Place

KEYS = st.sampled_from("abc")
# The kind of a value hangs on its key, so that no two sections contradict each other.
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "flag": st.booleans() | st.none(),
        "list": st.lists(st.integers(), max_size=2) | st.none(),
        "map": st.none()
        | st.dictionaries(KEYS, st.integers() | st.none(), max_size=3)
        | st.dictionaries(st.just("deep"), st.dictionaries(KEYS, st.integers() | st.none())),
    },
)


def layers(*sections):
    return [Layer(Place("f") / number, (), section) for number, section in enumerate(sections)]


def over(under, values):
    """Do the same, said in another way: path by path."""
    made = {k: v for k, v in under.items() if k not in values}
    for key, value in values.items():
        if isinstance(value, dict):
            old = under.get(key)
            made[key] = over(old if isinstance(old, dict) else {}, value)
        elif value is not None:
            made[key] = value
    return made


@given(st.lists(SECTIONS, max_size=4))
@settings(max_examples=150)
def test_later_sections_win_key_by_key_and_null_removes(sections):
    expected: dict[str, object] = {}
    for section in sections:
        expected = over(expected, section)
    before = copy.deepcopy(sections)
    assert merged(layers(*sections)) == expected
    assert sections == before


@given(SECTIONS, SECTIONS)
@settings(max_examples=100)
def test_a_section_said_twice_is_said_once(one, two):
    assert merged(layers(one, two, two)) == merged(layers(one, two))


@given(
    st.dictionaries(st.sampled_from(["__any__", "full", "mini"]), SECTIONS),
    st.dictionaries(
        st.sampled_from(["__any__", "f", "g"]),
        st.dictionaries(st.sampled_from(["__any__", "full", "mini"]), SECTIONS),
    ),
)
@settings(max_examples=100)
def test_only_what_concerns_the_instance_and_the_flow_has_a_say(instances, flows):
    config = {"instances": instances, "flows": {f: {"instances": i} for f, i in flows.items()}}
    less = {
        "instances": {k: v for k, v in instances.items() if k != "mini"},
        "flows": {
            f: {"instances": {k: v for k, v in i.items() if k != "mini"}}
            for f, i in flows.items()
            if f != "g"
        },
    }
    found = merged(layers_of(config, "f", "full", "f"))
    assert found == merged(layers_of(less, "f", "full", "f"))
    expected: dict[str, object] = {}
    for holder in (instances, flows.get("__any__", {}), flows.get("f", {})):
        for name in ("__any__", "full"):
            expected = over(expected, holder.get(name, {}))
    assert found == expected
