"""Filters on documents' attributes, as conditions."""

from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, and_, cast, false, func, literal, not_, or_
from sqlalchemy.dialects.postgresql import JSONB

from schemas.filters import GROUPS, Filter, Scalar

_ORDERS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def to_condition(given: Filter, attributes: ColumnElement[Any]) -> ColumnElement[bool]:
    """What a sound filter says of documents. One without the attribute is equal to nothing.

    A list, such as `tags`, is equal to each of its members.
    """
    if given.type in GROUPS:
        join = and_ if given.type == "and" else or_
        return join(*[to_condition(one, attributes) for one in given.filters or ()])
    told, value = attributes[given.key], given.value
    if given.type in _ORDERS:
        assert isinstance(value, str | int | float)
        return func.coalesce(_is_ordered(told, _ORDERS[given.type], value), false())
    values = value if isinstance(value, list) else [] if value is None else [value]
    any_of = or_(false(), *[told.op("@>", is_comparison=True)(_to_json(one)) for one in values])
    equal = func.coalesce(any_of, false(), type_=Boolean())
    return not_(equal) if given.type in ("ne", "nin") else equal


def _is_ordered(told: ColumnElement[Any], order: str, value: Scalar) -> ColumnElement[bool]:
    kind = "string" if isinstance(value, str) else "number"
    return and_(func.jsonb_typeof(told) == kind, told.op(order)(_to_json(value)))


def _to_json(value: Scalar) -> ColumnElement[Any]:
    return cast(literal(msgspec.json.encode(value).decode()), JSONB)
