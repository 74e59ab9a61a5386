"""Sends what was buried in DEAD again, as it was, where it was sent first."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

import msgspec

from bus import Bus, Message, Stored, header_value
from cli.run_reader import Place, Reader
from cli.timeline import Story
from schemas import ids, subjects
from schemas.commands import (
    BEGUN,
    RunInference,
    decode_command,
    decode_reply,
    decode_run_inference,
    encode,
)
from schemas.events import DeadRetried, decode_dead_retried, encode_event, encode_run_accepted
from schemas.queries import raise_failure

Secret = Callable[[], bytes]  # what run ids are signed with; asked for if there is to be a new one

_COMMAND_SECONDS = 30.0  # in which a command must be carried out
_ANSWER_SECONDS = 10.0  # that its outcome is waited for
_STORE_SECONDS = 5.0


class Grave(NamedTuple):
    """A dead message, and the times that it was sent again."""

    stored: Stored
    retries: tuple[DeadRetried, ...] = ()

    @property
    def stream(self) -> str:
        """The stream that it was in."""
        return subjects.buried(self.stored.subject)[0]

    @property
    def subject(self) -> str:
        """The subject that it was sent on."""
        return subjects.buried(self.stored.subject)[1]

    @property
    def error(self) -> str:
        """Why nobody could handle it."""
        return self.header(subjects.ERROR) or ""

    @property
    def sequence(self) -> str:
        """Its sequence in the stream that it was in."""
        told = (self.header("Nats-Msg-Id") or "").split(":")
        return told[2] if len(told) == 4 else "?"

    def header(self, name: str) -> str | None:
        """One of its headers."""
        found = header_value(self.stored.headers, name.encode())
        return found.decode("latin-1") if found is not None else None


class Sent(NamedTuple):
    """What came of sending a dead message again."""

    retried: DeadRetried
    told: str  # for people: what is known of it


async def read_retries(
    bus: Bus, subject: str = subjects.ALL_RETRIED
) -> dict[int, tuple[DeadRetried, ...]]:
    """Read which dead messages were sent again, by their sequence in DEAD."""
    found: dict[int, tuple[DeadRetried, ...]] = {}
    async for stored in bus.read_subject(subjects.DEAD, subject):
        note = decode_dead_retried(stored.data)
        found[note.seq] = (*found.get(note.seq, ()), note)
    return found


async def read_graves(bus: Bus, subject: str = ">") -> AsyncIterator[Grave]:
    """Read the dead messages that were sent on a subject (wildcards as NATS has them)."""
    retries = await read_retries(bus)
    async for stored in bus.read_subject(subjects.DEAD, subjects.dead("*", subject)):
        if not subjects.is_retried(stored.subject):
            yield Grave(stored, retries.get(stored.seq, ()))


async def find_grave(bus: Bus, seq: int) -> Grave | None:
    """Read one dead message by its sequence in DEAD."""
    stored = await bus.message_at(subjects.DEAD, seq)
    if stored is None or subjects.is_retried(stored.subject):
        return None
    retries = await read_retries(bus, subjects.retried(seq))
    return Grave(stored, retries.get(seq, ()))


async def send_again(bus: Bus, grave: Grave, secret: Secret) -> Sent | None:
    """Send a dead message again and note it; None if somebody else has just done so.

    Raises BusError, or the JanError that a command was answered with.
    """
    match grave.stream:
        case subjects.JOBS:
            return await _send_job(bus, grave, secret)
        case subjects.COMMANDS:
            return await _send_command(bus, grave)
        case _:
            time_told = grave.header(subjects.TIME) if grave.header(subjects.IMPORTED) else None
            headers = subjects.imported_headers(float(time_told)) if time_told else b""
            return await _send(bus, grave, grave.stored.data, headers=headers)


async def _send(
    bus: Bus,
    grave: Grave,
    data: bytes,
    *,
    headers: bytes = b"",
    run_id: str | None = None,
    told: str = "",
) -> Sent | None:
    """Store it, then note that. A crash in between leaves a repeat that the message id stops."""
    seq, number = grave.stored.seq, len(grave.retries)
    ack = await bus.store(
        grave.subject,
        data,
        msg_id=f"{grave.stream}:retry:{seq}:{number}",
        headers=headers,
        timeout=_STORE_SECONDS,
    )
    note = DeadRetried(seq, time.time(), grave.subject, ack.seq, run_id)
    noted = await bus.store(
        subjects.retried(seq),
        encode_event(note),
        msg_id=f"DEAD:retried:{seq}:{number}",
        timeout=_STORE_SECONDS,
    )
    return None if noted.duplicate else Sent(note, told)


async def _send_job(bus: Bus, grave: Grave, secret: Secret) -> Sent | None:
    """A job of a run that has ended goes as a new run: the old one's readers were told its end.

    Nobody may wait for a late one, so it is not cancelled for that.
    """
    try:
        job = decode_run_inference(grave.stored.data)
    except (msgspec.DecodeError, ValueError):
        return await _send(bus, grave, grave.stored.data)  # perhaps a newer worker can read it
    now = time.time()
    story = await _read_story(bus, job.run_id)
    if story.finished is not None:
        told = story.accepted.command if story.accepted is not None else job
        return await _send_as_new(bus, grave, job, told, secret)
    if job.deadline > now:
        return await _send(bus, grave, grave.stored.data)
    late = _from_now(job, now)
    return await _send(bus, grave, encode(late), told="with a new deadline: its own has passed")


async def _read_story(bus: Bus, run_id: str) -> Story:
    reader = Reader(bus, Place(run_id))
    await reader.read()
    return reader.story


async def _send_as_new(
    bus: Bus, grave: Grave, job: RunInference, told: RunInference, secret: Secret
) -> Sent | None:
    """`told` is the job as the log has it: with the client's own request, not with a history."""
    run_id, now = ids.new_run_id(job.principal, secret()), time.time()
    new = encode(msgspec.structs.replace(_from_now(job, now), run_id=run_id))
    sent = await _send(bus, grave, new, run_id=run_id, told=f"as {run_id}: {job.run_id} has ended")
    if sent is not None:
        await bus.store(
            subjects.run_event("accepted", run_id),
            encode_run_accepted(
                encode(msgspec.structs.replace(_from_now(told, now), run_id=run_id)), now
            ),
            msg_id=f"EVENTS:run.accepted:{run_id}:0",
            timeout=_STORE_SECONDS,
        )
    return sent


