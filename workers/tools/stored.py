"""Stored things, as a tool has them written and reads them: by the persistence workers."""

import asyncio
import time
from typing import Final

import msgspec

from bus import Bus, Message
from schemas import subjects
from schemas.commands import BEGUN, Command, decode_reply, encode
from schemas.errors import BusError, JanError
from schemas.queries import Ask, raise_failure
from workers.tools.outcome import Failed
from workers.tools.tool import Context

_ASK_SECONDS: Final = 6.0  # more than a worker takes at most
_PATIENCE: Final = 5.0  # seconds that a write may wait
_SLACK: Final = 4.0  # for one that was taken just in time


async def ask(call: Context, noun: str, verb: str, question: Ask) -> bytes:
    """Ask for something of the caller's. Raises Failed."""
    subject = subjects.query(noun, verb)
    try:
        answer = await call.means.bus.ask(subject, encode(question), timeout=_ASK_SECONDS)
        raise_failure(answer)
    except JanError as error:
        raise to_failed(error) from None
    return answer


async def command(call: Context, noun: str, verb: str, body: msgspec.Struct) -> bytes:
    """Have something written for the caller, once, however often the call is run. Raises Failed."""
    job, bus, now = call.job, call.means.bus, time.time()
    answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    sent = Command(
        id=f"cmd_{job.call_id}",  # a second run of the call is the same command
        principal=job.principal,
        at=now,
        deadline=now + _PATIENCE,
        body=msgspec.Raw(encode(body)),
        reply_to=_expect(bus, answer, _PATIENCE + _SLACK),
        request_id=job.request_id,
    )
    subject = subjects.command(noun, verb)
    try:
        await bus.store(subject, encode(sent), msg_id=f"COMMANDS:{subject}:{sent.id}:{now}")
        reply = await answer
        if reply is None:
            raise Failed("unavailable", "The server's database did not answer.", retryable=True)
        raise_failure(reply)
    except JanError as error:
        raise to_failed(error) from None
    return bytes(decode_reply(reply).answer)


def _expect(bus: Bus, answer: "asyncio.Future[bytes | None]", timeout: float) -> str:
    def on_word(message: Message | None) -> bool:
        if message is not None and message.data == BEGUN:
            return False
        if not answer.done():
            answer.set_result(message.data if message is not None else None)
        return True

    return bus.expect(on_word, timeout)


def to_failed(error: JanError) -> Failed:
    """What the model is told of what the persistence workers say."""
    if isinstance(error, BusError) or error.http_status >= 500:
        return Failed("unavailable", "The server's database can't be reached.", retryable=True)
    return Failed("refused", f"{error.message}.")
