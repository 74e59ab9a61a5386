"""Names of offered tools: nobody takes the client's, and all are names that functions can have."""

import re

import msgspec
import pytest

from bus import ToolCatalogue
from schemas.api.response_tools import Choice, FunctionTool, McpTool, WebSearchTool
from schemas.tool_options import McpHints
from schemas.tool_options import McpTool as ServersTool
from schemas.tools import Tool
from workers.responses.offers import Listing, Offers, to_listing

SCHEMA = msgspec.Raw(b"{}")
REMOTE = McpTool(server_label="evil", server_url="https://evil.example/mcp")


class Searching(ToolCatalogue):
    """A server that can search the web."""

    def __init__(self) -> None:
        """It knows no bucket."""

    def names(self) -> list[str]:
        return ["web_search"]

    def find(self, name: str) -> Tool | None:
        return Tool(name, "", SCHEMA, "search")


@pytest.fixture
def offers() -> Offers:
    return Offers(Searching(), Choice())


def test_the_clients_functions_keep_their_names(offers: Offers) -> None:
    offers.add_all([WebSearchTool(), FunctionTool("web_search"), FunctionTool("evil__f")])
    names = ("web_search", "f", "f", "evil__f")
    offers.add_listed(REMOTE, Listing("evil", [ServersTool(name, SCHEMA) for name in names]))
    kinds = {name: offer.kind for name, offer in offers.by_name.items()}
    assert kinds["web_search"] == kinds["evil__f"] == "function"
    assert [offer.tool for offer in offers.to_list() if offer.label] == [
        "web_search",
        "f",
        "evil__f",
    ]
    assert len(offers.to_list()) == 6


@pytest.mark.parametrize("name", ["", "a b", "ü" * 200, "x" * 65, "../../etc"])
def test_any_tool_has_a_name_that_functions_can_have(offers: Offers, name: str) -> None:
    offers.add_listed(REMOTE, Listing("evil", [ServersTool(name, SCHEMA)]))
    (offer,) = offers.to_list()
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", offer.name)
    assert offer.tool == name


def test_a_listing_has_no_fields_for_what_is_not_there() -> None:
    """Clients of the AI SDK refuse a null there."""
    told = Listing("evil", [ServersTool("f", SCHEMA)]).to_item()
    assert told.keys() == {"type", "server_label", "tools"}
    assert told["tools"][0].keys() == {"name", "description", "input_schema"}


def test_a_listing_tells_hints_and_faults() -> None:
    hints = McpHints(read_only_hint=True)
    told = Listing("evil", [ServersTool("f", SCHEMA, annotations=hints)], "it is late").to_item()
    assert told["tools"][0]["annotations"] == hints
    assert to_listing(told).error == told["error"] == "it is late"
