"""Calls of tools: how each kind is shown, from its first argument to its result."""

from typing import Any, Final

import msgspec

from schemas.api.hosted import MadeFile, output_of, to_error
from schemas.responses.output import Item, Output, Place
from schemas.responses.story import Offer
from schemas.tool_options import PYTHON
from schemas.tools import ToolResult

OWN_LABEL: Final = "jan"  # the server that this server's own tools are told to be of
CLIENTS: Final = frozenset({"function", "custom"})

# Clients carry out what is shown as a function's call: one of a tool that does not exist is none.
_SHOWN_AS_MCP: Final = frozenset({"mcp", "own", "unknown"})

_AT_WORK: Final = {
    "web_search": "response.web_search_call.searching",
    "file_search": "response.file_search_call.searching",
    "code_interpreter": "response.code_interpreter_call.interpreting",
}
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class ToolCall:
    """A call, of the tool that `offer` says; None: of one that does not exist.

    `chat_id` is the id by which the model knows it.
    """

    __slots__ = ("_output", "_pieces", "arguments", "chat_id", "name", "offer", "place")

    def __init__(
        self,
        output: Output,
        chat_id: str,
        name: str,
        offer: Offer | None,
        *,
        approved: str | None = None,
    ) -> None:
        self.chat_id = chat_id
        self.name = name
        self.offer = offer
        self.arguments = ""
        self._output = output
        self._pieces: list[str] = []
        # What the client is asked about first is told whole.
        self.place: Place | None = None
        if offer is None or not offer.approval or approved is not None:
            self.place = self._begin()
            if approved is not None:
                self.place.item["approval_request_id"] = approved

    @property
    def kind(self) -> str:
        """The offer's, or `unknown`."""
        return self.offer.kind if self.offer is not None else "unknown"

    @property
    def container(self) -> str:
        """Where files lie that it makes."""
        return self._output.container

    @property
    def is_clients(self) -> bool:
        """Whether the client answers it: by its output, or by its approval."""
        if self.kind in CLIENTS:
            return True
        return self.place is None or self.place.item["type"] == "mcp_approval_request"

    @property
    def item_id(self) -> str:
        """The id of its item."""
        assert self.place is not None
        return str(self.place.item["id"])

    def add(self, piece: str) -> None:
        """Take a piece of its arguments."""
        self._pieces.append(piece)
        event = _DELTAS.get(self.kind)
        if event is not None and self.place is not None:
            where = b',"item_id":"%b","output_index":%d'
            told = where % (self.item_id.encode(), self.place.at)
            self._output.events.tell_delta(event, told, piece)

    def close(self, *, whole: bool) -> None:
        """Its arguments are complete, or it was cut off."""
        self.arguments = "".join(self._pieces)
        if self.place is None:
            if whole:
                self._ask()
            return
        self._tell_arguments()
        if not whole:
            self._output.end(self.place, "incomplete")
        elif self.kind in CLIENTS:
            self._output.end(self.place, "completed")

    def dispatch(self) -> None:
        """It was given to a worker."""
        event = _AT_WORK.get(self.kind)
        if event is not None and self.place is not None:
            self._output.tell(self.place, event)

    def progress(self, told: dict[str, Any]) -> None:
        """Tell how far it is. No event of OpenAI's says that."""
        if self.place is not None:
            self._output.tell(self.place, "response.tool_call.progress", **told)

    def give_back(self, result: ToolResult, include: frozenset[str]) -> None:
        """It has ended."""
        assert self.place is not None
        well = result.status == "completed"
        item = self.place.item
        match self.kind:
            case "web_search":
                item["action"] = _to_search(self.arguments, result, include)
            case "file_search":
                shown = "file_search_call.results" in include
                item["results"] = _to_found(result) if shown else None
            case "code_interpreter":
                shown = "code_interpreter_call.outputs" in include
                item["outputs"] = _to_outputs(item, result) if shown else None
            case _:
                error = result.error.message if result.error else result.output
                item["output"] = result.output if well else None
                item["error"] = None if well else to_error(error)
        if self.kind in _SHOWN_AS_MCP:
            ending = "completed" if well else "failed"
            self._output.tell(self.place, f"response.mcp_call.{ending}")
        else:
            self._output.tell(self.place, f"response.{self.kind}_call.completed")
        self._output.end(self.place, "completed" if well else "failed")

    def unsaid(self, result: ToolResult) -> str | None:
        """What the model is told of it, unless its item, as it is shown, says the same."""
        assert self.place is not None
        return None if output_of(self.place.item) == result.output else result.output

    def made(self, result: ToolResult) -> list[MadeFile]:
        """The files that code after it will find, if it is code itself."""
        if self.offer is None or self.offer.tool != PYTHON:
            return []
        return [MadeFile(one.id, one.container, one.name, one.bytes) for one in result.artifacts]

    def _begin(self) -> Place:
        item = _to_item(self)
        place = self._output.begin(item)
        if self.kind in _SHOWN_AS_MCP:
            self._output.tell(place, "response.mcp_call.in_progress")
        elif self.kind in _AT_WORK:
            self._output.tell(place, f"response.{self.kind}_call.in_progress")
        return place

    def _tell_arguments(self) -> None:
        assert self.place is not None
        item, tell = self.place.item, self._output.tell
        given = _to_object(self.arguments)
        match self.kind:
            case "function":
                item["arguments"] = self.arguments
                done = "response.function_call_arguments.done"
                tell(self.place, done, name=self.name, arguments=self.arguments)
            case "mcp" | "own" | "unknown":
                item["arguments"] = self.arguments
                tell(self.place, "response.mcp_call_arguments.done", arguments=self.arguments)
            case "custom":
                item["input"] = str(given.get("input", self.arguments))
                tell(self.place, "response.custom_tool_call_input.delta", delta=item["input"])
                tell(self.place, "response.custom_tool_call_input.done", input=item["input"])
            case "code_interpreter":
                item["code"] = str(given.get("code", ""))
                tell(self.place, "response.code_interpreter_call_code.delta", delta=item["code"])
                tell(self.place, "response.code_interpreter_call_code.done", code=item["code"])
            case "web_search":
                item["action"]["query"] = _to_query(given)
            case "file_search":
                item["queries"] = [_to_query(given)]

    def _ask(self) -> None:
        """Ask the client whether it may be called."""
        assert self.offer is not None
        self.place = self._output.begin(
            {
                "type": "mcp_approval_request",
                "server_label": self.offer.label,
                "name": self.offer.tool,
                "arguments": self.arguments,
            }
        )
        self._output.end(self.place)


