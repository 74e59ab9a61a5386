"""A run's answer on HTTP: server-sent events as they come, or one JSON body at the end."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
from starlette.types import Receive, Send

from edge.errors import Headers, send_error
from edge.inbox import Reader
from edge.runs import Run, RunOptions
from schemas import frames
from schemas.errors import DeadlineExceeded, InvalidRequest, JanError, Unavailable

_END_WAIT: Final = 2.0  # seconds; without a word the log answers nobody else either
HEARTBEAT = b": \n\n"
GO_ELSEWHERE = b"retry: 200\n: this server is stopping; the run goes on\n\n"
_JSON: Final = (b"content-type", b"application/json")
_STREAM: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _Told(msgspec.Struct):
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None


class _Envelope(msgspec.Struct):
    error: _Told


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class Source(Protocol):
    """Where a run's bytes for the client come from: its reader, or what translates it."""

    @property
    def fold(self) -> frames.Fold:
        """What was read so far."""

    @property
    def done(self) -> bool:
        """Whether the run is committed and all of it was handed out."""

    @property
    def closed(self) -> bool:
        """Whether the reading was stopped."""

    @property
    def error(self) -> frames.Frame | None:
        """The error frame that ended the run, if one did."""

    async def next(self, until: float) -> bytes:
        """Wait for bytes for the client."""


class Derived:
    """What makes something else of a run's bytes: all but the bytes is as its reader has it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @property
    def fold(self) -> frames.Fold:
        """What was read so far."""
        return self._reader.fold

    @property
    def done(self) -> bool:
        """Whether the run is committed and all of it was handed out."""
        return self._reader.done

    @property
    def closed(self) -> bool:
        """Whether the reading was stopped."""
        return self._reader.closed

    @property
    def error(self) -> frames.Frame | None:
        """The error frame that ended the run, if one did."""
        return self._reader.error


@dataclass(frozen=True, slots=True)
class Answering:
    """One request being answered: `started` on the performance counter."""

    run: Run
    options: RunOptions
    receive: Receive
    send: Send
    request_id: str
    started: float

    async def respond(self) -> None:
        """Answer until the run is done, its deadline is over or the client is gone."""
        with _stop_when_gone(self.receive, self.run.reader):
            try:
                source = self._source()
                await (self._stream(source) if self.run.stream else self._whole(source, []))
            except JanError as error:
                await self._refuse(error)

    def _source(self) -> Source:
        return self.run.reader

    async def _stream(self, reader: Source) -> None:
        """Hold the status back for the first frame, so that an early error has its own."""
        until = self._until()
        data = await reader.next(min(_now() + self.options.first_frame_wait, until))
        last = reader.fold.last
        if last is not None and last.flags & frames.RESULT:
            await self._whole(reader, [data])  # a resume can't know that the run isn't streamed
            return
        error = reader.error
        if error is not None and not error.first and error.events == 1:
            await self._fail(error)
            return
        if reader.closed and not data:
            self._require_client()
            return
        await self._start(200, _STREAM)
        try:
            await self._relay(reader, data, until)
        except JanError as late:
            await self._write(self._to_event(late), more=False)

    async def _relay(self, reader: Source, data: bytes, until: float) -> None:
        """Pass on what comes; a comment now and then, so that nobody between us hangs up."""
        while not reader.done:
            await self._write(data or HEARTBEAT, more=True)
            data = await reader.next(min(_now() + self.options.heartbeat, until))
            if not data and reader.closed:
                # Without the response's end: a client must not take this for the whole text.
                await self._write(GO_ELSEWHERE, more=True)
                return
            if not data and not reader.done and _now() >= until:
                raise DeadlineExceeded("the run did not end before its deadline")
            last = reader.fold.last
            if last is not None and last.flags & frames.RESULT:
                raise InvalidRequest("the run isn't streamed: ask for it again when it has ended")
        await self._settle()
        await self._write(data, more=False)

    async def _whole(self, reader: Source, parts: list[bytes]) -> None:
        until = self._until()
        while not reader.done:
            data = await reader.next(until)
            parts.append(data)
            if not data and reader.closed:
                self._require_client()
                return
            if not data and not reader.done and _now() >= until:
                raise DeadlineExceeded("the run did not end before its deadline")
        if reader.error is not None:
            await self._fail(reader.error)
        else:
            await self._settle()
            await self._send_json(b"".join(parts))

    async def _settle(self) -> None:
        """Of a run that is stored: let its client ask for what was stored once the answer is over.

        Only its last bytes wait, and only for the log to have the run's end.
        """
        run = self.run
        if run.note is not None and frames.is_stored(run.reader.fold.last):
            await run.note(await run.reader.until_ended(_now() + _END_WAIT))

    def _require_client(self) -> None:
        """A closed reader: either the client is gone, or this edge has to."""
        if self.run.handed_off:
            raise Unavailable("this server is stopping; the run goes on", retry_after=1)

    async def _fail(self, frame: frames.Frame) -> None:
        """Answer with the run's own error, as its status."""
        await self._settle()
        envelope = frames.chunk_of(frames.split_events(frame.data)[-1])
        await self._refuse(told_error(envelope, frame.status))

    def _to_event(self, error: JanError) -> bytes:
        return b"data: %b\n\n" % error.to_wire(self.request_id)

    async def _refuse(self, error: JanError) -> None:
        await send_error(error, self.request_id, self.send, self._own_headers())

    async def _send_json(self, body: bytes) -> None:
        await self._start(200, [_JSON, (b"content-length", b"%d" % len(body))])
        await self._write(body, more=False)

    async def _start(self, status: int, headers: Headers) -> None:
        headers = [*headers, *self._own_headers()]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    def _own_headers(self) -> Headers:
        spent = (time.perf_counter() - self.started) * 1000
        return [
            *self.run.headers,
            (b"x-run-id", self.run.run_id.encode()),
            (b"openai-processing-ms", b"%d" % spent),
        ]

    async def _write(self, data: bytes, *, more: bool) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    def _until(self) -> float:
        return _now() + max(0.0, self.run.deadline - time.time()) + self.options.slack


@contextmanager
def _stop_when_gone(receive: Receive, reader: Reader) -> Iterator[None]:
    """Stop the reader when the client goes. Its body was read: nothing else comes from it."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        reader.stop()

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()


def told_error(envelope: bytes, status: int) -> JanError:
    """The error that a worker has told, in its envelope."""
    told = _decode_envelope(envelope).error
    return JanError(
        told.message,
        param=told.param,
        code=told.code,
        type=told.type,
        retry_after=told.retry_after,
        status=status or 500,
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
