"""Which hosts /mcp answers to, and which pages may call it: a page could be led here by DNS."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from schemas.errors import Forbidden


class Guard:
    """Checks `Host` and `Origin`. Without `hosts` any host is good: every call has a credential."""

    def __init__(self, hosts: Sequence[str], origins: Sequence[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Let a request pass. Programs send no Origin. Raises Forbidden (421 for a host)."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and host not in self._hosts and _name_of(host) not in self._hosts:
            raise Forbidden(
                "this server does not answer to this Host: see JAN_MCP_HOSTS",
                code="wrong_host",
                status=421,
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._may_call(origin.decode("latin-1"), host):
            raise Forbidden(
                "pages of this Origin may not call this server: see JAN_CORS_ORIGINS",
                code="wrong_origin",
            )

    def _may_call(self, origin: str, host: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        return origin.lower() in (f"http://{host}", f"https://{host}")


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
