"""A Messages request as the chat request that any engine can serve.

What chat has no word for goes along as extensions: `cache_control` and `is_error` where they stood,
`reasoning_details` on the model's messages, and the rest in the top-level field `anthropic`. The
anthropic engine puts them back; the openai engine takes them out.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from schemas.api import messages as api
from schemas.errors import InvalidRequest

Json = dict[str, Any]

_EFFORTS = ((4096, "low"), (16384, "medium"))  # by the tokens of thinking that are allowed
_IMAGES = "image/"
_PDF = "application/pdf"


def to_chat(request: api.CountRequest) -> bytes:
    """Encode the chat request. Raises InvalidRequest for what no chat can carry."""
    chat: Json = {"model": request.model, "messages": _to_messages(request)}
    if request.tools:
        chat["tools"] = [_to_tool(tool) for tool in request.tools]
        chat |= _to_tool_choice(request.tool_choice)
    chat |= _to_output(request.output_config, request.thinking)
    if isinstance(request, api.MessagesRequest):
        chat |= _to_sampling(request)
    chat["anthropic"] = _to_extras(request)
    return msgspec.json.encode(chat)


def _to_sampling(request: api.MessagesRequest) -> Json:
    given: Json = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
        "user": request.metadata.user_id if request.metadata else None,
    }
    chat = {name: value for name, value in given.items() if value is not None}
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def _to_output(
    output: api.OutputConfig | None,
    thinking: api.ThinkingEnabled
    | api.ThinkingAdaptive
    | api.ThinkingDisabled
    | api.ThinkingBetweenTools
    | None,
) -> Json:
    chat: Json = {}
    if output is not None and output.effort is not None:
        chat["reasoning_effort"] = output.effort
    elif isinstance(thinking, api.ThinkingEnabled):
        budget = thinking.budget_tokens
        efforts = (effort for most, effort in _EFFORTS if budget < most)
        chat["reasoning_effort"] = next(efforts, "high")
    if output is not None and output.format is not None:
        schema = {"name": "answer", "schema": output.format.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _to_extras(request: api.CountRequest) -> Json:
    """What only Anthropic's own API understands."""
    extras: Json = {}
    if request.thinking is not None:
        extras["thinking"] = request.thinking
    if request.output_config is not None and request.output_config.effort is not None:
        extras["output_config"] = {"effort": request.output_config.effort}
    if isinstance(request.cache_control, dict):
        extras["cache_control"] = request.cache_control
    if isinstance(request, api.MessagesRequest) and request.service_tier is not None:
        extras["service_tier"] = request.service_tier
    return extras


