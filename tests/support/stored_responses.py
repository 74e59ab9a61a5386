"""Facts about responses, their steps and their calls, as the workers of the loop tell them."""

from typing import Any

import msgspec

from schemas import ids, subjects
from schemas.api.responses import ResponseRequest, to_object
from schemas.commands import encode
from schemas.tools import Citation, ToolFinished, ToolResult, ToolStarted
from tests.support.projection import PRINCIPAL
from tests.support.runs import Told, accepted, finished

TOKENS = b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'


def id_of(run_id: str) -> str:
    """A response's public id."""
    return ids.public_id(run_id, "response")


def said(run_id: str, text: str, **more: Any) -> dict[str, Any]:
    """An item that a model has said."""
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {"type": "message", "role": "assistant", "status": "completed", "content": [part]}
    return {"id": ids.derived_id("msg_", run_id, 0), **item, **more}


def response_of(
    run_id: str,
    asked: Any,
    output: list[dict[str, Any]] | None = None,
    *,
    principal: str = PRINCIPAL,
    status: str = "completed",
    run_status: Any = "completed",
    at: float = 1000.0,
    usage: bytes | None = TOKENS,
    background: bool = False,
    **more: Any,
) -> tuple[Told, Told]:
    """A response's two facts: it was asked `asked`, and came to `output`; `more` is asked too.

    `turn` is the command's, `result` takes the object's place, `error` is the run's.
    """
    told = {name: more.pop(name) for name in ("turn", "error") if name in more}
    kept = {"store": True} | ({"turn": told["turn"]} if "turn" in told else {})
    asking = {"model": "m", "input": asked, **more}
    result = more.pop("result", b"")
    request = msgspec.convert({name: asking[name] for name in asking if name != "result"}, Plain)
    found = to_object(
        ResponseRequest(
            model="m",
            previous_response_id=request.previous_response_id,
            instructions=request.instructions,
        ),
        id_of(run_id),
        int(at),
    )
    found |= {"status": status, "output": output or [said(run_id, f"re: {asked}")]}
    body = encode(found) if result == b"" else result
    begin = accepted(
        run_id, at=at, principal=principal, kind="response", request=encode(asking),
        background=background, **kept,
    )  # fmt: skip
    end = finished(
        run_id, at=at + 2, status=run_status, result=body, usage=usage,
        error=told.get("error"), **kept,
    )  # fmt: skip
    return begin, end


class Plain(msgspec.Struct):
    """What of a request its object shows."""

    previous_response_id: str | None = None
    instructions: str | None = None


def step_of(
    run_id: str, number: int, *, at: float = 1000.5, words: str = "so far"
) -> tuple[Told, Told]:
    """A step's two facts: what it was asked is not told."""
    step = ids.derived_id("run_", run_id, number)
    begin = accepted(step, at=at, principal=PRINCIPAL, parent=run_id)
    told = msgspec.json.decode(begin.data)
    del told["command"]["request"]
    result = encode({"choices": [{"message": {"content": words}}]})
    end = finished(step, at=at + 0.2, usage=TOKENS, result=result, parent=run_id)
    return Told(begin.subject, encode(told)), end


def call_of(
    run_id: str, number: int, *, at: float = 1000.8, words: str = "what is asked"
) -> tuple[Told, Told]:
    """A call's two facts; `run_id` empty: a client made it by itself."""
    call = ids.derived_id("tool_", run_id or ids.new_run_id(), number)
    about = {"parent": run_id, "principal": PRINCIPAL, "request_id": "req_1"}
    began = ToolStarted(call, "web_search", "tools-1", 1, at, **about)
    cited = [Citation("A page", "https://example.com", text=words)]
    ended = ToolFinished(
        call,
        "web_search",
        "completed",
        at + 0.1,
        0.1,
        arguments=msgspec.Raw(encode({"query": words})),
        result=msgspec.Raw(encode(ToolResult("completed", words, citations=cited))),
        **about,
    )
    return (
        Told(subjects.tool_event("started", call, run_id), encode(began)),
        Told(subjects.tool_event("finished", call, run_id), encode(ended)),
    )
