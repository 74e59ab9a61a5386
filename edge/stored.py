"""Stored things, as the edge sees them: commands that change them, questions that read them.

The edge owns none of it. A command waits in COMMANDS until a persistence worker has carried it out;
a question is answered by whichever worker is free.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from bus.buckets import Bucket
from bus.connection import QUEUE_FULL, Bus
from bus.wire import Message
from edge.orders import Caller
from schemas import ids, subjects
from schemas.commands import BEGUN, Command, decode_reply, encode
from schemas.errors import (
    BusError,
    BusTimeout,
    BusUnavailable,
    Conflict,
    JanError,
    NoResponders,
    OutcomeUnknown,
    Unavailable,
)
from schemas.queries import Ask, raise_failure

logger = structlog.get_logger()

_ASK_SECONDS: Final = 6.0  # more than a worker takes at most, waiting for the log included
_STORE_SECONDS: Final = 1.0
_SLACK: Final = (
    4.0  # a command taken just in time: a transaction, or the delivery to another worker
)
_REMEMBERED: Final = 10_000  # principals; about 200 bytes each
_TRIES: Final = 5


class Positions:
    """How far in the log each principal has written: it must be answered from there or later.

    Other edges learn it from the bucket `positions`, which is used only if there are any.
    """

    def __init__(self, bucket: Bucket, has_peers: Callable[[], bool]) -> None:
        self._bucket = bucket
        self._has_peers = has_peers
        self._known: OrderedDict[str, int] = OrderedDict()

    async def advance(self, principal: str, seq: int) -> None:
        """Note that a principal has written up to `seq`; never goes back."""
        if seq <= self._known.get(principal, 0):
            return
        self._known[principal] = seq
        self._known.move_to_end(principal)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if self._has_peers():
            try:
                await self._tell(_key(principal), seq)
            except BusError as error:
                logger.warning("other edges may answer from before a write", error=str(error))

    async def of(self, principal: str) -> int:
        """The newest sequence that a principal has written, on any edge."""
        known = self._known.get(principal, 0)
        if not self._has_peers():
            return known
        try:
            entry = await self._bucket.get(_key(principal))
        except BusError:
            return known
        return max(known, int(entry.value)) if entry is not None else known

    async def _tell(self, key: str, seq: int) -> None:
        for _ in range(_TRIES):
            entry = await self._bucket.get(key)
            if entry is not None and int(entry.value) >= seq:
                return
            try:
                if entry is None:
                    await self._bucket.create(key, b"%d" % seq)
                else:
                    await self._bucket.update(key, b"%d" % seq, entry.revision)
            except Conflict:
                continue
            return


class Stored:
    """Asks and commands. `patience` is how long a write may wait, in seconds."""

    def __init__(self, bus: Bus, positions: Positions, *, patience: float) -> None:
        self._bus = bus
        self.positions = positions
        self._patience = patience

    async def ask(self, noun: str, verb: str, question: Ask) -> bytes:
        """Ask, and get the answer's JSON; what the asker has written before is in it.

        A question's own `after` may ask for more than that.

        Raises NotFound, InvalidRequest, Unavailable, BusUnavailable.
        """
        if question.principal is not None:
            after = await self.positions.of(question.principal)
            question = msgspec.structs.replace(question, after=max(after, question.after))
        try:
            answer = await self._bus.ask(
                subjects.query(noun, verb), encode(question), timeout=_ASK_SECONDS
            )
        except NoResponders:
            raise Unavailable("no persistence worker is there", retry_after=1) from None
        except BusError as error:
            raise BusUnavailable("the message bus did not answer", retry_after=1) from error
        raise_failure(answer)
        return answer

    async def command(self, noun: str, verb: str, caller: Caller, body: msgspec.Struct) -> bytes:
        """Have something written, and get the answer's JSON once it is.

        Raises what the worker says; Unavailable if it was not done and never will be; and
        OutcomeUnknown if the database went away in the middle: with an Idempotency-Key the same
        request can be repeated.
        """
        now = time.time()
        command = Command(
            id=_command_id(caller, f"{noun}.{verb}"),
            principal=caller.principal,
            at=now,
            deadline=now + self._patience,
            body=msgspec.Raw(encode(body)),
            request_id=caller.request_id,
        )
        answer = await self._carried_out(subjects.command(noun, verb), command)
        raise_failure(answer)
        reply = decode_reply(answer)
        await self.positions.advance(caller.principal, reply.seq)
        return bytes(reply.answer)

    async def _carried_out(self, subject: str, command: Command) -> bytes:
        """Send a command until a worker has told its outcome."""
        if not self._bus.connected:
            raise BusUnavailable("the message bus can't be reached", retry_after=1)
        uncertain = False
        end = command.deadline + _SLACK
        while time.time() < end:
            waiting = _Outcome(self._bus, end - time.time())
            sent = msgspec.structs.replace(command, reply_to=waiting.inbox)
            try:
                await self._store(subject, sent, waiting)
            except BusTimeout:
                uncertain = True  # it may be stored: its answer will tell
            except JanError:
                waiting.close()
                if not uncertain:
                    raise
                break  # an earlier one may have been stored
            answer = await waiting.answer
            if answer is not None:
                return answer
            # The connection was lost, or time is up.
            uncertain = uncertain or waiting.begun or time.time() < end
            while not self._bus.connected and time.time() < end:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        if uncertain:
            raise OutcomeUnknown("it is not known whether this was stored: look, or repeat it")
        raise Unavailable("nobody stored this in time, and nobody will", retry_after=1)

    async def _store(self, subject: str, command: Command, waiting: "_Outcome") -> None:
        """Send until the bus has it, or has answered otherwise.

        Raises BusTimeout if it may have it, else Unavailable, BusUnavailable.
        """
        msg_id = f"COMMANDS:{subject}:{ids.new_id('')}:0"
        uncertain = False
        while not waiting.answer.done():
            try:
                await self._bus.store(
                    subject, encode(command), msg_id=msg_id, timeout=_STORE_SECONDS
                )
            except (BusTimeout, BusUnavailable, NoResponders):
                uncertain = True  # also without responders: that was its last try of several
                continue
            except BusError as error:
                if uncertain:
                    raise BusTimeout("the outcome is unknown") from None
                if error.err_code in QUEUE_FULL:
                    raise Unavailable("too many writes are waiting", retry_after=2) from None
                raise BusUnavailable("the message bus did not store it", retry_after=1) from error
            return
        if uncertain:
            raise BusTimeout("the outcome is unknown")


class _Outcome:
    """The words about one sent command: `answer` becomes the last one, None if none comes."""

    def __init__(self, bus: Bus, timeout: float) -> None:
        self.begun = False
        self.answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.inbox = bus.expect(self._on_word, timeout)

    def close(self) -> None:
        """Wait no longer."""
        if not self.answer.done():
            self.answer.set_result(None)

    def _on_word(self, message: Message | None) -> bool:
        if message is not None and message.data == BEGUN:
            self.begun = True
            return False
        if not self.answer.done():
            self.answer.set_result(message.data if message is not None else None)
        return True


def _command_id(caller: Caller, name: str) -> str:
    """A new id, or the one that a caller's Idempotency-Key stands for."""
    if caller.idempotency_key is None:
        return ids.new_id("cmd_")
    told = f"{caller.principal}\0{name}\0{caller.idempotency_key}"
    return "cmd_" + hashlib.sha256(told.encode()).hexdigest()


def _key(principal: str) -> str:
    return hashlib.sha256(principal.encode()).hexdigest()[:32]
