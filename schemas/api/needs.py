"""What a request needs of whatever serves it, in the form in which it came."""

from collections.abc import Iterable, Mapping
from typing import Final

from schemas.api import messages as api
from schemas.api.chat import ChatRequest, ImagePart, JsonSchemaFormat, UserMessage
from schemas.api.history import has_images, image_in
from schemas.api.items import Item
from schemas.api.responses import ResponseRequest

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


def needs_of_response(
    request: ResponseRequest, items: Iterable[Item], context: Iterable[Item] = ()
) -> dict[str, str]:
    """Find what a deployment must be able to do for a response to an input's items.

    `context` are those of the responses before it.
    """
    needs: dict[str, str] = {}
    if request.tools and request.to_choice().mode != "none":
        needs["tools"] = "tools"
    image = image_in(items, "input")
    if image is not None:
        needs["vision"] = image
    elif has_images(context):
        needs["vision"] = "previous_response_id"
    reasoning = request.reasoning
    if reasoning is not None and reasoning.effort not in (None, "none"):
        needs["reasoning"] = "reasoning.effort"
    return needs


def needs_of_messages(request: api.CountRequest) -> Needs:
    """Find what a deployment must be able to do for a request in Anthropic's form."""
    needs: dict[str, str] = {}
    if request.tools and not isinstance(request.tool_choice, api.NoChoice):
        needs["tools"] = "tools"
    image = _first_image_block(request)
    if image is not None:
        needs["vision"] = image
    if request.output_config is not None and request.output_config.format is not None:
        needs["json_schema"] = "output_config.format"
    if isinstance(request.thinking, api.ThinkingEnabled):
        needs["reasoning"] = "thinking"
    return needs


def _first_image_block(request: api.CountRequest) -> str | None:
    for number, turn in enumerate(request.messages):
        blocks = turn.content if isinstance(turn, api.UserTurn) else ""
        for place, block in enumerate(blocks if not isinstance(blocks, str) else ()):
            path = f"messages[{number}].content[{place}]"
            if isinstance(block, api.ImageBlock):
                return path
            if isinstance(block, api.ToolResultBlock) and not isinstance(block.content, str):
                for inner, part in enumerate(block.content or ()):
                    if isinstance(part, api.ImageBlock):
                        return f"{path}.content[{inner}]"
    return None
