"""A GGUF model in the worker, by llama.cpp.

A run that another worker has begun is made again from its start and passed over as far as it was
sent: seeds make every run repeatable, also those with tools, grammars or several choices. Where
that would take long, or comes out otherwise, a plain text is continued from its end.
docs/decisions/0007-continue-by-repeating.md says why.
"""

import asyncio
import time
from typing import Any, ClassVar

import msgspec

from schemas.errors import DeadlineExceeded, UpstreamError, UpstreamRejected, UpstreamTimeout
from schemas.providers import LlamacppProvider, Provider
from workers.inference.engines.body import BodyReader
from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    CapturedChoice,
    Generation,
    Outcome,
    Sink,
    Tell,
)
from workers.inference.engines.http import Client, Limits
from workers.inference.engines.llama.answers import Piece, Usage, to_body, to_error, usage_chunk
from workers.inference.engines.llama.library import Library
from workers.inference.engines.llama.models import find_model
from workers.inference.engines.llama.requests import (
    Call,
    Fields,
    to_calls,
    to_count,
    to_embedding,
)
from workers.inference.engines.llama.streams import (
    Collector,
    Stream,
    StreamReader,
    Taker,
    Unrepeatable,
    add_up,
    find_plain,
)
from workers.inference.engines.llama.vectors import to_vectors

_SILENCE_SECONDS = 600.0  # between two events: a batch of a long prompt on a slow machine
_PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
_LARGE = 64 * 1024
_ANSWER_LIMIT = 256 << 20  # bytes: a long list of vectors

_encode = msgspec.json.Encoder().encode


