"""How a response begins: its object, what the model is offered, and what the client has approved.

Whoever takes it over says what is still missing of that.
"""

from collections.abc import Sequence

import msgspec

from schemas import ids
from schemas.api.response_tools import McpTool
from schemas.api.responses import to_object
from schemas.commands import RunInference, encode
from schemas.responses.prepared import PreparedRequest
from schemas.responses.story import Added, Begun, Offered
from workers.responses.approvals import find_approvals
from workers.responses.listings import Listings
from workers.responses.offers import Listing, Offers, to_listing
from workers.responses.office import Asked, Office
from workers.responses.parts import Mailbox
from workers.responses.story import Story


async def open_response(
    office: Office, job: RunInference, asked: Asked, story: Story, mailbox: Mailbox
) -> None:
    """Say what the response begins with, as far as nobody has said it.

    Raises InvalidRequest if it asks for what is not there.
    """
    if story.fold.offers is None:
        await _offer(office, job, asked, story, mailbox)
    context, offers = asked.request.prepared.context, story.fold.offers or {}
    approvals = list(find_approvals(context, asked.input, offers))
    for approval in approvals[story.fold.approvals :]:
        story.say(approval)


async def _offer(
    office: Office, job: RunInference, asked: Asked, story: Story, mailbox: Mailbox
) -> None:
    """Say that it begins, and what the model is offered."""
    request, fold = asked.request, story.fold
    offers = Offers(office.catalogue, request.to_choice())
    offers.add_all(request.to_tools())  # before anything is said: a fault is a status
    if fold.begun is None:
        story.say(_to_begun(request, job))
    servers = list(asked.servers.values())
    listings = Listings(office.parts, mailbox, job)
    listed = await _list(request, servers, listings) if servers else []
    for number, listing in enumerate(listed):
        if number >= len(fold.items):  # an earlier worker may have said some
            story.say(Added(msgspec.Raw(encode(listing.to_item()))))
        offers.add_listed(servers[number], listing)
    story.say(Offered(offers.to_list()))


async def _list(
    request: PreparedRequest, servers: Sequence[McpTool], listings: Listings
) -> list[Listing]:
    """What tools these servers have, or had in the response that this one repeats."""
    recorded = request.prepared.recorded
    if recorded is None:
        return await listings.of(servers)
    known = {item["server_label"]: to_listing(item) for item in recorded.lists}
    nothing = "the recorded response did not ask it"
    return [
        known.get(tool.server_label, Listing(tool.server_label, (), nothing)) for tool in servers
    ]


def _to_begun(request: PreparedRequest, job: RunInference) -> Begun:
    response = to_object(
        request,
        ids.public_id(job.run_id, "response"),
        job.created,
        conversation=request.prepared.conversation,
    )
    options = request.stream_options
    return Begun(
        response=msgspec.Raw(encode(response | {"model": job.model})),
        queued=bool(request.background),
        include=list(request.include or ()),
        obfuscate=options is not None and bool(options.include_obfuscation),
        judged=request.prepared.in_words,
    )
