"""Who is told that a response in the background has ended."""

from typing import Final

import msgspec

from bus import Bus
from schemas import subjects
from schemas.commands import RunInference, Webhook, encode
from schemas.history import History
from schemas.responses.story import is_story, result_of
from schemas.webhooks import of_response

_STORE_SECONDS: Final = 5.0


class _Response(msgspec.Struct):
    status: str


_decode = msgspec.json.Decoder(_Response).decode


async def tell_webhook(bus: Bus, job: RunInference, webhook: Webhook, history: History) -> None:
    """Have it sent by the tools workers; done again, it is the same job. Raises BusError."""
    at = history.committed_at // 1_000_000
    told = of_response(job.run_id, status_of(history), at, webhook, job.principal)
    await bus.store(
        subjects.tool_job("webhooks"),
        encode(told),
        msg_id=f"JOBS:webhook:{job.run_id}:0",
        timeout=_STORE_SECONDS,
    )


def status_of(history: History) -> str:
    """How a response has ended; one that never began has only its run's status."""
    assert history.commit is not None
    ended = result_of(history.chunks)[0] if is_story(history.chunks) else None
    return _decode(ended).status if ended is not None else history.commit.status
