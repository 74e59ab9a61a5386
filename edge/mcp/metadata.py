"""Who may use /mcp, for clients that ask before they have a credential (RFC 9728)."""

from collections.abc import Mapping
from typing import Final

import msgspec

PATHS: Final = ("/mcp", "/v1/mcp")
WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"


class ProtectedResource(msgspec.Struct, frozen=True):
    """What a protected resource says of itself."""

    resource: str
    authorization_servers: list[str]
    bearer_methods_supported: list[str]
    resource_name: str


def describe(base: str, path: str, servers: list[str]) -> ProtectedResource:
    """Describe what is at a path. Without other `servers` the tokens are this one's own."""
    return ProtectedResource(
        resource=base + path,
        authorization_servers=servers or [base],
        bearer_methods_supported=["header"],
        resource_name="Jan Server",
    )


def to_challenge(base: str, path: str) -> bytes:
    """What a 401 adds to its challenge: where this is told."""
    return f', resource_metadata="{base}{WELL_KNOWN}{path}"'.encode("latin-1")


def base_of(scheme: str, headers: Mapping[bytes, bytes], public_url: str) -> str:
    """The server's address as its clients know it: as it is set, or as this one wrote it."""
    if public_url:
        return public_url.rstrip("/")
    host = headers.get(b"host", b"localhost").replace(b'"', b"").decode("latin-1")
    return f"{scheme}://{host}"


def is_mcp(path: str) -> bool:
    """Tell whether a path is served to clients that speak MCP."""
    return path in PATHS
