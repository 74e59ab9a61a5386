"""Any upstream that speaks Anthropic's Messages: chat is translated there and back."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec

from schemas.errors import DeadlineExceeded, UpstreamError, UpstreamRejected
from schemas.providers import AnthropicOptions, AnthropicProvider, Provider
from workers.inference.engines.body import ERROR_LIMIT, BodyReader
from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    Captured,
    Generation,
    Outcome,
    Sink,
    Tell,
)
from workers.inference.engines.faults import Redactor, to_error
from workers.inference.engines.http import Client, Headers, Limits
from workers.inference.engines.messages.answer import (
    Chunks,
    decode_event,
    read_count,
    to_completion,
)
from workers.inference.engines.messages.request import to_count, to_messages
from workers.inference.engines.sse import EventSplitter

_STATUSES: Final = {  # of errors in a stream, which have only a type
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}

_encode = msgspec.json.Encoder().encode


class AnthropicEngine:
    """Generates at an upstream that speaks Anthropic's Messages."""

    kind: ClassVar[str] = "anthropic"

    def __init__(self, provider: Provider) -> None:
        assert isinstance(provider, AnthropicProvider)
        options = self._options = provider.options
        key = provider.api_key.get_secret_value() if provider.api_key else ""
        self.can_continue = options.continue_assistant
        self._client = Client(
            provider.base_url,
            _headers(key, options, provider.headers),
            Limits(
                connections=options.connections,
                connect=options.connect_s,
                first_byte=options.first_byte_s,
                first_token=options.first_token_s,
                between=options.between_s,
            ),
            proxy=options.proxy.get_secret_value(),
            ca_file=options.ca_file,
        )
        self._redact = Redactor([key, *provider.headers.values(), *self._client.secrets])

    async def open(self, tell: Tell) -> None:
        """There is nothing to load."""

    def slots(self) -> int | None:
        """Any number."""
        return None

    async def generate(self, job: Generation, sink: Sink) -> Outcome:
        """Stream a generation into the sink."""
        request = self._to_request(job) | {"stream": True}
        chunks = Chunks(job)
        if job.captured is not None and job.captured.chunks:
            ended = _continue_from(request, job.captured)
            if isinstance(ended, Outcome):
                return ended
            if ended is not None:
                chunks = Chunks(job, continues=True, said_again=ended)
        reader = _StreamReader(job, sink, chunks, self._redact)
        await self._client.exchange(
            "POST",
            "/messages",
            reader,
            body=_encode(request),
            seconds=self._seconds_left(job),
            drain=sink.drain,
            crowded=lambda: sink.backlog() > BACKLOG_LIMIT,
            begun=chunks.has_begun,
        )
        return reader.finish()

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Generate in one piece, or count a prompt's tokens."""
        request = self._to_request(job)
        if job.kind == "count":
            counted = await self._post(job, "/messages/count_tokens", to_count(request))
            return read_count(counted), Outcome()
        return to_completion(job, await self._post(job, "/messages", request))

    async def check(self) -> None:
        """List the upstream's models: proves address and key. One without the list is fine."""
        reader = BodyReader()
        await self._client.exchange("GET", "/models", reader, first_byte=10.0, seconds=10.0)
        if reader.status not in (200, 404, 405, 501):
            raise to_error(reader.status, reader.headers, reader.body(), self._redact)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()

    def _to_request(self, job: Generation) -> dict[str, Any]:
        if job.kind not in ("chat", "count"):
            raise UpstreamRejected(f"this model has no {job.kind}s, only chat", param="model")
        return to_messages(job.body, job.served_name, self._options)

    async def _post(self, job: Generation, path: str, request: dict[str, Any]) -> bytes:
        reader, seconds = BodyReader(), self._seconds_left(job)
        await self._client.exchange(
            "POST", path, reader, body=_encode(request), first_byte=seconds, seconds=seconds
        )
        if reader.status != 200:
            raise to_error(reader.status, reader.headers, reader.body(), self._redact)
        return reader.body()

    def _seconds_left(self, job: Generation) -> float:
        seconds = job.deadline - time.time()
        if seconds <= 0:
            raise DeadlineExceeded("the run's deadline has passed")
        return min(self._options.total_s, seconds)


