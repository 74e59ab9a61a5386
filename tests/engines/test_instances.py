"""Made-up values fit their schema, or it is said that none does."""

from random import Random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.inference.engines.simulation.instances import UnfillableError, fill

SCHEMAS: dict[str, Any] = {
    "anything": True,
    "pattern": {"type": "string", "pattern": r"^[A-Z]{3}-\d{2,4}(x|y)?$"},
    "negated class": {"type": "string", "pattern": r"^[^a-z\s]+$"},
    "lengths": {"type": "string", "minLength": 30, "maxLength": 31},
    "email": {"type": "string", "format": "email"},
    "bounds": {"type": "integer", "minimum": 5, "exclusiveMaximum": 7},
    "negative": {"type": "number", "maximum": -5},
    "open interval": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    "steps": {"type": "number", "multipleOf": 0.5, "minimum": 1, "maximum": 9},
    "integer steps": {"type": "integer", "multipleOf": 7, "minimum": 20, "maximum": 22},
    "enum": {"enum": ["a", 1, None]},
    "const": {"const": {"deep": [1]}},
    "types": {"type": ["string", "null"]},
    "unique": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    "tuple": {"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
    "contains": {"type": "array", "contains": {"const": 7}},
    "any of": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            {"properties": {"x": {"minimum": 30}}},
        ]
    },
    "closed": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}},
        "required": ["a"],
        "additionalProperties": False,
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    "tree": {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    },
    "list": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
            }
        },
        "$ref": "#/$defs/node",
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_values_fit(name: str) -> None:
    for seed in range(40):
        jsonschema.validate(fill(SCHEMAS[name], Random(seed)), SCHEMAS[name])


@pytest.mark.parametrize(
    "schema",
    [
        False,
        7,
        {"type": "thing"},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "(?!x)x"},
        {"type": "object", "properties": 7},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2},
    ],
)
def test_what_cannot_be_filled_is_told(schema: Any) -> None:
    with pytest.raises(UnfillableError):
        fill(schema, Random(1))


def _schemas() -> st.SearchStrategy[Any]:
    plain = st.one_of(
        st.sampled_from([{"type": name} for name in ("string", "integer", "boolean", "null")]),
        st.builds(
            lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
            st.integers(-50, 50),
            st.integers(0, 5),
        ),
        st.builds(lambda values: {"enum": values}, st.lists(st.integers(), min_size=1)),
    )
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            st.builds(
                lambda fields: {
                    "type": "object",
                    "properties": fields,
                    "required": sorted(fields),
                    "additionalProperties": False,
                },
                st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
            ),
            st.builds(
                lambda items, least: {"type": "array", "items": items, "minItems": least},
                inner,
                st.integers(0, 3),
            ),
            st.builds(lambda variants: {"anyOf": variants}, st.lists(inner, min_size=1)),
        ),
        max_leaves=8,
    )


@settings(deadline=None)
@given(_schemas(), st.integers(0, 1000))
def test_values_fit_any_schema(schema: Any, seed: int) -> None:
    jsonschema.validate(fill(schema, Random(seed)), schema)
