"""Which parts of a configuration file apply, in which order, and laying one over the other."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ixflow.errors import ConfigError
from ixflow.pipeline.config_schema import Place, nearest

__all__ = ["ANY", "Layer", "MergedPlace", "layers_of", "located", "merged", "overridden"]

ANY = "__any__"


@dataclass(frozen=True, slots=True)
class Layer:
    """A part of the file: where it stands, where its values belong to, and the values."""

    place: Place
    target: tuple[str, ...]
    values: Mapping[str, Any] = field(repr=False)


def layers_of(config: Mapping[str, Any], file: str, instance: str, flow: str | None) -> list[Layer]:
    """List the parts that apply to an instance and a flow; later ones win.

    The order: the instances `__any__` and this one, the flow `__any__`, its instances, this flow,
    its instances. What a part names (`technical_setup`, `table_store_connection`,
    `blob_store_connection`) follows directly after it.

    Raises:
        ConfigError: a part names a block that is not there.

    """
    top = Place(file)
    found: list[Layer] = []
    for place, section in _sections(config, top, instance, flow):
        found += _with_references(config, Layer(place, (), section))
    return found


def _sections(
    config: Mapping[str, Any], top: Place, instance: str, flow: str | None
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    def named(holder: Mapping[str, Any], place: Place) -> Iterator[tuple[Place, Any]]:
        known = holder.get("instances") or {}
        for name in dict.fromkeys((ANY, instance)):
            if known.get(name) is not None:
                yield place / "instances" / name, known[name]

    yield from named(config, top)
    flows = config.get("flows") or {}
    for name in dict.fromkeys((ANY, flow)):
        section = flows.get(name)
        if name is not None and section is not None:
            place = top / "flows" / name
            yield place, {key: value for key, value in section.items() if key != "instances"}
            yield from named(section, place)


def _with_references(config: Mapping[str, Any], own: Layer) -> Iterator[Layer]:
    """Give a section without the names in it, then the blocks that they name."""
    section = dict(own.values)
    setup = section.pop("technical_setup", None)
    layers = [Layer(own.place, (), section)]
    if setup is not None:
        layers += [_block(config, own.place / "technical_setup", "technical_setups", setup, ())]
    names = {}
    for number, layer in enumerate(layers):
        for key in ("table_store", "blob_store"):
            store = dict(layer.values.get(key) or {})
            name = store.pop(f"{key}_connection", None)
            if name is not None:
                names[key] = (layer.place / key / f"{key}_connection", name)
                values = {**layer.values, key: store}
                layers[number] = Layer(layer.place, (), values)
    yield from layers
    for key, (place, name) in names.items():
        yield _block(config, place, f"{key}_connections", name, (key,))


def _block(
    config: Mapping[str, Any], place: Place, blocks: str, name: str, target: tuple[str, ...]
) -> Layer:
    known = config.get(blocks) or {}
    if name not in known:
        allowed = ", ".join(sorted(known)) or "none"
        text = f"is {name!r}{nearest(name, known)}, but {blocks} has only: {allowed}"
        raise place.error(text, known)
    return Layer(Place(place.file) / blocks / name, target, known[name] or {})


def merged(layers: Iterable[Layer]) -> dict[str, Any]:
    """Lay each layer over those before it.

    Mappings are merged key by key, all else is replaced, null removes the key.

    Raises:
        ConfigError: a value is of another kind than the one it would replace.

    >>> under = Layer(Place("f") / "a", (), {"attrs": {"x": 1, "y": 2}})
    >>> merged([under, Layer(Place("f") / "b", (), {"attrs": {"y": None, "z": [3]}})])
    {'attrs': {'x': 1, 'z': [3]}}
    """
    made: dict[str, Any] = {}
    for layer in layers:
        values = layer.values
        for key in reversed(layer.target):
            values = {key: values}
        made = _over(made, values, layer.place)
    return made


def _over(under: Mapping[str, Any], values: Mapping[str, Any], place: Place) -> dict[str, Any]:
    made = dict(under)
    for key, value in values.items():
        if value is None:
            made.pop(key, None)
            continue
        old = made.get(key)
        if old is not None and _kind(old) != _kind(value):
            text = f"is {_kind(value)}, but what it would replace is {_kind(old)}"
            raise (place / key).error(text)
        base = old if isinstance(old, Mapping) else {}
        made[key] = _over(base, value, place / key) if isinstance(value, Mapping) else value
    return made


def _kind(value: Any) -> str:
    for types, name in (
        ((Mapping,), "a mapping"),
        ((list, tuple), "a list"),
        ((bool,), "a truth value"),
        ((int, float), "a number"),
        ((str,), "a text"),
    ):
        if isinstance(value, types):
            return name
    return f"a {type(value).__name__}"


def located(layers: Sequence[Layer], path: Sequence[str], top: Place) -> Place:
    """Say where in the file the value at a path of the merged configuration comes from.

    What is not there is located by the nearest mapping that is.
    """
    for length in range(len(path), 0, -1):
        for layer in reversed(layers):
            rest = path[len(layer.target) : length]
            mine = tuple(path[: len(layer.target)]) == layer.target
            if mine and rest and _has(layer.values, rest):
                return functools.reduce(Place.__truediv__, path[len(layer.target) :], layer.place)
    return functools.reduce(Place.__truediv__, path, top)


def _has(values: Any, path: Sequence[str]) -> bool:
    for key in path:
        if not isinstance(values, Mapping) or key not in values:
            return False
        values = values[key]
    return True


@dataclass(frozen=True, slots=True)
class MergedPlace(Place):
    """A path of the merged configuration; errors name the part of the file it comes from."""

    layers: Sequence[Layer] = ()

    def __truediv__(self, key: object) -> MergedPlace:
        """Go one key deeper."""
        return MergedPlace(self.file, (*self.path, str(key)), self.layers)

    def __str__(self) -> str:
        """Name the file and the path there."""
        return str(located(self.layers, self.path, Place(self.file)))

    def error(self, text: str, allowed: Collection[str] = ()) -> ConfigError:
        """Make the error that says what is wrong there."""
        return located(self.layers, self.path, Place(self.file)).error(text, allowed)


def overridden(layers: Sequence[Layer]) -> list[str]:
    """List what a section says itself and a block that it names says otherwise; the block wins."""
    said = []
    for number, layer in enumerate(layers):
        if layer.target or layer.place.path[0] == "technical_setups":
            continue
        for later in layers[number + 1 :]:
            if later.place.path[0] in ("instances", "flows"):
                break
            own: Any = layer.values
            for key in later.target:
                own = (own or {}).get(key)
            for path in _differing(own, later.values):
                mine = ".".join((*layer.place.path, *later.target, *path))
                said.append(f"{mine} is overridden by {'.'.join((*later.place.path, *path))}")
    return said


def _differing(mine: Any, theirs: Any) -> Iterator[tuple[str, ...]]:
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in (key for key in mine if key in theirs):
            for path in _differing(mine[key], theirs[key]):
                yield (str(key), *path)
    elif mine != theirs and mine is not None:
        yield ()
