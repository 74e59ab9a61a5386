"""Writes the simulated model's answers in OpenAI's form: as a stream's chunks, or as one body."""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import msgspec

from workers.inference.engines.contract import Generation
from workers.inference.engines.simulation.answers import Answer, Call, Choice, token_logprobs

Chunks = list[bytes]

_encode = msgspec.json.Encoder().encode


def to_steps(job: Generation, answer: Answer) -> Iterator[Chunks]:
    """The chunks of a stream, step by step: in each step every choice moves by one token."""
    writer = _Writer(job, answer)
    streams = [writer.choice(choice) for choice in answer.choices]
    steps = streams[0] if len(streams) == 1 else _side_by_side(streams)
    return _with_last(steps, writer.usage(answer)) if job.include_usage else steps


def _side_by_side(streams: list[Iterator[Chunks]]) -> Iterator[Chunks]:
    for parts in zip_longest(*streams):
        yield [chunk for part in parts for chunk in part or ()]


def _with_last(steps: Iterator[Chunks], last: bytes) -> Iterator[Chunks]:
    """Add a chunk to the last step."""
    before = next(steps)
    for step in steps:
        yield before
        before = step
    yield [*before, last]


class _Writer:
    """Writes chunks; what is the same in all of a choice's chunks is encoded once."""

    def __init__(self, job: Generation, answer: Answer) -> None:
        self._chat = answer.chat
        self._logprobs = answer.logprobs
        kind = b"chat.completion.chunk" if answer.chat else b"text_completion"
        self._head = b'{"id":%b,"object":"%b","created":%d,"model":%b,' % (
            _encode(job.public_id),
            kind,
            job.created,
            _encode(job.model),
        )
        self._end = b',"usage":null}' if job.include_usage else b"}"

    def choice(self, choice: Choice) -> Iterator[Chunks]:
        """A choice's chunks: for each token, then for its end."""
        first = self._opening(choice)
        for chunk in self._calls(choice) if choice.calls else self._texts(choice):
            yield [*first, chunk]
            first = []
        if self._chat:
            last = self._delta(choice, b"{}", b"null", choice.finish_reason)
        else:
            last = self._text(choice, b'""', b"null", choice.finish_reason)
        yield [*first, last]

    def usage(self, answer: Answer) -> bytes:
        """The chunk that only tells the usage."""
        return b'%b"choices":[],"usage":%b}' % (self._head, _encode(answer.usage()))

    def _opening(self, choice: Choice) -> Chunks:
        if self._chat:
            content = b"null" if choice.calls else b'""'
            delta = b'{"role":"assistant","content":%b}' % content
            return [self._delta(choice, delta, b"null", None)]
        if choice.prompt and self._logprobs is None:
            return [self._text(choice, _encode("".join(choice.prompt)), b"null", None)]
        return []

    def _texts(self, choice: Choice) -> Iterator[bytes]:
        if self._logprobs is not None:
            yield from self._texts_with_logprobs(choice, self._logprobs)
            return
        tokens = choice.tokens[len(choice.prompt) :]
        whole = (
            self._delta(choice, b'{"content":\n}', b"null", None)
            if self._chat
            else self._text(choice, b"\n", b"null", None)
        )
        before, _, after = whole.partition(b"\n")
        for token in tokens:
            yield before + _encode(token) + after

    def _texts_with_logprobs(self, choice: Choice, alternatives: int) -> Iterator[bytes]:
        offset = 0
        for token, logprob, likely in token_logprobs(choice, alternatives):
            text = _encode(token)
            if self._chat:
                told = {"content": [_chat_logprob(token, logprob, likely)], "refusal": None}
                yield self._delta(choice, b'{"content":%b}' % text, _encode(told), None)
            else:
                told = _completion_logprobs([(token, logprob, likely)], offset)
                yield self._text(choice, text, _encode(told), None)
            offset += len(token)

    def _calls(self, choice: Choice) -> Iterator[bytes]:
        for index, call in enumerate(choice.calls):
            begin = {"index": index, **_call_to_wire(call, "")}
            yield self._delta(choice, _encode({"tool_calls": [begin]}), b"null", None)
            kind, key = ("custom", "input") if call.custom else ("function", "arguments")
            for token in call.arguments:
                more = {"index": index, kind: {key: token}}
                yield self._delta(choice, _encode({"tool_calls": [more]}), b"null", None)

    def _delta(self, choice: Choice, delta: bytes, logprobs: bytes, end: str | None) -> bytes:
        return self._chunk(choice, b'"delta":' + delta, logprobs, end)

    def _text(self, choice: Choice, text: bytes, logprobs: bytes, end: str | None) -> bytes:
        return self._chunk(choice, b'"text":' + text, logprobs, end)

    def _chunk(self, choice: Choice, what: bytes, logprobs: bytes, end: str | None) -> bytes:
        return b'%b"choices":[{"index":%d,%b,"logprobs":%b,"finish_reason":%b}]%b' % (
            self._head,
            choice.index,
            what,
            logprobs,
            _encode(end),
            self._end,
        )


def to_body(job: Generation, answer: Answer) -> bytes:
    """The body of a response that is not streamed."""
    write = _chat_choice if answer.chat else _completion_choice
    return _encode(
        {
            "id": job.public_id,
            "object": "chat.completion" if answer.chat else "text_completion",
            "created": job.created,
            "model": job.model,
            "choices": [write(choice, answer.logprobs) for choice in answer.choices],
            "usage": answer.usage(),
        }
    )


def _chat_choice(choice: Choice, alternatives: int | None) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if choice.calls else "".join(choice.tokens),
        "refusal": None,
    }
    if choice.calls:
        message["tool_calls"] = [
            _call_to_wire(call, "".join(call.arguments)) for call in choice.calls
        ]
    logprobs = None
    if alternatives is not None and not choice.calls:
        told = [_chat_logprob(*token) for token in token_logprobs(choice, alternatives)]
        logprobs = {"content": told, "refusal": None}
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }


def _completion_choice(choice: Choice, alternatives: int | None) -> dict[str, Any]:
    logprobs = None
    if alternatives is not None:
        logprobs = _completion_logprobs(list(token_logprobs(choice, alternatives)), 0)
    return {
        "index": choice.index,
        "text": "".join(choice.tokens),
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }


def _call_to_wire(call: Call, arguments: str) -> dict[str, Any]:
    if call.custom:
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": arguments}}
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def _chat_logprob(token: str, logprob: float, likely: list[tuple[str, float]]) -> dict[str, Any]:
    return {**_one_logprob(token, logprob), "top_logprobs": [_one_logprob(*one) for one in likely]}


def _one_logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _completion_logprobs(
    tokens: list[tuple[str, float, list[tuple[str, float]]]], offset: int
) -> dict[str, Any]:
    offsets = []
    for token, _, _ in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": [token for token, _, _ in tokens],
        "token_logprobs": [logprob for _, logprob, _ in tokens],
        "top_logprobs": [dict(likely) for _, _, likely in tokens],
        "text_offset": offsets,
    }
