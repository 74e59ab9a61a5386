"""The question what happened to a stored thing, `query.entities.events`."""

import msgspec

from schemas.queries import Ask
from schemas.queries.runs import EventAt


class AskEntity(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.entities.events`: what happened to a stored thing, by its id."""

    entity: str


class EntityEvents(msgspec.Struct, frozen=True):
    """The answer of `query.entities.events`, oldest first; at most 1,000. Verbs are <noun>.<verb>.

    There are none of what never was, and none of what is another principal's.
    """

    entity: str
    events: list[EventAt]
