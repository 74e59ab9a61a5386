"""/v1/usage: how many requests there were, and how many tokens they took."""

import time
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from edge.requests import answer_json, stored_of
from edge.routes.admin import require_admin
from schemas.api.usage import GROUPS, MAX_DAYS
from schemas.errors import InvalidRequest
from schemas.queries.usage import AskUsage

_DAY: Final = 86400
_DEFAULT_DAYS: Final = 30
_LAST: Final = 1 << 33  # unix seconds: the year 2242


async def get_usage(request: Request) -> Response:
    """GET /v1/usage: the caller's own; an administrator's key sees that of others, and all."""
    stored, caller = stored_of(request)
    groups = _read_groups(request)
    principal: str | None = caller.principal
    wanted = request.query_params.get("principal")
    if "principal" in groups or wanted not in (None, caller.principal):
        require_admin(request.scope)
        principal = None if wanted in (None, "*") else wanted
    end = _read_time(request, "end", time.time())
    start = _read_time(request, "start", end - _DEFAULT_DAYS * _DAY)
    if not start < end:
        raise InvalidRequest("'start' is before 'end'", param="start")
    if end - start > MAX_DAYS * _DAY:
        raise InvalidRequest(f"'start' is at most {MAX_DAYS} days before 'end'", param="start")
    after = await stored.positions.of(caller.principal)
    question = AskUsage(principal=principal, after=after, start=start, end=end, group_by=groups)
    return answer_json(await stored.ask("usage", "sum", question))


def _read_groups(request: Request) -> list[str]:
    given = request.query_params.getlist("group_by") or ["day"]
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        raise InvalidRequest(
            f"'group_by' is of {', '.join(GROUPS)}, not {unknown[0][:64]!r}", param="group_by"
        )
    return list(dict.fromkeys(names))


def _read_time(request: Request, param: str, default: float) -> float:
    """Read a time: unix seconds, or a date or time in ISO 8601 (UTC unless it says otherwise)."""
    given = request.query_params.get(param)
    if not given:
        return default
    try:
        if given.isascii() and given.isdigit():
            seconds = float(given)
        else:
            moment = datetime.fromisoformat(given)
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= _LAST:
        raise InvalidRequest(f"'{param}' is a time: unix seconds, or 2026-11-25", param=param)
    return seconds


ROUTES: list[BaseRoute] = [Route("/v1/usage", get_usage, methods=["GET"])]
