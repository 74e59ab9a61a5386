"""What a response consists of: steps of inference and calls of tools, in the order of time."""

import itertools
import time
from typing import Any, Final

import msgspec

from bus import Bus
from cli.calls import Call
from cli.run_reader import Place, Reader, ask
from cli.timeline import Fact, Story, error_text, show_time, to_usage, tokens
from schemas import ids
from schemas.errors import BusError, InternalError, NotFound, Unavailable
from schemas.queries.runs import AskRun, RunEvents

_LATE: Final = 60.0  # seconds that the database may be behind the log
_SHOWN: Final = 60  # characters of a call's arguments


async def read_loop(bus: Bus, story: Story) -> list[Fact]:
    """What a response consists of so far, oldest first; nothing if the run is none."""
    if story.accepted is None or story.accepted.command.kind != "response":
        return []
    steps = [_to_step(number, step) for number, step in await _read_steps(bus, story.run_id)]
    return sorted([*steps, *map(_to_call, story.calls.found.values())], key=lambda fact: fact.at)


async def _read_steps(bus: Bus, run_id: str) -> list[tuple[int, Story]]:
    """The steps' stories. Their ids follow from the response's, so no list is needed."""
    steps: list[tuple[int, Story]] = []
    for number in itertools.count(1):
        place = await _locate(bus, ids.derived_id("run_", run_id, number))
        if place is None:
            break
        reader = Reader(bus, place)
        await reader.read()
        if not reader.story.known:
            break
        steps.append((number, reader.story))
    return steps


async def _locate(bus: Bus, step_id: str) -> Place | None:
    """Where a step's facts are; None if there is no such step."""
    try:
        known = await ask(bus, "runs", "events", AskRun(run_id=step_id), RunEvents)
    except NotFound:
        may_come = time.time() - ids.created_ms(step_id) / 1000 < _LATE
        return Place(step_id) if may_come else None
    except (BusError, Unavailable, InternalError):
        return Place(step_id)
    return Place(step_id, next((one.seq for one in known.events if one.verb == "accepted"), 0))


def _to_step(number: int, story: Story) -> Fact:
    end, began = story.finished, story.accepted.at if story.accepted else None
    told: dict[str, Any] = {"number": number, "id": story.run_id, "status": "running"}
    if end is None:
        return Fact(began or 0.0, "step", f"{number} · at work", told)
    if began is None:
        began = end.attempts[0].at if end.attempts else end.at
    usage, attempts = to_usage(end.usage), max(1, len(end.attempts))
    first = end.first_frame_at - began if end.first_frame_at else None
    words = [f"{number} · {end.deployment or '?'}"]
    words += [tokens(usage)] if usage else []
    words += [f"first after {show_time(first)}"] if first is not None else []
    words += [f"{show_time(end.at - began)} in all"]
    words += [f"{attempts} attempts"] if attempts > 1 else []
    words += [] if end.status == "completed" else [end.status]
    words += [error_text(end.error)] if end.error else []
    told |= {
        "status": end.status,
        "deployment": end.deployment,
        "usage": usage,
        "first": round(first, 6) if first is not None else None,
        "seconds": round(end.at - began, 6),
        "attempts": attempts,
        "finish_reason": end.finish_reason,
    }
    return Fact(began, "step", " · ".join(words), told)


def _to_call(call: Call) -> Fact:
    end = call.end
    told: dict[str, Any] = {"id": call.call_id, "tool": call.tool, "attempts": call.attempts}
    told |= {"worker": call.worker or None, "status": "running"}
    if end is None:
        return Fact(call.began, "call", f"{call.tool} · at work", told)
    arguments = bytes(end.arguments).decode() if end.arguments is not None else ""
    words = [f"{call.tool}({_short(arguments)})", end.status, show_time(end.seconds)]
    words += [f"{call.attempts} attempts"] if call.attempts > 1 else []
    words += [f"{end.error.code}: {end.error.message}"] if end.error is not None else []
    told |= {
        "status": end.status,
        "seconds": end.seconds,
        "arguments": arguments or None,
        "error": msgspec.to_builtins(end.error) if end.error is not None else None,
    }
    return Fact(call.began, "call", " · ".join(words), told)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
