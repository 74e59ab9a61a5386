"""A response's output: its items in their order, told as they begin and end."""

from typing import Any, Final, NamedTuple

from schemas import ids
from schemas.objects import container_of
from schemas.responses.events import Events

Item = dict[str, Any]

_PREFIXES: Final = {
    "message": "msg_",
    "reasoning": "rs_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "web_search_call": "ws_",
    "file_search_call": "fs_",
    "code_interpreter_call": "ci_",
    "mcp_call": "mcp_",
    "mcp_list_tools": "mcpl_",
    "mcp_approval_request": "mcpr_",
}


class Place(NamedTuple):
    """An item and where it stands."""

    at: int
    item: Item


class Output:
    """The items. Their ids follow from the run and their place: they are the same for everybody."""

    def __init__(self, run_id: str, events: Events) -> None:
        self.items: list[Item] = []
        self.events = events
        self.container = container_of(run_id)
        self._run_id = run_id

    def new_call_id(self) -> str:
        """An id for a call that begins now, whose model gave it none."""
        return ids.derived_id("call_", self._run_id, len(self.items))

    def begin(self, item: Item) -> Place:
        """Append an item that is only beginning."""
        index = len(self.items)
        prefix = _PREFIXES.get(item["type"], "item_")
        item["id"] = ids.derived_id(prefix, self._run_id, index)
        self.items.append(item)
        self.events.tell("response.output_item.added", output_index=index, item=item)
        return Place(index, item)

    def end(self, place: Place, status: str | None = None) -> None:
        """An item is as it will stay."""
        if status is not None:
            place.item["status"] = status
        self.events.tell("response.output_item.done", output_index=place.at, item=place.item)

    def tell(self, place: Place, kind: str, **fields: Any) -> None:
        """Tell an event about an item."""
        self.events.tell(kind, item_id=place.item["id"], output_index=place.at, **fields)