class LlamacppEngine:
    """Generates with llama.cpp, in this process."""

    kind: ClassVar[str] = "llamacpp"

    def __init__(self, provider: Provider) -> None:
        assert isinstance(provider, LlamacppProvider)
        self.can_continue = True
        self._options = provider.options
        self._library = Library(provider.options)
        self._free = asyncio.Semaphore(provider.options.n_parallel)
        self._client: Client | None = None

    async def open(self, tell: Tell) -> None:
        """Load the model. Raises EngineUnavailable."""
        await self._library.open(tell)
        headers = {
            "Authorization": f"Bearer {self._library.key}",
            "Content-Type": "application/json",
            # A kept connection holds one of the library's threads, and opening one costs nothing.
            "Connection": "close",
        }
        limits = Limits(connections=self._options.n_parallel + 4, between=_SILENCE_SECONDS)
        socket = self._library.socket
        self._client = Client("http://llama.cpp", headers, limits, proxy="none", unix=socket)

    def slots(self) -> int | None:
        """How many runs go on at once."""
        return self._options.n_parallel

    async def generate(self, job: Generation, sink: Sink) -> Outcome:
        """Stream an answer; what an earlier attempt has sent is passed over or continued."""
        calls = to_calls(job)
        captured = job.captured if job.captured and job.captured.chunks else None
        stream = Stream(job, sink, calls, captured.chunks if captured else [])
        if captured is not None and stream.is_told():
            return Outcome(None, stream.reason())
        plain = find_plain(calls, captured)
        try:
            await self._make(job, calls, stream.takers(plain is not None), sink)
        except Unrepeatable as error:
            if plain is None:
                raise
            stream = await self._continue(job, calls[0], plain, sink, error)
        usage = stream.usage()
        if job.include_usage and not stream.usage_sent:
            sink.send([usage_chunk(job, usage)])
        return Outcome(_encode(usage), stream.reason())

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Answer in one piece, of the same events that a stream has: so it can be cancelled."""
        if job.kind == "count":
            body = await self._ask("/v1/chat/completions/input_tokens", to_count(job), job)
            count = msgspec.json.decode(body, type=dict[str, Any])["input_tokens"]
            return _encode({"input_tokens": count}), Outcome()
        if job.kind == "embedding":
            return await self._embed(job)
        calls = to_calls(job)
        takers: list[Taker] = [Collector(call) for call in calls]
        await self._make(job, calls, takers, None)
        usage = add_up(takers)
        body = to_body(job, [taker.pieces for taker in takers], usage)
        return body, Outcome(_encode(usage), takers[0].reason)

    async def check(self) -> None:
        """Ask the library whether it is well; before it is open, look at the model's file."""
        if self._client is None:
            await asyncio.to_thread(find_model, self._options.path, _ignore)
            return
        reader = BodyReader()
        await self._client.exchange("GET", "/health", reader, first_byte=10.0, seconds=10.0)
        if reader.status != 200:
            raise UpstreamError(f"llama.cpp answers {reader.status} when asked for its health")

    async def close(self) -> None:
        """Let go of the model."""
        if self._client is not None:
            await self._client.close()
        await self._library.close()

    async def _make(
        self, job: Generation, calls: list[Call], takers: "list[Taker]", sink: Sink | None
    ) -> None:
        """Make all choices, side by side as far as there are slots."""
        if len(calls) == 1:
            await self._call(job, calls[0], takers[0], sink)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for call, taker in zip(calls, takers, strict=True):
                    group.create_task(self._call(job, call, taker, sink))
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _call(self, job: Generation, call: Call, taker: "Taker", sink: Sink | None) -> None:
        """Make one choice."""
        if call.echo:
            taker.take([Piece(content=await self._to_text(job, call.fields["prompt"]))])
        if call.empty:
            count = await self._count_tokens(job, call.fields["prompt"])
            taker.take([Piece(finish_reason="length")])
            taker.usage = Usage(count, 0, count)
            return
        reader = StreamReader(job, call, taker)
        body = await _encoded(call.fields | {"cache_prompt": self._library.caches_prompts})
        async with self._slot(job):
            await self._library_client().exchange(
                "POST",
                _PATHS[job.kind],
                reader,
                body=body,
                first_byte=_seconds_left(job),
                seconds=_seconds_left(job),
                drain=sink.drain if sink else None,
                crowded=(lambda: sink.backlog() > BACKLOG_LIMIT) if sink else None,
            )
        reader.finish()

    async def _continue(
        self,
        job: Generation,
        call: Call,
        choice: CapturedChoice,
        sink: Sink,
        error: "Unrepeatable",
    ) -> "Stream":
        """Go on after a text that can't be repeated: the model reads it as its own."""
        fields = dict(call.fields)
        if job.kind == "chat":
            begun = {"role": "assistant", "content": choice.text}
            fields["messages"] = [*fields["messages"], begun]
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        elif isinstance(fields["prompt"], str):
            text = choice.text if not call.echo else choice.text.removeprefix(fields["prompt"])
            fields["prompt"] += text
        else:
            raise error
        if "max_tokens" in fields:
            fields["max_tokens"] = max(1, fields["max_tokens"] - choice.pieces)
        rest = Call(call.index, fields, opened=True)
        stream = Stream(job, sink, [rest], [], before=choice.pieces)
        await self._make(job, [rest], stream.takers(False), sink)
        return stream

    async def _embed(self, job: Generation) -> tuple[bytes, Outcome]:
        fields = to_embedding(job)
        if not self._options.embeddings:
            raise UpstreamRejected("this model makes no embeddings", param="model")
        body = await self._ask("/v1/embeddings", fields, job)
        return await asyncio.to_thread(to_vectors, job, body)

    async def _to_text(self, job: Generation, prompt: str | list[int]) -> str:
        if isinstance(prompt, str):
            return prompt
        body = await self._ask("/detokenize", {"tokens": prompt}, job)
        return str(msgspec.json.decode(body, type=dict[str, str])["content"])

    async def _count_tokens(self, job: Generation, prompt: str | list[int]) -> int:
        if not isinstance(prompt, str):
            return len(prompt)
        body = await self._ask("/tokenize", {"content": prompt, "add_special": True}, job)
        return len(msgspec.json.decode(body, type=dict[str, list[int]])["tokens"])

    async def _ask(self, path: str, fields: Fields, job: Generation) -> bytes:
        """Ask for what comes in one piece."""
        reader = BodyReader(_ANSWER_LIMIT)
        seconds = _seconds_left(job)
        body = await _encoded(fields)
        await self._library_client().exchange(
            "POST", path, reader, body=body, first_byte=seconds, seconds=seconds
        )
        if reader.status != 200:
            raise to_error(reader.body(), job)
        return reader.body()

    def _library_client(self) -> Client:
        if self._client is None:
            raise UpstreamError("the model is not loaded")
        return self._client

    def _slot(self, job: Generation) -> "_Slot":
        return _Slot(self._free, _seconds_left(job))


class _Slot:
    """One of the library's slots. More calls would queue in it, where they can't be cancelled."""

    def __init__(self, free: asyncio.Semaphore, seconds: float) -> None:
        self._free = free
        self._seconds = seconds

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await self._free.acquire()
        except TimeoutError:
            raise UpstreamTimeout("no slot of the model became free in time") from None

    async def __aexit__(self, *_error: object) -> None:
        self._free.release()


async def _encoded(fields: Fields) -> bytes:
    """A request's JSON; what is large is written off the loop."""
    if sum(len(str(part)) for part in fields.get("messages", ())[-1:]) > _LARGE:
        return await asyncio.to_thread(_encode, fields)
    return _encode(fields)


def _seconds_left(job: Generation) -> float:
    seconds = job.deadline - time.time()
    if seconds <= 0:
        raise DeadlineExceeded("the run's deadline has passed")
    return seconds


def _ignore(_word: str) -> None:
    """Nobody waits for a word of a check."""
