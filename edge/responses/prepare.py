"""Orders for responses, and for what is asked about an input without making one."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from edge.orders import Order
from edge.responses.compaction import INSTRUCTION
from edge.responses.references import References, Resolved
from edge.responses.said import Said
from edge.runs import Runs
from edge.webhooks import Webhooks
from schemas.api import responses as api
from schemas.api.fields import require_stream
from schemas.api.items import MAX_ITEMS_BYTES, Item
from schemas.api.needs import needs_of_response
from schemas.api.response_tools import CodeInterpreterTool, FunctionTool, McpTool
from schemas.commands import Webhook, encode
from schemas.errors import InvalidRequest
from schemas.responses.chat import to_function, to_history
from schemas.responses.files import told_in_words
from schemas.responses.prepared import decode_prepared
from schemas.sealing import is_sealed, seal

_MOST_SHOWN: Final = 2 << 20  # bytes of a request that its response repeats
_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split_list = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Preparation:
    """Makes orders of requests."""

    def __init__(self, runs: Runs, references: References, webhooks: Webhooks) -> None:
        self._runs = runs
        self._references = references
        self._webhooks = webhooks

    async def to_order(
        self, body: bytes, principal: str, *, stream: bool, before: Said | None = None
    ) -> Order:
        """The order for a response; `before` is what its WebSocket remembers of the previous one.

        Raises InvalidRequest naming the field, NotFound, ModelNotFound, Unavailable.
        """
        told = self._without_secrets(body)
        resolved = await self._references.resolve(told, principal, before=before)
        request = resolved.request
        stream = stream or bool(request.stream)
        require_stream(request.stream_options, stream)
        if request.kept and len(body) > MAX_ITEMS_BYTES:
            raise InvalidRequest(
                f"a request of more than {MAX_ITEMS_BYTES} bytes is not stored", param="store"
            )
        _require_showable(resolved.fields)
        needs = _needs_of(resolved)
        in_words = self._needs_words(request, needs)
        return Order(
            kind="response",
            model=request.model,
            body=told,
            given=body,
            stream=stream,
            needs=needs,
            resolved=resolved.to_body(in_words=in_words),
            identity=resolved.to_body(in_words=False),
            asked=resolved.asked,
            prompt=resolved.prompt,
            history=resolved.history,
            turn=resolved.turn if request.kept else None,
            store=request.kept,
            background=bool(request.background),
            webhook=await self._find_webhook(resolved, principal),
        )

    async def to_count(self, body: bytes, principal: str) -> Order:
        """The order for how many tokens a request's input would take. Raises as `to_order`."""
        resolved = await self._references.resolve(body, principal)
        chat = _to_chat(resolved)
        functions = [tool for tool in resolved.request.to_tools() if isinstance(tool, FunctionTool)]
        if functions:
            chat["tools"] = [to_function(tool) for tool in functions]
        return Order(
            kind="count",
            model=resolved.request.model,
            body=encode(chat),
            needs=_needs_of(resolved),
        )

    async def to_summary(self, body: bytes, principal: str) -> tuple[Order, list[Item]]:
        """The order for a compaction, which is a chat, and the items that it compacts."""
        resolved = await self._references.resolve(body, principal)
        chat = _to_chat(resolved)
        chat["messages"].append({"role": "user", "content": INSTRUCTION})
        order = Order(
            kind="chat",
            model=resolved.request.model,
            body=encode(chat),
            needs=_needs_of(resolved),
        )
        return order, resolved.items

    async def _find_webhook(self, resolved: Resolved, principal: str) -> Webhook | None:
        """Whom its end is told, if it is in the background. Raises InvalidRequest, Unavailable."""
        if not resolved.request.background:
            return None
        project = resolved.turn.project if resolved.turn is not None else None
        return await self._webhooks.find(resolved.request.webhook, principal, project)

    def _without_secrets(self, body: bytes) -> bytes:
        """The request with the secrets of its MCP servers sealed."""
        request = api.decode_request(body)
        servers = [tool for tool in request.to_tools() if isinstance(tool, McpTool)]
        if not any(tool.authorization or tool.headers for tool in servers):
            return body
        fields = _split(body)
        tools = [self._sealed(tool) for tool in _split_list(fields["tools"])]
        return encode(fields | {"tools": msgspec.Raw(encode(tools))})

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
        return text if is_sealed(text) else seal(self._references.key, text)

    def _needs_words(self, request: api.ResponseRequest, needs: dict[str, str]) -> bool:
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


def _require_showable(fields: Mapping[str, msgspec.Raw]) -> None:
    """Refuse what would make the response's own object too large, whatever its input.

    Raises InvalidRequest naming the largest field.
    """
    sizes = {name: len(bytes(raw)) for name, raw in fields.items() if name != "input"}
    if sum(sizes.values()) > _MOST_SHOWN:
        param = max(sizes, key=sizes.__getitem__)
        raise InvalidRequest(
            f"'{param}': a request may have {_MOST_SHOWN} bytes besides its input", param=param
        )


def _needs_of(resolved: Resolved) -> dict[str, str]:
    needs = needs_of_response(resolved.request, resolved.items, resolved.prepared.context)
    param = "conversation" if resolved.request.conversation else "previous_response_id"
    return {"vision": param} | needs if resolved.images else needs


def _to_chat(resolved: Resolved) -> dict[str, Any]:
    """What a model would be asked in the first step, without tools."""
    prepared = decode_prepared(resolved.to_body(in_words=False))
    messages = to_history(prepared, resolved.items)
    if any(isinstance(tool, CodeInterpreterTool) for tool in resolved.request.to_tools()):
        messages = told_in_words(messages)
    return {"model": prepared.model, "messages": messages}
