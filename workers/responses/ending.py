"""How a response ends: when it has, what its last entry says, and what becomes of its parts."""

import time
from typing import Any

import msgspec

from schemas.api.hosted import bounded
from schemas.commands import RunInference, encode
from schemas.errors import Cancelled, JanError
from schemas.responses.fold import ResponseFold
from schemas.responses.prepared import PreparedRequest
from schemas.responses.story import Ended, Judged, Returned, encode_entry
from workers.responses.calls import failed
from workers.responses.office import Office
from workers.responses.room import keep
from workers.responses.settings import ResponsesSettings
from workers.responses.steps import wind_up_step
from workers.responses.story import Story
from workers.runtime.long_run import Ending


def find_end(request: PreparedRequest, fold: ResponseFold, depth: int) -> Ending | None:
    """How it ends, if it does now; its output has room. `depth`: steps that it may have."""
    if fold.steps == fold.trims:
        return None
    if fold.cut is not None:
        return _to_ending(fold, "incomplete", reason=fold.cut)
    if any(call.is_clients for call in fold.calls):
        return _to_ending(fold, "completed")
    if fold.steps - fold.trims >= depth and fold.calls:
        return _to_ending(fold, "incomplete", reason="max_tool_calls")
    most = request.max_output_tokens
    if fold.calls and most is not None and fold.usage.output_tokens >= most:
        return _to_ending(fold, "incomplete", reason="max_output_tokens")
    corrected = fold.messages[-1]["role"] == "user"
    return None if fold.calls or corrected else _to_ending(fold, "completed")


def end_early(
    fold: ResponseFold, settings: ResponsesSettings, error: JanError, request_id: str
) -> Ending:
    """How it ends by an error, once it is wound up: by HTTP's status too if it has said nothing."""
    output, left_out = keep(fold, settings)
    message = error.message if left_out is None else f"{error.message}; {left_out}"
    problem = {"code": _to_code(error), "message": message}
    if isinstance(error, Cancelled):
        told = problem if left_out is not None else None
        response = _to_object(fold, "cancelled", output=output, error=told)
        return _to_last(fold, Ended(response), "cancelled", "cancelled")
    response = _to_object(fold, "failed", output=output, error=problem)
    ended = Ended(response)
    if not fold.items:
        ended = Ended(response, error.http_status, msgspec.Raw(error.to_wire(request_id)))
    return _to_last(fold, ended, "failed", "failed")


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


def _to_ending(fold: ResponseFold, status: str, *, reason: str | None = None) -> Ending:
    details = {"reason": reason} if reason is not None else None
    response = _to_object(fold, status, incomplete_details=details)
    return _to_last(fold, Ended(response), "completed", reason or status)


def _to_object(fold: ResponseFold, status: str, **fields: Any) -> msgspec.Raw:
    """The response as it will be stored."""
    return msgspec.Raw(encode(fold.to_response(status, time.time(), **fields)))


def _to_last(fold: ResponseFold, ended: Ended, run_status: str, finish_reason: str) -> Ending:
    """The run's end, with the response's last entry."""
    usage = encode(fold.usage.to_chat())
    last = encode_entry(msgspec.structs.replace(ended, told=bounded(fold.told)))
    return Ending(run_status, chunk=last, usage=usage, finish_reason=finish_reason)


def _to_code(error: JanError) -> str:
    """OpenAI's codes for a failed response."""
    if error.http_status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if error.http_status == 400 else "server_error"
