"""What can be wrong with an input's items that no single one of them shows."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from schemas.api.history import answers, call_ids
from schemas.api.items import Item
from schemas.api.response_tools import CodeInterpreterTool, Container, Tool
from schemas.errors import InvalidRequest
from schemas.responses.chat import called_in
from schemas.responses.files import decode_file
from schemas.responses.prepared import calls_of

_decode_messages = msgspec.json.Decoder(list[dict[str, Any]]).decode
_PLACES: Final = ("content", "output")  # where parts are


def require_known_calls(
    items: Sequence[Item], context: Sequence[Item], messages: bytes | msgspec.Raw
) -> None:
    """Refuse the output of a call that nobody has made, as OpenAI does.

    `context` and `messages` are what was said before. Raises InvalidRequest naming the field.
    """
    if not answers(items):
        return
    known = call_ids([*context, *items]) | called_in(_decode_messages(messages))
    for number, item in enumerate(items):
        if answers([item]) - known:
            param = f"input[{number}].call_id"
            raise InvalidRequest(f"'{param}': there is no call with this id", param=param)


def require_asked(items: Sequence[Item], context: Sequence[Item]) -> None:
    """Refuse answers to what nobody has asked, or what was answered before.

    An answer whose call stands in the input too is history. Raises InvalidRequest.
    """
    asked = {item["id"] for item in [*context, *items] if item["type"] == "mcp_approval_request"}
    history, answered = calls_of(items), calls_of(context) | _denied_in(context)
    for number, item in enumerate(items):
        named = str(item.get("approval_request_id"))
        if item["type"] != "mcp_approval_response" or named in history:
            continue
        param = f"input[{number}].approval_request_id"
        if named not in asked:
            raise InvalidRequest(f"'{param}': nobody has asked for this approval", param=param)
        if named in answered:
            raise InvalidRequest(f"'{param}': this was answered before", param=param)
        answered.add(named)


def _denied_in(items: Sequence[Item]) -> set[str]:
    """The questions for approval that were answered with a no."""
    return {
        str(item.get("approval_request_id"))
        for item in items
        if item["type"] == "mcp_approval_response" and item.get("approve") is False
    }


def require_readable(items: Sequence[Item]) -> None:
    """Refuse parts that no model would get to see. Raises InvalidRequest naming the field."""
    for number, item in enumerate(items):
        for place in _PLACES:
            parts = item.get(place)
            for at, part in enumerate(parts if isinstance(parts, list) else ()):
                _require_readable(part, f"input[{number}].{place}[{at}]")


def _require_readable(part: Any, param: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "input_image" and not part.get("image_url"):
        raise InvalidRequest(
            f"'{param}.image_url' is required: this server keeps no files for models",
            param=f"{param}.image_url",
        )
    if kind != "input_file":
        return
    if not (part.get("file_data") or part.get("file_id")):
        raise InvalidRequest(
            f"'{param}.file_data' is required: this server fetches no files for models",
            param=f"{param}.file_data",
        )
    try:
        decode_file(part.get("file_data") or "")
    except ValueError:
        raise InvalidRequest(
            f"'{param}.file_data' is base64, alone or in a data URL", param=f"{param}.file_data"
        ) from None


def require_containers(tools: Sequence[Tool]) -> None:
    """Refuse what code can't be given. Raises InvalidRequest naming the field."""
    for number, tool in enumerate(tools):
        container = tool.container if isinstance(tool, CodeInterpreterTool) else None
        if not isinstance(container, Container):
            continue
        param = f"tools[{number}].container"
        if container.file_ids:
            raise InvalidRequest(
                f"'{param}.file_ids': files come as input_file, or with the response whose code "
                "made them",
                param=f"{param}.file_ids",
            )
        if container.memory_limit is not None:
            raise InvalidRequest(
                f"'{param}.memory_limit': how much memory code has is the operator's setting",
                param=f"{param}.memory_limit",
            )