def _from_now(job: RunInference, now: float) -> RunInference:
    """The job, to be done in as much time as it had; whether anybody reads it or not."""
    lasts = max(job.deadline - job.created, 1.0)
    return msgspec.structs.replace(
        job, created=int(now), deadline=now + lasts, background=True, moves=0
    )


async def _send_command(bus: Bus, grave: Grave) -> Sent | None:
    """A command has a deadline, and whoever waits for it: both are made anew."""
    try:
        command = decode_command(grave.stored.data)
    except (msgspec.DecodeError, ValueError):
        return await _send(bus, grave, grave.stored.data)
    outcome = _Outcome(bus)
    again = msgspec.structs.replace(
        command, deadline=time.time() + _COMMAND_SECONDS, reply_to=outcome.inbox
    )
    sent = await _send(bus, grave, encode(again))
    if sent is None:
        return None
    answer = await outcome.wait()
    if answer is None:
        return Sent(sent.retried, "nobody has carried it out yet")
    raise_failure(answer)
    return Sent(sent.retried, f"carried out, as message {decode_reply(answer).seq} of EVENTS")


class _Outcome:
    """The last word about a command."""

    def __init__(self, bus: Bus) -> None:
        self._answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.inbox = bus.expect(self._on_word, _ANSWER_SECONDS)

    def _on_word(self, message: Message | None) -> bool:
        if message is not None and message.data == BEGUN:
            return False
        if not self._answer.done():
            self._answer.set_result(message.data if message is not None else None)
        return True

    async def wait(self) -> bytes | None:
        """Wait for it; None: there was none in time."""
        return await self._answer
