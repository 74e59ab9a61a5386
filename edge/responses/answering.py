"""A response on HTTP: its events as they come, or the object at its end."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edge.inbox import Inbox
from edge.responses.compaction import to_compaction
from edge.responses.reader import ResponseReader
from edge.sse import Answering, Source, told_error
from schemas import frames
from schemas.api.items import Item
from schemas.errors import JanError
from schemas.responses.story import Ended, decode_entry


@dataclass(frozen=True, slots=True)
class CountAnswering(Answering):
    """One question for tokens being answered."""

    async def _send_json(self, body: bytes) -> None:
        told = msgspec.json.decode(body) | {"object": "response.input_tokens"}
        await Answering._send_json(self, msgspec.json.encode(told))


@dataclass(frozen=True, slots=True)
class CompactionAnswering(Answering):
    """One compaction being answered; `items` are what was compacted."""

    items: Sequence[Item] = ()
    sealing_key: str = ""

    async def _send_json(self, body: bytes) -> None:
        told = to_compaction(body, self.run.run_id, self.items, self.sealing_key)
        await Answering._send_json(self, msgspec.json.encode(told))


@dataclass(frozen=True, slots=True)
class ResponseAnswering(Answering):
    """One response being answered; a stream goes on after the event `after`."""

    inbox: Inbox | None = None
    after: int = -1

    @property
    def ended(self) -> Ended | None:
        """How the response has ended, once all of it was read."""
        fold = self.run.reader.fold
        if fold.last is None or not fold.committed or fold.last.flags & frames.ERROR:
            return None
        return _to_end(fold.last.data)

    def _source(self) -> Source:
        if not self.run.stream:
            return self.run.reader
        assert self.inbox is not None
        return ResponseReader(self.inbox, self.run.reader, self.after)

    def _to_event(self, error: JanError) -> bytes:
        told = {"type": "error", "code": error.wire_code, "message": error.message, "param": None}
        return b"event: error\ndata: %b\n\n" % msgspec.json.encode(told)

    async def _send_json(self, body: bytes) -> None:
        """Send the object that the loop's last entry has; `body` are all its frames."""
        last = _to_end(body)
        if last.envelope is not None:
            raise told_error(bytes(last.envelope), last.refusal)
        await Answering._send_json(self, bytes(last.response))


def _to_end(data: bytes) -> Ended:
    """The loop's last entry, with which the run's last data ends."""
    last = decode_entry(frames.chunk_of(frames.split_events(data)[-1]))
    assert isinstance(last, Ended)
    return last
