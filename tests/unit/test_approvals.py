"""Which calls of MCP servers' tools their client is asked about."""

import msgspec
import pytest

from schemas.api.response_tools import McpTool

THEIRS = {"server_label": "evil", "server_url": "https://evil.example/mcp"}
OWN = {"server_label": "jan"}


@pytest.mark.parametrize(
    ("server", "said", "asks"),
    [
        (THEIRS, None, True),
        (THEIRS, "always", True),
        (THEIRS, "never", False),
        (OWN, None, False),
        (OWN, "always", True),
        (OWN, "never", False),
        (THEIRS, {"never": {"tool_names": ["f"]}}, False),
        (THEIRS, {"never": {"tool_names": ["g"]}}, True),
        (OWN, {"always": {"tool_names": ["f"]}}, True),
        (OWN, {"always": {"tool_names": ["g"]}}, False),
    ],
)
def test_a_client_is_asked_as_it_wants(server: dict[str, str], said: object, asks: bool) -> None:
    tool = msgspec.convert({"type": "mcp", **server, "require_approval": said}, McpTool)
    assert tool.asks_for("f") is asks
