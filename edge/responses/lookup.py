"""Finding a response: as it was stored, or as far as its frames say it has come."""

import asyncio
import sys
import time
from contextlib import suppress
from typing import Any, Final

from bus.connection import Bus
from edge.inbox import Inbox, Reader
from edge.stored import Stored
from schemas import frames, ids, subjects
from schemas.api import responses as api
from schemas.commands import encode
from schemas.errors import BusError, BusUnavailable, Gone, NotFound, Unavailable
from schemas.history import History
from schemas.queries import decode_answer
from schemas.queries.responses import AskResponse
from schemas.queries.runs import AskRun, RunRecord
from schemas.responses.fold import ResponseFold
from schemas.responses.story import result_of

_END_WAIT: Final = 1.0  # seconds
_UNHEARD: Final = 5.0  # seconds that the database may need to hear of a new one
MISSING: Final = "there is no such response"


class Lookup:
    """Finds responses of their owners. `secret` tells whose an id is."""

    def __init__(self, bus: Bus, inbox: Inbox, stored: Stored, secret: bytes) -> None:
        self._bus = bus
        self._inbox = inbox
        self._stored = stored
        self._secret = secret

    def require_own(self, response_id: str, principal: str) -> str:
        """The run of a response of the principal. Raises NotFound."""
        run_id = ids.run_id_of(response_id, "response")
        if run_id is None or not ids.is_owner(run_id, principal, self._secret):
            raise NotFound(MISSING)
        return run_id

    async def find(self, response_id: str, principal: str) -> bytes:
        """A response's JSON, ended or not. Raises NotFound, Unavailable, BusUnavailable."""
        run_id = self.require_own(response_id, principal)
        history = await self._read(subjects.frames_anywhere(run_id))
        if history.commit is not None and not history.commit.stored:
            raise NotFound(MISSING)  # it was not to be kept
        if history.commit is not None:
            return await self._find_ended(run_id, principal, history)
        if history.chunks:
            return encode(await self._unfinished(run_id, history))
        try:
            return await self._find_stored(run_id, principal)
        except NotFound:
            return await self._find_waiting(run_id, principal)

    async def require_kept(self, reader: Reader, principal: str) -> None:
        """Refuse to tell again what was not to be kept, or was deleted since. Raises NotFound.

        While the database is away, a response is told as long as its frames are there.
        """
        fold, run_id = reader.fold, reader.run_id
        if not fold.seq and time.time() - ids.created_ms(run_id) / 1000 > _UNHEARD:
            with suppress(Unavailable):
                await self._find_waiting(run_id, principal)
        elif fold.committed and not frames.is_stored(fold.last):
            raise NotFound(MISSING)
        elif fold.committed:
            event_seq = await reader.until_ended(asyncio.get_running_loop().time() + _END_WAIT)
            if event_seq:  # else it may not have come to the database yet
                with suppress(Unavailable):
                    await self._find_stored(run_id, principal, event_seq)

    async def _find_ended(self, run_id: str, principal: str, history: History) -> bytes:
        """As it was stored, or as its frames say it will be. Its end is known here first."""
        event_seq = history.event_seq or await self._until_ended(run_id)
        try:
            return await self._find_stored(run_id, principal, event_seq)
        except NotFound:
            result, _ = result_of(history.chunks)
            if event_seq or result is None:
                raise  # it was deleted
            return result  # whoever committed it died before the database heard of it

    async def _until_ended(self, run_id: str) -> int:
        """Wait for the END of a run that is committed: the sequence of its fact, 0 without one."""
        reader = await self._inbox.attach(run_id, skip=sys.maxsize)
        try:
            await reader.catch_up()
            return await reader.until_ended(asyncio.get_running_loop().time() + _END_WAIT)
        finally:
            await self._inbox.release(reader)

    async def _find_stored(self, run_id: str, principal: str, event_seq: int = 0) -> bytes:
        """As it was stored, once the database knows the fact of its end, if that is known."""
        question = AskResponse(
            principal=principal, id=ids.public_id(run_id, "response"), after=event_seq
        )
        return await self._stored.ask("responses", "get", question)

    async def _unfinished(self, run_id: str, history: History) -> dict[str, Any]:
        fold = ResponseFold(run_id)
        for entry in history.chunks:
            fold.feed(entry)
            if fold.step is None:
                continue
            step = await self._read(subjects.frames_anywhere(fold.step.run_id))
            for chunk in step.chunks:
                fold.hear(chunk)
            if step.commit is None:
                break
            commit = step.commit
            fold.end_step(commit.status, commit.finish_reason, commit.usage)
        return fold.to_response("in_progress", time.time(), usage=None)

    async def _find_waiting(self, run_id: str, principal: str) -> bytes:
        """One that no worker has taken yet. Raises NotFound."""
        question = AskRun(principal=principal, run_id=run_id)
        try:
            answer = await self._stored.ask("runs", "command", question)
        except Gone:
            raise NotFound(MISSING) from None  # it was deleted, or was not to be kept
        record = decode_answer(answer, RunRecord)
        if not record.accepted.command.stored:
            raise NotFound(MISSING)
        if record.finished is not None:  # since its frames were looked at
            return await self._find_stored(run_id, principal)
        asked = record.accepted.command.request
        return encode(to_queued(run_id, bytes(asked) if asked is not None else None))

    async def _read(self, subject: str) -> History:
        fold, history = frames.Fold(), History()
        try:
            async for stored in self._bus.read_subject(subjects.TOKENS, subject):
                history.read(fold, stored.seq, stored.data)
        except BusError as error:
            raise BusUnavailable("the message bus did not answer", retry_after=1) from error
        return history


def to_queued(run_id: str, asked: bytes | None) -> dict[str, Any]:
    """The object of a response that waits for a worker; `asked` is its request, if it is known."""
    request = api.decode_request(asked) if asked is not None else api.ResponseRequest()
    response_id, created = ids.public_id(run_id, "response"), ids.created_ms(run_id) // 1000
    return api.to_object(request, response_id, created) | {"status": "queued"}