_DELTAS: Final = {
    "function": b"response.function_call_arguments.delta",
    "unknown": b"response.mcp_call_arguments.delta",
    "mcp": b"response.mcp_call_arguments.delta",
    "own": b"response.mcp_call_arguments.delta",
}


def _to_item(call: ToolCall) -> Item:
    begun = {"status": "in_progress"}
    match call.kind:
        case "web_search":
            action = {"type": "search", "query": ""}
            return {"type": "web_search_call", "action": action} | begun
        case "file_search":
            return {"type": "file_search_call", "queries": [], "results": None} | begun
        case "code_interpreter":
            told = {"code": "", "container_id": call.container, "outputs": None}
            return {"type": "code_interpreter_call"} | told | begun
        case "custom":
            told = {"call_id": call.chat_id, "name": call.name, "input": ""}
            return {"type": "custom_tool_call"} | told | begun
        case "mcp" | "own" | "unknown":
            label, name = OWN_LABEL, call.name
            if call.offer is not None:
                label, name = call.offer.label or OWN_LABEL, call.offer.tool
            told = {"server_label": label, "name": name, "arguments": ""}
            ended = {"output": None, "error": None, "approval_request_id": None}
            return {"type": "mcp_call"} | told | ended | begun
        case _:
            told = {"call_id": call.chat_id, "name": call.name, "arguments": ""}
            return {"type": "function_call"} | told | begun


def _to_search(arguments: str, result: ToolResult, include: frozenset[str]) -> Item:
    action: Item = {"type": "search", "query": _to_query(_to_object(arguments))}
    if "web_search_call.action.sources" in include:
        action["sources"] = [{"type": "url", "url": one.url} for one in result.citations if one.url]
    return action


def _to_outputs(item: Item, result: ToolResult) -> list[Item]:
    """What code has printed, and the pictures that it has made."""
    files = f"/v1/containers/{item['container_id']}/files"
    return [
        {"type": "logs", "logs": result.output},
        *(
            {"type": "image", "url": f"{files}/{made.id}/content"}
            for made in result.artifacts
            if made.media_type.startswith("image/")
        ),
    ]


def _to_found(result: ToolResult) -> list[Item]:
    return [
        {
            "file_id": one.file_id,
            "filename": one.title,
            "score": one.score,
            "text": one.text,
            "attributes": {name: _to_attribute(told) for name, told in one.attributes.items()},
        }
        for one in result.citations
    ]


def _to_attribute(told: Any) -> Any:
    """As OpenAI has them, attributes are no lists."""
    return ", ".join(map(str, told)) if isinstance(told, list) else told


def _to_query(given: dict[str, Any]) -> str:
    return str(given.get("query") or given.get("q") or "")


def _to_object(arguments: str) -> dict[str, Any]:
    try:
        return _decode_object(arguments)
    except (msgspec.DecodeError, RecursionError):
        return {}
