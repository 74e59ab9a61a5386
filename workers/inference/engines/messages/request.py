"""A chat request as a Messages request. What Messages can't do is refused by the field's name."""

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from schemas.errors import UpstreamRejected
from schemas.providers import AnthropicOptions
from schemas.raw import OptionalRaw

Json = dict[str, Any]

_DATA_URL: Final = re.compile(r"data:([a-z0-9.+/-]+);base64,", re.IGNORECASE)
_PDF: Final = "application/pdf"
_BUDGETS: Final = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384}
_LARGEST_BUDGET: Final = 32768
_SMALLEST_BUDGET: Final = 1024
_EXTRAS: Final = (  # fields of `anthropic` that are passed on; no other may change a request
    "cache_control",
    "container",
    "context_management",
    "inference_geo",
    "output_config",
    "service_tier",
    "speed",
    "thinking",
)


class _Url(msgspec.Struct):
    url: str


class _File(msgspec.Struct):
    file_data: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    image_url: _Url | None = None
    file: _File | None = None
    cache_control: OptionalRaw = None
    tool_call_id: str | None = None  # the tool's answer that this belongs to


class _Function(msgspec.Struct):
    name: str
    arguments: str = "{}"
    description: str | None = None
    parameters: OptionalRaw = None
    strict: bool | None = None


class _Call(msgspec.Struct):
    id: str = ""
    function: _Function | None = None
    cache_control: OptionalRaw = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: OptionalRaw = None
    tool_call_id: str | None = None
    reasoning_details: list[Json] | None = None
    is_error: bool | None = None
    cache_control: OptionalRaw = None


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    cache_control: OptionalRaw = None


class _Schema(msgspec.Struct):
    schema: OptionalRaw = None


class _Format(msgspec.Struct):
    type: str
    json_schema: _Schema | None = None


class _Chat(msgspec.Struct):
    messages: list[_Message]
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: str | Json | None = None
    parallel_tool_calls: bool | None = None
    response_format: _Format | None = None
    reasoning_effort: str | None = None
    user: str | None = None
    logprobs: bool | None = None
    logit_bias: Json | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    audio: Json | None = None
    functions: list[Json] | None = None
    web_search_options: Json | None = None
    anthropic: dict[str, msgspec.Raw] | None = None


_decode = msgspec.json.Decoder(_Chat).decode
_encode = msgspec.json.Encoder().encode


def to_messages(fields: dict[str, msgspec.Raw], model: str, options: AnthropicOptions) -> Json:
    """Translate a chat request. Raises UpstreamRejected, naming the field."""
    try:
        chat = _decode(_encode(fields))
    except msgspec.ValidationError as error:
        raise _to_rejection(error) from None
    _refuse_what_is_missing(chat)
    request: Json = {"model": model, "max_tokens": _max_tokens(chat, options)}
    request |= _Turns().read(chat.messages)
    request |= (
        _sampling(chat, options) | _tools(chat) | _output(chat, options, request["max_tokens"])
    )
    extras = {name: value for name, value in (chat.anthropic or {}).items() if name in _EXTRAS}
    if "output_config" in extras and "output_config" in request:
        own = _to_object(extras.pop("output_config"), "anthropic.output_config")
        request["output_config"] = own | request["output_config"]
    return request | extras


def _to_object(value: msgspec.Raw, param: str) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise UpstreamRejected("this must be an object", param=param) from None


def to_count(request: Json) -> Json:
    """What of a Messages request counts as its prompt."""
    names = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config")
    return {name: request[name] for name in (*names, "cache_control") if name in request}


def _to_rejection(error: msgspec.ValidationError) -> UpstreamRejected:
    message, _, path = str(error).partition(" - at `$")
    return UpstreamRejected(message, param=path.rstrip("`").lstrip(".") or None)


def _refuse_what_is_missing(chat: _Chat) -> None:
    if chat.n is not None and chat.n != 1:
        raise UpstreamRejected("this model gives one choice: n must be 1", param="n")
    given = {
        "logprobs": chat.logprobs,
        "logit_bias": chat.logit_bias,
        "presence_penalty": chat.presence_penalty,
        "frequency_penalty": chat.frequency_penalty,
        "audio": chat.audio,
        "functions": chat.functions,
        "web_search_options": chat.web_search_options,
    }
    for name, value in given.items():
        if value:
            raise UpstreamRejected(f"this model has no {name}", param=name)


def _max_tokens(chat: _Chat, options: AnthropicOptions) -> int:
    return chat.max_completion_tokens or chat.max_tokens or options.max_tokens


def _sampling(chat: _Chat, options: AnthropicOptions) -> Json:
    stop = [chat.stop] if isinstance(chat.stop, str) else chat.stop
    given: Json = {
        "stop_sequences": stop or None,
        "metadata": {"user_id": chat.user} if chat.user else None,
    }
    if options.sampling:
        given |= {
            # OpenAI's scale ends at 2, Anthropic's at 1.
            "temperature": None if chat.temperature is None else min(1.0, chat.temperature),
            "top_p": chat.top_p,
            "top_k": chat.top_k,
        }
    return {name: value for name, value in given.items() if value is not None}


