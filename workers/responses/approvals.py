"""What the client says to the calls that it was asked about."""

from collections.abc import Iterator, Mapping, Sequence

from schemas.errors import InvalidRequest
from schemas.responses.output import Item
from schemas.responses.prepared import calls_of
from schemas.responses.story import Approved, Offer


def find_approvals(
    context: Sequence[Item], items: Sequence[Item], offers: Mapping[str, Offer]
) -> Iterator[Approved]:
    """Find the answers in a request's input to what the client was asked before.

    One whose call was made already is history. Raises InvalidRequest if the tool is not offered.
    """
    said = [*context, *items]
    asked = {item["id"]: item for item in said if item["type"] == "mcp_approval_request"}
    made = calls_of(said)
    for at, item in enumerate(items):
        request = asked.get(item.get("approval_request_id"))
        if item["type"] != "mcp_approval_response" or request is None or request["id"] in made:
            continue
        name = _find_name(request, offers)
        if name is None:
            param = f"input[{at}].approval_request_id"
            tool = f"the tool {request['name']!r} of {request['server_label']!r}"
            raise InvalidRequest(f"'{param}': {tool} is not in 'tools'", param=param)
        yield Approved(request["id"], item["approve"], name, request["arguments"])


def _find_name(request: Item, offers: Mapping[str, Offer]) -> str | None:
    for name, offer in offers.items():
        if (offer.label, offer.tool) == (request["server_label"], request["name"]):
            return name
    return None
