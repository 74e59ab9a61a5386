"""/v1/responses: create, get, read on, cancel, delete, and what was asked."""

import time
from functools import partial
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from edge.generation import (
    answer,
    carry_out,
    first_wanted,
    query,
    read_body,
    send_json,
    to_caller,
    to_note,
)
from edge.requests import answer_json, read_paging, stored_of
from edge.responses.answering import CompactionAnswering, CountAnswering, ResponseAnswering
from edge.responses.lookup import to_queued
from edge.responses.said import to_said
from edge.state import state_of
from schemas import writes
from schemas.errors import InvalidRequest, JanError
from schemas.queries.responses import AskResponseInput

NOUN: Final = "responses"


class Create:
    """POST /v1/responses: start one, and answer with its events, its end, or that it waits."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        state, caller = state_of(scope), to_caller(scope)
        before = state.get("said_before")
        order = await state["preparation"].to_order(
            body,
            caller.principal,
            stream=query(scope, "stream") == "true",
            before=before,
        )
        runs = state["runs"]
        run = await runs.accept(order, caller)
        run.headers, run.note = order.headers, to_note(scope, caller)
        if order.background and not order.stream:
            await runs.leave(run)
            await run.note(run.accepted)  # who asks for it next finds it
            waiting = to_queued(run.run_id, order.body)
            await send_json(send, run.run_id, msgspec.json.encode(waiting))
            return
        answering = ResponseAnswering(
            run, runs.options, receive, send, caller.request_id, started, inbox=state["inbox"]
        )
        await answer(runs, answering)
        if "said_before" in state and (ended := answering.ended) is not None:  # a WebSocket's
            state["said"] = to_said(order, before, ended)


class CountTokens:
    """POST /v1/responses/input_tokens: how many tokens a request's input would take."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        principal = to_caller(scope).principal
        order = await state_of(scope)["preparation"].to_count(body, principal)
        await carry_out(order, (scope, receive, send), started, CountAnswering)


class Compact:
    """POST /v1/responses/compact: a long input as its user's words and a sealed summary."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        body = await read_body(receive)
        if body is None:
            return
        state, principal = state_of(scope), to_caller(scope).principal
        order, items = await state["preparation"].to_summary(body, principal)
        key = state["settings"].sealing_key.get_secret_value()
        answering = partial(CompactionAnswering, items=items, sealing_key=key)
        await carry_out(order, (scope, receive, send), started, answering)


class Retrieve:
    """GET /v1/responses/{id}: the object, or with `stream=true` its events from some number on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = time.perf_counter()
        state, caller = state_of(scope), to_caller(scope)
        response_id = scope["path_params"]["id"]
        if query(scope, "stream") != "true":
            found = await state["responses"].find(response_id, caller.principal)
            run_id = state["responses"].require_own(response_id, caller.principal)
            await send_json(send, run_id, found)
            return
        after = first_wanted(scope) - 1
        run_id = state["responses"].require_own(response_id, caller.principal)
        runs = state["runs"]
        run = await runs.resume(run_id, caller.principal)
        run.stream, run.stored, run.note = True, True, to_note(scope, caller)
        try:
            await state["responses"].require_kept(run.reader, caller.principal)
        except JanError:
            await runs.leave(run)
            raise
        answering = ResponseAnswering(
            run,
            runs.options,
            receive,
            send,
            caller.request_id,
            started,
            inbox=state["inbox"],
            after=after,
        )
        await answer(runs, answering)


async def cancel_response(request: Request) -> Response:
    """POST /v1/responses/{id}/cancel: stop one. What it has come to stays. Idempotent."""
    state, caller = state_of(request.scope), to_caller(request.scope)
    lookup, response_id = state["responses"], request.path_params["id"]
    run_id = lookup.require_own(response_id, caller.principal)
    found = msgspec.json.decode(await lookup.find(response_id, caller.principal), type=_Known)
    if found.status in ("queued", "in_progress"):
        note = to_note(request.scope, caller)
        await state["runs"].cancel(run_id, caller.principal, note)
    elif found.status != "cancelled":
        raise InvalidRequest(f"the response has ended: it is {found.status}", param="response_id")
    return answer_json(await lookup.find(response_id, caller.principal))


async def delete_response(request: Request) -> Response:
    """DELETE /v1/responses/{id}: it is gone, and what was said in it."""
    stored, caller = stored_of(request)
    response_id = request.path_params["id"]
    # One that has just ended may not be in the database yet: this waits for it.
    await state_of(request.scope)["responses"].find(response_id, caller.principal)
    body = writes.DeleteResponse(response_id)
    return answer_json(await stored.command(NOUN, "delete", caller, body))


async def list_input_items(request: Request) -> Response:
    """GET /v1/responses/{id}/input_items: what was asked, newest first."""
    stored, caller = stored_of(request)
    response_id = request.path_params["id"]
    state_of(request.scope)["responses"].require_own(response_id, caller.principal)
    question = AskResponseInput(
        principal=caller.principal, id=response_id, paging=read_paging(request)
    )
    return answer_json(await stored.ask(NOUN, "input", question))


class _Known(msgspec.Struct):
    status: str


_ONE: Final = "/v1/responses/{id}"
ROUTES: list[BaseRoute] = [
    Route("/v1/responses", Create(), methods=["POST"]),
    Route("/v1/responses/input_tokens", CountTokens(), methods=["POST"]),
    Route("/v1/responses/compact", Compact(), methods=["POST"]),
    Route(_ONE, Retrieve(), methods=["GET"]),
    Route(_ONE, delete_response, methods=["DELETE"]),
    Route(f"{_ONE}/cancel", cancel_response, methods=["POST"]),
    Route(f"{_ONE}/input_items", list_input_items, methods=["GET"]),
]