def _output(chat: _Chat, options: AnthropicOptions, max_tokens: int) -> Json:
    request: Json = {}
    extras = chat.anthropic or {}
    if chat.reasoning_effort is not None and not {"thinking", "output_config"} & set(extras):
        request |= _thinking(chat.reasoning_effort, options, max_tokens)
    form = chat.response_format
    if form is None or form.type == "text":
        return request
    if form.type != "json_schema":
        raise UpstreamRejected(
            f"this model has no {form.type}: give a json_schema", param="response_format.type"
        )
    if form.json_schema is None or form.json_schema.schema is None:
        raise UpstreamRejected("the schema is missing", param="response_format.json_schema.schema")
    output = {"type": "json_schema", "schema": form.json_schema.schema}
    request.setdefault("output_config", {})["format"] = output
    return request


def _thinking(effort: str, options: AnthropicOptions, max_tokens: int) -> Json:
    if effort == "none":
        return {"thinking": {"type": "disabled"}}
    if options.thinking == "effort":
        effort = "low" if effort == "minimal" else effort
        return {
            "thinking": {"type": "adaptive", "display": "summarized"},
            "output_config": {"effort": effort},
        }
    budget = min(_BUDGETS.get(effort, _LARGEST_BUDGET), max_tokens - 1)
    if budget < _SMALLEST_BUDGET:
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _tools(chat: _Chat) -> Json:
    if not chat.tools:
        return _called_before(chat)
    request: Json = {"tools": [_tool(tool, number) for number, tool in enumerate(chat.tools)]}
    choice = _tool_choice(chat.tool_choice, request)
    if chat.parallel_tool_calls is False and (choice or {}).get("type") != "none":
        choice = {**(choice or {"type": "auto"}), "disable_parallel_tool_use": True}
    if choice is not None:
        request["tool_choice"] = choice
    return request


def _called_before(chat: _Chat) -> Json:
    """The tools that were called, as Anthropic wants to be told them; none may be called now."""
    calls = (call for message in chat.messages for call in message.tool_calls or ())
    names = dict.fromkeys(call.function.name for call in calls if call.function is not None)
    if not names:
        return {}
    schema = {"type": "object", "properties": {}}
    tools = [{"name": name, "input_schema": schema} for name in names]
    return {"tools": tools, "tool_choice": {"type": "none"}}


def _tool(tool: _Tool, number: int) -> Json:
    function = tool.function
    if function is None or tool.type != "function":
        raise UpstreamRejected(
            "this model has tools of type function only", param=f"tools[{number}].type"
        )
    schema: Any = {"type": "object", "properties": {}}
    if function.parameters is not None and bytes(function.parameters) != b"null":
        schema = function.parameters
    told: Json = {"name": function.name, "input_schema": schema}
    if function.description is not None:
        told["description"] = function.description
    if function.strict is not None:
        told["strict"] = function.strict
    return _cached(told, tool.cache_control)


def _tool_choice(choice: str | Json | None, request: Json) -> Json | None:
    if choice is None or isinstance(choice, str):
        types = {None: None, "auto": "auto", "none": "none", "required": "any"}
        if choice not in types:
            raise UpstreamRejected(f"there is no tool_choice {choice!r}", param="tool_choice")
        found = types[choice]
        return None if found is None else {"type": found}
    if choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools") or {}
        names = {_name_in(tool) for tool in allowed.get("tools") or ()}
        request["tools"] = [tool for tool in request["tools"] if tool["name"] in names]
        return {"type": "any" if allowed.get("mode") == "required" else "auto"}
    return {"type": "tool", "name": _name_in(choice)}


def _name_in(tool: Any) -> str:
    inner = tool.get("function") or tool if isinstance(tool, dict) else {}
    name = inner.get("name") if isinstance(inner, dict) else None
    if not isinstance(name, str):
        raise UpstreamRejected("a function's name is missing", param="tool_choice")
    return name


