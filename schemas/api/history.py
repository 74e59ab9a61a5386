"""A conversation's items as the messages of a chat, and a chat's messages and answer as items."""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from schemas.api.hosted import HOSTED, Names, to_hosted_call
from schemas.api.items import Item, text_of, to_parts

Message = dict[str, Any]

_CALLS: Final = ("function_call", "custom_tool_call")
_OUTPUTS: Final = ("function_call_output", "custom_tool_call_output")
_SHOWN: Final = ("input_image", "input_file")  # parts of outputs that are no text
_ANSWERS: Final = ("mcp_approval_response", "mcp_call")  # of questions for approval
_ROLES: Final = ("user", "assistant", "system", "developer")
_LONGEST_NAME: Final = 128  # characters of a call's id and name, as in items that clients send
_NAMELESS: Final = "unknown"
_DENIED: Final = "The user did not allow this call."


def to_messages(
    items: Iterable[Item], before: Iterable[str] = (), names: Names | None = None
) -> list[Message]:
    """Write items, oldest first, as chat messages; `before` are calls that were made earlier.

    `names` are those that tools are offered under now. What chat has no words for is left out:
    reasoning, lists of tools, questions for approval but those that were answered with a no. So are
    calls of which nobody knows what came of them, calls that nobody answered, unless they came
    last, and outputs without a call: engines refuse both.
    """
    known = list(items)
    answered = {item.get("call_id") for item in known if item["type"] in _OUTPUTS}
    asked = {item["id"]: item for item in known if item["type"] == "mcp_approval_request"}
    called: set[Any] = set(before)
    chat = _Chat()
    for number, item in enumerate(known):
        match item["type"]:
            case "message":
                chat.add_message(item)
            case "reasoning":
                chat.end_step()
            case "function_call" | "custom_tool_call":
                if _is_whole(item) and (item["call_id"] in answered or _is_last(known, number)):
                    called.add(item["call_id"])
                    chat.add_clients(item)
            case "function_call_output" | "custom_tool_call_output":
                if item.get("call_id") in called:
                    chat.add_output(item)
            case "mcp_approval_response":
                request = asked.get(item.get("approval_request_id"))
                if request is not None and item.get("approve") is False:
                    chat.add_hosted(_to_denied(request), names or {})
            case kind if kind in HOSTED:
                chat.add_hosted(item, names or {})
    return chat.close()


def call_ids(items: Iterable[Item]) -> set[str]:
    """The calls among items that their client answers."""
    return {item["call_id"] for item in items if item["type"] in _CALLS and item.get("call_id")}


def answers(items: Iterable[Item]) -> set[str]:
    """The calls that items are the outputs of."""
    return {item["call_id"] for item in items if item["type"] in _OUTPUTS and item.get("call_id")}


def unanswered(items: Iterable[Item]) -> list[Item]:
    """The questions for approval that nobody has answered."""
    known = list(items)
    answered = {item.get("approval_request_id") for item in known if item["type"] in _ANSWERS}
    asked = [item for item in known if item["type"] == "mcp_approval_request"]
    return [item for item in asked if item["id"] not in answered]


def without_unanswered(
    messages: Iterable[Message], answered: Container[str | None]
) -> Iterator[Message]:
    """Leave out the calls that nobody answers: engines refuse them."""
    for message in messages:
        calls = [call for call in message.get("tool_calls") or () if call["id"] in answered]
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        if calls:
            yield rest | {"tool_calls": calls}
        elif rest["role"] != "assistant" or rest.get("content") or rest.get("refusal"):
            yield rest


def has_images(items: Iterable[Item]) -> bool:
    """Tell whether a model must see to go on from these items."""
    return image_in(items) is not None


def image_in(items: Iterable[Item], param: str = "items") -> str | None:
    """Where the first image is that a model would get to see; `param` is what the items are in."""
    for number, item in enumerate(items):
        place = "output" if item["type"] in _OUTPUTS else "content"
        parts = item.get(place) if place == "output" or item.get("role") == "user" else None
        for at, part in enumerate(parts if isinstance(parts, list) else ()):
            if part.get("type") == "input_image":
                return f"{param}[{number}].{place}[{at}]"
    return None


def to_input_items(messages: Iterable[Message]) -> list[Item]:
    """Write what a request says as items. Its instructions are left out: they are not said."""
    items: list[Item] = []
    for message in messages:
        role = message.get("role")
        if role == "user":
            items.append(_to_item("user", [_to_input(part) for part in _parts(message)], message))
        elif role == "assistant":
            items += to_spoken_items(message)
        elif role == "tool":
            items.append(_to_output(message.get("tool_call_id"), message))
        elif role == "function":
            items.append(_to_output(message.get("name"), message))
    return items


