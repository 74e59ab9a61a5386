"""What the client says to the calls that it was asked about."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from schemas.errors import InvalidRequest
from schemas.responses.output import Item
from schemas.responses.story import Approved, Offer

_ASKED: Final = "mcp_approval_request"


def find_approvals(
    context: Sequence[Item], items: Sequence[Item], offers: Mapping[str, Offer]
) -> Iterator[Approved]:
    """Find the answers in a request's input to what the client was asked before.

    One whose call the input itself has is history. Raises InvalidRequest if nobody has asked, the
    call was made before, or its tool is not offered any more.
    """
    asked = {item["id"]: item for item in [*context, *items] if item["type"] == _ASKED}
    history, made = _calls_of(items), _calls_of(context)
    for at, item in enumerate(items):
        if item["type"] != "mcp_approval_response" or item["approval_request_id"] in history:
            continue
        param = f"input[{at}].approval_request_id"
        request = asked.get(item["approval_request_id"])
        if request is None:
            raise InvalidRequest(f"'{param}': nobody has asked for this approval", param=param)
        if request["id"] in made:
            raise InvalidRequest(f"'{param}': this was answered before", param=param)
        made.add(request["id"])
        name = _find_name(request, offers)
        if name is None:
            tool = f"the tool {request['name']!r} of {request['server_label']!r}"
            raise InvalidRequest(f"'{param}': {tool} is not in 'tools'", param=param)
        yield Approved(request["id"], item["approve"], name, request["arguments"])


def _calls_of(items: Sequence[Item]) -> set[str]:
    """The questions whose calls were made."""
    return {item.get("approval_request_id") or "" for item in items if item["type"] == "mcp_call"}


def _find_name(request: Item, offers: Mapping[str, Offer]) -> str | None:
    for name, offer in offers.items():
        if (offer.label, offer.tool) == (request["server_label"], request["name"]):
            return name
    return None
