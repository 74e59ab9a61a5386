"""/v1/runs: what the log says of one's generations; with the scope `admin`, of everybody's."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from edge.generation import first_wanted
from edge.requests import answer_json, read_query, stored_of
from edge.routes.admin import ADMIN
from edge.run_events import to_event, to_frame
from edge.sse import GO_ELSEWHERE, HEARTBEAT
from edge.state import EdgeState, state_of
from schemas import ids
from schemas.api.lists import encode_page
from schemas.api.runs import ENDED, RunQuery, to_run, to_run_with_attempts
from schemas.commands import encode
from schemas.errors import DeadlineExceeded, InvalidRequest, NotFound, Unavailable
from schemas.queries import decode_answer
from schemas.queries.runs import AskRun, AskRunEvents, AskRuns, RunEvents, RunFacts, RunList

T = TypeVar("T")

NOUN: Final = "runs"
_YOUNG: Final = 10.0  # seconds after its start in which a run may not have its row yet
_PATIENCE: Final = 2.0  # seconds that are waited for that
_LOOK_AGAIN: Final = 0.1
_SOONEST: Final = 0.25  # seconds between two looks at a run that goes on; more while nothing comes
_LATEST: Final = 2.0
_BEYOND: Final = 60.0  # seconds after its deadline, in which a run's end is still awaited


async def list_runs(request: Request) -> Response:
    """GET /v1/runs: newest first, by status, model, kind, conversation, parent and time."""
    stored, _ = stored_of(request)
    given = {
        name: value
        for name in RunQuery.__struct_fields__
        if (value := request.query_params.get(name)) is not None
    }
    query = read_query(given, RunQuery)
    question = AskRuns(
        principal=_scope_of(request.scope),
        status=query.status,
        kind=query.kind,
        model=query.model,
        conversation_id=query.conversation,
        parent=_to_cursor(query.parent),
        since=query.since,
        until=query.until,
        limit=query.limit,
        order=query.order,
        after_id=_to_cursor(query.after),
        before_id=_to_cursor(query.before),
    )
    found = decode_answer(await stored.ask(NOUN, "list", question), RunList)
    names = [facts.run_id for facts in found.runs]
    objects = [encode(to_run(facts)) for facts in found.runs]
    return answer_json(encode_page(names, objects, has_more=found.has_more))


async def retrieve_run(request: Request) -> Response:
    """GET /v1/runs/{id}: by the run's id, or by the id of its answer."""
    run_id = _run_id_of(request)
    question = AskRun(principal=_scope_of(request.scope), run_id=run_id)
    facts = await _ask_for(request.scope, "get", question, RunFacts)
    return answer_json(encode(to_run_with_attempts(facts)))


async def read_run_events(request: Request) -> Response:
    """GET /v1/runs/{id}/events: the facts about a run, until it has ended; or those so far."""
    run_id = _run_id_of(request)
    skip = first_wanted(request.scope)
    as_list = not _wants_stream(request)
    question = AskRunEvents(
        principal=_scope_of(request.scope), run_id=run_id, bodies=True, skip=skip
    )
    found = await _ask_for(request.scope, "events", question, RunEvents)
    if not as_list:
        return StreamingResponse(
            _stream(state_of(request.scope), question, found),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", "x-run-id": run_id},
        )
    numbered = list(enumerate(found.events, start=skip))
    events = [to_event(fact, run_id, number) for number, fact in numbered]
    names = [str(number) for number, _ in numbered]
    return answer_json(encode_page(names, events, has_more=found.has_more))


async def _stream(
    state: EdgeState, question: AskRunEvents, found: RunEvents
) -> AsyncIterator[bytes]:
    """Tell what was found, and ask again until the run has ended."""
    settings, run_id, number = state["settings"], found.run_id, question.skip
    give_up = ids.created_ms(run_id) / 1000 + settings.run_deadline + _BEYOND
    pause, spoke_at = _SOONEST, time.monotonic()
    while True:
        for fact in found.events:
            yield to_frame(to_event(fact, run_id, number), fact.verb, number)
            number += 1
        if found.has_more or found.events:
            pause, spoke_at = _SOONEST, time.monotonic()
        elif found.status in ENDED:
            return
        elif time.time() > give_up:
            late = DeadlineExceeded("the run did not end before its deadline")
            yield b"event: error\ndata: %b\n\n" % late.to_wire(state.get("request_id"))
            return
        if state["presence"].draining:
            yield GO_ELSEWHERE
            return
        if time.monotonic() - spoke_at > settings.heartbeat:
            yield HEARTBEAT
            spoke_at = time.monotonic()
        if not found.has_more:
            await asyncio.sleep(min(pause, settings.heartbeat))
            pause = min(pause * 1.5, _LATEST)
        found = await _ask_again(state, question, found, number)


async def _ask_again(
    state: EdgeState, question: AskRunEvents, before: RunEvents, number: int
) -> RunEvents:
    """What came since; nothing, while the database or the bus is away."""
    asked = AskRunEvents(
        principal=question.principal, run_id=before.run_id, bodies=True, skip=number
    )
    try:
        answer = await state["stored"].ask(NOUN, "events", asked)
    except Unavailable:
        return RunEvents(before.run_id, [])
    return decode_answer(answer, RunEvents)


async def _ask_for(scope: Scope, verb: str, question: AskRun, kind: type[T]) -> T:
    """Ask for a run. Raises NotFound; for one of the caller's that has just begun, not at once."""
    stored = state_of(scope)["stored"]
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return decode_answer(await stored.ask(NOUN, verb, question), kind)
        except NotFound:
            if time.monotonic() > give_up or not _may_come(scope, question):
                raise
        await asyncio.sleep(_LOOK_AGAIN)


def _may_come(scope: Scope, question: AskRun) -> bool:
    """Whether a run without a row was accepted a moment ago: its id tells that it is the caller's.

    So another's run is told from none at all by nothing, not even by the time that it takes.
    """
    run_id, state = question.run_id or "", state_of(scope)
    age = time.time() - ids.created_ms(run_id) / 1000
    secret = state["settings"].key_secret
    return abs(age) < _YOUNG and ids.is_owner(run_id, state["principal"].id, secret)


def _scope_of(scope: Scope) -> str | None:
    """Whose runs may be seen: the caller's, or an administrator's everybody's."""
    principal = state_of(scope)["principal"]
    return None if ADMIN in principal.scopes else principal.id


def _run_id_of(request: Request) -> str:
    given: str = request.path_params["id"]
    run_id = ids.run_id_of(given)
    if run_id is None:
        raise NotFound(f"there is no run {given}")
    return run_id


def _to_cursor(given: str | None) -> str | None:
    """A run may be named by the id of its answer too."""
    return given and (ids.run_id_of(given) or given)


def _wants_stream(request: Request) -> bool:
    """By `?stream=`, else by `Accept`. Raises InvalidRequest."""
    match request.query_params.get("stream"):
        case "true":
            return True
        case "false":
            return False
        case None:
            accepted = request.headers.get("accept", "")
            return "application/json" not in accepted or "text/event-stream" in accepted
        case _:
            raise InvalidRequest("'stream' is true or false", param="stream")


_ONE: Final = "/v1/runs/{id}"
ROUTES: list[BaseRoute] = [
    Route("/v1/runs", list_runs, methods=["GET"]),
    Route(_ONE, retrieve_run, methods=["GET"]),
    Route(f"{_ONE}/events", read_run_events, methods=["GET"]),
]
