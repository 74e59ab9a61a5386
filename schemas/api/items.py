"""Conversation items: messages, calls of tools and their outputs, reasoning, and the rest.

An item is a JSON object with a `type`. What clients send is checked and brought into the one form
that is stored and served; ids are given by the server. Source: OpenAI's OpenAPI document
(ConversationItem), August 2026.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.api.decoding import to_invalid_request
from schemas.errors import InvalidRequest

MAX_ITEMS: Final = 20  # of one request, as OpenAI has it
MAX_ITEMS_BYTES: Final = 4 << 20  # of one request: a message of the bus holds it twice
_MAX_PARTS: Final = 100
_MAX_NESTING: Final = 100  # of JSON in JSON; what reads it later stands on a deeper stack

Role = Literal[
    "user", "assistant", "system", "developer", "tool", "critic", "discriminator", "unknown"
]
Status = Literal["in_progress", "completed", "incomplete"]
CallId = Annotated[str, Meta(min_length=1, max_length=128)]

# What is stored as it comes, beyond its type and status: other parts of the server make most.
_OTHER_TYPES: Final = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "computer_call",
    "computer_call_output",
    "mcp_list_tools",
    "mcp_call",
    "local_shell_call",
    "local_shell_call_output",
    "shell_call",
    "shell_call_output",
    "apply_patch_call",
    "apply_patch_call_output",
    "compaction",
)
_PREFIXES: Final = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
}


class _Typed(Struct):
    type: str = "message"


class _Part(Struct):
    type: Literal[
        "input_text",
        "output_text",
        "text",
        "refusal",
        "input_image",
        "input_file",
        "input_audio",
        "summary_text",
        "reasoning_text",
        "computer_screenshot",
    ]
    text: str | None = None
    refusal: str | None = None


class _Message(Struct):
    role: Role
    content: str | Annotated[list[_Part], Meta(max_length=_MAX_PARTS)]
    status: Status | None = None


class _FunctionCall(Struct):
    call_id: CallId
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    arguments: str
    status: Status | None = None


class _FunctionCallOutput(Struct):
    call_id: CallId
    output: str | Annotated[list[_Part], Meta(max_length=_MAX_PARTS)]
    status: Status | None = None


class _Reasoning(Struct):
    summary: Annotated[list[_Part], Meta(max_length=_MAX_PARTS)] = []
    content: Annotated[list[_Part], Meta(max_length=_MAX_PARTS)] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


class _CustomCall(Struct):
    call_id: CallId
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    input: str
    status: Status | None = None


class _ApprovalRequest(Struct):
    server_label: Annotated[str, Meta(max_length=128)]
    name: Annotated[str, Meta(max_length=128)]
    arguments: str
    id: CallId | None = None  # by which its answer names it


class _ApprovalResponse(Struct):
    approval_request_id: CallId
    approve: bool
    reason: str | None = None


class _Other(Struct):
    call_id: CallId | None = None
    # Vendors' own: a search is searching, a call is calling.
    status: Annotated[str, Meta(max_length=32)] | None = None


_KINDS: Final[dict[str, type[Struct]]] = {
    "message": _Message,
    "function_call": _FunctionCall,
    "function_call_output": _FunctionCallOutput,
    "reasoning": _Reasoning,
    "custom_tool_call": _CustomCall,
    "custom_tool_call_output": _FunctionCallOutput,
    "mcp_approval_request": _ApprovalRequest,
    "mcp_approval_response": _ApprovalResponse,
    **dict.fromkeys(_OTHER_TYPES, _Other),
}
_CHECKS: Final[dict[str, Callable[[bytes], Struct]]] = {
    name: msgspec.json.Decoder(kind).decode for name, kind in _KINDS.items()
}
_decode_type = msgspec.json.Decoder(_Typed).decode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode

Item = dict[str, Any]


def to_items(given: list[msgspec.Raw], param: str = "items") -> list[Item]:
    """Check a client's items and bring them into form. Raises InvalidRequest naming the field."""
    if sum(map(len, map(bytes, given))) > MAX_ITEMS_BYTES:
        raise InvalidRequest(f"'{param}' has more than {MAX_ITEMS_BYTES} bytes", param=param)
    return [to_item(raw, f"{param}[{index}]") for index, raw in enumerate(given)]


