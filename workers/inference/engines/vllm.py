"""vLLM in the worker's process: its engine and its OpenAI layer, without HTTP between."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from copy import copy
from typing import Any, ClassVar

import msgspec
import structlog
from prometheus_client import REGISTRY, Metric

from schemas.errors import (
    DeadlineExceeded,
    JanError,
    UpstreamError,
    UpstreamRejected,
    UpstreamTimeout,
)
from schemas.providers import Provider, VllmProvider
from workers.inference.engines.contract import Generation, Outcome, Sink, Tell
from workers.inference.engines.faults import Redactor, to_error
from workers.inference.engines.messages.extensions import remove_extensions
from workers.inference.engines.vllm_serving.load import Load
from workers.inference.engines.vllm_serving.start import Serving, require_vllm, start
from workers.inference.engines.vllm_serving.stream import Stream, name_field

logger = structlog.get_logger()

_LARGE = 64 * 1024  # bytes of a request that is read off the loop
_LOOK_EVERY = 1.0
_HAND_BACK = 5.0
_SHUTDOWN = 0.2  # vLLM would take 5 s, and a server that stops under load kills a worker sooner
_OURS = frozenset({"model", "stream", "stream_options", "request_id"})

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class VllmEngine:
    """Runs a model on vLLM. A run that an earlier attempt began goes on at its next token."""

    kind: ClassVar[str] = "vllm"

    def __init__(self, provider: Provider) -> None:
        assert isinstance(provider, VllmProvider)
        self.can_continue = True
        self._provider = provider
        self._serving: Serving | None = None
        self._load = Load()
        self._runs = 0
        self._streams: set[Stream] = set()
        self._watch: asyncio.Task[None] | None = None

    async def open(self, tell: Tell) -> None:
        """Load the model: a minute or more. Raises EngineUnavailable."""
        self._serving = await start(self._provider, self._load, tell)
        self._watch = asyncio.create_task(self._watch_engine(self._serving.client))

    async def generate(self, job: Generation, sink: Sink) -> Outcome:
        """Stream a generation into the sink."""
        serving = self._ready()
        stream = Stream(job, sink, serving.client)
        self._streams.add(stream)
        try:
            async with self._run(job):
                request = await _to_request(job)
                create = self._creator(job, stream.tap)
                events = await create(request)
                _raise_refusal(events, job)
                async with aclosing(events):
                    return await stream.carry(events)
        finally:
            self._streams.discard(stream)
            await stream.tap.abort()

    async def complete(self, job: Generation) -> tuple[bytes, Outcome]:
        """Generate in one piece, embed, or count the prompt's tokens."""
        serving = self._ready()
        async with self._run(job):
            request = await _to_request(job)
            if job.kind == "embedding":
                return await self._embed(job, request)
            if job.kind == "count":
                return await self._count(job, request)
            answer = await self._creator(job, serving.client)(request)
            _raise_if_cancelled()  # vLLM makes an answer of that
            _raise_refusal(answer, job)
            return _to_result(job, answer.model_dump_json().encode())

    async def check(self) -> None:
        """Raise if vLLM's engine has died; before it is open, if vLLM is not installed."""
        if self._serving is None:
            require_vllm()
            return
        client = self._serving.client
        try:
            await client.check_health()
        except Exception as error:
            raise UpstreamError(f"vLLM's engine has died: {error}") from error

    def slots(self) -> int | None:
        """How many runs it can have: as many as fit, none more while some wait."""
        if self._serving is None or self._serving.client.errored:
            return 0
        # A run with n = 4 takes the place of four.
        more = sum(max(0, stream.tap.sequences - 1) for stream in self._streams)
        return max(1, self._load.limit(self._runs + more) - more)

    async def close(self) -> None:
        """Stop vLLM's process and free its memory."""
        if self._watch is not None:
            self._watch.cancel()
        serving, self._serving = self._serving, None
        if serving is not None:
            await asyncio.to_thread(serving.client.shutdown, _SHUTDOWN)
            await asyncio.to_thread(serving.keeper.close)

    def collect(self) -> Iterable[Metric]:
        """vLLM's own metrics, which are the process's: those of all its engines."""
        if self._serving is None:
            return []
        return [found for found in REGISTRY.collect() if found.name.startswith("vllm")]

    def _ready(self) -> Serving:
        if self._serving is None:
            raise UpstreamError("vLLM is not open")
        return self._serving

    def _creator(self, job: Generation, client: Any) -> Callable[[Any], Awaitable[Any]]:
        """The serving layer's function for a job, on a client of the job's own."""
        serving = self._ready()
        found = serving.chat if job.kind == "chat" else serving.completion
        if found is None:
            raise UpstreamRejected(f"the model {job.model} does not generate text", param="model")
        layer = copy(found)
        layer.engine_client = client
        if job.kind == "chat":
            return layer.create_chat_completion  # type: ignore[no-any-return]
        return layer.create_completion  # type: ignore[no-any-return]

    async def _embed(self, job: Generation, request: Any) -> tuple[bytes, Outcome]:
        layer = self._ready().embedding
        if layer is None:
            raise UpstreamRejected(f"the model {job.model} makes no embeddings", param="model")
        return _to_result(job, bytes((await layer(request)).body))

    async def _count(self, job: Generation, request: Any) -> tuple[bytes, Outcome]:
        layer = self._ready().chat
        if layer is None:
            raise UpstreamRejected("this model has no chat", param="model")
        rendered = await layer.render_chat_request(request)
        _raise_refusal(rendered, job)
        count = sum(len(prompt.get("prompt_token_ids") or ()) for prompt in rendered[1])
        return _encode({"input_tokens": count}), Outcome()

    @asynccontextmanager
    async def _run(self, job: Generation) -> AsyncIterator[None]:
        """Bound a run's time, and turn what vLLM raises into errors of ours."""
        seconds = job.deadline - time.time()
        if seconds <= 0:
            raise DeadlineExceeded("the run's deadline has passed")
        self._runs += 1
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                yield
        except TimeoutError:
            raise UpstreamTimeout("vLLM did not answer before the run's deadline") from None
        except JanError as error:
            if limit.expired():
                raise UpstreamTimeout("vLLM did not answer before the run's deadline") from None
            await self._hold_if_dead(error)
            raise
        except Exception as error:
            failure = _to_jan_error(error, job)
            await self._hold_if_dead(failure)
            raise failure from error
        finally:
            self._runs -= 1

    async def _hold_if_dead(self, error: JanError) -> None:
        """Keep a run that a dead engine failed until the worker hands it to another one."""
        if self._serving is not None and self._serving.client.errored:
            logger.error("vLLM's engine has died", error=error.message)
            await asyncio.sleep(_HAND_BACK)

    async def _watch_engine(self, client: Any) -> None:
        """Leave when the engine has died: whoever started the worker starts it anew."""
        while not client.errored:  # noqa: ASYNC110  # vLLM tells nobody
            await asyncio.sleep(_LOOK_EVERY)
        logger.error("vLLM's engine has died: this worker hands its runs back and leaves")
        os.kill(os.getpid(), signal.SIGUSR1)  # the runs go to other workers at once
        os.kill(os.getpid(), signal.SIGTERM)


