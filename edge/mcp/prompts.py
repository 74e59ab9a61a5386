"""Prompts: the caller's prompt templates, with their variables as arguments."""

import re
from collections.abc import Iterator
from typing import Any, Final

import mcp_types as types
import msgspec

from edge.generation import to_caller
from edge.mcp.errors import Context, scope_of
from edge.mcp.resources import read_cursor
from edge.prompts import render
from edge.requests import read_query
from edge.state import state_of
from schemas.api.chat import PromptReference
from schemas.api.prompts import Prompt, Variable
from schemas.queries.prompts import AskPrompts

_PAGE: Final = 50
_DATA_URL: Final = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.+)", re.DOTALL)


class _Page(msgspec.Struct):
    data: list[Prompt]
    next_after: str | None


async def list_prompts(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListPromptsResult:
    """The newest version of each of the caller's prompts."""
    scope = scope_of(context)
    question = AskPrompts(principal=to_caller(scope).principal, paging=read_cursor(params, _PAGE))
    told = await state_of(scope)["stored"].ask("prompts", "list", question)
    page = msgspec.json.decode(told, type=_Page)
    return types.ListPromptsResult(
        prompts=[_to_prompt(prompt) for prompt in page.data], next_cursor=page.next_after
    )


async def get_prompt(
    context: Context, params: types.GetPromptRequestParams
) -> types.GetPromptResult:
    """A prompt with its arguments in place. Each part of a message becomes one of MCP's."""
    scope = scope_of(context)
    ask, principal = state_of(scope)["stored"].ask, to_caller(scope).principal
    reference = read_query({"id": params.name, "variables": params.arguments}, PromptReference)
    rendered = await render(ask, principal, reference)
    messages = [
        types.PromptMessage(role=_role_of(message), content=content)
        for raw in rendered.messages
        for message in [msgspec.json.decode(raw, type=dict[str, Any])]
        for content in _to_contents(message.get("content"))
    ]
    return types.GetPromptResult(messages=messages)


def _to_prompt(prompt: Prompt) -> types.Prompt:
    return types.Prompt(
        name=prompt.name,
        description=prompt.description,
        arguments=[_to_argument(name, told) for name, told in prompt.variables.items()],
    )


def _to_argument(name: str, variable: Variable) -> types.PromptArgument:
    return types.PromptArgument(
        name=name, description=variable.description, required=variable.default is None
    )


def _role_of(message: dict[str, Any]) -> types.Role:
    """MCP knows two roles: instructions come from the user, as far as it is concerned."""
    return "assistant" if message["role"] == "assistant" else "user"


def _to_contents(content: Any) -> Iterator[types.ContentBlock]:
    if isinstance(content, str):
        yield types.TextContent(text=content)
        return
    for part in content or ():
        match part:
            case {"text": str(text)}:
                yield types.TextContent(text=text)
            case {"image_url": {"url": str(url)}}:
                yield _to_image(url)
            case _:
                yield types.TextContent(text=f"[{part['type']}]")


def _to_image(url: str) -> types.ContentBlock:
    data = _DATA_URL.fullmatch(url)
    if data is not None:
        return types.ImageContent(mime_type=data[1], data=data[2])
    return types.ResourceLink(uri=url, name="image")