def require_json(raw: msgspec.Raw, param: str) -> None:
    """Refuse what would not be read again: numbers out of range, deep nesting.

    Raises InvalidRequest naming the field.
    """
    data = bytes(raw)
    try:
        value = _decode_any(data)
        if data.count(b"[") + data.count(b"{") >= _MAX_NESTING:
            _require_shallow(value, _MAX_NESTING - 1)  # it lies in an item, which is one level
    except msgspec.ValidationError as error:
        raise _inside(to_invalid_request(str(error)), param) from None
    except RecursionError:
        raise InvalidRequest(f"'{param}' is nested too deeply", param=param) from None


def to_message(content: msgspec.Raw, role: str) -> Item:
    """Make a message of a client's `content`. Raises InvalidRequest naming the field."""
    message = b'{"type":"message","role":"%b","content":%b}' % (role.encode(), bytes(content))
    return to_item(msgspec.Raw(message), "")


def id_prefix(item_type: str) -> str:
    """What the id of an item of this type begins with."""
    return _PREFIXES.get(item_type, "item_")


def text_of(item: Item) -> str:
    """What of an item a search looks in: what people and models wrote."""
    parts = item.get("content") or []
    if item.get("type") == "function_call_output":
        parts = item.get("output") or []
    if isinstance(parts, str):
        return parts
    return "\n".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str)
    )


def to_item(raw: msgspec.Raw, param: str) -> Item:
    """Check one item and bring it into form; `param` is where it stands. Raises InvalidRequest."""
    data = bytes(raw)
    if len(data) > MAX_ITEMS_BYTES:
        raise InvalidRequest(
            f"'{param or 'content'}' has more than {MAX_ITEMS_BYTES} bytes",
            param=param or "content",
        )
    try:
        item_type = _decode_type(data).type
        if item_type not in _CHECKS:
            raise InvalidRequest(
                f"'{param}.type': there are no items of the type {item_type[:64]!r}",
                param=f"{param}.type",
            )
        _CHECKS[item_type](data)
        item = _decode_object(data)
        if data.count(b"[") + data.count(b"{") > _MAX_NESTING:
            _require_shallow(item, _MAX_NESTING)
    except msgspec.ValidationError as error:
        raise _inside(to_invalid_request(str(error)), param) from None
    except RecursionError:
        raise InvalidRequest(
            f"'{param or 'content'}' is nested too deeply", param=param or "content"
        ) from None
    item.pop("id", None)
    item.pop("told", None)  # the server's own: see Told
    item["type"] = item_type
    item["status"] = item.get("status") or "completed"
    if item_type == "message":
        item["content"] = to_parts(item["content"], item["role"])
    return item


def _require_shallow(value: Any, levels: int) -> None:
    """Raises RecursionError."""
    if not levels:
        raise RecursionError
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return
    for inner in value:
        _require_shallow(inner, levels - 1)


def to_parts(content: str | list[dict[str, Any]], role: str) -> list[dict[str, Any]]:
    """Bring a message's content into parts: a text alone is one."""
    spoken = role == "assistant"
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    return [_to_part(part, spoken) for part in content]


def _to_part(part: dict[str, Any], spoken: bool) -> dict[str, Any]:
    if part["type"] not in ("text", "output_text", "input_text"):
        return part
    if not spoken:
        return {**part, "type": "input_text"}
    return {"annotations": [], "logprobs": [], **part, "type": "output_text"}


def _inside(error: InvalidRequest, param: str) -> InvalidRequest:
    """Say where in the request the item at fault is."""
    inner = error.param
    path = f"{param}.{inner or ''}".strip(".").replace(".[", "[")
    message = error.message.replace(f"'{inner}'", f"'{path}'", 1) if inner else error.message
    return InvalidRequest(message.replace("the body", f"'{param}'", 1), param=path, code=error.code)
