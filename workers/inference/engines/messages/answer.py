"""What Messages answers, as chat completions: event by event, or whole.

What chat has no word for is told in extensions: `reasoning_content`; `reasoning_details` with
signatures, to be sent back; the upstream's own reason as `native_finish_reason`, and the stop
sequence as `stop_reason`, as other servers name them.
"""

from typing import Any, Final

import msgspec

from schemas.errors import UpstreamError
from schemas.raw import OptionalRaw
from workers.inference.engines.contract import Generation, Outcome

Json = dict[str, Any]

_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_encode = msgspec.json.Encoder().encode


class _OutputDetails(msgspec.Struct):
    thinking_tokens: int | None = None


class Usage(msgspec.Struct):
    """Tokens; in a stream the later numbers stand for the earlier ones."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens_details: _OutputDetails | None = None

    def update(self, later: "Usage") -> None:
        """Take in what is said later."""
        for name in self.__struct_fields__:
            value = getattr(later, name)
            if value is not None:
                setattr(self, name, value)

    def to_chat(self) -> bytes:
        """Encode it as OpenAI does: what a cache held is part of the prompt."""
        read, written = self.cache_read_input_tokens or 0, self.cache_creation_input_tokens or 0
        prompt, completion = (self.input_tokens or 0) + read + written, self.output_tokens or 0
        details = self.output_tokens_details
        thought = details.thinking_tokens if details is not None else None
        return _encode(
            {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
                "completion_tokens_details": {"reasoning_tokens": thought or 0},
            }
        )


class Block(msgspec.Struct):
    """A block of content."""

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    data: str = ""
    id: str = ""
    name: str = ""
    input: OptionalRaw = None

    def to_detail(self, index: int) -> Json:
        """What must be sent back of a thought, and where it stood."""
        if self.type == "redacted_thinking":
            return {"type": self.type, "index": index, "data": self.data}
        return {
            "type": self.type,
            "index": index,
            "thinking": self.thinking,
            "signature": self.signature,
        }

    def to_call(self) -> Json:
        """The call that a tool_use is."""
        arguments = bytes(self.input).decode() if self.input is not None else "{}"
        function = {"name": self.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class Delta(msgspec.Struct):
    """What a block, or the message, grows by."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    signature: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Message(msgspec.Struct):
    """A message, whole or at its start."""

    content: list[Block] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None


class Event(msgspec.Struct):
    """An event of a stream; what each type lacks has its default."""

    type: str
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Usage | None = None


decode_event = msgspec.json.Decoder(Event).decode
_decode_message = msgspec.json.Decoder(Message).decode


class Chunks:
    """Turns a stream's events into chunks.

    `continues` with a text that was sent before: its opening is not repeated, nor is white space
    at its end that the model says again, as it was not told of it.
    """

    def __init__(self, job: Generation, *, continues: bool = False, said_again: str = "") -> None:
        self._head = b'{"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
            _encode(job.public_id),
            job.created,
            _encode(job.model),
        )
        self._opened = continues
        self._said_again = said_again
        self._blocks: dict[int, Block] = {}
        self._calls: dict[int, int] = {}  # which call a block is
        self._stop = Delta()
        self._usage = Usage()
        self.ended = False

    def add(self, event: Event) -> list[bytes]:
        """Take the next event; events of other kinds mean nothing here."""
        match event.type:
            case "content_block_delta" if event.delta is not None:
                return self._add_delta(event.index, event.delta)
            case "content_block_start" if event.content_block is not None:
                return self._start_block(event.index, event.content_block)
            case "content_block_stop":
                return self._stop_block(event.index)
            case "message_start" if event.message is not None:
                self._usage.update(event.message.usage or Usage())
            case "message_delta":
                self._stop = event.delta or self._stop
                self._usage.update(event.usage or Usage())
            case "message_stop":
                self.ended = True
                return self._open([self._chunk(b"{}", self._stop)])
            case _:
                pass
        return []

    def has_begun(self) -> bool:
        """Tell whether more came than signs of life; thoughts may be kept from us."""
        return self._opened or bool(self._blocks)

    def usage(self) -> bytes:
        """The chunk that only tells the usage."""
        return b'%b"choices":[],"usage":%b}' % (self._head, self._usage.to_chat())

    def outcome(self) -> Outcome:
        """How it ended."""
        return Outcome(self._usage.to_chat(), to_finish_reason(self._stop.stop_reason))

    def _start_block(self, index: int, block: Block) -> list[bytes]:
        self._blocks[index] = block
        if block.type == "tool_use":
            number = self._calls[index] = len(self._calls)
            call = {"index": number, **block.to_call()}
            call["function"]["arguments"] = ""
            return self._say({"tool_calls": [call]})
        if block.type == "text" and block.text:
            return self._say({"content": block.text})
        if block.type == "thinking" and block.thinking:
            return self._say({"reasoning_content": block.thinking})
        return []

    def _add_delta(self, index: int, delta: Delta) -> list[bytes]:
        match delta.type:
            case "text_delta":
                return self._say_text(delta.text)
            case "input_json_delta" if index in self._calls and delta.partial_json:
                piece = {"index": self._calls[index], "function": {"arguments": delta.partial_json}}
                return self._say({"tool_calls": [piece]})
            case "thinking_delta" if index in self._blocks and delta.thinking:
                self._blocks[index].thinking += delta.thinking
                return self._say({"reasoning_content": delta.thinking})
            case "signature_delta" if index in self._blocks:
                self._blocks[index].signature += delta.signature
            case _:
                pass
        return []

    def _say_text(self, text: str) -> list[bytes]:
        while self._said_again and text.startswith(self._said_again[0]):
            text, self._said_again = text[1:], self._said_again[1:]
        if not text:
            return []
        self._said_again = ""
        return self._open([self._chunk(b'{"content":%b}' % _encode(text))])

    def _stop_block(self, index: int) -> list[bytes]:
        block = self._blocks.get(index)
        if block is None or block.type not in ("thinking", "redacted_thinking"):
            return []
        return self._say({"reasoning_details": [block.to_detail(index)]})

    def _say(self, delta: Json) -> list[bytes]:
        return self._open([self._chunk(_encode(delta))])

    def _open(self, chunks: list[bytes]) -> list[bytes]:
        """Begin with the first thing said, so that another may answer if nothing is."""
        if self._opened:
            return chunks
        self._opened = True
        return [self._chunk(b'{"role":"assistant","content":""}'), *chunks]

    def _chunk(self, delta: bytes, stop: Delta | None = None) -> bytes:
        told = b'"finish_reason":null' if stop is None else _encode(to_finish(stop))[1:-1]
        return b'%b"choices":[{"index":0,"delta":%b,"logprobs":null,%b}]}' % (
            self._head,
            delta,
            told,
        )


