"""A run's facts, as its owner may read them: what the log says, without what is a secret."""

import re
from typing import Any, Final

import msgspec

from schemas import events
from schemas.api.runs import RunEvent, to_error
from schemas.commands import RunInference, encode
from schemas.ids import trace_id_of
from schemas.queries.runs import EventAt
from schemas.tools import decode_tool_finished, decode_tool_started

_REDACTED: Final = "[redacted]"
# Credentials that a client may have put into its request, for a tool's server for instance.
_SECRETS: Final = frozenset(
    ("authorization", "proxy-authorization", "api_key", "apikey", "api-key", "x-api-key")
)
_LOOKS_SECRET: Final = re.compile(rb"authorization|api[_-]?key", re.IGNORECASE)
_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


def to_event(fact: EventAt, run_id: str, number: int) -> bytes:
    """Encode a fact as one line of JSON; a verb that is not known here tells no more than that."""
    told = RunEvent(_type_of(fact.verb), number, run_id, fact.at)
    if fact.data is None:
        return encode(msgspec.structs.replace(told, erased=True))
    try:
        says = _says(fact.verb, bytes(fact.data))
    except msgspec.DecodeError:
        says = {}
    # A line's end in JSON is never part of a text.
    return encode(msgspec.to_builtins(told) | says).translate(_LINE_ENDS)


def to_frame(event: bytes, verb: str, number: int) -> bytes:
    """Write an event as a server-sent one."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, _type_of(verb).encode(), event)


def _type_of(verb: str) -> str:
    """A call of a tool is a thing of its own, though it is told among the run's facts."""
    return verb if verb.startswith("tool.") else f"run.{verb}"


def _says(verb: str, data: bytes) -> dict[str, Any]:
    match verb:
        case "accepted":
            return _of_job(events.decode_run_accepted(data).command)
        case "refused":
            return {"error": to_error(events.decode_run_refused(data).error)}
        case "started":
            started = events.decode_run_started(data)
            return {
                "attempt": started.attempt,
                "worker": started.worker,
                "deployment": started.deployment,
                "first": started.resumed_at,
            }
        case "finished":
            return _of_end(events.decode_run_finished(data))
        case "tool.started" | "tool.finished":
            return _of_call(verb, data)
        case _:
            return {}


def _of_job(job: RunInference) -> dict[str, Any]:
    return {
        "principal_id": job.principal,
        "api_key_id": job.api_key,
        "request_id": job.request_id,
        "trace_id": trace_id_of(job.traceparent) if job.traceparent else None,
        "conversation_id": job.turn.conversation if job.turn else None,
        "kind": job.kind,
        "model": job.model,
        "stream": job.stream,
        "background": job.background,
        "edge": job.edge,
        "deadline": job.deadline,
        "deployments": [target.deployment for target in job.targets],
        "request": _without_secrets(job.request),
        "request_is_large": job.request_ref is not None,
    }


def _of_end(end: events.RunFinished) -> dict[str, Any]:
    return {
        "status": end.status,
        "deployment": end.deployment or None,
        "frames": end.frames,
        "first_frame_at": end.first_frame_at,
        "finish_reason": end.finish_reason,
        "usage": end.usage,
        "error": to_error(end.error),
        "result": end.result,
        "attempts": [
            {"attempt": one.attempt, "worker": one.worker, "first": one.first, "count": one.count}
            for one in end.attempts
        ],
    }


def _of_call(verb: str, data: bytes) -> dict[str, Any]:
    if verb == "tool.started":
        began = decode_tool_started(data)
        called = {"call_id": began.call_id, "tool": began.tool}
        return called | {"attempt": began.attempt, "worker": began.worker}
    end = decode_tool_finished(data)
    return {
        "call_id": end.call_id,
        "tool": end.tool,
        "status": end.status,
        "seconds": end.seconds,
        "attempts": end.attempts,
        "arguments": _without_secrets(end.arguments),
        "result": end.result,
        "error": end.error,
    }


def _without_secrets(request: msgspec.Raw | None) -> Any:
    """The client's own JSON as it came, unless there is a credential in it."""
    if request is None or not _LOOKS_SECRET.search(request):
        return request
    try:
        return _redact(msgspec.json.decode(request))
    except msgspec.DecodeError:
        return None


def _redact(value: Any) -> Any:
    match value:
        case dict():
            return {
                key: _REDACTED
                if isinstance(item, str) and key.lower() in _SECRETS
                else _redact(item)
                for key, item in value.items()
            }
        case list():
            return [_redact(item) for item in value]
        case _:
            return value