async def _to_request(job: Generation) -> Any:
    """The client's body as vLLM's request. Raises UpstreamRejected naming the field."""
    if sum(len(bytes(value)) for value in job.body.values()) > _LARGE:
        return await asyncio.to_thread(_build_request, job)
    return _build_request(job)


def _build_request(job: Generation) -> Any:
    from pydantic import ValidationError  # noqa: PLC0415
    from vllm.entrypoints.openai.chat_completion.protocol import (  # noqa: PLC0415
        ChatCompletionRequest,
    )
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest  # noqa: PLC0415
    from vllm.entrypoints.pooling.embed.protocol import (  # noqa: PLC0415
        EmbeddingChatRequest,
        EmbeddingCompletionRequest,
    )

    body = dict(job.body)
    remove_extensions(body)
    fields: dict[str, Any] = {
        name: msgspec.json.decode(value) for name, value in body.items() if name not in _OURS
    }
    fields["model"] = job.served_name
    if job.stream:
        given = msgspec.json.decode(job.body.get("stream_options", b"null"))
        asked = given if isinstance(given, dict) and job.include_usage else {}
        fields |= {"stream": True, "stream_options": {**asked, "include_usage": True}}
    if fields.get("messages") == []:
        raise UpstreamRejected("messages must not be empty", param="messages")
    model: Any = ChatCompletionRequest
    if job.kind == "completion":
        model = CompletionRequest
    elif job.kind == "embedding":
        model = EmbeddingChatRequest if "messages" in fields else EmbeddingCompletionRequest
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _to_rejection(error) from None
    except Exception as error:
        raise _to_jan_error(error, job) from error


def _to_rejection(error: Any) -> UpstreamRejected:
    """Say pydantic's first finding, and the field it is about."""
    fault = error.errors()[0]
    place = [part for part in fault["loc"] if isinstance(part, int) or part.isidentifier()]
    param = str(place[0]) if place else None
    return UpstreamRejected(fault["msg"].removeprefix("Value error, "), param=param)


def _raise_refusal(answer: Any, job: Generation) -> None:
    """Raise what vLLM answered instead of a result."""
    error = getattr(answer, "error", None)
    if error is not None:
        raise _to_ours(answer, job)


def _to_jan_error(error: Exception, job: Generation) -> JanError:
    """Judge an exception as vLLM's HTTP server does."""
    from vllm.entrypoints.serve import create_error_response  # noqa: PLC0415

    return _to_ours(create_error_response(error), job)


def _to_ours(answer: Any, job: Generation) -> UpstreamError:
    body = answer.model_dump_json().encode()
    return name_field(to_error(answer.error.code, {}, body, Redactor(())), job)


def _raise_if_cancelled() -> None:
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice] = []


def _to_result(job: Generation, body: bytes) -> tuple[bytes, Outcome]:
    """Put our names into an answer's body."""
    fields = _decode_fields(body)
    fields["model"] = msgspec.Raw(_encode(job.model))
    if job.kind != "embedding":
        fields["id"] = msgspec.Raw(_encode(job.public_id))
        fields["created"] = msgspec.Raw(b"%d" % job.created)
    choices = msgspec.json.decode(body, type=_Body).choices
    counts = msgspec.json.decode(fields["usage"], type=dict[str, Any])
    usage = _encode({name: count for name, count in counts.items() if count is not None})
    fields["usage"] = msgspec.Raw(usage)
    return _encode(fields), Outcome(usage, choices[0].finish_reason if choices else None)