def to_completion(job: Generation, body: bytes) -> tuple[bytes, Outcome]:
    """Turn a whole Message into a chat completion. Raises UpstreamError if it is none."""
    try:
        body.decode()  # the decoder does not look into what it skips
        message = _decode_message(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamError(f"the provider's answer is not what it should be: {error}") from None
    if message.usage is None or message.stop_reason is None:
        raise UpstreamError("the provider's answer is no message")
    stop = Delta(stop_reason=message.stop_reason, stop_sequence=message.stop_sequence)
    choice = {"index": 0, "message": _to_said(message.content), "logprobs": None, **to_finish(stop)}
    usage = message.usage.to_chat()
    completion = {
        "id": job.public_id,
        "object": "chat.completion",
        "created": job.created,
        "model": job.model,
        "choices": [choice],
        "usage": msgspec.Raw(usage),
    }
    return _encode(completion), Outcome(usage, choice["finish_reason"])


class _Counted(msgspec.Struct):
    input_tokens: int


_decode_counted = msgspec.json.Decoder(_Counted).decode


def read_count(body: bytes) -> bytes:
    """Check a count of tokens. Raises UpstreamError if it is none."""
    try:
        return _encode(_decode_counted(body))
    except msgspec.DecodeError:
        raise UpstreamError("the provider's count of tokens is none") from None


def to_finish(stop: Delta) -> Json:
    """Why it ended, in both sides' words."""
    told: Json = {"finish_reason": to_finish_reason(stop.stop_reason)}
    if stop.stop_reason is not None:
        told["native_finish_reason"] = stop.stop_reason
    if stop.stop_sequence is not None:
        told["stop_reason"] = stop.stop_sequence
    return told


def to_finish_reason(stop_reason: str | None) -> str:
    """Why it ended, as OpenAI says it."""
    return _REASONS.get(stop_reason or "", "stop")


def _to_said(blocks: list[Block]) -> Json:
    texts = [block.text for block in blocks if block.type == "text"]
    said: Json = {"role": "assistant", "content": "".join(texts) or None, "refusal": None}
    calls = [block.to_call() for block in blocks if block.type == "tool_use"]
    if calls:
        said["tool_calls"] = calls
    if not calls and said["content"] is None:
        said["content"] = ""
    thought = "".join([block.thinking for block in blocks if block.type == "thinking"])
    if thought:
        said["reasoning_content"] = thought
    details = [
        block.to_detail(index)
        for index, block in enumerate(blocks)
        if block.type in ("thinking", "redacted_thinking")
    ]
    if details:
        said["reasoning_details"] = details
    return said
