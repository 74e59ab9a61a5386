"""A run's answer in Anthropic's form; the way that it takes over HTTP is the same."""

from dataclasses import dataclass

from edge.errors import send_error
from edge.inbox import Reader
from edge.messages.answer import to_message
from edge.messages.errors import to_wire
from edge.messages.stream import START, MessageStream, Position
from edge.sse import Answering, Derived, Source
from schemas import frames
from schemas.errors import JanError


class Translated(Derived):
    """A run's reader whose stream is one of Messages."""

    def __init__(self, reader: Reader, after: Position) -> None:
        super().__init__(reader)
        self._stream = MessageStream(reader.run_id, after)

    async def next(self, until: float) -> bytes:
        """Wait for bytes for the client; those of a result are not yet translated."""
        while True:
            data = await self._reader.next(until)
            last = self.fold.last
            if not data or (last is not None and last.flags & frames.RESULT):
                return data
            events = self._stream.feed(data)
            if events or self.done:
                return events


@dataclass(frozen=True, slots=True)
class MessagesAnswering(Answering):
    """One Messages request being answered; a stream goes on after the position."""

    after: Position = START

    def _source(self) -> Source:
        return Translated(self.run.reader, self.after)

    def _to_event(self, error: JanError) -> bytes:
        return b"event: error\ndata: %b\n\n" % to_wire(error, self.request_id)

    async def _refuse(self, error: JanError) -> None:
        headers = self._own_headers()
        await send_error(error, self.request_id, self.send, headers, encode=to_wire)

    async def _send_json(self, body: bytes) -> None:
        await Answering._send_json(self, to_message(body, self.run.run_id))


@dataclass(frozen=True, slots=True)
class CountAnswering(Answering):
    """One count of tokens being answered: only its errors are Anthropic's."""

    async def _refuse(self, error: JanError) -> None:
        headers = self._own_headers()
        await send_error(error, self.request_id, self.send, headers, encode=to_wire)