def to_answer_items(body: dict[str, Any], *, whole: bool) -> list[Item]:
    """Write a chat completion's first choice as items; `whole`: the run went well.

    A text that was cut off is incomplete too.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return []
    done = whole and choice.get("finish_reason") != "length"
    return to_spoken_items(message, "completed" if done else "incomplete")


def to_spoken_items(message: Message, status: str = "completed") -> list[Item]:
    """Write what a model said as items: its reasoning, its words, its calls."""
    items: list[Item] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning:
        content = [{"type": "reasoning_text", "text": _to_text(reasoning)}]
        items.append({"type": "reasoning", "summary": [], "content": content, "status": status})
    parts = [_to_said(part) for part in _parts(message) if part.get("text") or part.get("refusal")]
    if isinstance(message.get("refusal"), str) and message["refusal"]:
        parts.append({"type": "refusal", "refusal": _to_text(message["refusal"])})
    if parts:
        said = {"type": "message", "role": "assistant", "status": status}
        items.append(said | {"content": to_parts(parts, "assistant")})
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        if isinstance(call, dict):
            items += _to_call(call, status)
    if isinstance(message.get("function_call"), dict):
        function = message["function_call"]
        items += _to_call({"id": function.get("name"), "function": function}, status)
    return items


def last_text(items: Iterable[Item]) -> str | None:
    """What the last user's message among items says."""
    said = [text_of(item) for item in items if item.get("role") == "user"]
    return said[-1] if said else None


class _Chat:
    """Messages while they are put together. The calls of one step are one message's.

    What outputs show besides text follows their run in a message of the user's: chat has no other
    place for it.
    """

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._shown: list[dict[str, Any]] = []
        self._open: Message | None = None  # the model's, that its next call belongs to
        self._waiting: set[str] = set()  # calls in it that are not answered yet
        self._step: int | None = None  # of the last call in it, where that is known

    def add_message(self, item: Item) -> None:
        """Add what somebody said; the model's calls belong to what it says before them."""
        message = _to_message(item)
        if message is None:
            return
        if message["role"] == "assistant" and self._open is not None and self._waiting:
            _append(self._open, message)  # it was said after the calls, and before their answers
            return
        self._show()
        self._messages.append(message)
        self._open = message if message["role"] == "assistant" else None
        self._step = None
        self._waiting = set()

    def end_step(self) -> None:
        """The model begins anew: what it calls from now on, it calls after what it has called."""
        if self._open is not None and "tool_calls" in self._open and not self._waiting:
            self._open = None

    def add_clients(self, item: Item) -> None:
        """Add a call that the client answers."""
        self.add_call(item, _to_chat_call(item))
        self._waiting.add(item["call_id"])

    def add_call(self, item: Item, call: dict[str, Any]) -> None:
        """Add a call to the message that the model said it with."""
        told = item.get("told")
        step = told.get("step") if isinstance(told, dict) else None
        if self._open is not None and None not in (step, self._step) and step != self._step:
            self._open = None
        if self._open is None:
            self._show()
            self._open = {"role": "assistant", "content": None}
            self._messages.append(self._open)
            self._waiting = set()
        self._open.setdefault("tool_calls", []).append(call)
        self._step = step

    def add_hosted(self, item: Item, names: Names) -> None:
        """Add a call that the server has answered, and the answer."""
        found = to_hosted_call(item, names)
        if found is None:
            return
        function = {"name": found.name, "arguments": found.arguments}
        self.add_call(item, {"id": item["id"], "type": "function", "function": function})
        self._answer(item["id"], found.output)

    def add_output(self, item: Item) -> None:
        """Add what the client answers to a call: the model goes on after it."""
        output = item.get("output")
        parts = output if isinstance(output, list) else []
        shown = [part for part in parts if part.get("type") in _SHOWN]
        text = output if isinstance(output, str) else text_of({"content": parts})
        if shown:
            count = f"{len(shown)} file" + "s" * (len(shown) > 1)
            text = f"{text}\n[{count} of this output: see the next message.]".lstrip()
            head = f"[{count} of the output of the call {item['call_id']}:]"
            self._shown += [{"type": "text", "text": head}, *map(_to_content, shown)]
        self._answer(item["call_id"], text)
        self._waiting.discard(item["call_id"])
        self._open = None

    def close(self) -> list[Message]:
        """All of them."""
        self._show()
        return self._messages

    def _answer(self, call_id: str, text: str) -> None:
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": text})

    def _show(self) -> None:
        if self._shown:
            self._messages.append({"role": "user", "content": self._shown})
            self._shown = []


def _to_denied(request: Item) -> Item:
    """The call that was asked about, and what came of it."""
    return request | {"type": "mcp_call", "status": "failed", "output": _DENIED}


