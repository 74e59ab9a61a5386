"""A request for a response, made ready for the loop: what it refers to is put beside it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from edge.orders import Order
from edge.prompts import render
from edge.responses.compaction import INSTRUCTION, to_words
from edge.runs import Runs
from edge.stored import Stored
from schemas.api import responses as api
from schemas.api.chat import ConversationRef
from schemas.api.fields import require_stream
from schemas.api.items import MAX_ITEMS_BYTES, Item
from schemas.api.needs import Needs
from schemas.api.response_tools import FunctionTool, McpTool
from schemas.commands import Turn, encode
from schemas.errors import InvalidRequest
from schemas.queries import decode_answer
from schemas.queries.conversations import AskContext, Context
from schemas.queries.responses import AskResponseContext, ResponseContext
from schemas.responses.chat import to_function, to_history
from schemas.responses.prepared import (
    Prepared,
    PreparedRequest,
    decode_prepared,
    input_items,
    references,
)
from schemas.sealing import is_sealed, seal

_NOBODY: Final = "run_" + "0" * 26  # whose items are only looked at
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_items = msgspec.json.Decoder(list[dict[str, Any]]).decode


class Preparation:
    """Makes orders of requests for responses. `sealing_key` seals the secrets in them."""

    def __init__(self, runs: Runs, stored: Stored, sealing_key: str) -> None:
        self._runs = runs
        self._stored = stored
        self.sealing_key = sealing_key

    async def to_order(
        self, body: bytes, principal: str, *, stream: bool, before: list[Item] | None = None
    ) -> Order:
        """Check a request, and read what it refers to.

        `before` is what was said up to the previous response, where that is known already.

        Raises InvalidRequest naming the field, NotFound, ModelNotFound, Unavailable.
        """
        request = api.decode_request(body)
        fields = self._without_secrets(_split(body), request)
        told = encode(fields) if fields is not None else body
        fields = fields or _split(body)
        if request.prompt is not None:
            await self._render(request, fields, principal)
        stream = stream or bool(request.stream)
        require_stream(request.stream_options, stream)
        _require_content(request)
        prepared = Prepared(context=before or [])
        await self._go_on_from_items(request, prepared, principal, known=before is not None)
        items = self._read_input(request, prepared, fields)
        turn = await self._go_on_from_conversation(request, prepared, principal)
        needs = needs_of(request, [*prepared.context, *items])
        prepared.in_words = self._needs_words(request, needs)
        fields["model"] = msgspec.Raw(encode(request.model))
        fields["prepared"] = msgspec.Raw(encode(prepared))
        if request.kept and len(body) > MAX_ITEMS_BYTES:
            raise InvalidRequest(
                f"a request of more than {MAX_ITEMS_BYTES} bytes is not stored", param="store"
            )
        return Order(
            kind="response",
            model=request.model,
            body=told,
            given=body,
            stream=stream,
            needs=needs,
            resolved=encode(fields),
            turn=turn,
            store=request.kept,
            background=bool(request.background),
        )

    async def to_count(self, body: bytes, principal: str) -> Order:
        """Check a question for how many tokens a request would take. Raises as `to_order`."""
        request, items, prepared = await self._look_at(body, principal)
        chat: dict[str, Any] = {"model": request.model, "messages": to_history(request, items)}
        functions = [tool for tool in request.to_tools() if isinstance(tool, FunctionTool)]
        if functions:
            chat["tools"] = [to_function(tool) for tool in functions]
        return Order(
            kind="count",
            model=request.model,
            body=encode(chat),
            needs=needs_of(request, [*prepared.context, *items]),
        )

    async def to_summary(self, body: bytes, principal: str) -> tuple[Order, list[Item]]:
        """Check a request for a compaction: the chat that makes it, and the input's items."""
        request, items, prepared = await self._look_at(body, principal)
        messages = to_history(request, items)
        messages.append({"role": "user", "content": INSTRUCTION})
        order = Order(
            kind="chat",
            model=request.model,
            body=encode({"model": request.model, "messages": messages}),
            needs=needs_of(request, [*prepared.context, *items]),
        )
        return order, items

    async def _look_at(
        self, body: bytes, principal: str
    ) -> tuple[PreparedRequest, list[Item], Prepared]:
        """A request with what it refers to, of which no response is made."""
        request = decode_prepared(body)
        _require_content(request)
        prepared = request.prepared = Prepared()
        await self._go_on_from_items(request, prepared, principal)
        await self._go_on_from_conversation(request, prepared, principal)
        return request, self._read_input(request, prepared, {}), prepared

    def _read_input(
        self,
        request: api.ResponseRequest,
        prepared: Prepared,
        fields: dict[str, msgspec.Raw],
    ) -> list[Item]:
        """The input's items; where it has compactions, the job gets what they say."""
        items = input_items(request, _NOBODY, prepared.referred)
        prepared.context = to_words(prepared.context, self.sealing_key, "previous_response_id")
        worded = to_words(items, self.sealing_key, "input")
        if worded != items:
            fields["input"] = msgspec.Raw(encode(worded))
        return worded

    def _without_secrets(
        self, fields: dict[str, msgspec.Raw], request: api.ResponseRequest
    ) -> dict[str, msgspec.Raw] | None:
        """The request with the secrets of its MCP servers sealed; None if it has none."""
        servers = [tool for tool in request.to_tools() if isinstance(tool, McpTool)]
        if not any(tool.authorization or tool.headers for tool in servers):
            return None
        tools = [self._sealed(tool) for tool in _split_list(fields["tools"])]
        return fields | {"tools": msgspec.Raw(encode(tools))}

    def _sealed(self, raw: msgspec.Raw) -> Any:
        tool: dict[str, Any] = msgspec.json.decode(raw)
        if tool.get("type") != "mcp":
            return raw
        if tool.get("authorization"):
            tool["authorization"] = self._seal(tool["authorization"])
        if tool.get("headers"):
            tool["headers"] = {name: self._seal(text) for name, text in tool["headers"].items()}
        return tool

    def _seal(self, text: str) -> str:
        return text if is_sealed(text) else seal(self.sealing_key, text)

    async def _render(
        self, request: api.ResponseRequest, fields: dict[str, msgspec.Raw], principal: str
    ) -> None:
        """Put a prompt's messages before the input."""
        assert request.prompt is not None
        rendered = await render(self._stored.ask, principal, request.prompt)
        own = request.input or []
        if isinstance(own, str):
            own = [msgspec.Raw(encode({"role": "user", "content": own}))]
        request.input = [*map(_to_item, rendered.messages), *own]
        request.model = request.model or rendered.model or ""
        fields["input"] = msgspec.Raw(encode(request.input))

    async def _go_on_from_items(
        self,
        request: api.ResponseRequest,
        prepared: Prepared,
        principal: str,
        *,
        known: bool = False,
    ) -> None:
        """Read the responses before, unless they are known, and what the input refers to."""
        named = references(request.input) if isinstance(request.input, list) else []
        previous = None if known else request.previous_response_id
        if previous is None and not named:
            return
        question = AskResponseContext(principal=principal, previous=previous, references=named)
        answer = await self._stored.ask("responses", "context", question)
        context = decode_answer(answer, ResponseContext)
        if not known:
            prepared.context = _decode_items(encode(context.items))
        prepared.referred = {
            name: msgspec.json.decode(item) for name, item in context.referred.items()
        }

    async def _go_on_from_conversation(
        self, request: api.ResponseRequest, prepared: Prepared, principal: str
    ) -> Turn | None:
        """Read a conversation's history; say where what is new is stored, if it is."""
        named = request.conversation
        if named is None:
            return None
        id, branch = (
            (named.id, named.branch) if isinstance(named, ConversationRef) else (named, None)
        )
        question = AskContext(principal=principal, conversation=id, branch=branch)
        answer = await self._stored.ask("conversations", "context", question)
        context = decode_answer(answer, Context)
        prepared.messages = context.messages
        prepared.instruction = context.instruction
        prepared.conversation = id
        if not request.kept:
            return None
        return Turn(id, context.branch, context.head, context.project)

    def _needs_words(self, request: api.ResponseRequest, needs: Needs) -> bool:
        """Whether no deployment of the model holds its answer to a schema."""
        if request.text is None or not isinstance(request.text.format, api.JsonSchemaFormat):
            self._runs.require(request.model, "response", needs)
            return False
        try:
            self._runs.require(request.model, "response", {**needs, "json_schema": "text.format"})
        except InvalidRequest as error:
            if error.param != "text.format":
                raise
            return True
        return False


