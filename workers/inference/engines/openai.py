"""Any upstream that speaks OpenAI's API. Its bytes pass through; only id and model are ours."""

import time
from collections.abc import Callable, Mapping
from typing import ClassVar

import msgspec

from schemas.errors import DeadlineExceeded, UpstreamError
from schemas.providers import OpenAIProvider, Provider
from schemas.raw import OptionalRaw
from workers.inference.engines.body import ERROR_LIMIT, BodyReader
from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    Captured,
    Generation,
    Outcome,
    Sink,
    Tell,
)
from workers.inference.engines.faults import Redactor, to_error, to_stream_error
from workers.inference.engines.http import Client, Headers, Limits
from workers.inference.engines.messages.extensions import remove_extensions
from workers.inference.engines.sse import EventSplitter

_PATHS = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
    "count": "/chat/completions",  # of one token: its usage tells
}
_HELD_LIMIT = 64 * 1024  # bytes of chunks before the first token
_NULL = b"null"
_EMPTY = (_NULL, b'""', b"[]", b"{}")

Fields = dict[str, msgspec.Raw]

_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class OpenAIEngine:
    """Generates at an OpenAI-compatible upstream."""

    kind: ClassVar[str] = "openai"

    def __init__(self, provider: Provider) -> None:
        assert isinstance(provider, OpenAIProvider)
        options = provider.options
        key = provider.api_key.get_secret_value() if provider.api_key else ""
        self.can_continue = options.continue_final_message
        self._stream_usage = options.stream_usage
        self._total = options.total_s
        self._client = Client(
            provider.base_url,
            _headers(key, provider.headers, compression=options.compression),
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
        fields = self._to_upstream(job)
        if job.captured is not None and job.captured.chunks:
            ended = _continue_from(fields, job.captured)
            if ended is not None:
                return ended
        reader = _StreamReader(job, sink, self._redact)
        try:
            await self._client.exchange(
                "POST",
                _PATHS[job.kind],
                reader,
                body=_encode(fields),
                seconds=min(self._total, _seconds_left(job)),
                drain=sink.drain,
                crowded=lambda: sink.backlog() > BACKLOG_LIMIT,
                begun=reader.has_begun,
            )
        except UpstreamError:
            # A connection cut after the last finish_reason has cut nothing off.
            if reader.refused or not reader.all_finished():
                raise
        return reader.finish()

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Generate in one piece."""
        reader = BodyReader()
        seconds = min(self._total, _seconds_left(job))
        body = _encode(self._to_upstream(job))
        await self._client.exchange(
            "POST", _PATHS[job.kind], reader, body=body, first_byte=seconds, seconds=seconds
        )
        if reader.status != 200:
            raise to_error(reader.status, reader.headers, reader.body(), self._redact)
        if job.kind == "count":
            return _to_count(reader.body())
        return _to_result(job, reader.body(), self._redact)

    async def check(self) -> None:
        """List the upstream's models: proves address and key. One without the list is fine."""
        reader = BodyReader()
        await self._client.exchange("GET", "/models", reader, first_byte=10.0, seconds=10.0)
        if reader.status not in (200, 404, 405, 501):
            raise to_error(reader.status, reader.headers, reader.body(), self._redact)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()

    def _to_upstream(self, job: Generation) -> Fields:
        """The client's fields with what differs upstream: the model's name, streaming, usage."""
        fields = dict(job.body)
        remove_extensions(fields)
        fields["model"] = msgspec.Raw(_encode(job.served_name))
        if job.kind == "count":
            return _to_one_token(fields)
        if job.stream:
            fields["stream"] = msgspec.Raw(b"true")
            if self._stream_usage:
                fields["stream_options"] = _with_usage(fields.get("stream_options"))
        elif "stream" in fields:
            fields["stream"] = msgspec.Raw(b"false")
        return fields


def _headers(key: str, more: Mapping[str, str], *, compression: bool) -> dict[str, str]:
    headers = {
        "User-Agent": "jan-server",
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "gzip, deflate" if compression else "identity",
        "Content-Type": "application/json",
    }
    if key:
        headers["Authorization"] = f"Bearer {key}"
    names = {name.lower() for name in more}
    return {name: headers[name] for name in headers if name.lower() not in names} | dict(more)


def _to_one_token(fields: Fields) -> Fields:
    """Ask for one token only: the usage says how many the prompt has."""
    limits = ("max_tokens", "max_completion_tokens")
    name = next((name for name in limits if name in fields), limits[0])
    dropped = (*limits, "stream", "stream_options", "n")
    fields = {key: value for key, value in fields.items() if key not in dropped}
    return fields | {name: msgspec.Raw(b"1")}


class _PromptUsage(msgspec.Struct):
    prompt_tokens: int


class _Counted(msgspec.Struct):
    usage: _PromptUsage


_decode_counted = msgspec.json.Decoder(_Counted).decode


def _to_count(body: bytes) -> tuple[bytes, Outcome]:
    try:
        tokens = _decode_counted(body).usage.prompt_tokens
    except msgspec.DecodeError:
        raise UpstreamError("the provider does not tell how many tokens a prompt has") from None
    return _encode({"input_tokens": tokens}), Outcome()


def _with_usage(options: msgspec.Raw | None) -> msgspec.Raw:
    """The client's stream_options with usage: the log wants it even where the client does not."""
    if options is None or bytes(options) == _NULL:
        return msgspec.Raw(b'{"include_usage":true}')
    try:
        return msgspec.Raw(_encode(_decode_fields(options) | {"include_usage": True}))
    except msgspec.ValidationError:
        return options  # no object: the upstream says so better


def _seconds_left(job: Generation) -> float:
    seconds = job.deadline - time.time()
    if seconds <= 0:
        raise DeadlineExceeded("the run's deadline has passed")
    return seconds


class _Choice(msgspec.Struct):
    index: int = 0
    finish_reason: str | None = None


class _Step(msgspec.Struct):
    """What must be known of a chunk; decoding also proves that it is JSON."""

    choices: list[_Choice] | None = None
    usage: OptionalRaw = None
    error: OptionalRaw = None


_decode_step = msgspec.json.Decoder(_Step).decode


class _FirstChoice(msgspec.Struct):
    delta: Fields | None = None
    text: str | None = None
    finish_reason: str | None = None


class _FirstStep(msgspec.Struct):
    choices: list[_FirstChoice] | None = None


_decode_first_step = msgspec.json.Decoder(_FirstStep).decode


def _carries_something(chunk: bytes) -> bool:
    """Tell whether a chunk is more than an opening: has text, a tool call, thoughts or an end."""
    try:
        choices = _decode_first_step(chunk).choices or ()
    except msgspec.ValidationError:
        return True  # an upstream's own form
    for choice in choices:
        fields = choice.delta or {}
        if choice.text or choice.finish_reason is not None:
            return True
        if any(name != "role" and bytes(fields[name]) not in _EMPTY for name in fields):
            return True
    return False


class _StreamReader:
    """Reads a streamed answer: each chunk goes on as it came, under our id and model.

    What comes before the first token waits for it: until then another upstream may do better.
    """

    def __init__(self, job: Generation, sink: Sink, redact: Redactor) -> None:
        self._job = job
        self._sink = sink
        self._redact = redact
        self._splitter = EventSplitter()
        self._rename = _Renamer(job.public_id, job.model).rename
        self._other: BodyReader | None = None  # the answer is no stream
        self._headers: Headers = {}
        self._done = False
        self._begun = False
        self._opened = False  # and all that was held is given out
        self._held: list[bytes] = []
        self._finished: dict[int, str] = {}
        self._unfinished: set[int] = set()
        self._usage: bytes | None = None
        self.refused = False  # the upstream said, or sent, what makes this no success

    def on_head(self, status: int, headers: Headers) -> None:
        """Look whether a stream follows."""
        if status != 200 or b"json" in headers.get(b"content-type", b""):
            self._other = BodyReader(ERROR_LIMIT)
            self._other.on_head(status, headers)
        self._headers = headers

    def on_data(self, data: bytes) -> bool:
        """Pass on the chunks that these bytes complete."""
        if self._other is not None:
            return self._other.on_data(data)
        self._take(self._splitter.feed(data))
        return self._done

    def has_begun(self) -> bool:
        """Tell whether a token came, or an answer that is no stream."""
        return self._begun or self._other is not None

    def all_finished(self) -> bool:
        """Tell whether every choice has its finish reason.

        `[DONE]` alone says little: servers send it after a failure, too.
        """
        if self._unfinished or not self._finished:
            return False
        return self._done or len(self._finished) >= _count_choices(self._job)

    def finish(self) -> Outcome:
        """Judge the answer now that it has ended."""
        if self._other is not None:
            raise self._to_refusal(self._other)
        if not self._done:
            self._take(self._splitter.flush())
        if not self.all_finished():
            raise UpstreamError("the provider's stream ended before its answer did")
        return Outcome(self._usage, self._finished.get(min(self._finished, default=0)))

    def _to_refusal(self, other: BodyReader) -> UpstreamError:
        if other.status != 200:
            return to_error(other.status, other.headers, other.body(), self._redact)
        if b'"error"' in other.body():
            return to_stream_error(other.body(), self._redact, self._headers)
        return UpstreamError("the provider answered in one piece where a stream was asked for")

    def _take(self, payloads: list[bytes]) -> None:
        chunks: list[bytes] = []
        try:
            for payload in payloads:
                if payload == b"[DONE]":
                    self._done = True
                    return
                self._take_chunk(payload, chunks.append)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.refused = True
            raise UpstreamError(f"the provider sent a chunk that is no chunk: {error}") from None
        except UpstreamError:
            self.refused = True
            raise
        finally:
            if not self._opened:
                chunks = self._hold(chunks)
            if chunks:
                self._sink.send(chunks)

    def _hold(self, chunks: list[bytes]) -> list[bytes]:
        """Keep what comes before the first token, and give it out with it, or when it is much."""
        self._opened = self._begun
        self._held += chunks
        if not self._begun and sum(map(len, self._held)) < _HELD_LIMIT:
            return []
        held, self._held = self._held, []
        return held

    def _take_chunk(self, payload: bytes, give: Callable[[bytes], None]) -> None:
        step = _decode_step(payload)
        if not payload.isascii():
            payload.decode()  # the decoder does not look into what it skips
        if step.error is not None and bytes(step.error) != _NULL:
            raise to_stream_error(payload, self._redact, self._headers)
        has_usage = step.usage is not None and bytes(step.usage) != _NULL
        if has_usage:
            self._usage = bytes(step.usage or b"")
        if step.choices:
            for choice in step.choices:
                if choice.finish_reason is not None:
                    self._finished[choice.index] = choice.finish_reason
                    self._unfinished.discard(choice.index)
                elif choice.index not in self._finished:
                    self._unfinished.add(choice.index)
        elif has_usage:
            if not self._job.include_usage:
                return
            if step.choices is None:  # some servers leave out what is empty; clients look for it
                payload = _encode(_decode_fields(payload) | {"choices": msgspec.Raw(b"[]")})
        elif step.choices is None:
            raise to_stream_error(payload, self._redact, self._headers)
        if not self._begun:
            self._begun = _carries_something(payload)
        give(self._rename(payload))


class _Renamer:
    """Puts our id and model into chunks.

    It learns from a chunk exactly which bytes name them and replaces just those in the next ones;
    a chunk without these bytes is taken apart, and learned from again.
    """

    __slots__ = ("_id", "_model", "_our_id", "_our_model", "_raw_id", "_raw_model")

    def __init__(self, public_id: str, model: str) -> None:
        self._raw_id = msgspec.Raw(_encode(public_id))
        self._raw_model = msgspec.Raw(_encode(model))
        self._our_id = b'"id":' + bytes(self._raw_id)
        self._our_model = b'"model":' + bytes(self._raw_model)
        self._id = self._model = b"\n"  # nothing learned

    def rename(self, chunk: bytes) -> bytes:
        """Return the chunk under our names, on one line."""
        if self._id in chunk and self._model in chunk and b"\n" not in chunk:
            return chunk.replace(self._id, self._our_id, 1).replace(self._model, self._our_model, 1)
        return self._take_apart(chunk)

    def _take_apart(self, chunk: bytes) -> bytes:
        if b"\n" in chunk:
            chunk = _encode(msgspec.json.decode(chunk))
        fields = _decode_fields(chunk)
        self._id = _needle(b'"id"', fields.get("id"), chunk)
        self._model = _needle(b'"model"', fields.get("model"), chunk)
        fields["id"] = self._raw_id
        fields["model"] = self._raw_model
        return _encode(fields)


def _needle(name: bytes, value: msgspec.Raw | None, chunk: bytes) -> bytes:
    """The bytes that are the member, if they are there only once; else what never matches."""
    if value is not None and len(bytes(value)) > 2:
        for colon in (b":", b": "):
            needle = name + colon + bytes(value)
            if chunk.count(needle) == 1:
                return needle
    return b"\n"


def _to_result(job: Generation, body: bytes, redact: Redactor) -> tuple[bytes, Outcome]:
    """Put our names into an answer's body, the rest unchanged."""
    try:
        body.decode()  # the decoder does not look into what it skips
        fields = _decode_fields(body)
        step = _decode_step(body) if job.kind != "embedding" else _Step()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError(f"the provider's answer is not what it should be: {error}") from None
    if bytes(fields.get("error") or _NULL) != _NULL:
        raise to_stream_error(body, redact)
    if not step.choices if job.kind != "embedding" else "data" not in fields:
        raise UpstreamError("the provider's answer has nothing in it")
    fields["model"] = msgspec.Raw(_encode(job.model))
    if job.kind != "embedding":
        fields["id"] = msgspec.Raw(_encode(job.public_id))
        fields["created"] = msgspec.Raw(b"%d" % job.created)
    usage = bytes(fields.get("usage") or _NULL)
    reason = step.choices[0].finish_reason if step.choices else None
    return _encode(fields), Outcome(None if usage == _NULL else usage, reason)


def _count_choices(job: Generation) -> int:
    """How many choices were asked for; at least 1."""
    count = 1
    try:
        count = max(1, msgspec.json.decode(job.body.get("n", b"1"), type=int | None) or 1)
        if job.kind == "completion":
            prompt = msgspec.json.decode(job.body.get("prompt", b'""'))
            if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
                count *= len(prompt)
    except msgspec.DecodeError:
        pass  # the upstream judges the request
    return count


def _continue_from(fields: Fields, captured: Captured) -> Outcome | None:
    """Ask for what comes after the captured text; return how it ended if nothing is left."""
    choices = captured.choices()
    if not choices:
        return None
    first = choices.get(0)
    if len(choices) > 1 or first is None or not first.continuable:
        raise UpstreamError("this answer can't be continued: it is not one choice of plain text")
    if first.finish_reason is not None:
        return Outcome(None, first.finish_reason)
    if not first.text:
        return None
    if "messages" in fields:
        messages = msgspec.json.decode(fields["messages"], type=list[msgspec.Raw])
        prefix = _encode({"role": "assistant", "content": first.text})
        fields["messages"] = msgspec.Raw(_encode([*messages, msgspec.Raw(prefix)]))
        fields["continue_final_message"] = msgspec.Raw(b"true")
        fields["add_generation_prompt"] = msgspec.Raw(b"false")
    else:
        fields["prompt"] = msgspec.Raw(_encode(_decode_text(fields["prompt"]) + first.text))
    for name in ("max_tokens", "max_completion_tokens"):
        if bytes(fields.get(name) or _NULL) != _NULL:
            left = msgspec.json.decode(fields[name], type=int) - first.pieces
            fields[name] = msgspec.Raw(b"%d" % max(1, left))
    return None
