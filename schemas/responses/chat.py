"""What a step asks a model: the request and all that was said since, as one chat."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from schemas.api.history import answers, to_messages, without_unanswered
from schemas.api.response_tools import Choice, FunctionTool
from schemas.api.responses import JsonObjectFormat, JsonSchemaFormat
from schemas.responses.files import told_in_words
from schemas.responses.fold import ResponseFold
from schemas.responses.output import Item
from schemas.responses.prepared import PreparedRequest
from schemas.responses.story import Offer
from schemas.tool_options import PYTHON

Message = dict[str, Any]

_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode
_SAMPLING: Final = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "user")


def to_chat(
    request: PreparedRequest,
    items: Sequence[Item],
    fold: ResponseFold,
    *,
    last: bool,
    correction: str | None = None,
) -> bytes:
    """The chat request of the next step. `last`: no tools may be called any more.

    `correction` tells the model what was wrong with its answer.
    """
    recorded = request.prepared.recorded
    earlier = recorded.said if recorded is not None else []
    history = without_oldest(to_history(request, items, fold.offers), fold.trimmed)
    offers = list((fold.offers or {}).values())
    if any(offer.tool == PYTHON for offer in offers):
        history = told_in_words(history)
    messages = [*history, *earlier, *fold.to_messages()]
    if correction is not None:
        messages.append({"role": "user", "content": correction})
    fields: dict[str, Any] = {"model": request.model, "messages": messages}
    for name in _SAMPLING:
        if (value := getattr(request, name)) is not None:
            fields[name] = value
    fields |= _to_limits(request, fold)
    fields |= _to_format(request)
    if offers and not last:
        fields |= _to_tools(request, offers, fold)
    return msgspec.json.encode(fields)


def to_function(tool: FunctionTool) -> dict[str, Any]:
    """A function of the client's as chat has it."""
    told: dict[str, Any] = {"name": tool.name}
    if tool.description:
        told["description"] = tool.description
    told["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    if tool.strict is not None:
        told["strict"] = tool.strict
    return {"type": "function", "function": told}


def to_history(
    request: PreparedRequest, items: Sequence[Item], offers: Mapping[str, Offer] | None = None
) -> list[Message]:
    """What was said up to this request, as chat messages; instructions first.

    Of `offers` tools that were called before have their names.
    """
    prepared = request.prepared
    messages: list[Message] = []
    schema = _schema_in_words(request) if prepared.in_words else None
    for instruction in (prepared.instruction, request.instructions, schema):
        if instruction:
            messages.append({"role": "system", "content": instruction})
    said = _decode_messages(prepared.messages) if prepared.messages is not None else []
    later = [*prepared.context, *items]
    answered = answers(later) | {message.get("tool_call_id") for message in said}
    messages += without_unanswered(said, answered)
    names = {_key_of(offer): offer.name for offer in (offers or {}).values()}
    return messages + to_messages(later, called_in(said), names)


def _key_of(offer: Offer) -> tuple[str, str]:
    return (offer.label, offer.tool) if offer.kind in ("mcp", "own") else ("", offer.kind)


def called_in(messages: Iterable[Message]) -> set[str]:
    """The ids of the calls that chat messages make."""
    return {call["id"] for message in messages for call in message.get("tool_calls") or ()}


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """Leave out so many of the oldest messages: no instructions, and never the last one.

    The output of a tool goes with the call that it answers: an engine takes neither alone.
    """
    first = 0
    while first < len(messages) and messages[first]["role"] == "system":
        first += 1
    start = min(first + count, len(messages) - 1)
    while start < len(messages) - 1 and messages[start]["role"] == "tool":
        start += 1
    return [*messages[:first], *messages[max(start, first) :]]


def _to_limits(request: PreparedRequest, fold: ResponseFold) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        left = request.max_output_tokens - fold.usage.output_tokens
        limits["max_completion_tokens"] = max(1, left)
    if request.reasoning is not None and request.reasoning.effort is not None:
        limits["reasoning_effort"] = request.reasoning.effort
    if request.text is not None and request.text.verbosity is not None:
        limits["verbosity"] = request.text.verbosity
    if "message.output_text.logprobs" in (request.include or ()):
        limits |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return limits


def _to_format(request: PreparedRequest) -> dict[str, Any]:
    wanted = request.text.format if request.text is not None else None
    match wanted:
        case JsonObjectFormat():
            return {"response_format": {"type": "json_object"}}
        case JsonSchemaFormat() if not request.prepared.in_words:
            schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
            if wanted.description is not None:
                schema["description"] = wanted.description
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case _:
            return {}


def _schema_in_words(request: PreparedRequest) -> str | None:
    wanted = request.text.format if request.text is not None else None
    if not isinstance(wanted, JsonSchemaFormat):
        return None
    schema = msgspec.json.encode(wanted.schema).decode()
    return (
        "Answer with one JSON value and nothing else: no prose before or after it, no code fence. "
        f"It must be valid under this JSON Schema: {schema}"
    )


def _to_tools(
    request: PreparedRequest, offers: Sequence[Offer], fold: ResponseFold
) -> dict[str, Any]:
    choice = request.to_choice()
    if choice.mode == "none":
        return {}
    told: dict[str, Any] = {"tools": [offer.definition for offer in offers]}
    if request.parallel_tool_calls is not None:
        told["parallel_tool_calls"] = request.parallel_tool_calls
    # Once it has called what it must, it must not again: it would for ever.
    if choice.mode == "required" and not fold.steps:
        told["tool_choice"] = _to_choice(choice, offers)
    return told


def _to_choice(choice: Choice, offers: Sequence[Offer]) -> Any:
    if len(offers) == 1 and choice.wire is not None:
        return {"type": "function", "function": {"name": offers[0].name}}
    return "required"