def _to_message(item: Item) -> Message | None:
    role = item.get("role")
    if role not in _ROLES:
        return None
    parts = item.get("content") or []
    if role == "assistant":
        return _to_assistant(parts)
    content = [_to_content(part) for part in parts]
    if len(content) == 1 and content[0]["type"] == "text":
        content = content[0]["text"]
    named = {"name": item["name"]} if isinstance(item.get("name"), str) else {}
    return {"role": role, "content": content} | named


def _append(message: Message, more: Message) -> None:
    """Let a message of the model's say more."""
    for name in ("content", "refusal"):
        if more.get(name):
            message[name] = (message.get(name) or "") + more[name]


def _to_assistant(parts: Sequence[dict[str, Any]]) -> Message | None:
    texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
    refusals = [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
    message: Message = {"role": "assistant", "content": "".join(texts) or None}
    if refusals:
        message["refusal"] = "".join(refusals)
    return message if texts or refusals else None


def _to_chat_call(item: Item) -> dict[str, Any]:
    if item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        return {"id": item["call_id"], "type": "function", "function": function}
    custom = {"name": item["name"], "input": item["input"]}
    return {"id": item["call_id"], "type": "custom", "custom": custom}


def _is_whole(item: Item) -> bool:
    """Whether a call was said to its end."""
    if not isinstance(item.get("call_id"), str) or item.get("status") == "incomplete":
        return False
    said = "arguments" if item["type"] == "function_call" else "input"
    return isinstance(item.get("name"), str) and isinstance(item.get(said), str)


def _is_last(items: Sequence[Item], number: int) -> bool:
    """Whether nobody but the model has said anything since: the request may bring the answer."""
    return all(item.get("role", "assistant") == "assistant" for item in items[number:])


def _to_content(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a user's item as a part of a chat message."""
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return {"type": "text", "text": part.get("text") or ""}
        case "input_image":
            url = part.get("image_url")
            if isinstance(url, dict):  # as chat itself has it
                return {"type": "image_url", "image_url": url}
            detail = {"detail": part["detail"]} if part.get("detail") else {}
            return {"type": "image_url", "image_url": {"url": url or ""} | detail}
        case "input_file":
            names = ("file_id", "file_data", "filename")
            return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
        case "refusal":
            return {"type": "text", "text": part.get("refusal") or ""}
        case _:
            return part


def _to_input(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a user's chat message as a part of an item."""
    image, file = part.get("image_url"), part.get("file")
    if part["type"] == "text":
        return part | {"type": "input_text"}
    if part["type"] == "image_url" and isinstance(image, dict):
        detail = image.get("detail") or "auto"
        return part | {"type": "input_image", "image_url": image.get("url"), "detail": detail}
    if part["type"] == "file" and isinstance(file, dict):
        return {"type": "input_file", **file}
    return part


def _to_said(part: dict[str, Any]) -> dict[str, Any]:
    """A part of what a model said: a text or a refusal, whatever its upstream makes of it."""
    kind = "text" if part.get("text") else "refusal"
    rest = {name: value for name, value in part.items() if name not in ("text", "refusal")}
    return rest | {"type": kind, kind: _to_text(part[kind])}


def _to_item(role: str, parts: list[dict[str, Any]], message: Message) -> Item:
    named = {"name": message["name"]} if isinstance(message.get("name"), str) else {}
    return {"type": "message", "role": role, "status": "completed", "content": parts} | named


def _to_output(call_id: Any, message: Message) -> Item:
    output = "".join(part.get("text") or "" for part in _parts(message))
    return {
        "type": "function_call_output",
        "call_id": _to_name(call_id),
        "output": output,
        "status": "completed",
    }


def _to_call(call: dict[str, Any], status: str) -> list[Item]:
    custom, function = call.get("custom"), call.get("function")
    call_id = _to_name(call.get("id"))
    if isinstance(custom, dict):
        told = {"name": _to_name(custom.get("name")), "input": _to_text(custom.get("input"))}
        return [{"type": "custom_tool_call", "call_id": call_id, "status": status} | told]
    if isinstance(function, dict):
        arguments = _to_text(function.get("arguments"))
        told = {"name": _to_name(function.get("name")), "arguments": arguments}
        return [{"type": "function_call", "call_id": call_id, "status": status} | told]
    return []


def _to_name(value: Any) -> str:
    """The id or name of a call as it is kept, whatever an upstream or a client calls it."""
    return _to_text(value)[:_LONGEST_NAME] or _NAMELESS


def _to_text(value: Any) -> str:
    """A text as it is, without NUL, which no column holds; anything else as JSON, nothing as ''."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text.replace("\0", "\ufffd")


def _parts(message: Message) -> list[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and isinstance(part.get("type"), str)]
