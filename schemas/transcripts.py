"""What a run came to, and how two runs of one request differ: for replays. Pure functions.

Two transcripts are the same if they ended alike (status, and an error's code) and each choice has
the same texts, the same tool calls in the same order (names, and arguments compared as JSON) and
the same finish reason. Ids, log probabilities, annotations, usage, times and the deployment are
told but do not count.
"""

import base64
import difflib
import math
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.commands import RunInference
from schemas.events import RunAccepted, RunFinished, Status

_NO_RESULT = "the log does not hold its result (over 256 KiB, not recorded or erased)"
MOST_PAIRS = 300_000  # of equal pieces, in which a difference is looked for: a second's work
_CONTEXT_LINES = 2
_FLOAT = 4  # bytes


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool; `arguments` decoded if they are JSON, else as they were sent."""

    name: str
    arguments: Any


class Choice(msgspec.Struct, frozen=True):
    """One answer: `texts` by its field (`content`, `reasoning`, …), without empty ones."""

    index: int
    texts: dict[str, str]
    tool_calls: list[ToolCall]
    finish_reason: str | None = None


class Problem(msgspec.Struct, frozen=True):
    """The error that a run ended with, as its client got it."""

    message: str
    type: str | None = None
    code: str | None = None


class Timing(msgspec.Struct, frozen=True):
    """How long a run took, in seconds: a stream from when a worker took it.

    What is not streamed does not tell when it was taken: its `total` counts from its acceptance.
    """

    waited: float | None = None  # from acceptance until a worker took it
    first_token: float | None = None
    total: float | None = None
    tokens_per_second: float | None = None


class Usage(msgspec.Struct, frozen=True):
    """Tokens, as the engine counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None


class Transcript(msgspec.Struct, frozen=True):
    """A run as its client saw it.

    `missing` says why there are no choices, where there should be some.
    """

    run_id: str
    model: str
    status: Status
    deployment: str | None = None
    error: Problem | None = None
    choices: list[Choice] = []
    vectors: list[list[float]] = []
    input_tokens: int | None = None  # the answer of a count
    usage: Usage = Usage()
    timing: Timing = Timing()
    missing: str | None = None


class ChoiceComparison(msgspec.Struct, frozen=True):
    """Whether one choice is the same in both; `diffs`: a unified diff of each text that is not."""

    index: int
    text: bool
    tool_calls: bool
    finish_reason: bool
    diffs: dict[str, str] = {}

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.text and self.tool_calls and self.finish_reason


class Comparison(msgspec.Struct, frozen=True):
    """What is the same in two transcripts. `similarity` is the least cosine of two vectors."""

    same: bool
    status: bool
    error: bool
    choices: list[ChoiceComparison] = []
    similarity: float | None = None
    notes: list[str] = []


class _Error(msgspec.Struct):
    error: Problem


class _Embedding(msgspec.Struct):
    embedding: list[float] | str = ""


class _BodyChoice(msgspec.Struct):
    index: int = 0
    message: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_BodyChoice] = []
    data: list[_Embedding] = []
    input_tokens: int | None = None


class _Sampling(msgspec.Struct):
    seed: int | None = None
    temperature: float | None = None


def to_transcript(accepted: RunAccepted, finished: RunFinished) -> Transcript:
    """Read a run's facts; `finished` with its result, if that is still known."""
    command = accepted.command
    usage = _to_usage(finished.usage)
    body, missing = _to_body(finished, command)
    return Transcript(
        run_id=command.run_id,
        model=command.model,
        status=finished.status,
        deployment=finished.deployment or None,
        error=_to_problem(finished.error),
        choices=[_to_choice(choice) for choice in sorted(body.choices, key=lambda one: one.index)],
        vectors=[_to_vector(one.embedding) for one in body.data],
        input_tokens=body.input_tokens,
        usage=usage,
        timing=_to_timing(command, accepted.at, finished, usage.completion_tokens),
        missing=missing,
    )


