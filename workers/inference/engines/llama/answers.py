"""What the library answers, in OpenAI's words and under our names: as chunks, or as one body."""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.errors import JanError, UpstreamError, UpstreamRejected, UpstreamTimeout
from schemas.raw import OptionalRaw
from workers.inference.engines.contract import Generation
from workers.inference.engines.llama.requests import param_of, prompt_param

_encode = msgspec.json.Encoder().encode


class _Call(msgspec.Struct, omit_defaults=True):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, omit_defaults=True):
    """A piece of a tool call: the first of each has its id and name."""

    index: int
    id: str | None = None
    type: str | None = None
    function: _Call | None = None

    def __post_init__(self) -> None:
        self.index = int(self.index)


class Top(msgspec.Struct):
    """A token that might have been, and how likely it was."""

    token: str
    logprob: float
    bytes: list[int]


class Token(msgspec.Struct):
    """A token, how likely it was, and the likeliest in its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Top] = []


class _Logprobs(msgspec.Struct):
    content: list[Token] = []


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class Usage(msgspec.Struct):
    """What was read and made, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Step(msgspec.Struct):
    """One event of the library's stream."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    error: OptionalRaw = None


class Piece(msgspec.Struct):
    """What one choice grows by; `first` says that nothing came before."""

    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    tokens: list[Token] | None = None
    finish_reason: str | None = None

    def says_something(self) -> bool:
        """Whether a reader would miss it."""
        return bool(self.content or self.reasoning or self.tool_calls or self.finish_reason)


_decode_step = msgspec.json.Decoder(Step).decode


def read_step(payload: bytes) -> Step:
    """Read an event of the library's stream. Raises UpstreamError."""
    try:
        return _decode_step(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UpstreamError(f"llama.cpp's answer is not what it should be: {error}") from None


def to_piece(step: Step, run_id: str, index: int) -> Piece | None:
    """What an event adds to a choice; tool calls get ids that a repetition gives them again."""
    if not step.choices:
        return None
    choice = step.choices[0]
    delta = choice.delta or _Delta()
    calls = delta.tool_calls or []
    for call in calls:
        if call.id is not None:
            call.id = _call_id(run_id, index, call.index)
    return Piece(
        content=(choice.text or "") + (delta.content or ""),
        reasoning=delta.reasoning_content or "",
        tool_calls=calls,
        tokens=choice.logprobs.content if choice.logprobs else None,
        finish_reason=choice.finish_reason,
    )


def _call_id(run_id: str, index: int, number: int) -> str:
    told = hashlib.blake2b(f"{run_id} {index} {number}".encode(), digest_size=12)
    return f"call_{told.hexdigest()}"


class ChunkWriter:
    """Writes a choice's chunks."""

    def __init__(self, job: Generation, index: int, *, opened: bool) -> None:
        self._chat = job.kind == "chat"
        kind = b"chat.completion.chunk" if self._chat else b"text_completion"
        names = (_encode(job.public_id), kind, job.created, _encode(job.model))
        self._head = b'{"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % names
        self._index = index
        self._opened = opened
        self._offset = 0

    def write(self, piece: Piece) -> list[bytes]:
        """The chunks of a piece: the first of a chat tells the role before."""
        chunks = [] if self._opened or not self._chat else [self._opening(piece)]
        self._opened = True
        logprobs = b"null"
        if piece.tokens is not None:
            logprobs = self._logprobs(piece.tokens)
        self._offset += len(piece.content)
        reason = piece.finish_reason
        if reason is not None and (piece.content or piece.reasoning or piece.tool_calls):
            chunks.append(self._chunk(self._grown(piece), logprobs, None))
            logprobs, piece = b"null", Piece()
        chunks.append(self._chunk(self._grown(piece), logprobs, reason))
        return chunks

    def _opening(self, piece: Piece) -> bytes:
        content = b"null" if piece.tool_calls else b'""'
        delta = b'"delta":{"role":"assistant","content":%b}' % content
        return self._chunk(delta, b"null", None)

    def _chunk(self, grown: bytes, logprobs: bytes, reason: str | None) -> bytes:
        end = b"null" if reason is None else _encode(reason)
        return b'%b{"index":%d,%b,"logprobs":%b,"finish_reason":%b}]}' % (
            self._head,
            self._index,
            grown,
            logprobs,
            end,
        )

    def _grown(self, piece: Piece) -> bytes:
        if not self._chat:
            return b'"text":' + _encode(piece.content)
        delta: dict[str, Any] = {}
        if piece.content:
            delta["content"] = piece.content
        if piece.reasoning:
            delta["reasoning_content"] = piece.reasoning
        if piece.tool_calls:
            delta["tool_calls"] = piece.tool_calls
        return b'"delta":' + _encode(delta)

    def _logprobs(self, tokens: list[Token]) -> bytes:
        if self._chat:
            return _encode({"content": tokens, "refusal": None})
        return _encode(_to_legacy(tokens, self._offset))


def usage_chunk(job: Generation, usage: Usage) -> bytes:
    """The chunk that only tells the usage."""
    kind = b"chat.completion.chunk" if job.kind == "chat" else b"text_completion"
    names = (_encode(job.public_id), kind, job.created, _encode(job.model), _encode(usage))
    return b'{"id":%b,"object":"%b","created":%d,"model":%b,"choices":[],"usage":%b}' % names


def to_body(job: Generation, choices: list[list[Piece]], usage: Usage) -> bytes:
    """The whole answer, of the pieces of each choice."""
    to_choice = _to_chat_choice if job.kind == "chat" else _to_text_choice
    return _encode(
        {
            "id": job.public_id,
            "object": "chat.completion" if job.kind == "chat" else "text_completion",
            "created": job.created,
            "model": job.model,
            "choices": [to_choice(index, pieces) for index, pieces in enumerate(choices)],
            "usage": usage,
        }
    )


def _to_chat_choice(index: int, pieces: list[Piece]) -> dict[str, Any]:
    calls = _join_calls(call for piece in pieces for call in piece.tool_calls)
    content = "".join(piece.content for piece in pieces)
    reasoning = "".join(piece.reasoning for piece in pieces)
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["content"] = content or None
        message["tool_calls"] = calls
    tokens = _join_tokens(pieces)
    return {
        "index": index,
        "message": message,
        "logprobs": None if tokens is None else {"content": tokens, "refusal": None},
        "finish_reason": pieces[-1].finish_reason if pieces else None,
    }


def _to_text_choice(index: int, pieces: list[Piece]) -> dict[str, Any]:
    tokens = _join_tokens(pieces)
    return {
        "index": index,
        "text": "".join(piece.content for piece in pieces),
        "logprobs": None if tokens is None else _to_legacy(tokens, 0),
        "finish_reason": pieces[-1].finish_reason if pieces else None,
    }


def _join_tokens(pieces: list[Piece]) -> list[Token] | None:
    told = [piece.tokens for piece in pieces if piece.tokens is not None]
    return [token for tokens in told for token in tokens] if told else None


def _join_calls(parts: Iterable[ToolCall]) -> list[dict[str, Any]]:
    calls: dict[int, dict[str, Any]] = {}
    for part in parts:
        function = part.function or _Call()
        call = calls.setdefault(
            part.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = part.id or call["id"]
        call["function"]["name"] += function.name or ""
        call["function"]["arguments"] += function.arguments or ""
    return list(calls.values())


def _to_legacy(tokens: list[Token], offset: int) -> dict[str, Any]:
    """The older form, of completions: four lists."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{top.token: top.logprob for top in tok.top_logprobs} for tok in tokens],
        "text_offset": offsets,
    }


class _Fault(msgspec.Struct):
    message: str = "llama.cpp failed"
    type: str = "server_error"
    code: int = 500


class _Faulty(msgspec.Struct):
    error: _Fault


def to_error(body: bytes, job: Generation) -> JanError:
    """Turn an error of the library, its whole JSON, into what to raise."""
    try:
        fault = msgspec.json.decode(body, type=_Faulty).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return UpstreamError("llama.cpp failed without a reason")
    message = " ".join(fault.message.split())[:1000]
    too_long = "too large to process" in message or ("exceed" in message and "context" in message)
    if fault.type == "exceed_context_size_error" or too_long:
        return UpstreamRejected(
            message.removesuffix(", try increasing it"),
            param=prompt_param(job.kind),
            code="context_length_exceeded",
        )
    if fault.code in (400, 404, 501) or _is_of_the_request(message):
        return UpstreamRejected(message, param=param_of(message, job.kind))
    if fault.code == 504:
        return UpstreamTimeout(message)
    return UpstreamError(f"llama.cpp failed: {message}")


def _is_of_the_request(message: str) -> bool:
    """Whether what the library calls a fault of its own is one of the request."""
    signs = ("input is not supported", "[json.exception", "emplate", "Failed to parse", "rammar")
    return any(sign in message for sign in signs)
