"""What a chat request needs of whatever serves it."""

from collections.abc import Mapping
from typing import Final

from schemas.api.chat import ChatRequest, ImagePart, JsonSchemaFormat, UserMessage

Needs = Mapping[str, str]
"""A capability of the catalogue → the field of the request that asks for it."""

PREFERRED: Final = frozenset({"reasoning"})
"""What a request does without where no deployment can do it."""


def needs_of(request: ChatRequest) -> Needs:
    """Find what a deployment must be able to do for this request."""
    needs: dict[str, str] = {}
    if request.tools and request.tool_choice != "none":
        needs["tools"] = "tools"
    elif request.functions and request.function_call != "none":
        needs["tools"] = "functions"
    image = _first_image(request)
    if image is not None:
        needs["vision"] = image
    if isinstance(request.response_format, JsonSchemaFormat):
        needs["json_schema"] = "response_format"
    if request.reasoning_effort not in (None, "none"):
        needs["reasoning"] = "reasoning_effort"
    return needs


def _first_image(request: ChatRequest) -> str | None:
    for number, message in enumerate(request.messages):
        if isinstance(message, UserMessage) and not isinstance(message.content, str):
            for place, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    return f"messages[{number}].content[{place}]"
    return None
