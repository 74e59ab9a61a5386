"""A chat completion as a Message."""

from typing import Any, Final

import msgspec

from schemas import ids
from schemas.errors import UpstreamError
from schemas.raw import OptionalRaw

Json = dict[str, Any]

_STOPS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_NATIVE: Final = frozenset(
    {*_STOPS.values(), "stop_sequence", "pause_turn", "model_context_window_exceeded"}
)


class Function(msgspec.Struct):
    """A called function, whole or in part."""

    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    """A tool call, whole or in part."""

    index: int = 0
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct):
    """A chat message, or what it grows by."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None  # what some servers call it
    reasoning_details: list[Json] | None = None
    tool_calls: list[Call] | None = None

    def thought(self) -> str:
        """What the model thought."""
        return self.reasoning_content or self.reasoning or ""

    def text(self) -> str:
        """What it said."""
        return (self.content or "") + (self.refusal or "")


class Choice(msgspec.Struct):
    """A choice of a completion or of a chunk."""

    message: Said | None = None
    delta: Said | None = None
    finish_reason: str | None = None
    native_finish_reason: str | None = None  # in Anthropic's words
    stop_reason: int | str | None = None  # which stop sequence it was, as vLLM says it


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: int | None = None


class Usage(msgspec.Struct):
    """Usage as OpenAI tells it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class Chunk(msgspec.Struct):
    """A completion, or a chunk of its stream."""

    model: str = ""
    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: OptionalRaw = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_input = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read_chunk(chunk: bytes) -> Chunk:
    """Decode a completion or a chunk. Raises UpstreamError if it is not what OpenAI's are."""
    try:
        return _decode_chunk(chunk)
    except msgspec.DecodeError as error:
        raise UpstreamError(f"this answer can't be told as a message: {error}") from None


def to_message(body: bytes, run_id: str) -> bytes:
    """Encode the Message that a chat completion amounts to. Raises UpstreamError if it is none."""
    completion = read_chunk(body)
    choice = completion.choices[0] if completion.choices else Choice()
    message = to_frame(run_id, completion.model)
    message["content"] = to_blocks(choice.message or Said())
    message["stop_reason"], message["stop_sequence"] = to_stop(choice)
    message["usage"] = to_usage(completion.usage)
    return msgspec.json.encode(message)


def to_frame(run_id: str, model: str) -> Json:
    """A Message with nothing in it."""
    return {
        "id": ids.public_id(run_id, "message"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": to_usage(None),
    }


def to_blocks(said: Said) -> list[Json]:
    """The blocks of a chat message; thoughts stand where their details say they stood."""
    blocks: list[Json] = []
    if said.text():
        blocks.append({"type": "text", "text": said.text()})
    blocks += [_to_tool_use(call) for call in said.tool_calls or ()]
    details = [detail for detail in said.reasoning_details or () if is_thought(detail)]
    for detail in sorted(details, key=position_of):
        blocks.insert(position_of(detail), to_thought(detail))
    if said.thought() and not any(detail["type"] == "thinking" for detail in details):
        blocks.insert(0, {"type": "thinking", "thinking": said.thought(), "signature": ""})
    return blocks


def is_thought(detail: Json) -> bool:
    """Tell whether a reasoning detail is one of Anthropic's blocks."""
    return detail.get("type") in ("thinking", "redacted_thinking")


def position_of(detail: Json) -> int:
    """Where among the blocks it stood."""
    index = detail.get("index")
    return index if isinstance(index, int) and index >= 0 else 0


def to_thought(detail: Json) -> Json:
    """The block that a reasoning detail stands for."""
    if detail["type"] == "redacted_thinking":
        return {"type": "redacted_thinking", "data": str(detail.get("data", ""))}
    return {
        "type": "thinking",
        "thinking": str(detail.get("thinking") or ""),
        "signature": str(detail.get("signature") or ""),
    }


def to_stop(choice: Choice) -> tuple[str, str | None]:
    """Why the model stopped, and at which of the client's sequences, where that is known."""
    if isinstance(choice.stop_reason, str) and choice.finish_reason == "stop":
        return "stop_sequence", choice.stop_reason
    if choice.native_finish_reason in _NATIVE:
        return choice.native_finish_reason or "", None
    return _STOPS.get(choice.finish_reason or "", "end_turn"), None


def to_usage(usage: Usage | None) -> Json:
    """Usage as Anthropic tells it: what a cache held is not among the input tokens."""
    usage = usage or Usage()
    prompt = usage.prompt_tokens_details or _PromptDetails()
    read, written = prompt.cached_tokens or 0, prompt.cache_write_tokens or 0
    told: Json = {
        "input_tokens": max(0, usage.prompt_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.completion_tokens,
    }
    details = usage.completion_tokens_details
    if details is not None and details.reasoning_tokens:
        told["output_tokens_details"] = {"thinking_tokens": details.reasoning_tokens}
    return told


def _to_tool_use(call: Call) -> Json:
    function = call.function or Function()
    return {
        "type": "tool_use",
        "id": call.id or "",
        "name": function.name or "",
        "input": _to_input(function.arguments or ""),
    }


def _to_input(arguments: str) -> Json:
    """Arguments as an object; what is none, as a model may write, is kept as a text in one."""
    if not arguments.strip():
        return {}
    try:
        return _decode_input(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {"arguments": arguments}