def _to_tool(tool: api.Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return _cached({"type": "function", "function": function}, tool.cache_control)


def _to_tool_choice(
    choice: api.AutoChoice | api.AnyChoice | api.ToolChoice | api.NoChoice | None,
) -> Json:
    match choice:
        case None:
            return {}
        case api.NoChoice():
            return {"tool_choice": "none"}
        case api.AutoChoice():
            chat: Json = {"tool_choice": "auto"}
        case api.AnyChoice():
            chat = {"tool_choice": "required"}
        case api.ToolChoice():
            chat = {"tool_choice": {"type": "function", "function": {"name": choice.name}}}
    if choice.disable_parallel_tool_use:
        chat["parallel_tool_calls"] = False
    return chat


def _to_messages(request: api.CountRequest) -> list[Json]:
    found: list[Json] = []
    if request.system:
        found.append(_to_system(request.system))
    for number, turn in enumerate(request.messages):
        match turn:
            case api.SystemTurn():
                found.append(_to_system(turn.content))
            case api.UserTurn():
                found += _to_user(turn, f"messages[{number}].content")
            case api.AssistantTurn():
                found.append(_to_assistant(turn))
    return found


def _to_system(content: str | list[api.TextBlock]) -> Json:
    if isinstance(content, str):
        return {"role": "system", "content": content}
    return {"role": "system", "content": [_to_text(block) for block in content]}


def _to_user(turn: api.UserTurn, path: str) -> list[Json]:
    """A user's turn: first what its tools answered, then what the user says and shows."""
    if isinstance(turn.content, str):
        return [{"role": "user", "content": turn.content}]
    results: list[Json] = []
    parts: list[Json] = []
    for number, block in enumerate(turn.content):
        here = f"{path}[{number}]"
        if isinstance(block, api.ToolResultBlock):
            result, shown = _to_result(block, here)
            results.append(result)
            parts += shown
        else:
            parts.append(_to_part(block, here))
    if parts or not results:
        results.append({"role": "user", "content": parts})
    return results


def _to_result(block: api.ToolResultBlock, path: str) -> tuple[Json, list[Json]]:
    """A tool's answer; what it shows besides text goes to the user's parts, as chat wants it."""
    texts: str | list[Json]
    shown: list[Json] = []
    if isinstance(block.content, list):
        texts = []
        for number, inner in enumerate(block.content):
            part = _to_part(inner, f"{path}.content[{number}]")
            if part["type"] == "text":
                texts.append(part)
            else:
                shown.append({**part, "tool_call_id": block.tool_use_id})
    else:
        texts = block.content or ""
    result: Json = {"role": "tool", "tool_call_id": block.tool_use_id, "content": texts}
    if block.is_error:
        result["is_error"] = True
    return _cached(result, block.cache_control), shown


def _to_part(block: api.TextBlock | api.ImageBlock | api.DocumentBlock, path: str) -> Json:
    match block:
        case api.TextBlock():
            return _to_text(block)
        case api.ImageBlock():
            part: Json = {"type": "image_url", "image_url": {"url": _to_url(block, path)}}
        case api.DocumentBlock():
            part = _to_file(block, path)
    return _cached(part, block.cache_control)


def _to_text(block: api.TextBlock) -> Json:
    return _cached({"type": "text", "text": block.text}, block.cache_control)


def _to_url(block: api.ImageBlock, path: str) -> str:
    source = block.source
    if isinstance(source, api.UrlSource):
        return source.url
    if not source.media_type.startswith(_IMAGES):
        raise _unsupported(f"{path}.source.media_type", source.media_type)
    return f"data:{source.media_type};base64,{source.data}"


def _to_file(block: api.DocumentBlock, path: str) -> Json:
    source = block.source
    if isinstance(source, api.PlainSource):
        heads = [text for text in (block.title, block.context) if text]
        return {"type": "text", "text": "\n\n".join([*heads, source.data])}
    if source.media_type != _PDF:
        raise _unsupported(f"{path}.source.media_type", source.media_type)
    data = f"data:{_PDF};base64,{source.data}"
    return {
        "type": "file",
        "file": {"filename": block.title or "document.pdf", "file_data": data},
    }


def _to_assistant(turn: api.AssistantTurn) -> Json:
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    texts = [_to_text(block) for block in turn.content if isinstance(block, api.TextBlock)]
    calls = [_to_call(block) for block in turn.content if isinstance(block, api.ToolUseBlock)]
    content = _joined(texts)
    message: Json = {"role": "assistant", "content": content if content or calls else ""}
    if calls:
        message["tool_calls"] = calls
    thoughts = [block for block in turn.content if isinstance(block, api.ThinkingBlock)]
    if any(block.thinking for block in thoughts):
        message["reasoning_content"] = "".join(block.thinking for block in thoughts)
    details = [
        {"index": index, **msgspec.to_builtins(block)}
        for index, block in enumerate(turn.content)
        if isinstance(block, api.RedactedThinkingBlock)
        or (isinstance(block, api.ThinkingBlock) and block.signature)
    ]
    if details:
        message["reasoning_details"] = details
    return message


def _joined(texts: list[Json]) -> str | list[Json] | None:
    """One text for those who know no parts, unless a part has more to say."""
    if len(texts) == 1 and "cache_control" not in texts[0]:
        return str(texts[0]["text"])
    return texts or None


def _to_call(block: api.ToolUseBlock) -> Json:
    arguments = msgspec.json.encode(block.input).decode()
    function = {"name": block.name, "arguments": arguments}
    call = {"id": block.id, "type": "function", "function": function}
    return _cached(call, block.cache_control)


def _cached(part: Json, control: api.CacheControl | UnsetType) -> Json:
    if control is not UNSET and control is not None:
        part["cache_control"] = control
    return part


def _unsupported(param: str, media_type: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}': {media_type} can't be passed on", param=param)
