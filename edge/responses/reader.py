"""A response's events: the loop's entries and its steps' chunks, read in turn and folded."""

from collections import deque

from edge.inbox import Inbox, Reader
from edge.sse import Derived
from schemas import frames
from schemas.history import DONE
from schemas.responses.fold import ResponseFold
from schemas.responses.story import Stepped


class ResponseReader(Derived):
    """Where the events of a response come from: those after the number `after`."""

    def __init__(self, inbox: Inbox, reader: Reader, after: int = -1) -> None:
        super().__init__(reader)
        self.story = ResponseFold(reader.run_id, after)
        self._inbox = inbox
        self._entries: deque[bytes] = deque()

    @property
    def done(self) -> bool:
        """Whether the response has ended and all of it was handed out."""
        return self._reader.done and not self._entries and self.story.step is None

    async def next(self, until: float) -> bytes:
        """Wait for events. Empty once `until` has passed, all were told or the reader closed."""
        while True:
            if self.story.step is not None:
                if not await self._read_step(self.story.step, until):
                    return b""
            elif self._entries:
                self.story.feed(self._entries.popleft())
            elif not await self._read_entries(until):
                return b""
            told = self.story.take()
            if told:
                return told

    async def _read_entries(self, until: float) -> bool:
        data = await self._reader.next(until)
        if self._reader.error is not None:
            return False
        self._entries += [frames.chunk_of(event) for event in frames.split_events(data)]
        return bool(data)

    async def _read_step(self, step: Stepped, until: float) -> bool:
        """Read on in a step's frames; once they are over, the loop's come again."""
        reader = self._reader.part
        if reader is None or reader.run_id != step.run_id:
            reader = await self._inbox.follow(self._reader, step.run_id)
        data = await reader.next(until)
        failed = reader.error is not None
        chunks = [frames.chunk_of(event) for event in frames.split_events(data)]
        for chunk in chunks[:-1] if failed else chunks:
            if chunk != DONE:
                self.story.hear(chunk)
        if reader.done and reader.fold.last is not None:
            commit = frames.decode_commit(reader.fold.last.trailer)
            self.story.end_step(commit.status, commit.finish_reason, commit.usage)
            await self._inbox.leave_part(self._reader)
            return True
        return bool(data)