def needs_of(request: api.ResponseRequest, items: Sequence[Item]) -> dict[str, str]:
    """Find what a deployment must be able to do for a response."""
    needs: dict[str, str] = {}
    if request.tools and request.to_choice().mode != "none":
        needs["tools"] = "tools"
    if any(_has_image(item) for item in items):
        needs["vision"] = "input"
    reasoning = request.reasoning
    if reasoning is not None and reasoning.effort not in (None, "none"):
        needs["reasoning"] = "reasoning.effort"
    return needs


def _has_image(item: Mapping[str, Any]) -> bool:
    parts = item.get("content")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and part.get("type") == "input_image" for part in parts
    )


def _require_content(request: api.ResponseRequest) -> None:
    if not request.model:
        raise InvalidRequest(
            "'model' is required", param="model", code="missing_required_parameter"
        )
    if request.input is None and request.previous_response_id is None and not request.conversation:
        raise InvalidRequest(
            "'input' is required", param="input", code="missing_required_parameter"
        )


class _Spoken(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None


def _to_item(raw: msgspec.Raw) -> msgspec.Raw:
    """A prompt's message, which is one of chat's, as an item of the input."""
    said = msgspec.json.decode(raw, type=_Spoken)
    return msgspec.Raw(encode({"type": "message", "role": said.role, "content": said.content}))
