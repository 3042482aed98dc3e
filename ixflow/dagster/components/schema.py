"""The schema of a component's fields, made so that a mistake is reported where it is."""

import functools
from typing import Any

import dagster as dg
from pydantic import BaseModel, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

__all__ = ["PreciseFields"]

_TEXT_OR_NONE = ({"type": "string"}, {"type": "null"})


class PreciseFields(dg.Resolvable):
    """Lets ``dg check yaml`` point at the wrong field within a list or a group of fields.

    Dagster lets each field be a template too, that is any text, and so of a wrong field within a
    list it only says that the list is neither fields nor text. Here the schema says: if it is no
    text, it must be these fields.
    """

    @classmethod
    def model(cls) -> type[BaseModel]:
        """Give the model of the fields in YAML."""
        return _precise(super().model())


class _PreciseSchema(BaseModel):
    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        own = handler.resolve_ref_schema(schema)
        for field in own.get("properties", {}).values():
            _say_which(field)
        return schema


def _say_which(field: dict[str, Any]) -> None:
    """Turn "fields, or text, or nothing" into "unless it is text or nothing: fields"."""
    either = field.get("anyOf", [])
    structures = [kind for kind in either if kind not in _TEXT_OR_NONE]
    if len(structures) == 1 and len(structures) < len(either):
        del field["anyOf"]
        field["if"] = {"type": ["string", "null"]}
        field["else"] = structures[0]


@functools.cache
def _precise(derived: type[BaseModel]) -> type[BaseModel]:
    return create_model(derived.__name__, __base__=(_PreciseSchema, derived))
