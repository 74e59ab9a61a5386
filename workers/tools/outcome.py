"""What comes of a call: an answer, a failure that the model is told, and both as a ToolResult."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas.tools import MAX_RESULT, Artifact, Citation, ToolProblem, ToolResult, ToolStatus

_MAX_CITATIONS = 50
_ENVELOPE = 2048  # bytes of a result besides its output, when nothing else is left of it

encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Answer:
    """What a tool's function returns. `output` is for the model, `structured` for programs."""

    output: str
    structured: Any = None
    citations: list[Citation] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)


class Failed(Exception):
    """The call can't be done. `message` is told to the model, `code` is for programs.

    `retryable` says that another try may do better. What the tool has told nevertheless is in
    `answer`.
    """

    def __init__(
        self, code: str, message: str, *, retryable: bool = False, answer: Answer | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.answer = answer


def to_result(answer: Answer) -> ToolResult:
    """The result of a call that was done."""
    return _fill("completed", answer, None)


def to_failure(failed: Failed, status: ToolStatus = "failed") -> ToolResult:
    """The result of one that was not."""
    answer = failed.answer or Answer(failed.message)
    return _fill(status, answer, ToolProblem(failed.code, failed.message[:2000]))


def _fill(status: ToolStatus, answer: Answer, error: ToolProblem | None) -> ToolResult:
    structured = None if answer.structured is None else msgspec.Raw(encode(answer.structured))
    return ToolResult(
        status=status,
        output=answer.output,
        structured=structured,
        citations=answer.citations[:_MAX_CITATIONS],
        artifacts=answer.artifacts,
        error=error,
    )


def to_body(result: ToolResult, most: int = MAX_RESULT) -> bytes:
    """Encode a result; of one that is larger than `most` bytes, what was cut is said in it."""
    body = encode(result)
    if len(body) > most and result.structured is not None:
        size = len(bytes(result.structured))
        note = f"\n\n[Left out here: the structured form, {size} bytes.]"
        result = msgspec.structs.replace(result, structured=None, output=result.output + note)
        body = encode(result)
    if len(body) > most:
        result = _cut(result, most)
        body = encode(result)
    if len(body) > most:  # a crowd of long citations
        body = encode(_cut(msgspec.structs.replace(result, citations=[], artifacts=[]), most))
    return body


def _cut(result: ToolResult, most: int) -> ToolResult:
    """Shorten the output until the whole fits."""
    rest = len(encode(msgspec.structs.replace(result, output="")))
    room = max(most - rest - 200, _ENVELOPE)
    kept = result.output[:room]
    while len(encode(kept)) > room:
        kept = kept[: len(kept) * room // len(encode(kept)) - 1]
    note = f"\n\n[Cut: the first {len(kept)} of {len(result.output)} characters are shown.]"
    return msgspec.structs.replace(result, output=kept + note)