def compare(original: Transcript, replay: Transcript, request: bytes = b"") -> Comparison:
    """Compare the transcripts of a run and its replay; `request` tells how they were sampled."""
    ones = {choice.index: choice for choice in original.choices}
    others = {choice.index: choice for choice in replay.choices}
    choices = [
        _compare_choices(index, ones.get(index), others.get(index))
        for index in sorted(ones.keys() | others.keys())
    ]
    status, error = original.status == replay.status, _is_same_error(original, replay)
    same = status and error and not original.missing and not replay.missing
    same = same and all(choice.same for choice in choices) and original.vectors == replay.vectors
    same = same and original.input_tokens == replay.input_tokens
    return Comparison(
        same=same,
        status=status,
        error=error,
        choices=choices,
        similarity=_similarity(original.vectors, replay.vectors),
        notes=[] if same else list(_notes(original, replay, request)),
    )


def _to_body(finished: RunFinished, command: RunInference) -> tuple[_Body, str | None]:
    if finished.result is not None and command.kind == "response":
        return _of_response(bytes(finished.result)), None
    if finished.result is None:
        return _Body(), _NO_RESULT if finished.status == "completed" else None
    try:
        return msgspec.json.decode(finished.result, type=_Body), None
    except msgspec.DecodeError as error:
        return _Body(), f"its result has a form of its own: {error}"


def _of_response(result: bytes) -> _Body:
    """A response as one choice: all that was said, and all calls in their order."""
    response: dict[str, Any] = msgspec.json.decode(result)
    texts: dict[str, list[str]] = {}
    calls: list[dict[str, Any]] = []
    for item in response.get("output") or ():
        if item["type"] in ("message", "reasoning"):
            name = "content" if item["type"] == "message" else "reasoning"
            for part in item.get("content") or ():
                texts.setdefault(name, []).append(part.get("text") or part.get("refusal") or "")
        elif item["type"].endswith("_call"):
            calls.append({"function": {"name": _name_of(item), "arguments": _given_to(item)}})
    message: dict[str, Any] = {name: "\n".join(parts) for name, parts in texts.items()}
    if calls:
        message["tool_calls"] = calls
    details = response.get("incomplete_details") or {}
    reason = details.get("reason") or response.get("status")
    return _Body(choices=[_BodyChoice(message=message, finish_reason=reason)])


def _name_of(item: dict[str, Any]) -> str:
    return str(item.get("name") or item["type"].removesuffix("_call"))


def _given_to(item: dict[str, Any]) -> Any:
    """What a call was given, whatever its kind."""
    if "arguments" in item or "input" in item:
        return item.get("arguments", item.get("input"))
    action = item.get("action") or {}
    told = {"query": action.get("query"), "queries": item.get("queries"), "code": item.get("code")}
    return {name: value for name, value in told.items() if value is not None}


def _to_choice(choice: _BodyChoice) -> Choice:
    if choice.message is None:
        texts = {"text": choice.text} if choice.text else {}
        return Choice(choice.index, texts, [], choice.finish_reason)
    message = choice.message
    texts = {
        name: value
        for name, value in message.items()
        if isinstance(value, str) and value and name != "role"
    }
    if isinstance(parts := message.get("content"), list):  # an upstream's own form
        texts["content"] = msgspec.json.encode(parts, order="deterministic").decode()
    calls = message.get("tool_calls")
    found = [_to_call(call) for call in calls] if isinstance(calls, list) else []
    if isinstance(message.get("function_call"), dict):
        found.append(_to_call({"function": message["function_call"]}))
    return Choice(choice.index, texts, found, choice.finish_reason)


def _to_call(call: Any) -> ToolCall:
    told = call if isinstance(call, dict) else {}
    inner = told.get("function") or told.get("custom")
    inner = inner if isinstance(inner, dict) else {}
    given = inner.get("arguments", inner.get("input"))
    return ToolCall(str(inner.get("name", "")), _to_json(given))


def _to_json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _to_vector(given: list[float] | str) -> list[float]:
    if isinstance(given, list):
        return given
    try:
        data = base64.b64decode(given)
    except ValueError:
        return []
    count = len(data) // _FLOAT
    return list(struct.unpack_from(f"<{count}f", data))


def _to_problem(error: msgspec.Raw | None) -> Problem | None:
    if error is None or bytes(error) == b"null":
        return None
    try:
        return msgspec.json.decode(error, type=_Error).error
    except msgspec.DecodeError:
        return Problem("an error of unknown form")


def _to_usage(usage: msgspec.Raw | None) -> Usage:
    if usage is None or bytes(usage) == b"null":
        return Usage()
    try:
        return msgspec.json.decode(usage, type=Usage)
    except msgspec.DecodeError:
        return Usage()  # the upstream counts in its own way


