"""The question what was used, `query.usage.sum`."""

import msgspec

from schemas.queries import Ask


class AskUsage(Ask, frozen=True, omit_defaults=True, kw_only=True):
    """`query.usage.sum`: of runs accepted from `start` until before `end` (unix seconds)."""

    start: float
    end: float
    group_by: list[str] = msgspec.field(default_factory=list)
