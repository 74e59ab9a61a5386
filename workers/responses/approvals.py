"""What the client says to the calls that it was asked about."""

from collections.abc import Iterator, Mapping, Sequence

from schemas.errors import InvalidRequest
from schemas.responses.output import Item
from schemas.responses.story import Approved, Offer


def find_approvals(
    context: Sequence[Item], items: Sequence[Item], offers: Mapping[str, Offer]
) -> Iterator[Approved]:
    """Find the answers in a request's input to what earlier responses have asked.

    Raises InvalidRequest if nobody has asked, or the tool is not offered any more.
    """
    asked = {item["id"]: item for item in context if item["type"] == "mcp_approval_request"}
    asked |= {item["id"]: item for item in items if item["type"] == "mcp_approval_request"}
    for at, item in enumerate(items):
        if item["type"] != "mcp_approval_response":
            continue
        param = f"input[{at}].approval_request_id"
        request = asked.get(item.get("approval_request_id"))
        if request is None:
            raise InvalidRequest(f"'{param}': nobody has asked for this approval", param=param)
        name = _find_name(request, offers)
        if name is None:
            told = f"the tool {request['name']!r} of {request['server_label']!r}"
            raise InvalidRequest(f"'{param}': {told} is not in 'tools'", param=param)
        yield Approved(request["id"], bool(item.get("approve")), name, request["arguments"])


def _find_name(request: Item, offers: Mapping[str, Offer]) -> str | None:
    for name, offer in offers.items():
        if (offer.label, offer.tool) == (request["server_label"], request["name"]):
            return name
    return None