def _headers(key: str, options: AnthropicOptions, more: Mapping[str, str]) -> dict[str, str]:
    headers = {
        "User-Agent": "jan-server",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "gzip, deflate" if options.compression else "identity",
        "Content-Type": "application/json",
        "anthropic-version": options.version,
    }
    if key and options.auth == "bearer":
        headers["Authorization"] = f"Bearer {key}"
    elif key:
        headers["x-api-key"] = key
    names = {name.lower() for name in more}
    return {name: headers[name] for name in headers if name.lower() not in names} | dict(more)


def _continue_from(request: dict[str, Any], captured: Captured) -> Outcome | str | None:
    """Ask for what comes after the captured text; None if there is none.

    Returns how it ended if nothing is left, else the white space at the text's end: a last message
    must not have any, so the model may say it again.
    """
    choices = captured.choices()
    first = choices.get(0)
    has_thought = any(b'"reasoning_details":' in chunk for chunk in captured.chunks)
    if has_thought or len(choices) > 1 or (first is not None and not first.continuable):
        raise UpstreamError("this answer can't be continued: it is not one choice of plain text")
    if first is None:
        return None
    if first.finish_reason is not None:
        return Outcome(None, first.finish_reason)
    kept = first.text.rstrip()
    if not kept:
        return first.text
    said = {"role": "assistant", "content": [{"type": "text", "text": kept}]}
    request["messages"] = [*request["messages"], said]
    request["max_tokens"] = max(1, request["max_tokens"] - first.pieces)
    return first.text[len(kept) :]


class _StreamReader:
    """Reads a streamed answer, event by event."""

    def __init__(self, job: Generation, sink: Sink, chunks: Chunks, redact: Redactor) -> None:
        self._include_usage = job.include_usage
        self._sink = sink
        self._chunks = chunks
        self._redact = redact
        self._splitter = EventSplitter()
        self._headers: Headers = {}
        self._other: BodyReader | None = None  # the answer is no stream

    def on_head(self, status: int, headers: Headers) -> None:
        """Look whether a stream follows."""
        self._headers = headers
        if status != 200 or b"json" in headers.get(b"content-type", b""):
            self._other = BodyReader(ERROR_LIMIT)
            self._other.on_head(status, headers)

    def on_data(self, data: bytes) -> bool:
        """Pass on what these bytes complete."""
        if self._other is not None:
            return self._other.on_data(data)
        self._take(self._splitter.feed(data))
        return self._chunks.ended

    def finish(self) -> Outcome:
        """Judge the answer now that it has ended."""
        if self._other is not None:
            raise self._to_refusal(self._other)
        if not self._chunks.ended:
            self._take(self._splitter.flush())
        if not self._chunks.ended:
            raise UpstreamError("the provider's stream ended before its answer did")
        return self._chunks.outcome()

    def _to_refusal(self, other: BodyReader) -> UpstreamError:
        if other.status != 200:
            return to_error(other.status, other.headers, other.body(), self._redact)
        return UpstreamError("the provider answered in one piece where a stream was asked for")

    def _take(self, payloads: list[bytes]) -> None:
        chunks: list[bytes] = []
        try:
            for payload in payloads:
                chunks += self._read(payload)
                if self._chunks.ended:
                    if self._include_usage:
                        chunks.append(self._chunks.usage())
                    break
        finally:
            if chunks:
                self._sink.send(chunks)

    def _read(self, payload: bytes) -> list[bytes]:
        try:
            payload.decode()  # the decoder does not look into what it skips
            event = decode_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UpstreamError(f"the provider sent an event that is none: {error}") from None
        if event.type == "error":
            raise to_error(_status_of(payload), self._headers, payload, self._redact)
        return self._chunks.add(event)


class _Error(msgspec.Struct):
    type: str = ""


class _Envelope(msgspec.Struct):
    error: _Error


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def _status_of(payload: bytes) -> int:
    """The status that an error in a stream would have had."""
    try:
        return _STATUSES.get(_decode_envelope(payload).error.type, 500)
    except msgspec.ValidationError:
        return 500