def _to_timing(
    command: RunInference, accepted_at: float, finished: RunFinished, tokens: int | None
) -> Timing:
    first = finished.attempts[0] if finished.attempts else None
    taken = first.at if first is not None and first.epoch and command.stream else None
    began = taken or accepted_at
    total = max(0.0, finished.at - began)
    first_at = finished.first_frame_at if command.stream else None
    generating = finished.at - first_at if first_at else total
    return Timing(
        waited=max(0.0, taken - accepted_at) if taken else None,
        first_token=max(0.0, first_at - began) if first_at else None,
        total=total,
        tokens_per_second=tokens / generating if tokens and generating > 0 else None,
    )


def _compare_choices(
    index: int, original: Choice | None, replay: Choice | None
) -> ChoiceComparison:
    one, other = original or Choice(index, {}, []), replay or Choice(index, {}, [])
    return ChoiceComparison(
        index=index,
        text=one.texts == other.texts and (original is None) == (replay is None),
        tool_calls=_canonical(one.tool_calls) == _canonical(other.tool_calls),
        finish_reason=one.finish_reason == other.finish_reason,
        diffs={
            name: _unified(one.texts.get(name, ""), other.texts.get(name, ""))
            for name in [*one.texts, *(name for name in other.texts if name not in one.texts)]
            if one.texts.get(name) != other.texts.get(name)
        },
    )


def _canonical(calls: Sequence[ToolCall]) -> bytes:
    """The same for the same JSON; `1` and `true` are not, as they are for Python."""
    return msgspec.json.encode(calls, order="deterministic")


def pairs(ones: Sequence[str], others: Sequence[str]) -> int:
    """Count the pairs of equal pieces: what a search for the difference has to look at."""
    counts = Counter(others)
    return sum(counts[piece] for piece in ones)


def _unified(before: str, after: str) -> str:
    ones, others = before.splitlines(), after.splitlines()
    if pairs(ones, others) > MOST_PAIRS:
        return f"{len(ones):,} lines became {len(others):,}: too much alike to be compared"
    lines = difflib.unified_diff(
        ones,
        others,
        "original",
        "replay",
        n=_CONTEXT_LINES,
        lineterm="",
    )
    return "\n".join(lines)


def _is_same_error(original: Transcript, replay: Transcript) -> bool:
    one, other = original.error, replay.error
    if one is None or other is None:
        return one is other
    return (one.code or one.type) == (other.code or other.type)


def _similarity(ones: list[list[float]], others: list[list[float]]) -> float | None:
    """The least cosine of the vectors in pairs; None if there are none, or they don't pair."""
    if not ones or [len(one) for one in ones] != [len(other) for other in others]:
        return None
    return min(_cosine(one, other) for one, other in zip(ones, others, strict=True))


def _cosine(one: list[float], other: list[float]) -> float:
    length = math.hypot(*one) * math.hypot(*other)
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / length if length else 0.0


def _notes(original: Transcript, replay: Transcript, request: bytes) -> Sequence[str]:
    notes = []
    if original.missing:
        notes.append(f"the original can't be compared: {original.missing}")
    if replay.missing:
        notes.append(f"the replay can't be compared: {replay.missing}")
    if original.status == "cancelled" and _begins_like(original, replay):
        notes.append("the original was cancelled: what it had is how the replay begins")
    sampling = sampled(request)
    if sampling and replay.status == "completed" and (original.choices or replay.choices):
        notes.append(f"{sampling}: differences may come from sampling")
    return notes


def _begins_like(original: Transcript, replay: Transcript) -> bool:
    others = {choice.index: choice.texts for choice in replay.choices}
    return all(
        others.get(choice.index, {}).get(name, "").startswith(text)
        for choice in original.choices
        for name, text in choice.texts.items()
    )


def sampled(request: bytes) -> str:
    """Say how a request leaves its answer to chance; nothing if it does not."""
    try:
        told = msgspec.json.decode(request, type=_Sampling)
    except msgspec.DecodeError:
        return ""
    if told.seed is not None or told.temperature == 0:
        return ""
    temperature = "the model's own" if told.temperature is None else f"{told.temperature:g}"
    return f"the request has no seed, and its temperature is {temperature}"
