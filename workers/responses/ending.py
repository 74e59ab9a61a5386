"""How a response ends: when it has, what its last entry says, and what becomes of its parts."""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.api.items import Item
from schemas.commands import RunInference, encode
from schemas.errors import Cancelled, InternalError, JanError
from schemas.responses.fold import ResponseFold
from schemas.responses.prepared import PreparedRequest
from schemas.responses.story import Ended, Judged, Returned, encode_entry
from workers.responses.calls import failed
from workers.responses.office import Office
from workers.responses.settings import ResponsesSettings
from workers.responses.steps import wind_up_step
from workers.responses.story import Story
from workers.runtime.long_run import Ending


def find_end(
    request: PreparedRequest, fold: ResponseFold, settings: ResponsesSettings
) -> Ending | None:
    """How it ends, if it does now. Raises InternalError if its output is too large."""
    if fold.steps == fold.trims:
        return None
    size = len(encode(fold.items))
    if size > settings.response_bytes:
        raise InternalError(f"the output has more than {settings.response_bytes} bytes")
    if fold.cut is not None:
        return _to_ending(fold, settings, "incomplete", reason=fold.cut)
    if any(call.is_clients for call in fold.calls):
        return _to_ending(fold, settings, "completed")
    if fold.steps - fold.trims >= settings.response_depth and fold.calls:
        return _to_ending(fold, settings, "incomplete", reason="max_tool_calls")
    most = request.max_output_tokens
    if fold.calls and most is not None and fold.usage.output_tokens >= most:
        return _to_ending(fold, settings, "incomplete", reason="max_output_tokens")
    corrected = fold.messages[-1]["role"] == "user"
    return None if fold.calls or corrected else _to_ending(fold, settings, "completed")


def end_early(
    fold: ResponseFold, settings: ResponsesSettings, error: JanError, request_id: str
) -> Ending:
    """How it ends by an error, once it is wound up: by HTTP's status too if it has said nothing."""
    if isinstance(error, Cancelled):
        return _to_ending(fold, settings, "cancelled", run_status="cancelled")
    problem = {"code": _to_code(error), "message": error.message}
    refusal = None if fold.items else error
    ended = Ended(_to_response(fold, settings, "failed", error=problem))
    if refusal is not None:
        envelope = msgspec.Raw(refusal.to_wire(request_id))
        ended = Ended(ended.response, refusal.http_status, envelope)
    return _of(fold, ended, "failed", "failed")


async def wind_up(office: Office, job: RunInference, story: Story, error: JanError) -> None:
    """End the parts that are still at work: their part of the output stays as it is then."""
    fold, reason = story.fold, f"its response has ended: {error.message}"
    waited = [fold.called[call.item_id] for call in fold.pending if call.item_id in fold.called]
    office.parts.cancel(waited, reason)
    for call in fold.pending:
        result = failed("cancelled", "The response has ended.", "cancelled")
        story.say(Returned(call.item_id, msgspec.Raw(encode(result))))
    if fold.step is not None:
        office.parts.cancel([fold.step.run_id], reason)
        story.hear(await wind_up_step(office, job, fold.step, error))
    if fold.to_judge is not None:
        story.say(Judged())
        await wind_up(office, job, story, error)  # of the calls that are told now


def _to_ending(
    fold: ResponseFold,
    settings: ResponsesSettings,
    status: str,
    *,
    run_status: str = "completed",
    reason: str | None = None,
) -> Ending:
    """The last entry, with the response as it will be stored."""
    details = {"reason": reason} if reason is not None else None
    response = _to_response(fold, settings, status, incomplete_details=details)
    return _of(fold, Ended(response), run_status, reason or status)


def _to_response(
    fold: ResponseFold, settings: ResponsesSettings, status: str, **fields: Any
) -> msgspec.Raw:
    output = _within(fold.items, settings.response_bytes)
    return msgspec.Raw(encode(fold.to_response(status, time.time(), output=output, **fields)))


def _of(fold: ResponseFold, ended: Ended, run_status: str, finish_reason: str) -> Ending:
    usage = encode(fold.usage.to_chat())
    return Ending(run_status, chunk=encode_entry(ended), usage=usage, finish_reason=finish_reason)


def _within(items: Sequence[Item], most: int) -> list[Item]:
    """The first items, as many as there is room for: the bus takes no message of any size."""
    kept: list[Item] = []
    for item in items:
        most -= len(encode(item)) + 1
        if most < 0:
            break
        kept.append(item)
    return kept


def _to_code(error: JanError) -> str:
    """OpenAI's codes for a failed response."""
    if error.http_status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.http_status == 400 else "server_error"
