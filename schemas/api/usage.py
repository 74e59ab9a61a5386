"""Usage: how many requests there were, and how many tokens they took."""

from typing import Any, Final

from msgspec import UNSET, Struct, UnsetType

GROUPS: Final = ("day", "model", "key", "project", "principal")
MAX_ROWS: Final = 10_000
MAX_DAYS: Final = 400


class Usage(Struct, kw_only=True):
    """What one group has used; of the groups' names those are there that were asked for."""

    day: str | UnsetType = UNSET
    model: str | UnsetType | None = UNSET
    key: str | UnsetType | None = UNSET
    project: str | UnsetType | None = UNSET
    principal: str | UnsetType | None = UNSET
    requests: int
    failed: int
    cancelled: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class UsageList(Struct, kw_only=True):
    """Usage from `start` until before `end`, in unix seconds."""

    object: str = "list"
    start: int
    end: int
    group_by: list[str]
    data: list[Any]


class UsagePage(UsageList, kw_only=True):
    """Usage, with its rows."""

    data: list[Usage]