class _Turns:
    """Puts chat messages into turns of the user and the model, which take turns."""

    def __init__(self) -> None:
        self._system: list[Json] = []
        self._turns: list[Json] = []

    def read(self, messages: list[_Message]) -> Json:
        """Translate all messages: the fields `messages` and `system`."""
        for number, message in enumerate(messages):
            self._add(message, f"messages[{number}]")
        if not self._turns:
            raise UpstreamRejected("there is no message that could be answered", param="messages")
        found: Json = {"messages": self._turns}
        return found | {"system": self._system} if self._system else found

    def _add(self, message: _Message, path: str) -> None:
        match message.role:
            case "system" | "developer":
                self._system += list(_blocks(message, path))
            case "user":
                self._add_user(message, path)
            case "assistant":
                self._extend("assistant", _said(message, path))
            case "tool":
                self._extend("user", [_result(message, path)])
            case _:
                raise UpstreamRejected(
                    f"this model knows no role {message.role}", param=f"{path}.role"
                )

    def _add_user(self, message: _Message, path: str) -> None:
        parts = message.content if isinstance(message.content, list) else []
        if not any(part.tool_call_id for part in parts):
            self._extend("user", list(_blocks(message, path)))
            return
        for number, part in enumerate(parts):
            block = _block(part, f"{path}.content[{number}]")
            result = self._result_of(part.tool_call_id)
            if result is not None:
                result["content"].append(block)
            else:
                self._extend("user", [block])

    def _result_of(self, call: str | None) -> Json | None:
        """The tool's answer that a picture belongs to."""
        if call is None or not self._turns:
            return None
        blocks: list[Json] = self._turns[-1]["content"]
        for block in blocks:
            if block["type"] == "tool_result" and block["tool_use_id"] == call:
                return block
        return None

    def _extend(self, role: str, blocks: list[Json]) -> None:
        if not blocks:
            return
        if self._turns and self._turns[-1]["role"] == role:
            self._turns[-1]["content"] += blocks
        else:
            self._turns.append({"role": role, "content": blocks})


def _blocks(message: _Message, path: str) -> Iterator[Json]:
    """A message's content; texts of nothing are left out, as Anthropic refuses them."""
    if isinstance(message.content, list):
        for number, part in enumerate(message.content):
            if part.type != "text" or part.text:
                yield _block(part, f"{path}.content[{number}]")
    elif message.content:
        yield {"type": "text", "text": message.content}


def _block(part: _Part, path: str) -> Json:
    match part.type:
        case "text" | "refusal":
            block: Json = {"type": "text", "text": part.text}
        case "image_url" if part.image_url is not None:
            source = _source(part.image_url.url, "image/", f"{path}.image_url.url")
            block = {"type": "image", "source": source}
        case "file" if part.file is not None and part.file.file_data:
            source = _source(part.file.file_data, _PDF, f"{path}.file.file_data")
            block = {"type": "document", "source": source}
            if part.file.filename:
                block["title"] = part.file.filename
        case _:
            raise UpstreamRejected(f"this model takes no {part.type}", param=f"{path}.type")
    return _cached(block, part.cache_control)


def _source(url: str, kind: str, path: str) -> Json:
    match = _DATA_URL.match(url)
    if match is not None and match[1].lower().startswith(kind):
        data = url[match.end() :]
        return {"type": "base64", "media_type": match[1].lower(), "data": data}
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise UpstreamRejected(f"this is neither a web address nor data:{kind}…;base64", param=path)


def _result(message: _Message, path: str) -> Json:
    if not message.tool_call_id:
        raise UpstreamRejected("it is not said what this answers", param=f"{path}.tool_call_id")
    result: Json = {
        "type": "tool_result",
        "tool_use_id": message.tool_call_id,
        "content": list(_blocks(message, path)),
    }
    if message.is_error:
        result["is_error"] = True
    return _cached(result, message.cache_control)


def _said(message: _Message, path: str) -> list[Json]:
    """What the model said; its thoughts go back to where they stood."""
    if message.function_call is not None and bytes(message.function_call) != b"null":
        raise UpstreamRejected("this model has tool_calls only", param=f"{path}.function_call")
    blocks = list(_blocks(message, path))
    if message.refusal:
        blocks.append({"type": "text", "text": message.refusal})
    for number, call in enumerate(message.tool_calls or ()):
        blocks.append(_call(call, f"{path}.tool_calls[{number}]"))
    for detail in message.reasoning_details or ():
        thought = _thought(detail)
        if thought is not None:
            blocks.insert(_index(detail), thought)
    return blocks


def _index(detail: Json) -> int:
    index = detail.get("index")
    return index if isinstance(index, int) and index >= 0 else 0


def _thought(detail: Json) -> Json | None:
    names = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}
    kind = detail.get("type")
    wanted = names.get(kind) if isinstance(kind, str) else None
    if wanted is None:
        return None  # another provider's
    return {"type": kind, **{name: str(detail.get(name) or "") for name in wanted}}


def _call(call: _Call, path: str) -> Json:
    if call.function is None:
        raise UpstreamRejected("this model calls functions only", param=path)
    try:
        found = msgspec.json.decode(call.function.arguments or "{}", type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        raise UpstreamRejected(
            "the arguments are no JSON object", param=f"{path}.function.arguments"
        ) from None
    block = {"type": "tool_use", "id": call.id, "name": call.function.name, "input": found}
    return _cached(block, call.cache_control)


def _cached(block: Json, control: msgspec.Raw | None) -> Json:
    if control is not None and bytes(control) != b"null":
        block["cache_control"] = control
    return block
