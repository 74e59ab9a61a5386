"""Which of a user's documents a search may find, by their attributes: OpenAI's filters."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from schemas.errors import InvalidRequest

_MOST: Final = 64  # comparisons and groups in all
_DEEPEST: Final = 8

Scalar = str | int | float | bool
GROUPS: Final = ("and", "or")
LISTS: Final = ("in", "nin")
ORDERED: Final = ("gt", "gte", "lt", "lte")


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A comparison (`key`, `value`), or a group of `filters`."""

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"]
    key: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    value: Scalar | Annotated[list[Scalar], Meta(max_length=100)] | None = None
    filters: Annotated[list["Filter"], Meta(min_length=1, max_length=_MOST)] | None = None


def require_sound(given: Filter, param: str) -> None:
    """Refuse a filter that means nothing. Raises InvalidRequest naming the field."""
    if _count(given, param, 1) > _MOST:
        raise InvalidRequest(f"'{param}' has more than {_MOST} comparisons", param=param)


def _count(given: Filter, param: str, level: int) -> int:
    if level > _DEEPEST:
        raise InvalidRequest(f"'{param}' is nested more than {_DEEPEST} deep", param=param)
    if given.type not in GROUPS:
        _require_comparison(given, param)
        return 1
    if given.filters is None:
        raise _required(f"{param}.filters")
    inner = enumerate(given.filters)
    return 1 + sum(_count(one, f"{param}.filters[{at}]", level + 1) for at, one in inner)


def _require_comparison(given: Filter, param: str) -> None:
    if given.key is None:
        raise _required(f"{param}.key")
    if given.value is None:
        raise _required(f"{param}.value")
    if isinstance(given.value, list) != (given.type in LISTS):
        kind = "a list" if given.type in LISTS else "one text, number or boolean"
        raise InvalidRequest(
            f"'{param}.value': {given.type} compares with {kind}", param=f"{param}.value"
        )
    if given.type in ORDERED and isinstance(given.value, bool):
        raise InvalidRequest(f"'{param}.value': booleans have no order", param=f"{param}.value")


def _required(param: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' is required", param=param, code="missing_required_parameter")
